"""Read and write a run directory: ``run.json``, the tokenizer and the weights.

    RUN/run.json                              kind, configuration, fingerprints, versions, command, git state
    RUN/tokenizer.json                        the tokenizer of the model
    RUN/checkpoints/{best,last,words_1M,…}/model.safetensors
    RUN/checkpoints/last/training_state.pt    the state from which training continues
    RUN/history.jsonl                         each start of the training, with its machine and device, and each end
    RUN/metrics.jsonl, RUN/tensorboard/       metrics by step
    RUN/results/*.json                        results of evaluations

Each file is checked when it is read. ``run.json`` holds the sha256 of its own content, and a weight file the sha256 of
its weights. A weight file and the training state also hold the run's identity, a sha256 of everything that decides what
is trained.
"""

import dataclasses
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.runtime import options
from pipeline.runtime.train_config import num_words_of
from storage.errors import FingerprintMismatchError, RunError
from storage.files import beside, make_directory, open_file, read_file, write_atomically
from storage.fingerprints import canonical_json, sha256_arrays, sha256_bytes, sha256_file
from storage.json_files import convert, decode, read_json

RUN_FORMAT_VERSION = 1

Kind = Literal["teacher", "student"]
Which: TypeAlias = str
"""A checkpoint's name: ``best`` (lowest dev loss), ``last`` (newest), or ``words_1M`` (after that number of words)."""
FREE: Final = ("device", "threads", "checkpoint_every", "compile", "peak_tflops", "log_to", "log_project")
"""Options that may change when a run is resumed. The number of processes may change too."""
_RUN: Final = "run"
_WEIGHTS: Final = "weights_sha256"
"""In the metadata that we add to a weight file, `_RUN` is the key of the run's identity, and `_WEIGHTS` the key of the
sha256 of the weights."""
_METADATA: Final = "rnng-distill"
"""All our metadata are one JSON text, stored in a weight file under this key. Safetensors would write several keys in
random order."""
_BYTES_PER_WEIGHT: Final = 4
_WEIGHTS_REMEDY: Final = "Restore the file from a copy, give another --checkpoint, or train again into another --out"
_WHICH: Final = re.compile(r"best|last|words_[1-9][0-9]*[kMB]?")


_REMEDY: Final = "restore the file from a copy, or train again"
Config = TypeVar("Config")


class Truncated(TypedDict):
    """How much of a split was cut off, because sentences were too long."""

    num_sentences: int
    num_positions: int


class InitialWeights(TypedDict):
    """The run from whose weights a student started, and the sha256 of the weight file."""

    run: str
    sha256: str


class GitState(TypedDict):
    """The commit of the code, and whether files differ from it."""

    commit: str
    modified: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The content of ``run.json``."""

    kind: Kind
    configuration: dict[str, Any]
    """The value of every option, defaults included."""
    model: dict[str, Any] = field(default_factory=dict)
    """What is needed besides options to rebuild the model: vocabulary size, labels, special tokens."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """The sha256 of the dataset, the tokenizer and, if used, the dump's manifest and the initial weights."""
    trained_on: list[Any] | None = None
    """The training texts of the model and of everything that it was made from, such as tokenizer and teacher; None for
    a run of an older version."""
    dump: dict[str, Any] | None = None
    """Summary of the dump from which a student learned, or of several dumps; see ``dump_summaries``."""
    init: InitialWeights | None = None
    """The run from whose weights a student started."""
    truncated: dict[str, Truncated] | None = None
    """Number of truncated sentences and of lost positions by split, if there are any."""
    versions: dict[str, str] = field(default_factory=dict)
    command: str = "not recorded"
    """The command line that started the run."""
    git: GitState | None = None

    @property
    def identity(self) -> str:
        """The sha256 of all that decides what is trained. The same command in another folder has the same identity."""
        described: dict[str, Any] = {name: getattr(self, name) for name in ("kind", "model", "fingerprints")}
        described["configuration"] = {name: value for name, value in self.configuration.items() if name not in FREE}
        return sha256_bytes(canonical_json(json.loads(json.dumps(described, default=dict))))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDescription(Description):
    """The description of a new run. `describe_run` adds versions, command and git state."""

    tokenizer: Path
    """The tokenizer file to copy into the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo(Description):
    """A run: the content of its ``run.json``, and where it is."""

    path: Path
    weights_sha256: str | None = None
    """The sha256 of the weight file that was loaded, if one was loaded."""

    @property
    def tokenizer_path(self) -> Path:
        """Path of the run's copy of the tokenizer."""
        return self.path / "tokenizer.json"

    def options(self, cls: type[Config]) -> Config:
        """Return an instance of a configuration class, filled with the options that the run recorded.

        Raises:
            RunError: If an option is missing, or has another type or an impossible value.
        """
        return options.rebuild(cls, self.configuration, where=str(self.path / "run.json"), remedy=_REMEDY)

    def model_as(self, cls: type[Config]) -> Config:
        """Return what ``run.json`` records about the model, as an instance of the dataclass ``cls``.

        Raises:
            RunError: If something is missing or has another type.
        """
        return convert(self.model, cls, where=f"{self.path / 'run.json'}: the model", remedy=_REMEDY, error=RunError)

    def checkpoint(self, which: Which = "best") -> Path:
        """Return the path of a checkpoint's weights.

        Raises:
            RunError: If ``which`` cannot be the name of a checkpoint.
        """
        return checkpoint_path(self.path, which)


