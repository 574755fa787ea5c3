"""Evaluate a trained student: perplexity of a split, accuracy on minimal pairs, surprisals of a text."""

from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import load_dataset
from pipeline.corpus.text import OnError
from pipeline.corpus.tokenizer import Tokenizer
from pipeline.evaluation.minimal_pairs import evaluate_minimal_pairs as score_pairs
from pipeline.evaluation.minimal_pairs import pairs_name, pairs_sha256, read_minimal_pairs
from pipeline.evaluation.perplexity import UNCONDITIONAL, perplexity_figure
from pipeline.evaluation.recording import check_tokenizer, record_minimal_pairs, record_perplexity, record_surprisal
from pipeline.evaluation.scorer import NextTokenScorer
from pipeline.evaluation.surprisal import By, write_surprisals
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import Which
from storage.locations import Place
from storage.ragged import Ragged
from student.train import load_student

BATCH_TOKENS = 8192
"""Positions scored at a time."""


def evaluate_perplexity(
    model: Path, data: Place, *, split: str, floor: Path | None, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Measure p(x) of a split, write it beside the run, return a summary."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate perplexity")
        student, run = load_student(model, where, which)
        dataset = load_dataset(data)
        check_tokenizer(run, dataset)
        sentences = dataset.split(split)
        eos_id = dataset.tokenizer.eos_id
        scorer = NextTokenScorer(student, eos_id=eos_id, batch_tokens=BATCH_TOKENS)
        log_probs = Ragged.from_lists(scorer.log_probs(list(sentences.tokens)), "float32")
        figure = perplexity_figure(log_probs, sentences, UNCONDITIONAL)
        settings = {"batch_tokens": BATCH_TOKENS, "device": where.type, "dtype": "float32"}
        return record_perplexity(run, sentences, [figure], floor=floor, settings=settings, which=which)


def evaluate_minimal_pairs(model: Path, folder: Path, *, device: str, which: Which = "best") -> dict[str, Any]:
    """Score every pair of a folder, write the figures beside the run, return them."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate minimal-pairs")
        pairs = read_minimal_pairs(folder)
        student, run = load_student(model, where, which)
        tokenizer = Tokenizer.load(run.tokenizer_path)
        scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=BATCH_TOKENS)
        figures = score_pairs(scorer, tokenizer, pairs)
        settings = {"batch_tokens": BATCH_TOKENS, "device": where.type, "dtype": "float32"}
        return record_minimal_pairs(
            run, pairs_name(folder), figures, pairs_sha256=pairs_sha256(pairs), settings=settings, which=which
        )


def evaluate_surprisal(
    model: Path, text: Path, out: Path, *, by: By, on_error: OnError, device: str, which: Which = "best"
) -> dict[str, Any]:
    """Write the surprisals of a text's words or tokens as a table, and their sums beside the run; return the sums."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate surprisal")
        student, run = load_student(model, where, which)
        tokenizer = Tokenizer.load(run.tokenizer_path)
        scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=BATCH_TOKENS)
        figure, dropped = write_surprisals(
            scorer, tokenizer, text, out, by=by, max_tokens=student.config.max_length - 1, on_error=on_error
        )
        settings = {"batch_tokens": BATCH_TOKENS, "device": where.type, "dtype": "float32"}
        settings |= {"distribution": UNCONDITIONAL, "on_error": on_error}
        return record_surprisal(run, text, out, figure, dropped=dropped, settings=settings, which=which)
