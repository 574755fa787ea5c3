"""Save and load the state from which training continues.

    RUN/checkpoints/last/training_state.pt    weights, optimiser, step, positions, best loss, and
                                              sums of the loss since the last row of metrics.jsonl
    RUN/checkpoints/{last,best,words_1M,…}/model.safetensors    only the weights, for commands that load a model

The state is one file, written atomically before the weight files. If the process dies in between, the next start
rewrites the weight files from the state. The cost: the weights are written at least twice.

Loading a file from a stranger executes nothing, because torch's restricted unpickler reads it. The file is a zip
archive with checksums. The unpickler does not check them, so this module does.
"""

import dataclasses
import io
import logging
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]  # pickle itself is not imported

from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import (
    checkpoint_names,
    checkpoint_path,
    holds_weights,
    open_run,
    problem_with_weights,
    save_weights,
    weights_of,
)
from storage.errors import RunError
from storage.files import make_directory, read_file, write_atomically
from storage.json_files import MAX_INT_BITS

log = logging.getLogger(__name__)

STATE_FORMAT_VERSION = 1
_REMEDY = "Restore the file from a copy, or train again into another --out"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """The state of a training after a step."""

    step: int
    """Steps taken."""
    positions: int
    """Positions seen, over all ranks."""
    best_loss: float
    """Lowest dev loss so far, in nats per position; infinite before the first evaluation."""
    best_step: int
    """The step with the lowest dev loss; 0 before the first evaluation."""
    num_worse: int
    """Number of dev evaluations since ``best_step``."""
    elapsed_s: float
    """Seconds of training."""
    row_sums: Tensor
    """float64 ``[num_ranks, num_parts]``. Each part is a quantity, such as the loss or the cross-entropy, that
    metrics.jsonl shows as a mean per position. The tensor holds each rank's sums over the positions since the last row
    of metrics.jsonl."""
    row_positions: int
    """Positions over all ranks since the last row of metrics.jsonl."""
    model: dict[str, Any]
    """The weights by name."""
    optimizer: dict[str, Any]
    """The state of the optimiser."""


def state_path(run: Path) -> Path:
    """Return the path of a run's training state."""
    return run / "checkpoints" / "last" / "training_state.pt"


