"""From figures to what a command prints and keeps: the last step of every evaluation, whatever the model."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import Dataset, Split
from pipeline.evaluation.minimal_pairs import MinimalPairFigures
from pipeline.evaluation.perplexity import NORMALISERS, PerplexityFigure, floor_figure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, Result, write_result
from pipeline.runtime.run_directory import RunInfo, command_line, versions
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
    run: RunInfo, split: Split, figures: Sequence[PerplexityFigure], *, floor: Path | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``RUN/results/perplexity-SPLIT.json``; return a summary by distribution.

    Args:
        run: What was evaluated.
        split: On what.
        figures: One a distribution.
        floor: ``entropy.json`` of the sample the split is from, or None.
        settings: What could change the figures.
    """
    if floor is not None:
        figures = [*figures, floor_figure(floor, split.name, like=figures[0], text_sha256=split.text_sha256)]
    result = Result(
        kind=PERPLEXITY,
        subject=split.name,
        figures=[figure.to_json() for figure in figures],
        settings=dict(settings),
        fingerprints=_fingerprints(run) | {"split": split.sha256},
        versions=versions(),
        command=command_line(),
    )
    written = write_result(run.path, f"perplexity-{split.name}", result)
    summary: dict[str, Any] = {"run": str(run.path), "split": split.name, "positions": split.num_positions}
    for figure in figures:
        summary[figure.distribution] = {name: getattr(figure, name) for name in NORMALISERS}
    return summary | {"normalisers": dict(NORMALISERS), "written": str(written)}


def record_minimal_pairs(
    run: RunInfo, subject: str, figures: MinimalPairFigures, *, pairs_sha256: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``RUN/results/minimal-pairs-SUBJECT-DIGEST.json``; return its figures."""
    result = Result(
        kind=MINIMAL_PAIRS,
        subject=subject,
        figures=figures.to_json(),
        settings=dict(settings),
        fingerprints=_fingerprints(run) | {"pairs": pairs_sha256},
        versions=versions(),
        command=command_line(),
    )
    # Two folders of the same name are two results.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", subject)
    written = write_result(run.path, f"minimal-pairs-{name}-{pairs_sha256[:8]}", result)
    return {"run": str(run.path), "subject": subject, **figures.to_json(), "written": str(written)}


def _fingerprints(run: RunInfo) -> dict[str, str]:
    return {"weights": sha256_file(run.checkpoint()), "tokenizer": run.fingerprints["tokenizer"]}
