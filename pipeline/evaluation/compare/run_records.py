"""What run directories say, for the report: description, curves and results of each, and what is missing.

Run directories may come from strangers: nothing in them is believed beyond its type, and nothing is executed. What is
damaged is refused by file; what is merely absent is collected in ``RunRecord.missing``, to be said in the page.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.compare.run_results import (
    PairResult,
    RunResults,
    SplitKey,
    SplitSource,
    SuiteResult,
    run_results,
    split_titles,
)
from pipeline.evaluation.perplexity import PerplexityFigure
from pipeline.runtime.run_history import HISTORY, read_history
from storage.errors import RunError

KINDS = ("student", "teacher")

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """All that the report knows of a run."""

    path: Path
    name: str
    """The directory's name; with its parents' where two runs share it."""
    kind: str
    configuration: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: str
    dump: Mapping[str, Any] | None
    """Summary of the dump a student learned from."""
    train: Sequence[Row]
    """Rows of ``metrics.jsonl`` of the training split, in order."""
    dev: Sequence[Row]
    perplexities: Mapping[str, Mapping[str, PerplexityFigure]]
    """By title of the split, then by distribution; a title is of one text in all runs that were read together."""
    splits: Mapping[str, SplitSource]
    """By title of the split, as ``perplexities``."""
    pairs: Sequence[PairResult]
    suites: Sequence[SuiteResult]
    starts: Sequence[Row]
    """Events of ``history.jsonl``: on what each training of the run began."""
    missing: Sequence[str]
    """One sentence for each thing that is not there, with what would make it."""

    @property
    def tokenizer(self) -> str:
        """sha256 of the tokenizer: figures a token compare only where it is the same."""
        return str(self.fingerprints.get("tokenizer"))

    @property
    def commands(self) -> list[str]:
        """What made the run and each of its results that is shown, each command once."""
        of_splits = [source.command for source in self.splits.values()]
        of_items = [result.command for results in (self.pairs, self.suites) for result in results]
        return list(dict.fromkeys([self.command, *of_splits, *of_items]))

    @property
    def last(self) -> Row:
        """The last row of either split; empty where there is none."""
        rows = [rows[-1] for rows in (self.train, self.dev) if rows]
        return max(rows, key=lambda row: value(row, "step") or 0) if rows else {}


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Return the runs in the order given, each under a name of its own.

    Raises:
        RunError: If a path is no run directory, or is given twice.
        InputError: If a result in one is damaged.
    """
    resolved = [path.resolve() for path in paths]
    if twice := {str(path) for path in resolved if resolved.count(path) > 1}:
        raise RunError(f"{', '.join(sorted(twice))}: given more than once; name each run once")
    described = [_description(path) for path in paths]
    missing: list[list[str]] = [[] for _ in paths]
    results = [run_results(path, told) for path, told in zip(paths, missing, strict=True)]
    titles = split_titles(key for found in results for key in found.splits)
    return [
        _record(path, name, about, found, titles, told)
        for path, name, about, found, told in zip(paths, _names(resolved), described, results, missing, strict=True)
    ]


def value(row: Row, name: str) -> float | None:
    """Return a finite number of a row, or None: a run that diverged writes NaN."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    # Not math.isfinite, which fails of a whole number beyond any float; of NaN this is false too.
    return found if abs(found) <= sys.float_info.max else None


def _names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _record(
    path: Path,
    name: str,
    described: Mapping[str, Any],
    results: RunResults,
    titles: Mapping[SplitKey, str],
    missing: list[str],
) -> RunRecord:
    rows = _metrics(path, missing)
    train = [row for row in rows if row.get("split") == "train"]
    dev = [row for row in rows if row.get("split") == "dev"]
    if rows and not dev:
        missing.append("no evaluation on dev yet: the run ended, or was stopped, before its first")
    if any(value(row, "loss") is None for row in rows):
        missing.append("some losses are not finite numbers: training diverged; those points are not drawn")

    if not results.perplexities:
        missing.append("no perplexity: run evaluate perplexity")
    if not results.pairs and described["kind"] == "student":
        missing.append("no minimal pairs: run evaluate minimal-pairs")
    events = read_history(path) if (path / HISTORY).is_file() else []
    return RunRecord(
        path=path,
        name=name,
        kind=described["kind"],
        configuration=described["configuration"],
        fingerprints=_object(described, "fingerprints"),
        versions=_object(described, "versions"),
        command=str(described.get("command") or "not recorded"),
        dump=described["dump"] if isinstance(described.get("dump"), dict) else None,
        train=train,
        dev=dev,
        perplexities={titles[key]: figures for key, figures in results.perplexities.items()},
        splits={titles[key]: source for key, source in results.splits.items()},
        pairs=results.pairs,
        suites=results.suites,
        starts=[event for event in events if event["event"] == "start"],
        missing=missing,
    )


def _description(path: Path) -> dict[str, Any]:
    remedy = "expected a directory made by train-teacher or train-student"
    try:
        described = json.loads((path / "run.json").read_bytes())
    except OSError as error:
        raise RunError(f"{path}: no run.json that can be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path / 'run.json'}: not JSON ({error}); {remedy}") from error
    if not isinstance(described, dict) or described.get("kind") not in KINDS:
        raise RunError(f"{path / 'run.json'}: no kind of run, expected {' or '.join(KINDS)}; {remedy}")
    if not isinstance(described.get("configuration"), dict):
        raise RunError(f"{path / 'run.json'}: no configuration; {remedy}")
    return described


def _object(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = described.get(name)
    return found if isinstance(found, dict) else {}


def _metrics(path: Path, missing: list[str]) -> list[Row]:
    file = path / "metrics.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        missing.append("no metrics.jsonl: no learning curve")
        return []
    if lines[-1]:
        missing.append("the last line of metrics.jsonl is cut off, as a killed run leaves it: it is not shown")
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{file}:{number}: not JSON ({error}); remove the line") from error
        if not isinstance(row, dict):
            raise RunError(f"{file}:{number}: found {type(row).__name__}, expected an object; remove the line")
        rows.append(row)
    if not rows:
        missing.append("metrics.jsonl is empty: no learning curve")
    return rows
