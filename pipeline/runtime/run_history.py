"""``RUN/history.jsonl``: when, where and on what each training of a run began, and how it ended. Imports no torch.

A line is an event: ``start``, or ``end`` with its state, reason and step. A process that is killed leaves no ``end``.
The file's lock is held as long as the training lasts, so that no two processes fill one run, and anyone can see
whether one does.
"""

import datetime as dt
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from storage.errors import RunError, StoreBusyError
from storage.files import cannot_write

HISTORY = "history.jsonl"
LOCK_PATIENCE_S = 5.0
"""How long a start waits for the lock: one that was just killed, or someone who looks, holds it for an instant."""
_LOCK_POLL_S = 0.05
_FIELDS: dict[str, dict[str, type]] = {
    "start": {"time": str},
    "end": {"time": str, "state": str, "reason": str, "step": int},
}
"""What a reader needs of an event."""

EndState = Literal["finished", "stopped", "failed"]
"""By itself, by a signal, by an error."""


def hold(run: Path) -> BinaryIO:
    """Return the open history of a run, locked; closing it lets others in.

    Raises:
        StoreBusyError: If another process trains in the run, and still does after `LOCK_PATIENCE_S`.
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
        # A killed process's half line stays by itself.
        if (size := os.fstat(file.fileno()).st_size) and os.pread(file.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")
    except BaseException:
        file.close()
        raise
    return file


def is_held(run: Path) -> bool:
    """Return whether a process trains in the run now; keeps a start that comes at this instant waiting, not out.

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
    """Write a start into the history that `hold` returned.

    Raises:
        StoreError: If there is no room.
    """
    _write(file, {"event": "start", "time": _now(), **about})


def add_end(run: Path, state: EndState, *, reason: str, step: int) -> None:
    """Write an end into the history of a run, after so many steps in all.

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
    """Return the events of a run in order, without the half lines that killed processes left.

    Raises:
        RunError: If the run has no history, or a whole line is no event.
    """
    target = run / HISTORY
    try:
        lines = target.read_bytes().splitlines()
    except OSError as error:
        raise _unreadable(target, error) from error
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if line.endswith(b"}"):
                raise _no_event(target, number) from error
            continue
        fields = _FIELDS.get(str(event.get("event"))) if isinstance(event, dict) else None
        wrong = fields is None or any(not isinstance(event.get(name), of) for name, of in fields.items())
        if wrong or event.get("state", "failed") not in get_args(EndState):
            raise _no_event(target, number)
        events.append(event)
    return events


def _wait_for_lock(file: BinaryIO, run: Path) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not _locked(file, run / HISTORY, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise StoreBusyError(f"{run}: another process trains in it; wait for it or stop it")
        time.sleep(_LOCK_POLL_S)


def _locked(file: BinaryIO, target: Path, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunError(f"{target}: cannot be locked: {error.strerror}; use a file system with flock") from error
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
        f"{target}: cannot be read ({error.strerror}), expected the starts and ends of a training; restore it, or run "
        "the training command again, which begins a new one"
    )


def _no_event(target: Path, number: int) -> RunError:
    return RunError(f"{target}:{number}: neither a start nor an end of a training; remove the line")