def dump_summaries(dump: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the summaries in the entry ``dump`` of a ``run.json``: none, one, or one for each dump of a mixture.

    A summary has ``path``, ``schema`` and ``statistics``. In a mixture it also has the ``weight`` of the dump and, as
    ``manifest``, the sha256 of the dump's list of files.
    """
    if dump is None:
        return []
    mixture = dump.get("mixture")
    return [each for each in mixture if isinstance(each, dict)] if isinstance(mixture, list) else [dump]


def describe_run(path: Path, run: RunDescription) -> None:
    """Write ``run.json`` and the tokenizer of a new run into its directory, which the caller has already made."""
    described = {
        "format_version": RUN_FORMAT_VERSION,
        **{each.name: getattr(run, each.name) for each in dataclasses.fields(Description)},
        "versions": versions(),
        "command": command_line(),
        "git": git_state(),
    }
    described["sha256"] = sha256_bytes(canonical_json(json.loads(json.dumps(described))))
    write_atomically(path / "run.json", (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomically(path / "tokenizer.json", run.tokenizer.read_bytes())


def open_run(path: Path, kind: Kind | None = None) -> RunInfo:
    """Read ``run.json``. If ``kind`` is given, also check the kind of the run.

    Raises:
        RunError: If ``path`` is not a run directory, has another format version, or is not a run of this kind.
        FingerprintMismatchError: If the tokenizer file changed since training.
    """
    info = read_description(path)
    if "tokenizer" not in info.fingerprints:
        raise RunError(f"{path / 'run.json'}: no fingerprint of the tokenizer, expected its sha256; {_REMEDY}")
    tokenizer = sha256_file(info.tokenizer_path) if info.tokenizer_path.is_file() else "missing"
    expected = info.fingerprints["tokenizer"]
    if tokenizer != expected:
        raise FingerprintMismatchError(
            f"{info.tokenizer_path}: sha256 is {tokenizer[:12]}, but the run was made with {expected[:12]}. "
            "Restore the file or train again"
        )
    if kind is not None and info.kind != kind:
        raise RunError(f"{path}: this run is a {info.kind}'s, expected a {kind}'s. Give the output of train-{kind}")
    return info


def read_description(path: Path) -> RunInfo:
    """Read ``run.json`` alone, and check it against the sha256 in it. Older versions wrote no sha256.

    Raises:
        RunError: If ``path`` is not a run directory, or ``run.json`` is damaged or has another format version.
    """
    file = path / "run.json"
    try:
        file.stat()
    except OSError as error:
        raise RunError(
            f"{path}: no run.json here ({error.strerror}). Give a directory made by train-teacher or train-student"
        ) from error
    described = read_json(file, dict[str, Any], remedy=_REMEDY, error=RunError)
    digest = described.pop("sha256", None)
    if digest is not None and digest != sha256_bytes(canonical_json(described)):
        raise RunError(f"{file}: changed since training: its content has another sha256 than it records; {_REMEDY}")
    if (found := described.get("format_version", RUN_FORMAT_VERSION)) != RUN_FORMAT_VERSION:
        raise RunError(f"{file}: format version {found!r}, expected {RUN_FORMAT_VERSION}; {_REMEDY}")
    about = convert(described, Description, where=str(file), remedy=_REMEDY, error=RunError)
    return RunInfo(path=path, **{name.name: getattr(about, name.name) for name in dataclasses.fields(about)})


def is_exported(path: Path) -> bool:
    """Return whether ``path`` is a folder in Hugging Face's format, and not a run."""
    return (path / "config.json").is_file() and not (path / "run.json").is_file()


def results_folder(model: Path) -> Path:
    """Return the folder of the results of a model: RUN/results for a run, FOLDER-results for an exported folder.

    FOLDER-results is not inside FOLDER, because everything in FOLDER is meant for Hugging Face's hub. If FOLDER is a
    link, the results are next to the link.
    """
    if not is_exported(model):
        return model / "results"
    return beside(model if model.name not in {"", ".."} else model.resolve(), "-results")


def checkpoint_path(run: Path, which: Which) -> Path:
    """Return the path of a checkpoint's weights.

    Raises:
        RunError: If ``which`` cannot be the name of a checkpoint.
    """
    if not _WHICH.fullmatch(which):
        raise RunError(
            f"{run}: checkpoint is {which!r}, expected best, last or a number of words such as words_1M. This run "
            f"has {', '.join(checkpoint_names(run)) or 'none'}"
        )
    return run / "checkpoints" / which / "model.safetensors"


def checkpoint_names(run: Path) -> list[str]:
    """Return the names of a run's checkpoints: best, last, then word checkpoints by number of words."""
    found = (path.parent.name for path in (run / "checkpoints").glob("*/model.safetensors"))
    return sorted(filter(_WHICH.fullmatch, found), key=lambda name: (num_words_of(name), name))


def word_checkpoints(model: Path) -> dict[int, tuple[Path, Which]]:
    """Return the word checkpoints of a model: those that were saved after a certain number of words.

    If the model is the exported folder EXPORTED/main, its word checkpoints are the folders EXPORTED/chck_1M and so on.

    The result maps each number of words to the path and the checkpoint to open. For example, it is
    ``{1_000_000: (RUN, "words_1M")}`` for a run, and ``{1_000_000: (EXPORTED/chck_1M, "best")}`` for EXPORTED/main.
    The numbers of words ascend.
    """
    if not is_exported(model):
        return {num_words_of(name): (model, name) for name in checkpoint_names(model) if num_words_of(name)}
    main = model.resolve()
    beside_it = main.parent.glob("chck_*") if main.name == "main" else ()
    found = {num_words_of(path.name.removeprefix("chck_")): path for path in beside_it if is_exported(path)}
    return {num_words: (found[num_words], "best") for num_words in sorted(found) if num_words}


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and ``metadata`` atomically, with the sha256 of the parameters.

    Raises:
        StoreError: If there is no room. A previous file then stays.
    """
    make_directory(path.parent)
    state: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({**(metadata or {}), _WEIGHTS: _digest(state)}, sort_keys=True)
    write_atomically(path, safetensors.torch.save(state, {_METADATA: text}))


def weights_of(run: RunInfo, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return ``metadata`` with the identity of the run added, for a weight file of this run."""
    return {**metadata, _RUN: run.identity}


def weights_metadata(path: Path) -> dict[str, str]:
    """Return our metadata of a weight file. The file must be one that ``load_weights`` can read."""
    with open_file(path) as file:
        size = file.read(8)
        return _metadata(size + file.read(int.from_bytes(size, "little")), path)


def load_weights(run: RunInfo, which: Which, model: nn.Module) -> RunInfo:
    """Load a model's parameters from a checkpoint of a run. Nothing in the file is executed.

    A file that older versions wrote has no digest of its weights, so these weights are not checked.

    Returns:
        The description of the run, with the sha256 of the file.

    Raises:
        RunError: If the file is missing or damaged, or is a file of another run or of a model of other sizes.
    """
    path = run.checkpoint(which)
    remedy = _WEIGHTS_REMEDY
    try:
        data = read_file(path)  # read once, so that the sha256 is that of the loaded weights
        state = safetensors.torch.load(data)
        model.load_state_dict(state)
    except FileNotFoundError:
        raise _no_checkpoint(run, path) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(f"{path}: not a checkpoint of this model ({reason}). {remedy}") from None
    metadata = _metadata(data, path)
    if metadata.get(_RUN, run.identity) != run.identity:
        raise RunError(f"{path}: weights of another run. {remedy}")
    if (recorded := metadata.get(_WEIGHTS)) is not None and recorded != _digest(state):
        raise RunError(f"{path}: damaged: the sha256 of its weights is not {recorded[:12]}. {remedy}")
    return replace(run, weights_sha256=sha256_bytes(data))


def check_size(weights: Path, num_weights: int) -> None:
    """Check that a weight file is large enough for a model, before memory is taken for the model.

    Args:
        weights: The file. If there is none, nothing is checked.
        num_weights: The number of weights of the model, or a lower bound of it.

    Raises:
        RunError: If the file has fewer weights.
    """
    if weights.is_file() and (size := weights.stat().st_size) < num_weights * _BYTES_PER_WEIGHT:
        raise RunError(
            f"{weights}: not a checkpoint of this model ({size:,} bytes, but by the sizes in run.json the model has at "
            f"least {num_weights:,} weights of {_BYTES_PER_WEIGHT} bytes). {_WEIGHTS_REMEDY}"
        )


def weights_sha256(run: RunInfo, which: Which) -> str:
    """Return the sha256 of a weight file of a run, without loading it.

    Raises:
        RunError: If the weight file is missing.
    """
    path = run.checkpoint(which)
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise _no_checkpoint(run, path) from None


def _no_checkpoint(run: RunInfo, path: Path) -> RunError:
    there = ", ".join(checkpoint_names(run.path))
    why = f"the run has {there}" if there else "the run may have ended before its first evaluation"
    return RunError(f"{path}: no checkpoint here; {why}")


def holds_weights(path: Path, model: nn.Module, metadata: Mapping[str, str]) -> bool:
    """Return whether a file holds exactly the weights of ``model``, and its metadata do not contradict ``metadata``.

    An entry of ``metadata`` that the file lacks is no contradiction.
    """
    try:
        found, expected = safetensors.torch.load_file(path), model.state_dict()
        recorded = weights_metadata(path)
    except (OSError, safetensors.SafetensorError):
        return False
    same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name].cpu()) for name in found)
    return same and all(recorded.get(name, value) == value for name, value in metadata.items())


