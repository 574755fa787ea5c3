"""``export``: a student's run as a folder that transformers loads, from 4.51 to 5.x, without code of ours.

    OUT/config.json, generation_config.json, model.safetensors                 GPT2LMHeadModel
    OUT/tokenizer.json, tokenizer_config.json, special_tokens_map.json         PreTrainedTokenizerFast
    OUT/README.md                                                              the model card (``student.model_card``)

Weights are copied under their own names; transformers is not imported. The files are written by hand, since what
transformers 5 saves, 4.x cannot load (``TokenizersBackend``), and since under 4.x a tokenizer of the class that both
know adds ``token_type_ids``, which GPT-2 would add to the embeddings, if it is not told not to.

The tokenizer puts ``<bos>`` before a text, never ``<eos>`` after it. Both and ``<pad>`` are special tokens there, so
that generation and padding work, though in a run's ``tokenizer.json`` they are not: special tokens are looked for in
the text. ``split_special_tokens`` turns that off, and a text that holds the characters ``<eos>`` gets their ids, as it
does here. docs/export.md says which calls do not heed it.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.runtime import options
from pipeline.runtime.run_directory import RunInfo, Which, checkpoint_names
from pipeline.runtime.train_config import num_words_of
from pipeline.training.run_list import list_runs
from storage.errors import RunError
from storage.files import PARTIAL_SUFFIX, cannot_write, fsync_directory, make_directory, write_atomically
from student.hugging_face import OURS
from student.model_card import model_card
from student.student_config import StudentTrainConfig
from student.student_run import load_student, num_trained_positions, open_student, student_config

MAIN: Final = "main"
"""The folder of the checkpoint that is not at a number of words, where several are exported: BabyLM's name for it."""
USUAL_POSITIONS: Final = 512
"""What BabyLM's pipeline cuts and pads texts to when it fine-tunes."""


def export(run: Path, out: Path, *, which: Which = "best", all_checkpoints: bool = False) -> dict[str, Any]:
    """Write a finished student's run as a Hugging Face folder; return what ``export`` prints.

    Args:
        run: A run directory of train-student.
        out: The folder to make; it appears whole or not at all.
        which: The checkpoint.
        all_checkpoints: Write OUT/main of that checkpoint, and OUT/chck_1M and so on of those at numbers of words.

    Raises:
        RunError: If it is no student's run, its training has not finished, a checkpoint is missing or damaged, or
            ``out`` is there already.
        StoreError: If there is no room.
    """
    info = open_student(run)
    _check_finished(run)
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: already exists; remove it, or choose another folder")
    checkpoints = {".": which}
    if all_checkpoints:
        by_words = [name for name in checkpoint_names(run) if num_words_of(name)]
        if not by_words:
            raise RunError(
                f"{run}: no checkpoint at a number of words, expected some for --all-checkpoints; leave it out, or "
                "train with --word-checkpoints"
            )
        checkpoints = {MAIN: which} | {name.replace("words_", "chck_"): name for name in by_words}
    make_directory(out.absolute().parent)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        summaries = {folder: _export_one(info, partial / folder, name) for folder, name in checkpoints.items()}
        partial.rename(out)
        fsync_directory(out.absolute().parent)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"exported": str(out), **(summaries if all_checkpoints else summaries["."])}


def _check_finished(run: Path) -> None:
    (row,), _ = list_runs(run)
    if row.error is not None:
        raise RunError(row.error)
    if row.state != "finished":
        raise RunError(
            f"{run}: this run's training is not finished ({row.state}, step {row.step}); run the same train-student "
            "command again, or wait for it, and export then"
        )


def _export_one(run: RunInfo, folder: Path, which: Which) -> dict[str, Any]:
    model, _ = load_student(run.path, torch.device("cpu"), which)
    tokenizer = Tokenizer.load(run.tokenizer_path)
    num_trained = num_trained_positions(run, which)
    weights = {name: tensor.float().contiguous() for name, tensor in model.state_dict().items()}
    files = {
        "config.json": _json(hf_config(run, tokenizer) | {OURS: _told(run, num_trained)}),
        "generation_config.json": _json(_special_ids(tokenizer)),
        # Without "format", transformers 4 refuses the file.
        "model.safetensors": safetensors.torch.save(weights, metadata={"format": "pt"}),
        **tokenizer_files(tokenizer, num_positions=model.config.max_length),
    }
    num_parameters = _num_parameters(weights)
    card = model_card(
        run,
        which,
        tokenizer,
        weights=files["model.safetensors"],
        num_parameters=num_parameters,
        num_trained=num_trained,
    )
    make_directory(folder)
    for name, data in {**files, "README.md": card.encode()}.items():
        write_atomically(folder / name, data)
    return {
        "checkpoint": which,
        "num_parameters": num_parameters,
        "num_positions": model.config.max_length,
        "num_trained_positions": num_trained
        if num_trained is not None
        else "not known: the checkpoint does not record it",
        **({"note": few} if (few := _few_positions(model.config.max_length)) else {}),
    }


def _told(run: RunInfo, num_trained: int | None) -> dict[str, Any]:
    """Return what a later evaluation of the folder has to know, and no key of transformers says."""
    context = options.build(StudentTrainConfig, run.configuration).context
    return {"context": context, "num_trained_positions": num_trained}


def hf_config(run: RunInfo, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **student_config(run).to_hf(),
        **_special_ids(tokenizer),
        "torch_dtype": "float32",
        "use_cache": True,
    }


def tokenizer_files(tokenizer: Tokenizer, *, num_positions: int) -> dict[str, bytes]:
    """Return the three files of a tokenizer that gives ``<bos>`` and then the ids that ``tokenizer`` gives."""
    ids = _special_ids(tokenizer)
    names = {name.removesuffix("_id"): tokenizer.token(i) for name, i in ids.items()}
    added = {i: _added_token(tokenizer.token(i)) for i in sorted(set(ids.values()))}
    bos = names["bos_token"]
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in ("A", "B"))
    before = {"SpecialToken": {"id": bos, "type_id": 0}}
    content = json.loads(tokenizer.data) | {
        "added_tokens": [{"id": i, **token} for i, token in added.items()],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [before, first],
            "pair": [before, first, second],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
    }
    config = {
        # The one name that transformers 4 and 5 both know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "added_tokens_decoder": {str(i): token for i, token in added.items()},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": num_positions,
        # GPT-2 counts positions from the left, so that a sentence has the same ones with and without padding.
        "padding_side": "right",
        "truncation_side": "right",
    }
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n",
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(names),
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return ids by transformers' names; those of an adopted tokenizer may be the same."""
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _added_token(content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **flags, "special": True}


def _num_parameters(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def _few_positions(num_positions: int) -> str:
    if num_positions >= USUAL_POSITIONS:
        return ""
    return f"programs that pad to {USUAL_POSITIONS} positions fail: --max-length was {num_positions}"


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"
