"""Read run directories for the report and for ``compare``: ``run.json``, learning curves and results.

Run directories may come from strangers, so every value is checked before it is used. A damaged file is an error. Only
``run.json`` is required; ``RunRecord.missing`` lists everything else that is missing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.evaluation.perplexity import PerplexityFigure
from pipeline.evaluation.results import LoadedResult, PerplexityResult, RunResults, SplitKey, load_results
from pipeline.runtime.metric_rows import GAP, METRICS, read_rows
from pipeline.runtime.run_directory import RunInfo, dump_summaries, read_description
from pipeline.runtime.run_history import HISTORY, read_history
from storage.errors import RunError

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord(RunInfo):
    """A run: the content of its ``run.json``, its metrics and its results."""

    name: str
    """Name of the run's directory. If two runs share this name, the names of all runs include parent folders."""
    train: Sequence[Row]
    """Rows of ``metrics.jsonl`` for the training split, in order."""
    dev: Sequence[Row]
    """Rows of ``metrics.jsonl`` for dev, in order."""
    results: RunResults
    """The results of the best checkpoint; ``at_words`` has those of word checkpoints."""
    perplexities: Mapping[str, Mapping[str, PerplexityFigure]]
    """Perplexities by title of the split, then by distribution. Splits with different texts have different titles."""
    splits: Mapping[str, PerplexityResult]
    """For each split, by title, the perplexity result with the most distributions."""
    starts: Sequence[Row]
    """The ``start`` events of ``history.jsonl``, which name the machine of each start."""
    missing: Sequence[str]
    """A message for each thing that is missing but not required, such as a result. If a command can make the missing
    thing, the message names the command."""

    @property
    def has_dump(self) -> bool:
        """Whether the run learned from a dump. A run with shuffled targets (a control) counts too."""
        return self.dump is not None and self.configuration.get("targets") != "none"

    @property
    def is_distilled(self) -> bool:
        """Whether the run learned from the dump of an RNNG, alone or with other dumps. Shuffled targets do not count.

        A dump was written by an RNNG if its condition is ``tree`` or ``beam``. A run that records no condition does not
        count.
        """
        return self._has_own_targets and bool(self._conditions_of_dumps & {"tree", "beam"})

    @property
    def is_distilled_from_grammar(self) -> bool:
        """Whether all dumps of the run hold the exact distributions of the grammar that wrote the corpus."""
        return self._has_own_targets and self._conditions_of_dumps == {"exact"}

    @property
    def _has_own_targets(self) -> bool:
        """Whether the run learned from a dump without shuffling its targets."""
        return self.has_dump and self.configuration.get("targets") != "shuffled"

    @property
    def _conditions_of_dumps(self) -> set[str]:
        """How each dump was made: ``tree``, ``beam``, ``none`` or ``exact``. Empty if not recorded."""
        schemas = [dump.get("schema") for dump in dump_summaries(self.dump)]
        return {str(schema.get("condition")) for schema in schemas if isinstance(schema, dict)}

    @property
    def tokenizer(self) -> str:
        """sha256 of the tokenizer."""
        return str(self.fingerprints.get("tokenizer"))

    @property
    def commands(self) -> list[str]:
        """The commands that made the run and its results, each once."""
        shown: list[LoadedResult[Any]] = [
            *self.splits.values(), *self.results.pairs, *self.results.suites, *self.results.mixtures,
        ]  # fmt: skip
        return list(dict.fromkeys([self.command, *(result.command for result in shown)]))

    @property
    def last(self) -> Row:
        """The row of ``train`` and ``dev`` with the highest step; empty if there is none."""
        return max([*self.train[-1:], *self.dev[-1:]], key=lambda row: value(row, "step") or 0, default={})


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Return the runs in the order of ``paths``, each with a name of its own.

    Raises:
        RunError: If a path is not a run directory, or is given twice.
        InputError: If a result of a run is damaged.
    """
    resolved = [path.resolve() for path in paths]
    if twice := {str(path) for path in resolved if resolved.count(path) > 1}:
        raise RunError(f"{', '.join(sorted(twice))}: given more than once; name each run once")
    described = [read_description(path) for path in paths]
    results = [load_results(path) for path in paths]
    titles = split_titles([result.key for found in results for result in found.perplexities])
    return [
        _record(path, name, about, found, titles)
        for path, name, about, found in zip(paths, _names(resolved), described, results, strict=True)
    ]


def split_titles(keys: Sequence[SplitKey]) -> dict[SplitKey, str]:
    """Return a title for each split: its name, followed by digits of the sha256 if two texts share the name."""
    distinct = list(dict.fromkeys(keys))
    names = [key.name for key in distinct]
    return {key: f"{key.name} ({key.text_sha256[:8]})" if names.count(key.name) > 1 else key.name for key in distinct}


def value(row: Row, name: str) -> float | None:
    """Return the number in the field ``name`` of a row; None if the number is missing or not finite."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    # math.isfinite would raise an error for an integer that is too large for a float. For NaN, <= is false.
    return found if abs(found) <= sys.float_info.max else None


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last N parts of each path, with the smallest N for which they all differ."""
    candidates = (["/".join(path.parts[-depth:]) for path in paths] for depth in count(1))
    return next(names for names in candidates if len(set(names)) == len(names))


def _record(
    path: Path,
    name: str,
    described: RunInfo,
    results: RunResults,
    titles: Mapping[SplitKey, str],
) -> RunRecord:
    missing = [skipped.note for skipped in results.skipped]
    splits, perplexities = _by_split(results.perplexities, titles, missing)
    rows = _metrics(path, missing)
    train = [row for row in rows if row.get("split") == "train"]
    dev = [row for row in rows if row.get("split") == "dev"]
    if rows and not dev:
        missing.append("no evaluation on dev yet: the run ended or was stopped before the first one")
    if any(value(row, "loss") is None for row in rows):
        missing.append("some losses are not finite numbers: training diverged; these points are not drawn")

    if not perplexities:
        missing.append("no perplexity: run evaluate perplexity")
    if results.at_words and described.kind == "teacher":
        missing.append("results of word checkpoints are shown for students only")
    if not results.pairs and described.kind == "student":
        missing.append("no minimal pairs: run evaluate minimal-pairs")
    events = read_history(path) if (path / HISTORY).is_file() else []
    return RunRecord(
        **{each.name: getattr(described, each.name) for each in fields(described)},
        name=name,
        train=train,
        dev=dev,
        results=results,
        perplexities=perplexities,
        splits=splits,
        starts=[event for event in events if event["event"] == "start"],
        missing=missing,
    )


def _by_split(
    results: Sequence[PerplexityResult], titles: Mapping[SplitKey, str], missing: list[str]
) -> tuple[dict[str, PerplexityResult], dict[str, dict[str, PerplexityFigure]]]:
    """Return for each split the result with the most distributions, and the perplexities of all its results.

    Two results may hold the same distribution. For example, a teacher's results with and without ``--marginal`` both
    hold the perplexity given the tree. In this case the value comes from the result with more distributions.
    """
    splits: dict[str, PerplexityResult] = {}
    figures: dict[str, dict[str, PerplexityFigure]] = {}
    for key in dict.fromkeys(result.key for result in results):
        of_split = sorted((result for result in results if result.key == key), key=lambda result: -len(result.figures))
        splits[titles[key]] = of_split[0]
        merged: dict[str, PerplexityFigure] = {}
        for i, result in enumerate(of_split):
            if any(result.figures.keys() == other.figures.keys() for other in of_split[:i]):
                missing.append(f"results/{result.path.name} repeats a perplexity of {key.name}: it is not shown")
            for name, figure in result.figures.items():
                merged.setdefault(name, figure)
        figures[titles[key]] = merged
    return splits, figures


def _metrics(path: Path, missing: list[str]) -> list[Row]:
    if not (path / METRICS).exists():
        missing.append("no metrics.jsonl: no learning curve")
        return []
    rows, is_cut = read_rows(path)
    if is_cut:
        missing.append("the last line of metrics.jsonl is cut off, perhaps by a kill: it is not shown")
    if gaps := [row for row in rows if row["split"] == GAP]:
        lost = sum(int(value(row, "missing_rows") or 0) for row in gaps)
        missing.append(f"{lost} rows of metrics.jsonl were lost: the learning curve has a gap")
    if not rows:
        missing.append("metrics.jsonl is empty: no learning curve")
    return [row for row in rows if row["split"] != GAP]