def problem_with_weights(path: Path) -> str | None:
    """Return what is wrong with a weight file, or None if its weights have the sha256 that it records."""
    try:
        data = read_file(path)
        state = safetensors.torch.load(data)
        recorded = _metadata(data, path).get(_WEIGHTS)
    except FileNotFoundError:
        return "missing"
    except (OSError, safetensors.SafetensorError, RunError) as error:
        return f"damaged ({error})"
    return None if recorded in {None, _digest(state)} else "damaged: its weights have another sha256"


def _metadata(data: bytes, path: Path) -> dict[str, str]:
    """Return our metadata of a safetensors file.

    The file begins with 8 bytes for the length of a JSON header. The header follows and holds the metadata.
    """

    def text_of(part: bytes) -> dict[str, Any]:
        return decode(part, dict[str, Any], where=str(path), remedy=_REMEDY, error=RunError)

    entries = text_of(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    # Older versions wrote our metadata as separate entries, not as one JSON text.
    found = text_of(entries[_METADATA].encode()) if _METADATA in entries else entries
    return convert(found, dict[str, str], where=str(path), remedy=_REMEDY, error=RunError)


def _digest(state: Mapping[str, Tensor]) -> str:
    return sha256_arrays({name: tensor.detach().cpu().numpy() for name, tensor in state.items()})


def command_line() -> str:
    """Return the command line of this process, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can change a result."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "numpy", "zarr", "numcodecs", "tokenizers")
    }


def git_state() -> dict[str, Any] | None:
    """Return the commit of the code, and whether files differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "modified": bool(git("status", "--porcelain", "-uno"))} if commit else None
