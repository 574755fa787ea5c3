"""The start of a training run: a new directory, or one to go on with that was made by the same command.

What makes the results is compared, on resumption with ``run.json`` and in any case between the ranks: kind,
configuration, model and fingerprints. `FREE` options may differ: they say how to compute, not what. Each start
goes into the run's history with the device, threads and world size it had; ``pipeline.runtime.run_history`` also keeps
other processes out.
"""

import contextlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

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
from pipeline.runtime.run_history import HISTORY, add_start, hold
from storage.errors import RunError
from storage.files import PARTIAL_SUFFIX, cannot_write, make_directory, remove_partial_files, write_atomically

Resume = Literal["auto", "never"]
"""Whether a run that is there goes on, or is refused whatever it is."""

FREE = ("device", "threads", "checkpoint_every", "compile", "peak_tflops")
"""Options a resumed run may be given otherwise; the number of processes may differ too."""
SHOWN = 60
"""Characters of a value in a message."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def training_run(
    path: Path, run: RunDescription, *, resume: Resume, device: torch.device, world: World
) -> Iterator[None]:
    """Make the run directory, or enter the one that the same command made, and hold it while training lasts.

    A directory that does not exist, is empty, or that a process was killed in while making it, is begun. With
    ``resume="never"`` nothing may be in it.

    Raises:
        RunError: If something else is there, the run there was made by other options or data, or the ranks differ.
        StoreBusyError: If another process trains in it.
    """
    _refuse_other_ranks(run, world)
    start = {
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


def _enter(path: Path, run: RunDescription, start: dict[str, Any], *, resume: Resume) -> BinaryIO:
    """Return the open file that holds the run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: already exists and is no folder; choose another --out")
    there = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if there and resume == "never":
        raise RunError(
            f"{path}: already exists and is not empty, and --resume is never; leave that out to go on with the run in "
            "it, choose another --out, or remove it"
        )
    unfinished = {name for name in there if name == HISTORY or name.endswith(PARTIAL_SUFFIX)}
    if there - unfinished and "run.json" not in there:
        raise RunError(
            f"{path}: already exists with other files and no run.json, so there is no run to go on with; choose "
            "another --out"
        )
    make_directory(path)
    lock = hold(path)
    try:
        remove_partial_files(path)
        if not (path / "run.json").exists():  # asked here, as another process may have made it while this one waited
            describe_run(path, run)
        else:
            _refuse_another_run(path, run)
        add_start(lock, start)
    except OSError as error:
        lock.close()
        raise cannot_write(path, error) from error
    except BaseException:
        lock.close()
        raise
    return lock


def _refuse_another_run(path: Path, run: RunDescription) -> None:
    if not (path / "tokenizer.json").exists():  # killed before it was copied
        write_atomically(path / "tokenizer.json", run.tokenizer.read_bytes())
    found = open_run(path)
    before = _comparable(found.kind, found.configuration, found.model, found.fingerprints)
    if problems := _differences(_comparable(run.kind, run.configuration, run.model, run.fingerprints), before):
        raise RunError(
            f"{path}: the run there was made with other options or data: {'; '.join(problems)}. Give what it was "
            "made with, or choose another --out"
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
