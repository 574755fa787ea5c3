"""Start a training run in a new directory, or continue the run that the same command made there.

The results of a run depend on its kind, its configuration, its model and its inputs, such as the dataset. All four must
be equal on all ranks and, if the run exists, equal to those in its ``run.json``. Inputs are compared by their sha256.
Only the `FREE` options of the configuration may differ, such as the device.
"""

import contextlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import torch

from pipeline.runtime.distributed import World, device_model
from pipeline.runtime.options import flag
from pipeline.runtime.run_directory import (
    FREE,
    Description,
    RunDescription,
    command_line,
    describe_run,
    git_state,
    open_run,
    versions,
)
from pipeline.runtime.run_history import HISTORY, add_start, hold
from storage.errors import RunError
from storage.files import (
    PARTIAL_SUFFIX,
    cannot_write,
    list_files,
    make_directory,
    remove_partial_files,
    write_atomically,
)

Resume = Literal["auto", "never"]
"""Whether to continue an existing run (``auto``) or to refuse it (``never``)."""

SHOWN = 60
"""Maximum number of characters of a value in a message."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def training_run(
    path: Path, run: RunDescription, *, resume: Resume, device: torch.device, world: World
) -> Iterator[None]:
    """Create the run directory, or open the run that the same command made, and lock it during the ``with`` block.

    The run is created if the directory does not exist, is empty, or holds only files of a process that was killed
    while it created a run. With ``resume="never"``, the directory must not exist, or must be empty.

    Raises:
        RunError: If the directory holds other files, or a run with other options or data, or if the ranks have
            different options or data.
        StoreBusyError: If another process is training the run.
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


_WRITTEN: Final = {"run.json", HISTORY, "metrics.jsonl", "tokenizer.json", "checkpoints", "tensorboard"}
"""The files and folders of a run that training writes."""


def _enter(path: Path, run: RunDescription, start: dict[str, Any], *, resume: Resume) -> BinaryIO:
    """Create or open the run directory. Return the open history file, whose lock protects the run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: already exists and is not a folder. Choose another --out")
    there = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if there and resume == "never":
        raise RunError(
            f"{path}: already exists and is not empty, and --resume is never. Leave --resume out to continue the run, "
            "choose another --out, or remove the folder"
        )
    unfinished = {name for name in there if name == HISTORY or name.endswith(PARTIAL_SUFFIX)}
    if there - unfinished and "run.json" not in there:
        raise RunError(
            f"{path}: already exists with other files and no run.json, so there is no run to continue. Choose another "
            "--out"
        )
    for name in list_files(path):
        if (path / name).is_symlink() and name.partition("/")[0] in _WRITTEN:
            raise RunError(
                f"{path / name}: is a link, and training would write to what the link leads to. Replace the link by a "
                "copy of the file or folder that it leads to, or remove the link"
            )
    make_directory(path)
    lock = hold(path)
    try:
        remove_partial_files(path)
        # Checked only now, because another process may have made run.json while this process waited for the lock.
        if not (path / "run.json").exists():
            describe_run(path, run)
        else:
            _refuse_another_run(path, run)
        add_start(lock, start)
    except BaseException as error:
        lock.close()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    return lock


def _refuse_another_run(path: Path, run: RunDescription) -> None:
    if not (path / "tokenizer.json").exists():  # a process was killed before it copied the tokenizer
        write_atomically(path / "tokenizer.json", run.tokenizer.read_bytes())
    there = open_run(path)
    if problems := _differences(_comparable(run), _comparable(there)):
        raise RunError(
            f"{path}: the run was made with other options or data: {'; '.join(problems)}. Give the options and data "
            "of the run, or choose another --out"
        )
    if there.versions != (now := versions()):
        log.warning(
            "%s: started with versions %s, continues with %s. The last bits of results may differ",
            path,
            there.versions,
            now,
        )


def _refuse_other_ranks(run: RunDescription, world: World) -> None:
    mine = _comparable(run)
    main = json.loads(world.share(json.dumps(mine).encode()))
    if problems := _differences(mine, main):
        raise RunError(
            f"rank {world.rank} on {socket.gethostname()} has other options or data than rank 0: "
            f"{'; '.join(problems)}. Start all processes with the same command and files"
        )


def _comparable(run: Description) -> dict[str, Any]:
    """Return what must be equal on all ranks and in an existing run. Keys are the names that messages show."""
    described: dict[str, Any] = {"kind": run.kind}
    described |= {flag(name): value for name, value in run.configuration.items() if name not in FREE}
    described |= {f"{name} of the model": value for name, value in run.model.items()}
    described |= {f"sha256 of the {name}": value for name, value in run.fingerprints.items()}
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
