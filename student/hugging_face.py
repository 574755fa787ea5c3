"""Open a student for evaluation: a run, or a folder in Hugging Face's format (an export or another GPT-2).

This module does not import transformers. Only a model with the student's architecture and activation and with tied
output weights can be opened; any other model is an error.

The folder's tokenizer is converted in memory, as ``adopt-tokenizer`` does. A text gets the ids that transformers gives.
The exception is the name of a special token in a text, such as ``<|endoftext|>``, which is read as plain characters.
The conversion of an export's tokenizer restores the run's tokenizer byte for byte, so the results of the export and of
the run are comparable.
"""

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
from pipeline.runtime.run_directory import Which, is_exported
from pipeline.training.model_files import EXPORTED, ModelFiles
from storage.errors import ConfigError, InputError, RunError
from storage.files import is_there, read_file
from storage.fingerprints import sha256_bytes
from storage.json_files import read_json
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
"""Keys of config.json, and the fields of ``StudentConfig`` with the same meaning."""
_DEFAULTS: Final = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""Values that the student supports, by key of config.json. The first value is transformers' default."""
OURS: Final = "rnng_distill"
"""Key of config.json for what ``export`` records about the training."""
_BUFFERS: Final = (".attn.bias", ".attn.masked_bias")
"""Suffixes of the names of the causal masks in old files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedStudent:
    """A student in evaluation mode, and what its results record."""

    student: Student
    tokenizer: Tokenizer
    files: ModelFiles
    context: Context
    """What the model reads before a sentence: nothing, or the earlier sentences of its document."""
    trained_context: str
    """The context in training, or ``not known`` if a folder does not record it. In that case ``context`` is
    ``sentence``."""
    num_trained_positions: int | None
    """The number of position embeddings that were trained, if it is known. Log-probabilities at later positions are
    meaningless."""


def open_student_or_folder(path: Path, device: torch.device, which: Which = "best") -> OpenedStudent:
    """Return the student of a run, or of a folder in Hugging Face's format.

    Raises:
        RunError: If ``path`` is neither a run nor such a folder, has no such checkpoint, or its weights do not fit.
        InputError: If a file of a folder is missing or damaged, or if config.json describes a model that ``Student``
            does not implement.
    """
    if is_exported(path):
        return _open_folder(path, device, which)
    student, run = load_student(path, device, which)
    context = run.options(StudentTrainConfig).context
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
        raise RunError(f"{path}: an exported folder has only one checkpoint; leave out --checkpoint, or give the run")
    missing = [name for name in ("model.safetensors", "tokenizer.json") if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{path}: no {' and no '.join(missing)} next to config.json, expected a whole folder as 'export' writes "
            "it; export the run again, fetch the files, or load model and tokenizer with transformers and save both"
        )
    described = read_json(path / "config.json", dict[str, Any], remedy="export again, or fetch the file")
    config = _config(path / "config.json", described)
    bos, eos = (_special(path / "config.json", described, role) for role in ("bos_token", "eos_token"))
    tokenizer = adopted_tokenizer(path / "tokenizer.json", bos=bos, eos=eos)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} entries, but the model {config.vocab_size}; they belong "
            "to different models; fetch or export both again"
        )
    context, num_trained = _training_of(described)
    weights, weights_sha256 = _weights(path / "model.safetensors")
    if config.num_weights > 2 * (found := sum(tensor.numel() for tensor in weights.values())):
        raise InputError(
            f"{path}: config.json describes a model of {config.num_weights:,} weights, but model.safetensors has "
            f"{found:,}; they belong to different models; export or fetch both again"
        )
    student = Student(config, bos_id=tokenizer.bos_id, seed=0)
    _check_shapes(path / "model.safetensors", weights, student)
    student.load_state_dict(weights)
    return OpenedStudent(
        student=student.to(device).eval(),
        tokenizer=tokenizer,
        files=ModelFiles(path=path, loaded=weights_sha256, tokenizer_sha256=tokenizer.sha256, which=EXPORTED),
        context=context or "sentence",
        trained_context=context or "not known",
        num_trained_positions=num_trained,
    )


def _training_of(described: Mapping[str, Any]) -> tuple[Context | None, int | None]:
    """Return the context and the number of trained positions, each None if ``export`` did not record it."""
    recorded = described.get(OURS)
    recorded = recorded if isinstance(recorded, dict) else {}
    context: Context | None = next((name for name in get_args(Context) if name == recorded.get("context")), None)
    num_trained = recorded.get("num_trained_positions")
    return context, num_trained if type(num_trained) is int and num_trained >= 0 else None


def _config(path: Path, described: Mapping[str, Any]) -> StudentConfig:
    """Return the sizes of the model.

    Raises:
        InputError: If config.json describes a model that ``Student`` does not implement.
    """
    problems = [
        f"{name} is {found!r:.60}, expected {' or '.join(map(repr, computed))}"
        for name, computed in _DEFAULTS.items()
        if (found := described.get(name, computed[0])) not in computed
    ]
    sizes: dict[str, int] = {}
    for name, ours in _SIZES.items():
        found = described.get(name)
        if type(found) is int and found >= 1:
            sizes[ours] = found
        else:
            problems.append(f"{name} is {found!r:.60}, expected a number")
    inner = described.get("n_inner")
    if inner is not None and not (type(inner) is int and inner >= 1):
        problems.append(f"n_inner is {inner!r:.60}, expected a number or null")
    if problems and problems[0].startswith("model_type"):
        del problems[1:]  # other kinds of models have other keys
    if problems:
        raise InputError(
            f"{path}: not a model that can be evaluated here: {'; '.join(problems)}. Give a GPT-2, such as an export"
        )
    try:
        return StudentConfig(**sizes, ff_dim=inner or 0, dropout=0.0)
    except ConfigError as error:
        raise InputError(f"{path}: {error}; export again, or fetch the file") from error


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """The special tokens in a tokenizer's configuration: strings, or objects with ``content``."""

    bos_token: Any = None
    eos_token: Any = None


