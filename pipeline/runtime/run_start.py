"""The start of a training run: a new directory, or one to go on with that was made by the same command.

What makes the results is compared, on resumption with ``run.json`` and in any case between the ranks: kind,
configuration, model and fingerprints. `FREE` options may differ: they cannot change results by design. Each start
leaves a line in ``RUN/starts.jsonl`` with the device, threads and world size it had; that file's lock is held as long
as the training lasts, so no two processes fill one run.
"""

import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline.runtime.distributed import World, device_model
from pipeline.runtime.run_directory import (
    RunDescription,
    command_line,
    describe_run,
    git_state,
    open_run,
    versions,
)
from storage.errors import RunError, StoreBusyError
from storage.files import PARTIAL_SUFFIX, cannot_write, make_directory, remove_partial_files, write_atomically

FREE = ("device", "threads", "checkpoint_every", "compile", "peak_tflops")
"""Options a resumed run may be given otherwise; the number of processes may differ too."""
SHOWN = 60
"""Characters of a value in a message."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def training_run(
    path: Path, run: RunDescription, *, resume: bool, device: torch.device, world: World
) -> Iterator[None]:
    """Make the run directory, or enter it with ``resume``, and hold it while training lasts.

    With ``resume`` a directory that does not exist, or that a process was killed in while making it, is begun.

    Raises:
        RunError: If something else is there, the run there was made by other options or data, or the ranks differ.
        StoreBusyError: If another process trains in it.
    """
    _refuse_other_ranks(run, world)
    start = {
        "time": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "device": device_model(device),
        "versions": versions(),
        "git": git_state(),
        "command": command_line(),
    }
    lock = world.on_main(lambda: _enter(path, run, start, resume=resume))
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _enter(path: Path, run: RunDescription, start: Mapping[str, Any], *, resume: bool) -> BinaryIO:
    """Return the open file that holds the run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: already exists and is no folder; choose another --out")
    there = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if there and not resume:
        raise RunError(
            f"{path}: already exists and is not empty; add --resume to go on with the run in it, choose another --out, "
            "or remove it"
        )
    unfinished = {name for name in there if name == "starts.jsonl" or name.endswith(PARTIAL_SUFFIX)}
    if there - unfinished and "run.json" not in there:
        raise RunError(f"{path}: no run.json here, so there is no run to go on with; choose another --out")
    make_directory(path)
    lock = _locked(path)
    try:
        remove_partial_files(path)
        if "run.json" in there:
            _refuse_another_run(path, run)
        else:
            describe_run(path, run)
        lock.write(json.dumps(start, ensure_ascii=False).encode() + b"\n")
        lock.flush()
    except OSError as error:
        lock.close()
        raise cannot_write(path, error) from error
    except BaseException:
        lock.close()
        raise
    return lock


def _locked(path: Path) -> BinaryIO:
    target = path / "starts.jsonl"
    try:
        file = target.open("a+b")
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            raise StoreBusyError(f"{path}: another process trains in it; wait for it or stop it") from error
        raise RunError(f"{target}: cannot be locked: {error.strerror}; use a file system with flock") from error
    # A killed process's half line stays by itself.
    if (size := os.fstat(file.fileno()).st_size) and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.write(b"\n")
    return file


def _refuse_another_run(path: Path, run: RunDescription) -> None:
    if not (path / "tokenizer.json").exists():  # killed before it was copied
        write_atomically(path / "tokenizer.json", run.tokenizer.read_bytes())
    found = open_run(path)
    before = _comparable(found.kind, found.configuration, found.model, found.fingerprints)
    if problems := _differences(_comparable(run.kind, run.configuration, run.model, run.fingerprints), before):
        raise RunError(
            f"{path}: --resume needs what the run was started with: {'; '.join(problems)}. Give that, or choose "
            "another --out"
        )
    started_with = json.loads((path / "run.json").read_bytes()).get("versions")
    if started_with != versions():
        log.warning("%s: started with versions %s, now %s: last bits may differ", path, started_with, versions())


def _refuse_other_ranks(run: RunDescription, world: World) -> None:
    mine = _comparable(run.kind, run.configuration, run.model, run.fingerprints)
    main = json.loads(world.share(json.dumps(mine).encode()))
    if problems := _differences(mine, main):
        raise RunError(
            f"rank {world.rank} on {socket.gethostname()} has other options or data than rank 0: "
            f"{'; '.join(problems)}. Start all processes with the same command and files"
        )


def _comparable(
    kind: str, configuration: Mapping[str, Any], model: Mapping[str, Any], fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """Return all that must be the same, under the names a message shows."""
    described = {"kind": kind}
    described |= {f"--{name.replace('_', '-')}": value for name, value in configuration.items() if name not in FREE}
    described |= {f"{name} of the model": value for name, value in model.items()}
    described |= {f"sha256 of the {name}": value for name, value in fingerprints.items()}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {_shown(found, name)}, expected {_shown(expected, name)}"
        for name in {**expected, **found}
        if (name in found, found.get(name)) != (name in expected, expected.get(name))
    ]


def _shown(described: Mapping[str, Any], name: str) -> str:
    if name not in described:
        return "not set"
    text = str(described[name])
    if name.startswith("sha256"):
        return text[:12]
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
