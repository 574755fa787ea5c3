"""Run one command in a forked process, see which files it opens, and compare folders before and after.

The parent imports the program once and runs no command itself, so each command starts from the same state.
"""

import ctypes
import hashlib
import json
import os
import re
import resource
import select
import signal
import stat
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli

MEMORY_BYTES = 2 << 30
"""Memory that a command may ask for, beyond what the program takes after all imports."""
_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000
_TIMES = re.compile(r"(_s|seconds|elapsed|per_s|time|started|ended|_at|mfu|pid|date|data_wait_share)$")
"""Keys of values that differ from run to run."""
_LOGS = re.compile(r"\.lock$|[./]history\.jsonl$|/tensorboard/")
"""Files that say when something was done, and hold no figures of their own."""
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    status: int | None
    """The exit status; None if it was killed because it took too long."""
    out: str
    err: str
    max_rss_bytes: int
    elapsed_s: float


@dataclass(frozen=True)
class Interrupt:
    """Send a signal to a command when it opens a file of this name for the ``number``-th time."""

    name: str
    signal: signal.Signals
    number: int = 1


def run_command(
    arguments: Sequence[str], folder: Path, *, limit_s: float = 60, rights: bool = True, interrupt: Interrupt | None = None
) -> Outcome:
    """Run a command in a forked process, in a folder. ``rights``: whether root may read files that nobody may read."""
    log = folder.parent / f"{folder.name}-output"
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    child = os.fork()
    if not child:
        _run_in_child(arguments, folder, log, rights=rights, interrupt=interrupt)
    status: int | None = None
    pidfd = os.pidfd_open(child)
    try:
        ended = bool(select.select([pidfd], [], [], limit_s)[0])
    finally:
        os.close(pidfd)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, waited, usage = os.wait4(child, 0)
    if ended:
        status = os.waitstatus_to_exitcode(waited)
    out, err = (log.with_name(f"{log.name}.{end}").read_text(errors="backslashreplace") for end in ("out", "err"))
    return Outcome(
        status=status, out=out, err=err, max_rss_bytes=usage.ru_maxrss * 1024, elapsed_s=time.monotonic() - start
    )


def _run_in_child(
    arguments: Sequence[str], folder: Path, log: Path, *, rights: bool, interrupt: Interrupt | None
) -> None:
    status = 70
    try:
        for number, end in ((1, "out"), (2, "err")):
            descriptor = os.open(log.with_name(f"{log.name}.{end}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115, PTH123
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, PTH123
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115, PTH123
        os.chdir(folder)
        sys.argv = ["cli.py", *arguments]
        warnings.resetwarnings()  # pytest makes errors of them
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        os.fsync = lambda _: None  # nobody pulls the plug, and the disk would take most of the time
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not rights:
            _drop_rights()
        if interrupt is not None:
            _interrupt(interrupt)
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:  # noqa: BLE001  what Python itself prints
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _drop_rights() -> None:
    """Let root be refused what others are refused: take CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH away."""
    header = struct.pack("Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert _LIBC.capget(header, data) == 0
    effective, *rest = struct.unpack("6I", data.raw)
    assert _LIBC.capset(header, struct.pack("6I", effective & ~0b110, *rest)) == 0


def _interrupt(interrupt: Interrupt) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open" and interrupt.name in str(arguments[0]):
            seen += 1
            if seen == interrupt.number:
                signal.raise_signal(interrupt.signal)

    sys.addaudithook(hook)


class Opened:
    """Note which files below a folder are opened, by any process and any library."""

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, {}
        self._fd = _LIBC.inotify_init1(os.O_NONBLOCK)
        assert self._fd >= 0
        for folder, _, _ in os.walk(root):
            watch = _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), _IN_OPEN)
            assert watch >= 0
            self._folders[watch] = Path(folder)

    def files(self) -> set[str]:
        """Return the paths of all opened files, relative to the folder, and end."""
        found = set()
        try:
            while True:
                data = os.read(self._fd, 1 << 16)
                at = 0
                while at < len(data):
                    watch, mask, _, length = struct.unpack_from("iIII", data, at)
                    name = data[at + 16 : at + 16 + length].rstrip(b"\0")
                    at += 16 + length
                    if name and not mask & _IN_ISDIR:
                        found.add((self._folders[watch] / os.fsdecode(name)).relative_to(self._root).as_posix())
        except BlockingIOError:
            pass
        finally:
            os.close(self._fd)
        return found


Snapshot = dict[str, tuple[Any, ...]]
"""What is known of each path below a folder: its type, and for a file its size, time of change and digest."""


def snapshot(*roots: Path) -> Snapshot:
    """Return what is below folders. Links are not followed."""
    found: Snapshot = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            for name in folders + names:
                path = Path(folder) / name
                status = path.lstat()
                about: tuple[Any, ...] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode))
                if stat.S_ISLNK(status.st_mode):
                    about += (os.readlink(path),)
                elif stat.S_ISREG(status.st_mode):
                    small = status.st_size < 1 << 26
                    about += (status.st_size, status.st_mtime_ns, hashlib.sha1(path.read_bytes()).hexdigest() if small else "")
                found[path.relative_to(root.parent).as_posix()] = about
    return found


def _content(about: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return all but the mode and the time."""
    return None if about is None else (about[0], about[2:3], about[4:])


Figures = dict[tuple[str, str], object]
"""What a command printed and wrote: values by file and by place in the file."""


def figures(outcome: Outcome, before: Snapshot, after: Snapshot, root: Path) -> Figures:
    """Return what a command printed on stdout and wrote below ``root``, without what differs from run to run."""
    found: Figures = {}
    for number, line in enumerate(outcome.out.splitlines()):
        found["stdout", f"line {number}"] = line
    for name, about in after.items():
        if _content(before.get(name)) != _content(about) and stat.S_ISREG(about[0]) and not _LOGS.search(name):
            data = (root.parent / name).read_bytes()
            for place, value in _values(data).items():
                found[re.sub(r"\d{6,}", "N", name), place] = value
    return {(name, place): value for (name, place), value in found.items() if not _TIMES.search(place)}


def _values(data: bytes) -> dict[str, object]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"bytes": hashlib.sha1(data).hexdigest()}
    try:
        found: dict[str, object] = {}
        _flatten(json.loads(text), "", found)
    except (ValueError, RecursionError):
        found = {}
        for number, line in enumerate(text.splitlines()):
            try:
                _flatten(json.loads(line), f"line {number}", found)
            except (ValueError, RecursionError):
                found[f"line {number}"] = line
    return found


def _flatten(value: Any, place: str, found: dict[str, object]) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            _flatten(entry, f"{place}/{key}", found)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            _flatten(entry, f"{place}/{number}", found)
    else:
        found[place] = repr(value)
