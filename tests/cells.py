"""Run one command in a forked process, note which files it opens, and compare folders before and after.

The parent imports the program once and runs no command itself, so every command starts from the same state. A command
that hangs is killed, and memory is limited, so that a believed size cannot stop the machine.
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
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli

ASLEEP_S = 20
"""A process that sleeps for so long waits for something that does not come."""
CPU_S = 60
"""CPU time after which a process counts as hanging."""
MEMORY_BYTES = 2 << 30
"""Address space that a command may take, beyond what the program has after all imports."""
_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000
_CAPABILITIES_3 = 0x20080522
_MAY_READ_ALL = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_TIMES = re.compile(
    r"(_s|seconds|elapsed|hours_by_processes|per_s|started|ended|mfu|data_wait_share|memory_bytes)(/|$)"
)
"""Names of values that differ from run to run."""
_LOGS = re.compile(r"\.lock$|[./]history\.jsonl$|/tensorboard/|training_state\.pt$")
"""Files that hold times, and no figures that are not in another file too."""
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    status: int | None
    """The exit status; None if the command was killed because it took too long."""
    out: str
    err: str
    peak_bytes: int
    """The most memory that was resident at once."""


@dataclass(frozen=True)
class Interrupt:
    """Send a signal to a command when it opens a file with ``name`` in its path for the ``number``-th time."""

    name: str
    signal: signal.Signals
    number: int = 1


def run_command(
    arguments: Sequence[str],
    folder: Path,
    *,
    may_read_all: bool = True,
    interrupt: Interrupt | None = None,
) -> Outcome:
    """Run a command in a folder. ``may_read_all``: root may read files that nobody may read."""
    logs = [folder.with_name(f"{folder.name}-output.{end}") for end in ("out", "err")]
    child = os.fork()
    if not child:
        _run_in_child(arguments, folder, logs, may_read_all=may_read_all, interrupt=interrupt)
    has_ended = _wait(child)
    os.kill(child, signal.SIGKILL)  # without effect if it has ended
    _, status, usage = os.wait4(child, 0)
    has_ended &= os.waitstatus_to_exitcode(status) != -signal.SIGXCPU
    out, err = (log.read_text(errors="backslashreplace") for log in logs)
    ended = os.waitstatus_to_exitcode(status) if has_ended else None
    return Outcome(status=ended, out=out, err=err, peak_bytes=usage.ru_maxrss * 1024)


def _wait(child: int) -> bool:
    """Wait until a process ends; return False if it sleeps for too long. A busy machine only delays it."""
    descriptor, asleep_s, before = os.pidfd_open(child), 0, ""
    while not select.select([descriptor], [], [], 1)[0] and asleep_s < ASLEEP_S:
        state, *numbers = Path(f"/proc/{child}/stat").read_text().rsplit(") ", maxsplit=1)[1].split()
        used = " ".join(numbers[10:14])  # CPU time in user and system mode, of this process and of its children
        asleep_s = asleep_s + 1 if (state, used) == ("S", before) else 0
        before = used
    os.close(descriptor)
    return asleep_s < ASLEEP_S


def _run_in_child(
    arguments: Sequence[str], folder: Path, logs: Sequence[Path], *, may_read_all: bool, interrupt: Interrupt | None
) -> None:
    """Run a command as Python would, and end the process."""
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, log in enumerate(logs, start=1):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
        os.chdir(folder)
        # One core and one thread. GNU OpenMP hangs in a fork of a process that had threads.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        sys.argv = ["cli.py", *arguments]
        warnings.resetwarnings()  # pytest makes errors of warnings
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        os.fsync = lambda _: None  # type: ignore[assignment]  # no power cut is tested, and a disk is slow
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        if not may_read_all:
            _drop_rights()
        if interrupt is not None:
            _interrupt(interrupt)
        status = _status_of_main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status_of_main() -> int:
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  Python prints it in the same way
        traceback.print_exc()
        return 1
    return 0


def _drop_rights() -> None:
    """Take away root's right to read what nobody may read."""
    header, data = struct.pack("Ii", _CAPABILITIES_3, 0), ctypes.create_string_buffer(24)
    assert _LIBC.capget(header, data) == 0
    effective, *others = struct.unpack("6I", data.raw)
    assert _LIBC.capset(header, struct.pack("6I", effective & ~_MAY_READ_ALL, *others)) == 0


