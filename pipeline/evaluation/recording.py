"""From figures to what a command prints and keeps: the last step of every evaluation, whatever the model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpus.dataset.dataset import Split
from pipeline.corpus.text.text_files import find_file
from pipeline.corpus.trees.bracket_scores import ParseFigure
from pipeline.corpus.trees.readers import Counts
from pipeline.evaluation.minimal_pairs import MinimalPairFigures, ScoredPair
from pipeline.evaluation.perplexity import NORMALISERS, floor_figure, perplexity_figure
from pipeline.evaluation.perplexity_parts import parts_to_json, perplexity_parts
from pipeline.evaluation.results import (
    MINIMAL_PAIRS,
    PARSES,
    PERPLEXITY,
    SURPRISAL,
    SYNTAXGYM,
    Result,
    write_result,
    write_rows,
)
from pipeline.evaluation.surprisal import SurprisalFigure
from pipeline.evaluation.syntaxgym import ItemOutcome, SyntaxGymFigures
from pipeline.runtime.run_directory import command_line, versions
from pipeline.training.model_files import EXPORTED, ModelFiles
from storage.fingerprints import sha256_file
from storage.ragged import Ragged


def record_perplexity(
    model: ModelFiles,
    split: Split,
    log_probs: Mapping[str, Ragged],
    *,
    floor: Path | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``perplexity-SPLIT-DIGEST.json``, and each sentence's log-probabilities as ``.jsonl``; return a summary.

    Args:
        model: What was evaluated.
        split: On what, M sentences.
        log_probs: By distribution, M rows of n + 1 natural logs, as ``perplexity_figure`` takes them. Figures of parts
            of the split are of the first.
        floor: ``entropy.json`` of the sample the split is from, or None.
        settings: What could change the figures, but the checkpoint.

    Raises:
        RunError: If a log-probability is not finite.
    """
    figures = [perplexity_figure(rows, split, distribution) for distribution, rows in log_probs.items()]
    first, of_first = next(iter(log_probs.items()))
    parts = perplexity_parts(of_first, split, first)
    if floor is not None:
        figures = [*figures, floor_figure(floor, split.name, like=figures[0], text_sha256=split.text_sha256)]
    found = [figure.to_json() for figure in figures]
    found[0]["parts"] = parts_to_json(parts)
    name = _name("perplexity", split.name, split.sha256, model, settings)
    rows_path = write_rows(model.path, name, _rows_of_sentences(log_probs))
    result = _result(model, PERPLEXITY, split.name, found, settings, split=split.sha256, text=split.text_sha256)
    written = write_result(model.path, name, result)
    summary: dict[str, Any] = {"model": str(model.path), "split": split.name, "positions": split.num_positions}
    summary["context"] = settings["context"]
    for figure in figures:
        summary[figure.distribution] = {name: getattr(figure, name) for name in NORMALISERS}
    for by, of_parts in parts.items():
        summary[f"{first}, {by}: sentences, per word, bits per byte"] = {
            name: (figure.num_sentences, figure.per_word, figure.bits_per_byte) for name, figure in of_parts.items()
        }
    return summary | {"normalisers": dict(NORMALISERS), "sentences": str(rows_path), "written": str(written)}


def _rows_of_sentences(log_probs: Mapping[str, Ragged]) -> Iterator[dict[str, Any]]:
    for i in range(len(next(iter(log_probs.values())))):
        yield {
            "sentence": i,
            "log_probs": {
                # Six decimals: what float32 holds of a log-probability, and half the bytes.
                distribution: rows[i].astype(np.float64).round(6).tolist()
                for distribution, rows in log_probs.items()
            },
        }


