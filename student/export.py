"""Export a student's run as a folder that transformers 4.51 to 5.x loads without code of this project.

    OUT/config.json, generation_config.json, model.safetensors                 GPT2LMHeadModel
    OUT/tokenizer.json, tokenizer_config.json, special_tokens_map.json         PreTrainedTokenizerFast
    OUT/README.md                                                              the model card (``student.model_card``)

This module does not import transformers. If transformers 5 wrote the files, they would name a tokenizer class that
transformers 4.x does not have (``TokenizersBackend``). In tokenizer_config.json, ``model_input_names`` leaves
``token_type_ids`` out. Otherwise transformers 4.x would pass these ids to GPT-2, which adds their embeddings to those
of the tokens.

The exported tokenizer puts ``<bos>`` before a text and nothing after the text. If a text contains the characters
``<eos>``, the exported tokenizer reads them as the special token, as other programs expect. A run's ``tokenizer.json``
reads them as plain characters. So a corpus that contains the characters ``<eos>`` does not produce the end-of-sentence
token (docs/decisions/0015). The same holds for ``<bos>`` and ``<pad>``.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.runtime.run_directory import RunInfo, Which, checkpoint_names, open_run
from pipeline.runtime.train_config import num_words_of
from pipeline.training.run_list import list_runs
from storage.errors import RunError
from storage.files import make_directory, new_folder, write_atomically
from student.hugging_face import OURS
from student.model_card import model_card
from student.student_config import ExportConfig, StudentTrainConfig
from student.student_run import load_student, num_trained_positions

MAIN: Final = "main"
"""BabyLM's name for the folder or branch of the final checkpoint, if several checkpoints are exported."""
DEFAULTS: Final = ExportConfig()
USUAL_POSITIONS: Final = 512
"""The length to which BabyLM's pipeline cuts and pads texts when it fine-tunes."""


def export(
    run: Path,
    out: Path,
    *,
    which: Which = "best",
    all_checkpoints: bool = False,
    config: ExportConfig = DEFAULTS,
) -> dict[str, Any]:
    """Write a finished student's run as a Hugging Face folder; return the summary that ``export`` prints.

    With ``config.push``, also send the folders to the hub. If sending fails, the folders stay.

    Args:
        run: A run directory of ``train-student``.
        out: The folder to make. If the files cannot be written, no folder is left.
        which: The checkpoint.
        all_checkpoints: Write the checkpoint ``which`` to OUT/main, and each word checkpoint (weights saved after
            1M, 2M, … words of training) to a folder such as OUT/chck_1M. With ``config.push``, this happens whenever
            there are word checkpoints.
        config: The entries of the model card, and where to send the folders.

    Raises:
        RunError: If ``run`` is not a student's run, its training has not finished, a checkpoint is missing or damaged,
            or ``out`` exists.
        StoreError: If the disk is full.
    """
    if config.push:
        from student.push import check_repository  # noqa: PLC0415 - an extra: huggingface_hub may be missing

        check_repository(config.push)
    info = open_run(run, "student")
    _check_finished(run)
    checkpoints = {".": which}
    by_words = [name for name in checkpoint_names(run) if num_words_of(name)]
    all_checkpoints = all_checkpoints or bool(config.push and by_words)
    if all_checkpoints:
        if not by_words:
            raise RunError(
                f"{run}: no word checkpoint such as words_1M, expected at least one for --all-checkpoints; leave "
                "--all-checkpoints out, or train with --word-checkpoints"
            )
        checkpoints = {MAIN: which} | {name.replace("words_", "chck_"): name for name in by_words}

    def write(folder: Path) -> dict[str, Any]:
        return {name: _export_one(info, folder / name, which, config) for name, which in checkpoints.items()}

    if config.dry_run:
        from student.push import planned  # noqa: PLC0415 - as above

        with tempfile.TemporaryDirectory() as temporary:
            write(Path(temporary))
            branches = planned(_branches(Path(temporary), checkpoints))
        return {"would push to": config.push, "branches": branches, "sent": "nothing"}
    with new_folder(out) as partial:
        summaries = write(partial)
    summary = {"exported": str(out), **(summaries if all_checkpoints else summaries["."])}
    if "." in (name := (config.push or out.name).rpartition("/")[2]):
        summary["name"] = f"BabyLM's pipeline cuts {name} to {Path(name).stem}: choose a name without dots"
    if not config.push:
        return summary
    from student.push import push  # noqa: PLC0415 - as above

    return summary | {"pushed": push(_branches(out, checkpoints), config.push, private=config.private)}