def _interrupt(interrupt: Interrupt) -> None:
    num_seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_seen
        if event == "open" and interrupt.name in str(arguments[0]):
            num_seen += 1
            if num_seen == interrupt.number:
                signal.raise_signal(interrupt.signal)

    sys.addaudithook(hook)


class Opened:
    """Note which files below a folder are opened, by any process and any library. The kernel tells (inotify)."""

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, dict[int, Path]()
        self._descriptor = _LIBC.inotify_init1(os.O_NONBLOCK)
        assert self._descriptor >= 0
        for folder, _, _ in os.walk(root):
            watch = _LIBC.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_OPEN)
            assert watch >= 0
            self._folders[watch] = Path(folder)

    def files(self) -> set[str]:
        """Stop, and return the paths of all opened files, relative to the folder."""
        found, data = set(), b""
        try:
            while True:
                data += os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            os.close(self._descriptor)
        at = 0
        while at < len(data):
            watch, mask, _, length = struct.unpack_from("iIII", data, at)
            name = os.fsdecode(data[at + 16 : at + 16 + length].rstrip(b"\0"))
            at += 16 + length
            if name and not mask & _IN_ISDIR:
                found.add((self._folders[watch] / name).relative_to(self._root).as_posix())
        return found


@dataclass(frozen=True)
class Entry:
    """What is known of one path: its type, mode and time, and its content: size and digest, or the target of a link."""

    type: int
    mode: int
    mtime_ns: int
    content: tuple[object, ...]


Snapshot = dict[str, Entry]
"""Everything below a folder, by relative path."""


def snapshot(root: Path) -> Snapshot:
    """Return what is below a folder. Links are not followed, and of huge files only the size is noted."""
    found: Snapshot = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = Path(folder, name)
            status = path.lstat()
            content: tuple[object, ...] = ()
            if path.is_symlink():
                content = (str(path.readlink()),)
            elif stat.S_ISREG(status.st_mode):
                content = (status.st_size,)
                if status.st_size < 1 << 26:
                    content += (hashlib.sha256(path.read_bytes()).hexdigest(),)
            times = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
            entry = Entry(stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), times, content)
            found[path.relative_to(root).as_posix()] = entry
    return found


Figures = dict[tuple[str, str], str]
"""Values by file and by place in the file."""


def figures(outcome: Outcome, root: Path, good: Snapshot, after: Snapshot) -> Figures:
    """Return what a command printed, and what differs from the good files afterwards, without times."""
    found = {("stdout", place): value for place, value in _values(outcome.out.encode()).items()}
    for name, entry in after.items():
        same = name in good and (good[name].type, good[name].content) == (entry.type, entry.content)
        if stat.S_ISREG(entry.type) and not same and not _LOGS.search(name):
            values = _values((root / name).read_bytes())
            found |= {(re.sub(r"\d{6,}", "N", name), place): value for place, value in values.items()}
    return {(name, place): value for (name, place), value in found.items() if not _TIMES.search(place)}


def _values(data: bytes) -> Mapping[str, str]:
    """Return the values of JSON, or of lines of text or JSON, by place; of other files, the digest."""
    found: dict[str, str] = {}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"bytes": hashlib.sha256(data).hexdigest()}
    for place, part in [("", text), *((f"line {n}", line) for n, line in enumerate(text.splitlines()))]:
        try:
            _flatten(json.loads(part), place, found)
        except (ValueError, RecursionError):
            if place:
                found[f"{place} {part.split()[0] if part.strip() else ''}"] = part
        else:
            if not place:
                break
    return found


def _flatten(value: Any, place: str, found: dict[str, str]) -> None:
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            _flatten(entry, f"{place}/{key}", found)
    else:
        found[place] = repr(value)
