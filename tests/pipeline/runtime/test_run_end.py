"""SIGTERM is a request during training. Before, after and the second time, it ends the process as usual."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from pipeline.runtime import run_end
from pipeline.runtime.run_end import StoppedBySignal, stop_request


def status_of(work: Callable[[], object]) -> int:
    """Do ``work`` in a child process; return minus the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_request_is_recorded_and_the_previous_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    others = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR1)]
    with stop_request() as stop:
        assert not stop.requested
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR1)] == others
        terminate()
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_request_ends_the_process_at_once_unless_it_comes_within_two_seconds(monkeypatch):
    def twice() -> None:
        with stop_request():
            terminate()
            terminate()

    assert status_of(twice) == 0
    monkeypatch.setattr(run_end, "SAME_REQUEST_S", 0.0)
    assert status_of(twice) == -signal.SIGTERM


def test_after_training_a_signal_ends_the_process():
    def after() -> None:
        with stop_request():
            pass
        terminate()

    assert status_of(after) == -signal.SIGTERM


def test_outside_the_main_thread_nothing_is_caught():
    found = []

    def work() -> None:
        with stop_request() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


def test_a_stopped_process_ends_with_status_143():
    with pytest.raises(SystemExit) as end:
        raise StoppedBySignal
    assert end.value.code == 143
