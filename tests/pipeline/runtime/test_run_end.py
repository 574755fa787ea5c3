"""SIGTERM is a request while training lasts, and what it always was before, after and the second time."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from pipeline.runtime import run_end
from pipeline.runtime.run_end import StoppedBySignal, stop_request


def status_of(work: Callable[[], object]) -> int:
    """Return how a child process ends that does ``work``: minus the signal that killed it, 0 where none did."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_request_is_remembered_and_the_handler_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    others = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR1)]
    with stop_request() as stop:
        assert not stop.requested
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR1)] == others
        terminate()
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_request_ends_the_process_at_once_unless_it_is_the_same_one(monkeypatch):
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


def test_in_another_thread_than_the_main_one_nothing_is_caught():
    found = []

    def work() -> None:
        with stop_request() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


def test_a_process_that_was_stopped_ends_as_shells_say_it():
    with pytest.raises(SystemExit) as end:
        raise StoppedBySignal
    assert end.value.code == 143
