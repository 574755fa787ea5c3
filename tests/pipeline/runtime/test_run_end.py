"""SIGTERM and SIGUSR1 are requests during training. At other times, and the second time, they end the process."""

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


every_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])


@every_signal
def test_a_request_is_recorded_and_the_previous_handlers_are_restored(number):
    before = [signal.getsignal(each) for each in signal.valid_signals()]
    others = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR2)]
    with stop_request() as stop:
        assert not stop.requested
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR2)] == others
        signal.raise_signal(number)
        assert stop.requested
    assert [signal.getsignal(each) for each in signal.valid_signals()] == before


@every_signal
def test_a_second_request_ends_the_process_at_once_unless_it_comes_within_two_seconds(number, monkeypatch):
    def twice() -> None:
        with stop_request():
            signal.raise_signal(number)
            signal.raise_signal(number)

    assert status_of(twice) == 0
    monkeypatch.setattr(run_end, "SAME_REQUEST_S", 0.0)
    assert status_of(twice) == -number


@every_signal
def test_after_training_a_signal_ends_the_process(number):
    def after() -> None:
        with stop_request():
            pass
        signal.raise_signal(number)

    assert status_of(after) == -number


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
