"""Students to evaluate: a run, or a folder in Hugging Face's format, an export of ours or another GPT-2.

A folder is read as transformers reads it, without transformers: config.json, model.safetensors, tokenizer.json. What
this project's student does not compute (another architecture or activation, untied output weights) is refused. Its
tokenizer is put into this project's form, in memory, as ``adopt-tokenizer`` does; that of an export is given back byte
for byte, so its results compare with the run's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.corpus.dataset.adopt_tokenizer import adopted_tokenizer
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.runtime import options
from pipeline.runtime.run_directory import Which, is_exported
from pipeline.training.model_files import EXPORTED, ModelFiles
from storage.errors import ConfigError, InputError, RunError
from student.model import Student
from student.student_config import Context, StudentConfig, StudentTrainConfig
from student.student_run import load_student, num_trained_positions

_SIZES: Final = {
    "vocab_size": "vocab_size",
    "n_embd": "embed_dim",
    "n_layer": "num_blocks",
    "n_head": "num_heads",
    "n_positions": "max_length",
}
"""Keys of config.json, and what they are here."""
_DEFAULTS: Final = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""What the student computes, by key of config.json; the first is what transformers takes where a key is missing."""
OURS: Final = "rnng_distill"
"""Key of config.json under which ``export`` says what transformers has no key for."""
_BUFFERS: Final = (".attn.bias", ".attn.masked_bias")
"""Ends of names that hold masks in old files, and no weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedStudent:
    """A student in evaluation mode, and what results say of it."""

    student: Student
    tokenizer: Tokenizer
    files: ModelFiles
    context: Context
    """What a sentence of a split is given."""
    trained_context: str
    """The context it was trained with; ``not known`` of a folder that does not say."""
    num_trained_positions: int | None
    """Beyond which log-probabilities are without meaning; None where it is not known."""


def open_student_or_folder(path: Path, device: torch.device, which: Which = "best") -> OpenedStudent:
    """Return the student of a run, or of a folder in Hugging Face's format.

    Raises:
        RunError: If it is neither, or has no such checkpoint; weights that do not fit.
        InputError: If a file of a folder is missing or damaged, or it is a model that a student cannot be.
    """
    if is_exported(path):
        return _open_folder(path, device, which)
    student, run = load_student(path, device, which)
    context = options.build(StudentTrainConfig, run.configuration).context
    return OpenedStudent(
        student=student,
        tokenizer=Tokenizer.load(run.tokenizer_path),
        files=ModelFiles.of_run(run, which),
        context=context,
        trained_context=context,
        num_trained_positions=num_trained_positions(run, which),
    )


def _open_folder(path: Path, device: torch.device, which: Which) -> OpenedStudent:
    if which != "best":
        raise RunError(f"{path}: an exported folder is one checkpoint; leave out --checkpoint, or name the run")
    missing = [name for name in ("model.safetensors", "tokenizer.json") if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{path}: no {' and no '.join(missing)} beside config.json, expected a whole folder as export writes it; "
            "export the run again, or fetch the files"
        )
    described = _described(path / "config.json")
    config = _config(path / "config.json", described)
    bos, eos = (_special_id(path / "config.json", described, name) for name in ("bos_token_id", "eos_token_id"))
    tokenizer = adopted_tokenizer(path / "tokenizer.json", bos=bos, eos=eos)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} entries, but the model {config.vocab_size}; they belong "
            "to different models: fetch or export both again"
        )
    context, num_trained = _told(described)
    student = Student(config, bos_id=bos, seed=0)
    student.load_state_dict(_weights(path / "model.safetensors", student))
    return OpenedStudent(
        student=student.to(device).eval(),
        tokenizer=tokenizer,
        files=ModelFiles(
            path=path, weights=path / "model.safetensors", tokenizer_sha256=tokenizer.sha256, which=EXPORTED
        ),
        context=context or "sentence",
        trained_context=context or "not known",
        num_trained_positions=num_trained,
    )


def _told(described: Mapping[str, Any]) -> tuple[Context | None, int | None]:
    """Return the context of the training and how many positions it had, as ``export`` says; None where it does not."""
    told = described.get(OURS)
    if not isinstance(told, dict):
        return None, None
    context: Context | None = next((known for known in get_args(Context) if known == told.get("context")), None)
    num_trained = told.get("num_trained_positions")
    return context, num_trained if isinstance(num_trained, int) else None


def _described(path: Path) -> Mapping[str, Any]:
    try:
        described = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); export again, or fetch the file") from error
    if not isinstance(described, dict):
        raise InputError(f"{path}: found {type(described).__name__}, expected an object; export again, or fetch it")
    return described


def _config(path: Path, described: Mapping[str, Any]) -> StudentConfig:
    """Return the sizes; refuse what the student does not compute."""
    problems = [
        f"{name} is {found!r}, expected {' or '.join(map(repr, computed))}"
        for name, computed in _DEFAULTS.items()
        if (found := described.get(name, computed[0])) not in computed
    ]
    sizes: dict[str, int] = {}
    for name, ours in _SIZES.items():
        found = described.get(name)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 1:
            sizes[ours] = found
        else:
            problems.append(f"{name} is {found!r}, expected a number")
    inner = described.get("n_inner")
    if inner is not None and not (isinstance(inner, int) and inner >= 1):
        problems.append(f"n_inner is {inner!r}, expected a number or null")
    if problems:
        raise InputError(
            f"{path}: not a model that can be evaluated here: {'; '.join(problems)}. Give a GPT-2 such as export writes"
        )
    try:
        return StudentConfig(**sizes, ff_dim=inner or 0, dropout=0.0)
    except ConfigError as error:
        raise InputError(f"{path}: {error}; export again, or fetch the file") from error


def _special_id(path: Path, described: Mapping[str, Any], name: str) -> int:
    found = described.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise InputError(f"{path}: {name} is {found!r}, expected the id of a token; add it to the file")
    return found


def _weights(path: Path, student: Student) -> dict[str, Tensor]:
    """Return the weights under the student's names; files of the bare GPT-2 leave ``transformer.`` out.

    Raises:
        InputError: If the file is damaged, or has other weights or shapes.
    """
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); export again, or fetch the file") from error
    weights = {
        name if name.startswith("transformer.") else f"transformer.{name}": tensor.float()
        for name, tensor in found.items()
        if name != "lm_head.weight" and not name.endswith(_BUFFERS)
    }
    expected = {name: tensor.shape for name, tensor in student.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if wrong := sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)):
        raise InputError(
            f"{path}: {wrong[0]} is {_shape(shapes.get(wrong[0]))}, expected {_shape(expected.get(wrong[0]))} "
            f"({len(wrong)} such); config.json and the weights belong to different models: export or fetch both again"
        )
    return weights


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(list(shape))
