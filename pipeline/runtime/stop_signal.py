"""SIGTERM asks a training to stop where it can go on: after the step under way, with a checkpoint.

So end Slurm, Kubernetes and torchrun a process before they kill it. Other signals keep what they do.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SAME_REQUEST_S = 2.0
"""Signals that come within this time are one request: Slurm signals every process of a job, and torchrun, which is one
of them, passes the signal on to its workers, which have it already."""


class StoppedBySignal(SystemExit):
    """Training stopped after a step because it was asked to; ends the process with status 143, as shells say it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopRequest:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        """Looked at after each step."""
        self._since = 0.0

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Remember the request; a second one ends the process at once, as without a handler."""
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST_S:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGTERM; at the end it does again what it did before.

    Only the main thread of a process may do that: in another one nothing is caught, and SIGTERM ends the process.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.handle)
    try:
        yield stop
    finally:
        # None: a handler that was not installed from Python, which cannot be put back from here.
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
