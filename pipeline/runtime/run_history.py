"""Read, write and lock ``RUN/history.jsonl``, which records each start and end of the run's training.

Each line is an event: ``start`` (time, machine, device) or ``end`` (state, reason, step). A killed process leaves no
``end``. The main process of a training holds a lock on the file until training ends, so two trainings cannot write into
one run. This module imports no torch.
"""

import datetime as dt
import errno
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from msgspec import Meta

from storage.errors import RunError, StoreBusyError
from storage.files import cannot_write
from storage.json_files import Count, convert, decode, read_lines

HISTORY = "history.jsonl"
LOCK_PATIENCE_S = 5.0
"""How long a start waits for the lock. A process that was just killed, or one that calls `is_held`, may hold it for a
moment."""
_LOCK_POLL_S = 0.05
EndState = Literal["finished", "stopped", "failed"]
"""How a training ended: ``finished`` by itself, ``stopped`` by a signal, ``failed`` with an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """The fields of a ``start`` that readers of the history need."""

    event: Literal["start"]
    time: str
    world_size: Annotated[int, Meta(ge=1)] = 1
    device: str = ""
    host: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """The fields of an ``end`` that readers of the history need."""

    event: Literal["end"]
    time: str
    state: EndState
    reason: str
    step: Count


def hold(run: Path) -> BinaryIO:
    """Return the open and locked history of a run. Closing the file releases the lock.

    Raises:
        StoreBusyError: If another process holds the lock for longer than `LOCK_PATIENCE_S`.
        RunError: If the file system has no locks.
        StoreError: If the file cannot be written.
    """
    target = run / HISTORY
    try:
        file = target.open("a+b")
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        _wait_for_lock(file, run)
        # A killed process may have left an incomplete line. The next event must start on a new line.
        if (size := os.fstat(file.fileno()).st_size) and os.pread(file.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")
    except BaseException:
        file.close()
        raise
    return file


def is_held(run: Path) -> bool:
    """Return whether a process is training the run now.

    Raises:
        RunError: If the run has no history, or the file system has no locks.
    """
    target = run / HISTORY
    try:
        file = target.open("rb")
    except OSError as error:
        raise _unreadable(target, error) from error
    with file:
        return not _locked(file, target, fcntl.LOCK_SH)


def add_start(file: BinaryIO, about: dict[str, Any]) -> None:
    """Append a start to the history that `hold` returned.

    Raises:
        StoreError: If there is no room.
    """
    _write(file, {"event": "start", "time": _now(), **about})


def add_end(run: Path, state: EndState, *, reason: str, step: int) -> None:
    """Append an end to the history of a run whose training has made ``step`` steps in total.

    Raises:
        StoreError: If there is no room.
    """
    try:
        file = (run / HISTORY).open("ab")
    except OSError as error:
        raise cannot_write(run / HISTORY, error) from error
    with file:
        _write(file, {"event": "end", "time": _now(), "state": state, "reason": reason, "step": step})


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the events of a run in order. Incomplete lines, which killed processes left, are skipped.

    Raises:
        RunError: If the run has no history, or a complete line is not an event.
    """
    target = run / HISTORY
    if not target.exists():
        raise _unreadable(target, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    events = []
    for where, line in read_lines(target, remedy="restore the file", error=RunError):
        if not line.rstrip().endswith((b"}", b"]")):
            continue  # a killed process left it
        remedy = "expected a start or an end of a training. Remove the line"
        event = decode(line, dict[str, Any], where=where, remedy=remedy, error=RunError)
        kind = _End if event.get("event") == "end" else _Start
        convert(event, kind, where=where, remedy=remedy, error=RunError)
        events.append(event)
    return events


def _wait_for_lock(file: BinaryIO, run: Path) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not _locked(file, run / HISTORY, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise StoreBusyError(f"{run}: another process is training this run. Wait for it or stop it")
        time.sleep(_LOCK_POLL_S)


def _locked(file: BinaryIO, target: Path, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunError(f"{target}: cannot be locked: {error.strerror}. Use a file system with flock") from error
    return True


def _write(file: BinaryIO, event: dict[str, Any]) -> None:
    try:
        file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        file.flush()
    except OSError as error:
        raise cannot_write(Path(file.name), error) from error


def _now() -> str:
    return dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")


def _unreadable(target: Path, error: OSError) -> RunError:
    return RunError(
        f"{target}: cannot be read ({error.strerror}), expected the events of a training (its starts and ends). "
        "Restore it, or run the training command again to begin a new file"
    )
