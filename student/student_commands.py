"""Carry out the commands that use a trained student: score sentences, evaluate and dump.

Two functions, ``open_scorer`` and ``score_split``, exist here and in ``teacher.teacher_commands``, with the same
signatures. The command line calls one of the two modules, according to the kind of the run. The options of a beam
search are an error here.

This module scores with a run or a folder in Hugging Face's format. It makes dumps of runs only:
``pipeline.dumping.causal_lm_source`` makes dumps of folders.

A dump of a student is for born-again distillation (Furlanello et al. 2018): it shows how much soft targets help if they
come from a model without trees. The distributions are p(w | x_<t).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset_store import Dataset, Split, load_dataset
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import ModelAndSearch, run_fingerprint
from pipeline.dumping.grouped_by_length import GroupedByLength
from pipeline.dumping.next_token import append_eos, log_probs_of
from pipeline.evaluation.perplexity import IN_DOCUMENT, UNCONDITIONAL
from pipeline.evaluation.scorer import BlockScorer, NextTokenScorer, scoring_jobs, warn_beyond
from pipeline.evaluation.sentence_models import ScoredSplit, SentenceModel, spaced_sentences
from pipeline.evaluation.shared_blocks import shared_blocks
from pipeline.evaluation.truth import Truth
from pipeline.runtime.distributed import joined
from pipeline.runtime.options import flag
from pipeline.runtime.run_directory import Which, open_run
from pipeline.training.batching import consecutive_batches
from pipeline.training.model_files import ModelFiles, check_tokenizer
from storage.errors import ConfigError, InputError
from storage.locations import Place
from storage.ragged import Ragged, concatenated_ranges
from student.hugging_face import OpenedStudent, open_student_or_folder
from student.model import Student
from student.rows import Rows, StudentInputs
from student.student_config import Context, StudentConfig, StudentTrainConfig
from student.student_run import load_student

_READS_ONE = {
    "sentence": "trained with --context sentence, so it read each sentence alone",
    "not known": "its config.json does not say whether it was trained with documents",
}
"""The reason why a student reads each sentence alone, by ``OpenedStudent.trained_context``."""


@contextmanager
def open_scorer(model: Path, *, device: str, checkpoint: Which, beam: Mapping[str, Any]) -> Iterator[SentenceModel]:
    """Open a student's run, or a folder in Hugging Face's format, to score sentences.

    Raises:
        ConfigError: If ``beam`` is not empty.
        RunError: If ``model`` is neither a student's run nor a folder in Hugging Face's format, or if a run is damaged.
        InputError: If a folder in Hugging Face's format lacks a file, is damaged, or does not hold a GPT-2.
    """
    _refuse_teacher_options(model, beam)
    with joined(device, threads=0) as (world, where):
        opened = open_student_or_folder(model, where, checkpoint)
        settings = _settings(opened, where)
        scorer = NextTokenScorer(
            opened.student,
            eos_id=opened.tokenizer.eos_id,
            batch_tokens=batch_tokens(where),
            num_trained_positions=opened.num_trained_positions,
        )
        jobs = scoring_jobs(scorer)
        with shared_blocks(jobs, world, files=opened.files, settings=settings, device=where) as blocks:
            yield SentenceModel(
                scorer=BlockScorer(blocks),
                tokenizer=opened.tokenizer,
                max_tokens=opened.student.config.max_length - 1,
                files=opened.files,
                settings=settings | {"distribution": UNCONDITIONAL},
                num_processes=world.size,
                context_positions=_context_positions(opened),
                reads_one=_READS_ONE.get(opened.trained_context, ""),
            )


@contextmanager
def score_split(
    model: Path,
    data: Place,
    *,
    split: str,
    device: str,
    checkpoint: Which,
    marginal: bool,
    beam: Mapping[str, Any],
    max_sentences: int | None = None,
    truth: Path | None = None,
) -> Iterator[ScoredSplit]:
    """Yield the log-probabilities of a split. The caller's ``with`` block records them.

    Args:
        model: A run directory or a folder in Hugging Face's format.
        data: The dataset.
        split: Name of the split.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint: The checkpoint of a run.
        marginal: Must be False.
        beam: Must be empty.
        max_sentences: Return at most this many sentences, evenly spaced. A student that was trained on documents still
            reads all sentences.
        truth: The folder that the command ``sample-corpus`` wrote, to add the divergences from the true probabilities.
            Cannot be combined with ``max_sentences``.

    Raises:
        ConfigError: If ``marginal`` or ``beam`` is given.
        InputError: If a sentence is longer than the student can read, or the student was trained on documents and the
            dataset has none.
    """
    _refuse_teacher_options(model, [*beam, *["marginal"] * marginal])
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate: the perplexity of a student")
        opened = open_student_or_folder(model, where, checkpoint)
        dataset = load_dataset(data)
        check_tokenizer(opened.files, dataset)
        opened.files.check_writable()
        whole = dataset.split(split)
        rows = spaced_sentences(whole, max_sentences)
        sentences = whole.take(rows)
        scored = whole if opened.context == "document" else sentences
        warn_beyond(scored.tokens.lengths, opened.num_trained_positions)
        true = None if truth is None else Truth(truth, dataset, split)
        log_probs, divergences = _log_probs_in_rows(
            opened.student, scored, context=opened.context, eos_id=dataset.tokenizer.eos_id, truth=true
        )
        distribution, context = UNCONDITIONAL, "sentence by sentence"
        if opened.context == "document":
            max_length = opened.student.config.max_length
            distribution, context = IN_DOCUMENT, f"rows of a document, up to {max_length} positions, without overlap"
            log_probs = log_probs.take(rows)
        settings = _settings(opened, where) | {"context": context}
        yield ScoredSplit(
            files=opened.files,
            split=sentences,
            log_probs={distribution: log_probs},
            settings=settings,
            truth=true,
            divergences={} if divergences is None else {distribution: divergences},
        )


class StudentSource:
    """A student's run from which a dump is made.

    It has the methods of ``pipeline.dumping.dump_source.DumpSource``.
    """

    kind = "a student's run"
    conditions: tuple[Condition, ...] = ("none",)

    def __init__(self, path: Path) -> None:
        self.run, self.path = open_run(path, "student"), path

    def fingerprint(self) -> str:
        """Return the sha256 of what the distributions depend on: weights, sizes and special tokens."""
        return run_fingerprint(self.run, StudentConfig)

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Check the dataset's tokenizer, the student's context and the lengths of the split's sentences."""
        check_tokenizer(ModelFiles.of_run(self.run), dataset)
        if self.run.options(StudentTrainConfig).context != "sentence":
            raise ConfigError(
                f"{self.run.path}: trained with --context document, expected sentence: a dump holds distributions of "
                "single sentences, which this student rarely saw. Give a student trained with --context sentence"
            )
        lengths, max_length = dataset.split(split).tokens.lengths + 1, self.run.options(StudentConfig).max_length
        if len(lengths) and lengths.max() > max_length:
            sentence = int(lengths.argmax())
            raise InputError(
                f"{dataset.location}: sentence {sentence} of split {split} has {lengths[sentence]} positions, but "
                f"{self.run.path} reads at most {max_length}; train a student with --max-length {lengths[sentence]} or "
                f"more, or build the dataset without the {np.count_nonzero(lengths > max_length)} longer sentences"
            )

    def load(self, dataset: Dataset, condition: Condition, device: torch.device) -> ModelAndSearch:  # noqa: ARG002
        """Return the student, and an empty mapping: the dump has no settings of a search to record."""
        model, _ = load_student(self.run.path, device)
        return GroupedByLength(model), {}


