"""Compare seed groups on every benchmark that their runs were evaluated on, for ``compare`` and for the report.

A seed group is a set of runs that differ only in their seed. A benchmark is a set of minimal pairs or SyntaxGym suites,
or the perplexity of a split. Students are compared with students and teachers with teachers. A seed group is compared
on a benchmark if each of its runs has a result with item rows (the model's score on each item). ``Comparisons.notes``
says what was left out and why.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.compare.item_scores import Benchmark, ItemScores, Normaliser, item_scores
from pipeline.evaluation.compare.run_records import RunRecord, read_runs
from pipeline.evaluation.compare.seed_groups import SeedGroup, seed_groups
from pipeline.evaluation.compare.significance import (
    Difference,
    PairComparison,
    better_of,
    compare_seed_groups,
    overall_over_seeds,
)
from pipeline.evaluation.intervals_and_p_values import SeedMean
from pipeline.evaluation.results import PERPLEXITY
from storage.errors import ConfigError, FingerprintMismatchError

_Scores = dict[Benchmark, dict[str, dict[int, ItemScores]]]
"""The scores of each run, by benchmark, then by name of the seed group, then by seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkComparison:
    """The comparison of all seed groups of one kind on one benchmark."""

    kind: str
    """``student`` or ``teacher``."""
    benchmark: Benchmark
    figures: Mapping[str, SeedMean]
    """For each seed group, the mean over its seeds. The unit of the mean is ``benchmark.unit``, such as ``accuracy``
    or ``nats per token``."""
    pairs: Sequence[PairComparison]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """The comparisons of seed groups on all benchmarks."""

    groups: Sequence[SeedGroup]
    benchmarks: Sequence[BenchmarkComparison]
    notes: Sequence[str]
    """Messages about results that were left out, and about seed groups whose runs learned from different dumps. Each
    message says what to do."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object. Each difference has a field ``better``, the result of ``better_of``."""
        return {
            "configurations": [
                {
                    "name": group.name,
                    "kind": group.kind,
                    "settings": group.settings,
                    "runs": {str(seed): str(run.path) for seed, run in group.runs.items()},
                }
                for group in self.groups
            ],
            "benchmarks": [_benchmark_as_json(benchmark) for benchmark in self.benchmarks],
            "notes": list(self.notes),
        }


def compare_runs(paths: Sequence[Path], *, normaliser: Normaliser) -> Comparisons:
    """Return how the seed groups of runs differ.

    Args:
        paths: Run directories.
        normaliser: Whether perplexities are per token, per word or per byte.

    Raises:
        ConfigError: If no two seed groups have a benchmark in common, or two runs of one group have the same seed.
        FingerprintMismatchError: If perplexities are per token, and runs have different tokenizers.
        RunError: If a path is not a run directory, or is given twice.
        InputError: If a result or its item rows are damaged.
    """
    found = compare_records(read_runs(paths), normaliser=normaliser)
    if not any(benchmark.pairs for benchmark in found.benchmarks):
        names = ", ".join(f"{group.name} ({group.kind})" for group in found.groups)
        reason = "evaluate them on the same data, or name runs that differ in more than the seed"
        if found.notes:
            first = f"the first of {len(found.notes)} notes says: " if len(found.notes) > 1 else ""
            reason = first + found.notes[0]
        raise ConfigError(
            f"compare: found {names}, expected two seed groups of one kind with a benchmark in common; {reason}"
        )
    return found


def compare_records(records: Sequence[RunRecord], *, normaliser: Normaliser) -> Comparisons:
    """Do as ``compare_runs``, for runs that are already read. It is no error if no groups can be compared."""
    groups = seed_groups(records)
    notes: list[str] = []
    benchmarks = []
    for kind in dict.fromkeys(group.kind for group in groups):
        of_kind = [group for group in groups if group.kind == kind]
        scores = _scores_by_benchmark(of_kind, normaliser, notes)
        if normaliser == "token":
            _check_tokenizers(scores)
        for benchmark, by_name in _complete(of_kind, scores, notes):
            benchmarks.append(
                BenchmarkComparison(
                    kind=kind,
                    benchmark=benchmark,
                    figures={name: overall_over_seeds(by_seed) for name, by_seed in by_name.items()},
                    pairs=compare_seed_groups(by_name),
                )
            )
    notes += [group.note for group in groups if group.note is not None]
    return Comparisons(groups=groups, benchmarks=benchmarks, notes=notes)


def _scores_by_benchmark(groups: Sequence[SeedGroup], normaliser: Normaliser, notes: list[str]) -> _Scores:
    found: _Scores = {}
    for group in groups:
        for seed, run in group.runs.items():
            for scores in item_scores(run.results, normaliser=normaliser, left_out=notes):
                found.setdefault(scores.benchmark, {}).setdefault(group.name, {})[seed] = scores
    return found


def _check_tokenizers(found: _Scores) -> None:
    """Check that all perplexities per token with the same split and conventions come from one tokenizer."""
    first: dict[tuple[str, str], ItemScores] = {}
    for benchmark, by_name in found.items():
        if benchmark.kind == PERPLEXITY:
            scores = next(iter(next(iter(by_name.values())).values()))
            other = first.setdefault((benchmark.subject, benchmark.conventions), scores)
            if (expected := other.benchmark.tokenizer) != benchmark.tokenizer:
                raise FingerprintMismatchError(
                    f"{scores.path}: tokenizer is {benchmark.tokenizer[:12]}, but the tokenizer of {other.path} is "
                    f"{expected[:12]}; nats per token are comparable only with one tokenizer: give --normaliser word "
                    "or byte"
                )


def _complete(
    groups: Sequence[SeedGroup], found: _Scores, notes: list[str]
) -> Iterator[tuple[Benchmark, dict[str, dict[int, ItemScores]]]]:
    """Yield each benchmark with the seed groups in which every run has a result.

    ``notes`` gets a message that names the runs without a result. A benchmark is skipped if fewer than two runs remain.
    """
    for benchmark, by_name in found.items():
        without = [
            run.name for group in groups for seed, run in group.runs.items() if seed not in by_name.get(group.name, {})
        ]
        if without:
            command = next(iter(next(iter(by_name.values())).values())).command
            have = "has" if len(without) == 1 else "have"
            notes.append(
                f"{benchmark.title}: {', '.join(without)} {have} no result on it, and a seed group is compared only if "
                f"all its runs have one; evaluate in the same way as: {command}"
            )
        complete = {
            group.name: by_name[group.name]
            for group in groups
            if group.runs.keys() == by_name.get(group.name, {}).keys()
        }
        if sum(len(by_seed) for by_seed in complete.values()) > 1:
            yield benchmark, complete


def _benchmark_as_json(found: BenchmarkComparison) -> dict[str, Any]:
    def as_json(difference: Difference) -> dict[str, Any]:
        return difference.to_json() | {"better": better_of(difference, more_is_better=found.benchmark.is_outcome)}

    def pair_as_json(pair: PairComparison) -> dict[str, Any]:
        tables = {
            f"by_{by}": {name: as_json(difference) for name, difference in of_names.items()}
            for by, of_names in pair.parts.items()
        }
        return {"first": pair.first, "second": pair.second, "overall": as_json(pair.overall)} | tables

    return {
        "kind": found.kind,
        "benchmark": asdict(found.benchmark),
        "figures": {name: asdict(mean) for name, mean in found.figures.items()},
        "pairs": [pair_as_json(pair) for pair in found.pairs],
    }
