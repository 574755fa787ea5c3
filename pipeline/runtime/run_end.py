"""End a training: stop on a signal at a point where it can be resumed, and record in the run's history how it ended.

Slurm, Kubernetes and torchrun send SIGTERM before they kill a process. Many scripts ask Slurm to send SIGUSR1 instead.
After either signal, the training loop finishes its step and writes a checkpoint, and a long evaluation finishes the
sentences that it is scoring.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from pipeline.runtime.distributed import World
from pipeline.runtime.run_history import add_end
from storage.errors import RnngDistillError, StoreError

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)
SAME_REQUEST_S = 2.0
"""Signals within this time count as one request. Slurm signals every process of a job, torchrun included, and torchrun
then sends the signal again to its workers."""


class StoppedBySignal(SystemExit):
    """A signal stopped the work where it can be resumed. The process ends with status 143 (128 + SIGTERM)."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopRequest:
    """Records whether this process got one of ``STOP_SIGNALS``."""

    def __init__(self) -> None:
        self.requested = False
        """The training loop reads this after each step."""
        self._since = 0.0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Record the request to stop. A second request ends the process at once, as if there were no handler."""
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch ``STOP_SIGNALS`` inside the ``with`` block, and restore the previous handlers at the end of the block.

    Python lets only the main thread of a process set handlers. In another thread, nothing is caught and the
    signals end the process.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # The handler is None if it was not installed from Python. Python cannot restore such a handler.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@dataclass(kw_only=True, slots=True)
class Ending:
    """What a training reports about its end."""

    step: int = 0
    """Total steps taken."""
    reason: str = ""
    """Why training finished; empty if it did not finish."""


@contextlib.contextmanager
def recorded_end(run: Path, world: World) -> Iterator[Ending]:
    """Write into the run's history how the training in this block ends: finished, stopped by a signal, or failed.

    Every rank must enter the ``with`` block.

    Raises:
        StoreError: If there is no room for the record. If the training failed or Ctrl-C ended it, that exception
            is raised instead.
    """
    end = Ending()
    try:
        yield end
    except StoppedBySignal:
        world.on_main(lambda: add_end(run, "stopped", reason="a signal", step=end.step))
        raise
    except KeyboardInterrupt:
        if world.is_main:
            with contextlib.suppress(StoreError):  # Ctrl-C ends the process even if the disk is full
                add_end(run, "stopped", reason="SIGINT", step=end.step)
        raise
    except Exception as error:
        if world.is_main:
            with contextlib.suppress(StoreError):  # the user must see the first error
                first = next(iter(str(error).splitlines()), "")
                reason = first if isinstance(error, RnngDistillError) else f"{type(error).__name__}: {first}"
                add_end(run, "failed", reason=reason, step=end.step)
        raise
    world.on_main(lambda: add_end(run, "finished", reason=end.reason, step=end.step))
