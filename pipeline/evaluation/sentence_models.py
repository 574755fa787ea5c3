"""Evaluations that score single sentences, alike for every model: minimal pairs, SyntaxGym, surprisals.

What scores is a student, a folder in Hugging Face's format (``student.student_commands``), or a teacher that sees no
tree (``teacher.teacher_commands``). Perplexity is apart: a split may have trees or documents, which only some models
read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError
from pipeline.evaluation.minimal_pair_files import pairs_name, pairs_sha256, read_minimal_pairs
from pipeline.evaluation.minimal_pairs import Prefix
from pipeline.evaluation.minimal_pairs import evaluate_minimal_pairs as score_pairs
from pipeline.evaluation.recording import record_minimal_pairs, record_surprisal, record_syntaxgym
from pipeline.evaluation.scorer import BLOCK_SENTENCES, Scorer
from pipeline.evaluation.surprisal import By, write_surprisals
from pipeline.evaluation.syntaxgym import evaluate_suites
from pipeline.evaluation.syntaxgym_suites import Joining, read_suites, suites_name, suites_sha256
from pipeline.training.model_files import ModelFiles
from storage.errors import ConfigError
from storage.fingerprints import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceModel:
    """A model ready to score sentences, and what results say of it."""

    scorer: Scorer
    tokenizer: Tokenizer
    max_tokens: int | None
    """The longest sentence it can score, ``<eos>`` not counted; None where there is none."""
    files: ModelFiles
    settings: Mapping[str, Any]
    """What could change its figures, the distribution among them."""
    block_sentences: int = BLOCK_SENTENCES
    """Sentences scored between two signs of progress."""


def evaluate_minimal_pairs(model: SentenceModel, folder: Path, *, prefix: Prefix, eos: bool) -> dict[str, Any]:
    """Score every pair of a folder, write figures and pairs beside the model, return the figures."""
    pairs = read_minimal_pairs(folder)
    figures, scored = score_pairs(
        model.scorer,
        model.tokenizer,
        pairs,
        prefix=prefix,
        eos=eos,
        max_tokens=model.max_tokens,
        block_sentences=model.block_sentences,
    )
    settings = {**model.settings, "prefix": prefix, "eos": eos}
    sha256 = pairs_sha256(pairs)
    return record_minimal_pairs(
        model.files, pairs_name(folder), figures, scored, pairs_sha256=sha256, settings=settings
    )


def evaluate_syntaxgym(model: SentenceModel, paths: Sequence[Path], *, joining: Joining) -> dict[str, Any]:
    """Score SyntaxGym suites, write figures and items beside the model, return the figures."""
    suites = read_suites(paths)
    figures, outcomes = evaluate_suites(
        model.scorer,
        model.tokenizer,
        suites,
        joining=joining,
        max_tokens=model.max_tokens,
        block_sentences=model.block_sentences,
    )
    settings = {**model.settings, "joining": joining}
    sha256 = suites_sha256(suites)
    return record_syntaxgym(model.files, suites_name(paths), figures, outcomes, suites_sha256=sha256, settings=settings)


def evaluate_surprisal(
    model: SentenceModel,
    text: Path,
    out: Path,
    *,
    by: By,
    on_error: OnError,
    spans: Path | None = None,
    frequencies: Path | None = None,
) -> dict[str, Any]:
    """Write the surprisals of a text's words or tokens as a table, and their sums beside the model; return the sums."""
    if out.resolve().is_relative_to(folder := model.files.path.resolve()):
        raise ConfigError(f"surprisal: {out} is inside {folder}, whose files are the model's; give another --out")
    figure, dropped = write_surprisals(
        model.scorer,
        model.tokenizer,
        text,
        out,
        by=by,
        max_tokens=model.max_tokens,
        on_error=on_error,
        spans=spans,
        frequencies=frequencies,
        block_sentences=model.block_sentences,
    )
    read = {"spans": spans, "frequencies": frequencies}
    digests = {f"{name} sha256": None if path is None else sha256_file(path) for name, path in read.items()}
    settings = {**model.settings, "on_error": on_error, **digests}
    return record_surprisal(model.files, text, out, figure, dropped=dropped, settings=settings)