def _branches(out: Path, checkpoints: Mapping[str, Which]) -> dict[str, Path]:
    """Return the folder of each branch. A single checkpoint is the branch main."""
    return {MAIN if folder == "." else folder: out / folder for folder in checkpoints}


def _check_finished(run: Path) -> None:
    (row,), _ = list_runs(run)
    if row.error is not None:
        raise RunError(row.error)
    if row.state != "finished":
        raise RunError(
            f"{run}: this run's training is not finished ({row.state}, step {row.step}); run the same train-student "
            "command again, or wait for its end, then export"
        )


def _export_one(run: RunInfo, folder: Path, which: Which, about: ExportConfig) -> dict[str, Any]:
    model, _ = load_student(run.path, torch.device("cpu"), which)
    tokenizer = Tokenizer.load(run.tokenizer_path)
    num_trained = num_trained_positions(run, which)
    training = {
        "context": run.options(StudentTrainConfig).context,
        "num_trained_positions": num_trained,
    }
    special_ids = _special_ids(tokenizer)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **model.config.to_hf(),
        **special_ids,
        "torch_dtype": "float32",
        "use_cache": True,
        OURS: training,
    }
    tensors = {name: tensor.float().contiguous() for name, tensor in model.state_dict().items()}
    # transformers 4 refuses a file without "format".
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    num_parameters, num_positions = sum(tensor.numel() for tensor in tensors.values()), model.config.max_length
    card = model_card(
        run,
        which,
        tokenizer,
        weights=weights,
        num_parameters=num_parameters,
        num_trained=num_trained,
        config=about,
    )
    files = {
        "config.json": _json(config),
        "generation_config.json": _json(special_ids),
        "model.safetensors": weights,
        **tokenizer_files(tokenizer, num_positions=num_positions),
        "README.md": card.encode(),
    }
    make_directory(folder)
    for name, data in files.items():
        write_atomically(folder / name, data)
    note = f"programs that pad to {USUAL_POSITIONS} positions fail: --max-length was {num_positions}"
    return {
        "checkpoint": which,
        "num_parameters": num_parameters,
        "num_positions": num_positions,
        "num_trained_positions": "not known: the checkpoint does not record it" if num_trained is None else num_trained,
        **({"note": note} if num_positions < USUAL_POSITIONS else {}),
    }


def tokenizer_files(tokenizer: Tokenizer, *, num_positions: int) -> dict[str, bytes]:
    """Return the three files of a tokenizer that puts ``<bos>`` before the ids that ``tokenizer`` gives."""
    ids = _special_ids(tokenizer)
    names = {name.removesuffix("_id"): tokenizer.token(i) for name, i in ids.items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {i: {"content": tokenizer.token(i), **flags, "special": True} for i in sorted(set(ids.values()))}
    bos = names["bos_token"]
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in ("A", "B"))
    before = {"SpecialToken": {"id": bos, "type_id": 0}}
    content = json.loads(tokenizer.data)
    # ``added_tokens`` is empty in a tokenizer that ``train-tokenizer`` made. ``adopt-tokenizer`` may fill it.
    ordinary = {token.pop("id"): token for token in content["added_tokens"]}
    added = dict(sorted((ordinary | added).items()))
    content |= {
        "added_tokens": [{"id": i, **token} for i, token in added.items()],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [before, first],
            "pair": [before, first, second],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
    }
    config = {
        # transformers 4 and 5 both have this class.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "added_tokens_decoder": {str(i): token for i, token in added.items()},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": num_positions,
        # GPT-2 counts positions from the left, so padding on the right does not change a sentence's positions.
        "padding_side": "right",
        "truncation_side": "right",
    }
    if content["pre_tokenizer"].get("add_prefix_space"):
        config["add_prefix_space"] = True  # without this key, transformers 4 sets it to False
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n",
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(names),
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the special tokens. Some can be equal if ``adopt-tokenizer`` made the tokenizer."""
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"