def batch_tokens(device: torch.device) -> int:
    """Return how many positions to score at a time.

    On a CPU, 1,024 at a time are twice as fast as 8,192. On a GPU only 8,192 was measured.
    """
    return 1024 if device.type == "cpu" else 8192


@torch.no_grad()
def _log_probs_in_rows(
    student: Student, split: Split, *, context: Context, eos_id: int, truth: Truth | None
) -> tuple[Ragged, Ragged | None]:
    """Return the log-probability of each gold token: float32, n + 1 values for a sentence of n tokens.

    The second result is the divergence from the truth at each position: float64 in nats, or None without a truth. The
    student must be in evaluation mode.

    Raises:
        InputError: See ``Rows``.
    """
    student.config.check_length(int(split.tokens.lengths.max(initial=0)))
    rows, offsets = Rows(split, context=context, max_length=student.config.max_length), split.position_offsets
    # Sorted rows need little padding. With the longest first, a batch that is too large for memory fails at once.
    order = np.argsort(-rows.lengths, kind="stable")
    found = np.empty(split.num_positions, np.float32)
    divergences = None if truth is None else np.empty(split.num_positions)
    for first, stop in consecutive_batches(rows.lengths[order], batch_tokens(next(student.parameters()).device)):
        sentences, row_offsets = rows.sentences(order[first:stop])
        tokens = split.tokens.take(sentences)
        states = student.states(StudentInputs.of(tokens, row_offsets, bos_id=student.bos_id))
        places = concatenated_ranges(offsets[sentences], rows.num_positions[sentences])
        found[places] = log_probs_of(student, states, append_eos(tokens, eos_id).values)
        if truth is not None and divergences is not None:
            divergences[places] = truth.divergences(student, states, tokens)
    return Ragged(found, offsets), None if divergences is None else Ragged(divergences, offsets)


def _settings(opened: OpenedStudent, device: torch.device) -> dict[str, Any]:
    """Return the settings of a result: what can change its numbers, and how the student was trained."""
    return {
        "batch_tokens": batch_tokens(device),
        "device": device.type,
        "dtype": "float32",
        "trained_context": opened.trained_context,
        "num_trained_positions": opened.num_trained_positions,
    }


def _context_positions(opened: OpenedStudent) -> int:
    """Return how many positions a sentence may fill together with the sentences before it.

    The result is 0 if the student reads each sentence alone.
    """
    if opened.trained_context != "document":
        return 0
    max_length = opened.student.config.max_length
    return min(max_length, opened.num_trained_positions or max_length)


def _refuse_teacher_options(model: Path, given: Iterable[str]) -> None:
    """Refuse options that only a teacher has."""
    if flags := ", ".join(map(flag, given)):
        raise ConfigError(f"{model} is a student, but only a teacher takes {flags}; run the command without {flags}")
