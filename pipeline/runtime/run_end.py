"""The end of a training, whatever it comes from, goes into the run's history."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.distributed import World
from pipeline.runtime.run_history import add_end
from pipeline.runtime.stop_signal import StoppedBySignal
from storage.errors import RnngDistillError, StoreError


@dataclass(kw_only=True, slots=True)
class Ending:
    """What a training says of itself when it ends."""

    step: int = 0
    """Steps taken in all."""
    reason: str = ""
    """Why it is finished, if it is."""


@contextlib.contextmanager
def recorded_end(run: Path, world: World) -> Iterator[Ending]:
    """Write how the surrounded training ends: finished, stopped by a signal, or failed; every rank must enter.

    Raises:
        StoreError: If there is no room for it. A training that fails raises its own error.
    """
    end = Ending()
    try:
        yield end
    except StoppedBySignal:
        world.on_main(lambda: add_end(run, "stopped", reason="SIGTERM", step=end.step))
        raise
    except KeyboardInterrupt:
        if world.is_main:
            with contextlib.suppress(StoreError):  # Ctrl-C is answered by ending
                add_end(run, "stopped", reason="SIGINT", step=end.step)
        raise
    except Exception as error:
        if world.is_main:
            with contextlib.suppress(StoreError):  # the first error is the one to tell
                add_end(run, "failed", reason=_one_line(error), step=end.step)
        raise
    world.on_main(lambda: add_end(run, "finished", reason=end.reason, step=end.step))


def _one_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, RnngDistillError) else f"{type(error).__name__}: {first}"
