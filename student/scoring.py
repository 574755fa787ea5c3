"""Evaluate a trained student: perplexity of a split, accuracy on minimal pairs and SyntaxGym, surprisals of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.batching import consecutive_batches
from pipeline.corpus.dataset import Split, load_dataset
from pipeline.corpus.text import OnError
from pipeline.corpus.tokenizer import Tokenizer
from pipeline.evaluation.minimal_pairs import evaluate_minimal_pairs as score_pairs
from pipeline.evaluation.minimal_pairs import pairs_name, pairs_sha256, read_minimal_pairs
from pipeline.evaluation.perplexity import IN_DOCUMENT, UNCONDITIONAL, perplexity_figure
from pipeline.evaluation.perplexity_parts import perplexity_parts
from pipeline.evaluation.recording import (
    check_tokenizer,
    record_minimal_pairs,
    record_perplexity,
    record_surprisal,
    record_syntaxgym,
)
from pipeline.evaluation.scorer import NextTokenScorer
from pipeline.evaluation.surprisal import By, write_surprisals
from pipeline.evaluation.syntaxgym import evaluate_suites
from pipeline.evaluation.syntaxgym_suites import Joining, read_suites, suites_name, suites_sha256
from pipeline.next_token import append_eos, log_probs_of
from pipeline.runtime import config as options
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import RunInfo, Which
from storage.locations import Place
from storage.ragged import Ragged, concatenated_ranges
from student.model import Student
from student.rows import Context, Rows, StudentInputs
from student.train import load_student
from student.train_config import StudentTrainConfig


def batch_tokens(device: torch.device) -> int:
    """Return how many positions are scored at a time.

    On a CPU 1,024 are twice as fast as 8,192, whose activations leave its caches; on a GPU nothing was tried.
    """
    return 1024 if device.type == "cpu" else 8192


def evaluate_perplexity(
    model: Path, data: Place, *, split: str, floor: Path | None, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Measure p(x) of a split, of a student of documents given the document before, and write it beside the run.

    Raises:
        InputError: If a sentence is longer than the student's rows, or documents are not known where they are needed.
    """
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate perplexity")
        student, run = load_student(model, where, which)
        dataset = load_dataset(data)
        check_tokenizer(run, dataset)
        sentences = dataset.split(split)
        context = _context(run)
        log_probs = log_probs_in_rows(student, sentences, context=context, eos_id=dataset.tokenizer.eos_id)
        distribution = IN_DOCUMENT if context == "document" else UNCONDITIONAL
        figure = perplexity_figure(log_probs, sentences, distribution)
        parts = perplexity_parts(log_probs, sentences, distribution)
        settings = _settings(run, where)
        return record_perplexity(run, sentences, [figure], parts=parts, floor=floor, settings=settings, which=which)


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


def evaluate_minimal_pairs(model: Path, folder: Path, *, device: str, which: Which = "best") -> dict[str, Any]:
    """Score every pair of a folder, write the figures beside the run, return them."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate minimal-pairs")
        pairs = read_minimal_pairs(folder)
        student, run = load_student(model, where, which)
        tokenizer = Tokenizer.load(run.tokenizer_path)
        scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=batch_tokens(where))
        figures = score_pairs(scorer, tokenizer, pairs)
        settings = _settings(run, where)
        return record_minimal_pairs(
            run, pairs_name(folder), figures, pairs_sha256=pairs_sha256(pairs), settings=settings, which=which
        )


def evaluate_syntaxgym(
    model: Path, paths: Sequence[Path], *, joining: Joining, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Score SyntaxGym suites, write the figures beside the run, return them."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate syntaxgym")
        suites = read_suites(paths)
        student, run = load_student(model, where, which)
        tokenizer = Tokenizer.load(run.tokenizer_path)
        scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=batch_tokens(where))
        max_tokens = student.config.max_length - 1
        figures, outcomes = evaluate_suites(scorer, tokenizer, suites, joining=joining, max_tokens=max_tokens)
        settings = _settings(run, where) | {"joining": joining}
        sha256 = suites_sha256(suites)
        return record_syntaxgym(
            run, suites_name(paths), figures, outcomes, suites_sha256=sha256, settings=settings, which=which
        )


def evaluate_surprisal(
    model: Path, text: Path, out: Path, *, by: By, on_error: OnError, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Write the surprisals of a text's words or tokens as a table, and their sums beside the run; return the sums."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate surprisal")
        student, run = load_student(model, where, which)
        tokenizer = Tokenizer.load(run.tokenizer_path)
        scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=batch_tokens(where))
        figure, dropped = write_surprisals(
            scorer, tokenizer, text, out, by=by, max_tokens=student.config.max_length - 1, on_error=on_error
        )
        settings = _settings(run, where)
        settings |= {"distribution": UNCONDITIONAL, "on_error": on_error}
        return record_surprisal(run, text, out, figure, dropped=dropped, settings=settings, which=which)


def _context(run: RunInfo) -> Context:
    """Return what a student saw beside a sentence when it was trained."""
    return options.build(StudentTrainConfig, run.configuration).context


def _settings(run: RunInfo, device: torch.device) -> dict[str, Any]:
    """Return what could change a figure, and with which context the student was trained."""
    return {
        "batch_tokens": batch_tokens(device),
        "device": device.type,
        "dtype": "float32",
        "trained_context": _context(run),
    }