def record_minimal_pairs(
    model: ModelFiles,
    subject: str,
    figures: MinimalPairFigures,
    pairs: Sequence[ScoredPair],
    *,
    pairs_sha256: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``minimal-pairs-SUBJECT-DIGEST.json``, and its pairs as ``.jsonl``; return its figures.

    Args:
        model: What was evaluated.
        subject: What to call the pairs.
        figures: Accuracies.
        pairs: What each of them got.
        pairs_sha256: As ``minimal_pair_files.pairs_sha256``.
        settings: What could change the figures, but the checkpoint; conventions other than ``prefix`` "none" without
            ``eos`` are in the file's name.
    """
    name = _name("minimal-pairs", subject, pairs_sha256, model, settings)
    name += ("-space" if settings["prefix"] == "space" else "") + ("-eos" if settings["eos"] else "")
    rows = write_rows(model.path, name, (pair.to_json() for pair in pairs))
    result = _result(model, MINIMAL_PAIRS, subject, figures.to_json(), settings, pairs=pairs_sha256)
    written = write_result(model.path, name, result)
    return {
        "model": str(model.path),
        "subject": subject,
        "prefix": settings["prefix"],
        "eos": settings["eos"],
        **figures.to_json(),
        "pairs": str(rows),
        "written": str(written),
    }


def record_syntaxgym(
    model: ModelFiles,
    subject: str,
    figures: SyntaxGymFigures,
    outcomes: Sequence[ItemOutcome],
    *,
    suites_sha256: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``syntaxgym-SUBJECT-DIGEST.json``, and its items as ``.jsonl``; return its figures.

    Args:
        model: What was evaluated.
        subject: What to call the suites.
        figures: Their accuracies.
        outcomes: Of every item.
        suites_sha256: As ``syntaxgym_suites.suites_sha256``.
        settings: What could change the figures, but the checkpoint; with other ``joining`` than "text", the file's
            name says so.
    """
    name = _name("syntaxgym", subject, suites_sha256, model, settings)
    if settings["joining"] != "text":
        name += f"-{settings['joining']}"
    items = write_rows(model.path, name, (outcome.to_json() for outcome in outcomes))
    result = _result(model, SYNTAXGYM, subject, figures.to_json(), settings, suites=suites_sha256)
    written = write_result(model.path, name, result)
    return {
        "model": str(model.path),
        "subject": subject,
        **figures.to_json(),
        "items": str(items),
        "written": str(written),
    }


def record_surprisal(
    model: ModelFiles,
    text: Path,
    table: Path,
    figure: SurprisalFigure,
    *,
    dropped: Mapping[str, int],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``surprisal-TEXT-DIGEST.json``, with words of a file of spans named by its digest too; return its figures.

    Args:
        model: What was evaluated.
        text: On what.
        table: Where the surprisals are.
        figure: Their sums.
        dropped: Lines of the text left out, by reason.
        settings: What could change the figures, but the checkpoint.
    """
    sha256 = sha256_file(text)
    figures = figure.to_json() | {"dropped": dict(sorted(dropped.items()))}
    result = _result(model, SURPRISAL, text.name, figures, settings, text=sha256)
    name = _name("surprisal", text.name, sha256, model, settings)
    if (spans := settings["spans sha256"]) is not None:
        name += f"-spans{spans[:8]}"
    written = write_result(model.path, name, result)
    return {"model": str(model.path), "text": str(text), **figures, "table": str(table), "written": str(written)}


def record_parses(
    model: ModelFiles,
    stem: Path,
    figure: ParseFigure,
    *,
    counts: Counts,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``parses-STEM-DIGEST.json``; return its figures.

    Args:
        model: What was evaluated.
        stem: STEM of the trees it was compared with, as ``read_gold_trees`` read them.
        figure: How they agree.
        counts: What became of each tree of the treebank.
        settings: What could change the figures, but the checkpoint: the beam, the caps.
    """
    sha256 = sha256_file(find_file(stem, ".mrg"))
    figures = figure.to_json() | {"treebank": counts.to_json()}
    result = _result(model, PARSES, stem.name, figures, settings, trees=sha256)
    written = write_result(model.path, _name("parses", stem.name, sha256, model, settings), result)
    return {"model": str(model.path), "trees": str(stem), **figures, "written": str(written)}


def _name(kind: str, subject: str, sha256: str, model: ModelFiles, settings: Mapping[str, Any]) -> str:
    """Return the name of a result; other subjects of one name, checkpoints and sizes of a search are other results."""
    name = f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', subject)}-{sha256[:8]}"
    if model.which not in {"best", EXPORTED}:
        name += f"-{model.which}"
    return name + (f"-beam{settings['beam']}-{settings['word_beam']}" if "beam" in settings else "")


def _result(
    model: ModelFiles,
    kind: str,
    subject: str,
    figures: Any,  # noqa: ANN401 - JSON
    settings: Mapping[str, Any],
    **fingerprints: str,
) -> Result:
    return Result(
        kind=kind,
        subject=subject,
        figures=figures,
        settings={"checkpoint": model.which, **settings},
        fingerprints={"weights": sha256_file(model.weights), "tokenizer": model.tokenizer_sha256} | fingerprints,
        versions=versions(),
        command=command_line(),
    )
