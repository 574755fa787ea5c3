"""Evaluate a trained student, or a folder in Hugging Face's format: as a scorer of sentences, and on a split."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset import Split, load_dataset
from pipeline.dumping.next_token import append_eos, log_probs_of
from pipeline.evaluation.perplexity import IN_DOCUMENT, UNCONDITIONAL
from pipeline.evaluation.scorer import NextTokenScorer, warn_beyond
from pipeline.evaluation.sentence_models import SentenceModel, evaluate_split
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import Which
from pipeline.training.batching import consecutive_batches
from pipeline.training.model_files import check_tokenizer
from storage.locations import Place
from storage.ragged import Ragged, concatenated_ranges
from student.hugging_face import OpenedStudent, open_student_or_folder
from student.model import Student
from student.rows import Context, Rows, StudentInputs


def batch_tokens(device: torch.device) -> int:
    """Return how many positions are scored at a time.

    On a CPU 1,024 are twice as fast as 8,192, whose activations leave its caches; on a GPU nothing was tried.
    """
    return 1024 if device.type == "cpu" else 8192


@contextmanager
def opened_scorer(model: Path, *, device: str, which: Which = "best") -> Iterator[SentenceModel]:
    """Open a student's run, or a folder in Hugging Face's format, to score sentences with.

    Raises:
        RunError: If it is neither, or damaged.
        InputError: If an exported folder lacks a file, or holds something else than a GPT-2.
    """
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate")
        opened = open_student_or_folder(model, where, which)
        opened.files.check_writable()
        student, tokenizer = opened.student, opened.tokenizer
        yield SentenceModel(
            scorer=NextTokenScorer(
                student,
                eos_id=tokenizer.eos_id,
                batch_tokens=batch_tokens(where),
                num_trained_positions=opened.num_trained_positions,
            ),
            tokenizer=tokenizer,
            max_tokens=student.config.max_length - 1,
            files=opened.files,
            settings=_settings(opened, where) | {"distribution": UNCONDITIONAL},
        )


def evaluate_perplexity(
    model: Path, data: Place, *, split: str, floor: Path | None, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Measure p(x) of a split, of a student of documents given the document before, and write it beside the model.

    Raises:
        InputError: If a sentence is longer than the student's rows, or documents are not known where they are needed.
    """
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate perplexity")
        opened = open_student_or_folder(model, where, which)
        dataset = load_dataset(data)
        check_tokenizer(opened.files, dataset)
        opened.files.check_writable()
        sentences = dataset.split(split)
        in_document = opened.context == "document"
        warn_beyond(sentences.tokens.lengths, opened.num_trained_positions)
        log_probs = log_probs_in_rows(
            opened.student, sentences, context=opened.context, eos_id=dataset.tokenizer.eos_id
        )
        settings = _settings(opened, where) | {
            "context": f"rows of a document, up to {opened.student.config.max_length} positions, without overlap"
            if in_document
            else "sentence by sentence"
        }
        return evaluate_split(
            opened.files,
            sentences,
            {IN_DOCUMENT if in_document else UNCONDITIONAL: log_probs},
            floor=floor,
            settings=settings,
        )


@torch.no_grad()
def log_probs_in_rows(student: Student, split: Split, *, context: Context, eos_id: int) -> Ragged:
    """Return the log-probability of each gold token: float32, n + 1 values for a sentence of n tokens.

    Args:
        student: In evaluation mode.
        split: The sentences.
        context: What a sentence is given: nothing, or what stands before it in its row of the document.
        eos_id: ``<eos>``.

    Raises:
        InputError: As ``Rows``.
    """
    student.config.check_length(int(split.tokens.lengths.max(initial=0)))
    rows, offsets = Rows(split, context=context, max_length=student.config.max_length), split.position_offsets
    order = np.argsort(-rows.lengths, kind="stable")  # little padding, and what is too large fails at once
    found = np.empty(split.num_positions, np.float32)
    for first, stop in consecutive_batches(rows.lengths[order], batch_tokens(next(student.parameters()).device)):
        sentences, row_offsets = rows.sentences(order[first:stop])
        tokens = split.tokens.take(sentences)
        states = student.states(StudentInputs.of(tokens, row_offsets, bos_id=student.bos_id))
        places = concatenated_ranges(offsets[sentences], rows.num_positions[sentences])
        found[places] = log_probs_of(student, states, append_eos(tokens, eos_id).values)
    return Ragged(found, offsets)


def _settings(opened: OpenedStudent, device: torch.device) -> dict[str, Any]:
    """Return what could change a figure, and with which context the student was trained, where that is known."""
    return {
        "batch_tokens": batch_tokens(device),
        "device": device.type,
        "dtype": "float32",
        "trained_context": opened.trained_context,
        "num_trained_positions": opened.num_trained_positions,
    }
