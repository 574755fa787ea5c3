"""Write made-up runs with results and item rows, for tests of comparisons. The figures come from no model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.evaluation.compare.run_records import RunRecord, read_runs
from pipeline.evaluation.perplexity import UNCONDITIONAL, PerplexityFigure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, Result, write_result, write_rows
from pipeline.runtime.run_directory import checkpoint_path
from storage.fingerprints import sha256_file

PAIRS = "minimal-pairs-made-up"
SUITES = "syntaxgym-made-up"
SENTENCES = "perplexity-dev"


def write_run(path: Path, *, seed: int, **changes: Any) -> Path:
    """Write a student's run without a dump. ``changes`` replace options, or are ``dump`` and ``fingerprints``."""
    path.mkdir(parents=True)
    options = {"seed": seed, "lr": 0.001, "alpha": 0.7, "temperature": 1.0, "targets": "none", "threads": 1}
    described = {
        "kind": "student",
        "dump": changes.pop("dump", None),
        "fingerprints": {"dataset": "d" * 64, "tokenizer": "e" * 64} | changes.pop("fingerprints", {}),
        "configuration": options | changes,
    }
    (path / "run.json").write_text(json.dumps(described))
    (path / "metrics.jsonl").write_text("")
    weights = checkpoint_path(path, "best")
    weights.parent.mkdir(parents=True)
    weights.write_text(f"weights of seed {seed}")
    return path


def from_dump(manifest: str, teacher: str, **schema: Any) -> dict[str, Any]:
    """Return the ``changes`` of a run that learned from a dump with this manifest, written by this teacher.

    ``schema`` replaces entries of the dump's schema. With the condition ``none`` the teacher is a student.
    """
    about = {"k": 8, "condition": "tree", "fingerprints": {"dataset": "d" * 64, "teacher": teacher}} | schema
    return {"dump": {"path": "dump", "schema": about}, "fingerprints": {"manifest": manifest * 64}, "targets": "dump"}


def record_of(path: Path) -> RunRecord:
    """Return the record of a run."""
    return read_runs([path])[0]


def add_pairs(run: Path, outcomes: Mapping[str, Sequence[int]], *, eos: bool = False) -> None:
    """Write a result of minimal pairs. ``outcomes`` has 1 for right, 0 for wrong and -1 for a tie, by paradigm."""
    bad = {1: -11.0, 0: -9.0, -1: -10.0}
    rows = [
        {"paradigm": name, "pair": i, "good": -10.0, "bad": bad[outcome]}
        for name, of_paradigm in outcomes.items()
        for i, outcome in enumerate(of_paradigm)
    ]
    every = [outcome for of_paradigm in outcomes.values() for outcome in of_paradigm]
    figures = {
        "overall": _counts("num_pairs", every),
        "by_field": {"syntax": _counts("num_pairs", every)},
        "by_term": {f"term {name}": _counts("num_pairs", found) for name, found in outcomes.items()},
        "by_paradigm": {
            name: {"linguistics_term": f"term {name}", "field": "syntax", **_counts("num_pairs", found)}
            for name, found in outcomes.items()
        },
        "num_identical": 0,
    }
    settings = {"prefix": "none", "eos": eos}
    name = PAIRS + ("-eos" if eos else "")
    _write(run, name, rows, MINIMAL_PAIRS, figures, settings, pairs="a" * 64)


def add_suites(run: Path, outcomes: Mapping[str, Sequence[int]]) -> None:
    """Write a result of SyntaxGym suites. ``outcomes`` is coded as in ``add_pairs``."""
    names = {1: "right", 0: "wrong", -1: "tie"}
    rows = [
        {"suite": suite, "item": i + 1, "outcome": names[outcome]}
        for suite, of_suite in outcomes.items()
        for i, outcome in enumerate(of_suite)
    ]
    about = {"circuit": "made up", "metric": "sum", "sha256": "b" * 64, "by_prediction": []}
    tokens = {"num_tokens": 10, "num_tokens_over_two_regions": 0}
    by_suite = {suite: {**about, **tokens, **_counts("num_items", found)} for suite, found in outcomes.items()}
    _write(run, SUITES, rows, SYNTAXGYM, {"by_suite": by_suite}, {"joining": "text"}, suites="b" * 64)


def add_sentences(
    run: Path,
    log_probs: Sequence[Sequence[float]],
    *,
    tokenizer: str = "e",
    distribution: str = UNCONDITIONAL,
    name: str = "dev",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> PerplexityFigure:
    """Write a perplexity result and return its figure. Each sentence has two words and ten bytes."""
    figure = PerplexityFigure(
        distribution=distribution,
        num_sentences=len(log_probs),
        num_tokens=sum(len(row) - 1 for row in log_probs),
        num_words=2 * len(log_probs),
        num_bytes=10 * len(log_probs),
        nats=-sum(map(sum, log_probs)),
        nats_eos=0.0,
    )
    rows = [{"sentence": i, "log_probs": {distribution: list(row)}} for i, row in enumerate(log_probs)]
    fingerprints = {"split": tokenizer * 64, "text": "c" * 64, "tokenizer": tokenizer * 64}
    _write(run, f"perplexity-{name}", rows, PERPLEXITY, [figure.to_json()], settings, **fingerprints)
    return figure


def _counts(count: str, outcomes: Sequence[int]) -> dict[str, float]:
    of_differences = {"mean_difference": 0.0, "standard_deviation": 1.0}
    rights, ties = list(outcomes).count(1), list(outcomes).count(-1)
    return {count: len(outcomes), "num_right": rights, "num_ties": ties} | of_differences


def _write(
    run: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    figures: Any,
    settings: Mapping[str, Any],
    **fingerprints: str,
) -> None:
    write_rows(run, name, rows)
    result = Result(
        kind=kind,
        subject="dev" if kind == PERPLEXITY else "made-up",
        figures=figures,
        settings={"checkpoint": "best", **settings},
        fingerprints={"weights": sha256_file(checkpoint_path(run, "best"))} | fingerprints,
        versions={},
        command=f"cli.py evaluate {kind} {run.name}",
    )
    write_result(run, name, result)