def _special(path: Path, described: Mapping[str, Any], role: str) -> int | str:
    """Return the token that begins or ends a text: its name from the tokenizer's files, or else its id in config.json.

    The tokenizer's files come first because the ids in config.json are often wrong: by default, transformers writes the
    ids of OpenAI's GPT-2.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = path.with_name(name)
        found = read_json(file, _SpecialTokens, remedy="fetch the file again") if is_there(file) else _SpecialTokens()
        token = getattr(found, role)
        token = token.get("content") if isinstance(token, dict) else token
        if token and isinstance(token, str):
            return token
    found_id = described.get(f"{role}_id")
    if type(found_id) is not int or found_id < 0:
        raise InputError(
            f"{path}: {role}_id is {found_id!r:.60}, expected the id of a token; add it to the file, or {role} to "
            "tokenizer_config.json"
        )
    return found_id


def _weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the weights under the student's names, and the sha256 of the file.

    Raises:
        InputError: If the file is damaged, or has two different matrices for the input and the output.
    """
    try:
        data = read_file(path)
        found = safetensors.torch.load(data)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); export again, or fetch the file") from error
    # The names in a file of a ``GPT2Model`` lack ``transformer.``.
    weights = {
        name if name.startswith("transformer.") else f"transformer.{name}": tensor.float()
        for name, tensor in found.items()
        if name != "lm_head.weight" and not name.endswith(_BUFFERS)
    }
    head, embedding = found.get("lm_head.weight"), weights.get("transformer.wte.weight")
    if head is not None and embedding is not None and not torch.equal(head.float(), embedding):
        raise InputError(
            f"{path}: lm_head.weight differs from transformer.wte.weight, expected the same weights, because "
            "config.json ties them. With two different matrices, transformers 4 uses transformer.wte.weight for both, "
            "but transformers 5 uses lm_head.weight. Save the model with one matrix for both"
        )
    return weights, sha256_bytes(data)


def _check_shapes(path: Path, weights: Mapping[str, Tensor], student: Student) -> None:
    """Check that a file has the weights of the student, in its shapes.

    Raises:
        InputError: If it does not.
    """
    expected = {name: tensor.shape for name, tensor in student.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if wrong := sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)):
        raise InputError(
            f"{path}: {wrong[0]} is {_shape(shapes.get(wrong[0]))}, expected {_shape(expected.get(wrong[0]))} "
            f"({len(wrong)} weights differ); config.json and the weights belong to different models. Export or fetch "
            "both again"
        )


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(list(shape))