def save_checkpoint(
    run: Path,
    state: TrainingState,
    model: nn.Module,
    *,
    also: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the state. Then write the weights of ``model`` as ``last`` and under each name in ``also``.

    ``also`` names word checkpoints, such as ``words_1M``. If this step has the best dev loss so far, the weights are
    also written as ``best``.

    Raises:
        StoreError: If the disk is full. If the state was not written, the previous checkpoint stays complete. If it was
            written, `repair_weights` writes the missing weight files when training continues.
    """
    path = state_path(run)
    make_directory(path.parent)
    info = open_run(run)
    write_atomically(path, encoded_state(state, info.identity))
    for weights in _weight_paths(run, state, also):
        save_weights(weights, model, weights_of(info, metadata or {}))


def encoded_state(state: TrainingState, run: str | None) -> memoryview:
    """Return the content of ``training_state.pt``.

    ``run`` is the run's identity: a sha256 of all that decides what is trained. With ``--plan`` it is None.
    """
    content = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    buffer = io.BytesIO()
    torch.save({"format_version": STATE_FORMAT_VERSION, "run": run, **content}, buffer)
    return buffer.getbuffer()


def repair_weights(
    run: Path,
    state: TrainingState,
    model: nn.Module,
    *,
    also: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Rewrite the weight files that `save_checkpoint` did not finish because its process was killed."""
    # Files of older versions lack some metadata. If nothing else is wrong, they are not rewritten, because results and
    # dumps record their sha256.
    expected = weights_of(open_run(run), metadata or {})
    for path in _weight_paths(run, state, also):
        if not holds_weights(path, model, expected):
            save_weights(path, model, expected)
    best = checkpoint_path(run, "best")
    if state.best_step not in {0, state.step} and (problem := problem_with_weights(best)):
        log.warning(
            "%s: %s. The weights with the best dev loss, of step %d, are lost, and training cannot make them again. "
            "Restore the file from a copy, or give --checkpoint last to the commands that read this run",
            best, problem, state.best_step,
        )  # fmt: skip


def load_state(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> TrainingState | None:
    """Fill model and optimiser from the state of a run, and return the state; None if the run has no checkpoint yet.

    Raises:
        RunError: If the file is damaged, is not a training state, or belongs to another model.
    """
    path = state_path(run)
    data = world.share(world.on_main(lambda: _checked(run)) or b"")
    if not data:
        return None
    state, _ = _parse(path, data)
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise _refusal(path, f"does not fit this model: {str(error).splitlines()[-1].strip()}") from error
    for group, ours in zip(optimizer.param_groups, groups, strict=True):
        group.update(ours)  # hyperparameters come from the options, never from a file
    for parameter, kept in optimizer.state.items():
        fits = isinstance(parameter, Tensor) and isinstance(kept, dict)
        if not fits or any(getattr(value, "shape", None) not in {parameter.shape, ()} for value in kept.values()):
            raise _refusal(path, "has the optimiser state of another model")
    return state


def unpacked(path: Path, data: bytes, *, remedy: str) -> dict[str, Any]:
    """Return the dict that ``torch.save`` wrote into a file, or an empty dict if the file holds something else.

    Args:
        path: The file, for messages.
        data: The bytes of the file.
        remedy: What to do with a file that cannot be read, for messages.

    Raises:
        RunError: If the file is damaged or holds more than tensors, numbers, strings and containers of these.
    """

    def refusal(what: str) -> RunError:
        return RunError(f"{path}: {what}. {remedy}")

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise refusal(f"is damaged: {error}") from error
    if damaged is not None:
        raise refusal(f"is damaged: the checksum of {damaged} is wrong")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise refusal("holds more than numbers; nothing in it was executed") from error
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise refusal(f"is not a training state: {error!r}") from error
    return content if isinstance(content, dict) else {}


def _weight_paths(run: Path, state: TrainingState, also: Iterable[str]) -> list[Path]:
    """Return the weight files of a state: ``last``, ``best`` if the state is the best so far, and names in ``also``."""
    best = ["best"] if state.best_step == state.step else []
    return [checkpoint_path(run, which) for which in ("last", *best, *also)]


def _checked(run: Path) -> bytes:
    """Return the bytes of a run's training state after checking it; empty if the run has no checkpoint yet."""
    path = state_path(run)
    try:
        data = read_file(path)
    except FileNotFoundError:
        if there := checkpoint_names(run):
            raise RunError(
                f"{path}: missing, but the run has the checkpoint {there[0]}. Weights are not enough to continue "
                "training. Restore the file, or train again into another --out"
            ) from None
        return b""
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}). Make it readable and run the same command"
        ) from error
    _, identity = _parse(path, data)
    if identity not in {None, open_run(run).identity}:
        raise _refusal(path, "is the training state of another run")
    return data


def _parse(path: Path, data: bytes) -> tuple[TrainingState, str | None]:
    """Return the state and the identity of its run. The identity is None if an older version wrote the file."""
    content = unpacked(path, data, remedy=_REMEDY)
    found = content.pop("format_version", None)
    if found != STATE_FORMAT_VERSION:
        raise _refusal(path, f"has format version {found!r}, expected {STATE_FORMAT_VERSION}")
    identity = content.pop("run", None)
    kinds = {field.name: field.type for field in dataclasses.fields(TrainingState)}
    wrong = [
        name
        for name, kind in kinds.items()
        if not isinstance(content.get(name), dict if kind == dict[str, Any] else kind)  # type: ignore[arg-type]
    ]
    if wrong or content.keys() != kinds.keys():
        raise _refusal(path, f"is not a training state: {', '.join(wrong) or 'unknown entries'}")
    state = TrainingState(**content)
    counts = (state.step, state.positions, state.best_step, state.num_worse, state.row_positions)
    is_possible = min(counts) >= 0 and not max(counts) >> MAX_INT_BITS and not math.isnan(state.best_loss)
    if not is_possible or not 0 <= state.elapsed_s < math.inf or not state.row_sums.isfinite().all():
        raise _refusal(path, "has impossible counts")
    return state, identity


def _refusal(path: Path, what: str) -> RunError:
    return RunError(f"{path}: {what}. {_REMEDY}")
