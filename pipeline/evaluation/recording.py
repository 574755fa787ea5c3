"""From figures to what a command prints and keeps: the last step of every evaluation, whatever the model."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import Dataset, Split
from pipeline.corpus.readers import Counts, find_file
from pipeline.evaluation.minimal_pairs import MinimalPairFigures
from pipeline.evaluation.parses import ParseFigure
from pipeline.evaluation.perplexity import NORMALISERS, PerplexityFigure, floor_figure
from pipeline.evaluation.perplexity_parts import Parts, parts_to_json
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
from pipeline.runtime.run_directory import RunInfo, Which, command_line, versions
from storage.errors import FingerprintMismatchError
from storage.fingerprints import sha256_file


def check_tokenizer(run: RunInfo, dataset: Dataset) -> None:
    """Refuse a dataset whose token ids are not those the run knows.

    Raises:
        FingerprintMismatchError: With both fingerprints.
    """
    found, expected = dataset.tokenizer.sha256, run.fingerprints["tokenizer"]
    if found != expected:
        raise FingerprintMismatchError(
            f"{dataset.location}: tokenizer is {found[:12]}, but {run.path} was trained with {expected[:12]}; "
            f"build the dataset with {run.tokenizer_path}, or name the run trained on this dataset"
        )


def record_perplexity(
    run: RunInfo,
    split: Split,
    figures: Sequence[PerplexityFigure],
    *,
    parts: Parts,
    floor: Path | None,
    settings: Mapping[str, Any],
    which: Which = "best",
) -> dict[str, Any]:
    """Write ``RUN/results/perplexity-SPLIT.json``; return a summary by distribution.

    Args:
        run: What was evaluated.
        split: On what.
        figures: One a distribution.
        parts: Of the first of these.
        floor: ``entropy.json`` of the sample the split is from, or None.
        settings: What could change the figures, but the checkpoint.
        which: The checkpoint; one that is not the best is named in the file's name.
    """
    if floor is not None:
        figures = [*figures, floor_figure(floor, split.name, like=figures[0], text_sha256=split.text_sha256)]
    found = [figure.to_json() for figure in figures]
    found[0]["parts"] = parts_to_json(parts)
    result = _result(run, which, PERPLEXITY, split.name, found, settings, split=split.sha256)
    written = write_result(run.path, f"perplexity-{split.name}{_of(which)}", result)
    summary: dict[str, Any] = {"run": str(run.path), "split": split.name, "positions": split.num_positions}
    for figure in figures:
        summary[figure.distribution] = {name: getattr(figure, name) for name in NORMALISERS}
    for by, of_parts in parts.items():
        summary[f"{figures[0].distribution}, {by}: sentences, per word, bits per byte"] = {
            name: (figure.num_sentences, figure.per_word, figure.bits_per_byte) for name, figure in of_parts.items()
        }
    return summary | {"normalisers": dict(NORMALISERS), "written": str(written)}


def record_minimal_pairs(
    run: RunInfo,
    subject: str,
    figures: MinimalPairFigures,
    *,
    pairs_sha256: str,
    settings: Mapping[str, Any],
    which: Which = "best",
) -> dict[str, Any]:
    """Write ``RUN/results/minimal-pairs-SUBJECT-DIGEST.json``; return its figures."""
    result = _result(run, which, MINIMAL_PAIRS, subject, figures.to_json(), settings, pairs=pairs_sha256)
    written = write_result(run.path, _name("minimal-pairs", subject, pairs_sha256, which), result)
    return {"run": str(run.path), "subject": subject, **figures.to_json(), "written": str(written)}


def record_syntaxgym(
    run: RunInfo,
    subject: str,
    figures: SyntaxGymFigures,
    outcomes: Sequence[ItemOutcome],
    *,
    suites_sha256: str,
    settings: Mapping[str, Any],
    which: Which = "best",
) -> dict[str, Any]:
    """Write ``RUN/results/syntaxgym-SUBJECT-DIGEST.json``, and its items as ``.jsonl``; return its figures.

    Args:
        run: What was evaluated.
        subject: What to call the suites.
        figures: Their accuracies.
        outcomes: Of every item.
        suites_sha256: As ``syntaxgym_suites.suites_sha256``.
        settings: What could change the figures, but the checkpoint; with other ``joining`` than "text", the file's
            name says so.
        which: The checkpoint; one that is not the best is named in the file's name.
    """
    name = _name("syntaxgym", subject, suites_sha256, which)
    if settings["joining"] != "text":
        name += f"-{settings['joining']}"
    items = write_rows(run.path, name, (outcome.to_json() for outcome in outcomes))
    result = _result(run, which, SYNTAXGYM, subject, figures.to_json(), settings, suites=suites_sha256)
    written = write_result(run.path, name, result)
    return {
        "run": str(run.path),
        "subject": subject,
        **figures.to_json(),
        "items": str(items),
        "written": str(written),
    }


def record_surprisal(
    run: RunInfo,
    text: Path,
    table: Path,
    figure: SurprisalFigure,
    *,
    dropped: Mapping[str, int],
    settings: Mapping[str, Any],
    which: Which = "best",
) -> dict[str, Any]:
    """Write ``RUN/results/surprisal-TEXT-DIGEST.json``; return its figures.

    Args:
        run: What was evaluated.
        text: On what.
        table: Where the surprisals are.
        figure: Their sums.
        dropped: Lines of the text left out, by reason.
        settings: What could change the figures, but the checkpoint.
        which: The checkpoint; one that is not the best is named in the file's name.
    """
    sha256 = sha256_file(text)
    figures = figure.to_json() | {"dropped": dict(sorted(dropped.items()))}
    result = _result(run, which, SURPRISAL, text.name, figures, settings, text=sha256)
    written = write_result(run.path, _name("surprisal", text.name, sha256, which), result)
    return {"run": str(run.path), "text": str(text), **figures, "table": str(table), "written": str(written)}


def record_parses(
    run: RunInfo,
    stem: Path,
    figure: ParseFigure,
    *,
    counts: Counts,
    settings: Mapping[str, Any],
    which: Which = "best",
) -> dict[str, Any]:
    """Write ``RUN/results/parses-STEM-DIGEST.json``; return its figures.

    Args:
        run: What was evaluated.
        stem: STEM of the trees it was compared with, as ``read_gold_trees`` read them.
        figure: How they agree.
        counts: What became of each tree of the treebank.
        settings: What could change the figures, but the checkpoint: the beam, the caps.
        which: The checkpoint; one that is not the best is named in the file's name.
    """
    sha256 = sha256_file(find_file(stem, ".mrg"))
    figures = figure.to_json() | {"treebank": counts.to_json()}
    result = _result(run, which, PARSES, stem.name, figures, settings, trees=sha256)
    written = write_result(run.path, _name("parses", stem.name, sha256, which), result)
    return {"run": str(run.path), "trees": str(stem), **figures, "written": str(written)}


def _name(kind: str, subject: str, sha256: str, which: Which) -> str:
    """Return the name of a result; two subjects of one name are two results, and so are two checkpoints."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', subject)}-{sha256[:8]}{_of(which)}"


def _of(which: Which) -> str:
    return "" if which == "best" else f"-{which}"


def _result(
    run: RunInfo,
    which: Which,
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
        settings={"checkpoint": which, **settings},
        fingerprints={"weights": sha256_file(run.checkpoint(which)), "tokenizer": run.fingerprints["tokenizer"]}
        | fingerprints,
        versions=versions(),
        command=command_line(),
    )
