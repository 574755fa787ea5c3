"""Compare configurations on every benchmark that their runs were evaluated on: ``compare``, and the report's section.

Students are compared with students and teachers with teachers. A configuration is compared on a benchmark if all of its
runs have a result on it, with a row an item; what is left out for that is said in ``Comparisons.notes``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.compare.configurations import Configuration, configurations_of
from pipeline.evaluation.compare.item_results import Benchmark, ItemScores, Normaliser, read_item_scores
from pipeline.evaluation.compare.run_records import RunRecord, read_runs
from pipeline.evaluation.compare.significance import (
    Difference,
    PairComparison,
    better_of,
    compare_configurations,
    overall_over_seeds,
)
from pipeline.evaluation.intervals import SeedMean
from pipeline.evaluation.results import PERPLEXITY
from storage.errors import ConfigError, FingerprintMismatchError

_Scores = dict[Benchmark, dict[str, dict[int, ItemScores]]]
"""By benchmark, configuration and seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkComparison:
    """Configurations of one kind on one benchmark."""

    kind: str
    """``student`` or ``teacher``."""
    benchmark: Benchmark
    figures: Mapping[str, SeedMean]
    """The overall figure over seeds, by configuration."""
    pairs: Sequence[PairComparison]
    """Every pair of configurations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """Configurations on all their benchmarks."""

    configurations: Sequence[Configuration]
    benchmarks: Sequence[BenchmarkComparison]
    notes: Sequence[str]
    """A sentence for each thing that is not compared, or not as it may be meant, with what would change that."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; of each difference, which configuration is shown to be better."""
        return {
            "configurations": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "settings": one.settings,
                    "runs": {str(seed): str(run.path) for seed, run in one.runs.items()},
                }
                for one in self.configurations
            ],
            "benchmarks": [_benchmark_as_json(one) for one in self.benchmarks],
            "notes": list(self.notes),
        }


def compare_runs(paths: Sequence[Path], *, normaliser: Normaliser) -> Comparisons:
    """Return how the configurations of runs differ.

    Args:
        paths: Run directories.
        normaliser: What perplexities are by.

    Raises:
        ConfigError: If there are no two configurations with a benchmark in common, or two runs of one configuration
            have one seed.
        FingerprintMismatchError: If perplexities are to be by the token, and runs read different tokenizers.
        RunError: If a path is no run directory, or is given twice.
        InputError: If a result or its rows are damaged.
    """
    found = compare_records(read_runs(paths), normaliser=normaliser)
    if not any(one.pairs for one in found.benchmarks):
        names = ", ".join(f"{one.name} ({one.kind})" for one in found.configurations)
        more = f" and {len(found.notes) - 1} more" if len(found.notes) > 1 else ""
        reason = (
            f"{found.notes[0]}{more}"
            if found.notes
            else "evaluate them on the same, or name runs that differ in more than the seed"
        )
        raise ConfigError(
            f"compare: of {names}, expected two configurations of one kind with a benchmark in common; {reason}"
        )
    return found


def compare_records(records: Sequence[RunRecord], *, normaliser: Normaliser) -> Comparisons:
    """Return how the configurations of runs differ, as far as they can be compared; see ``compare_runs``."""
    configurations = configurations_of(records)
    notes: list[str] = []
    benchmarks = []
    for kind in dict.fromkeys(one.kind for one in configurations):
        of_kind = [one for one in configurations if one.kind == kind]
        scores = _read(of_kind, normaliser, notes)
        if normaliser == "token":
            _check_tokenizers(scores)
        for benchmark, by_name in _complete(of_kind, scores, notes):
            benchmarks.append(
                BenchmarkComparison(
                    kind=kind,
                    benchmark=benchmark,
                    figures={name: overall_over_seeds(by_seed) for name, by_seed in by_name.items()},
                    pairs=compare_configurations(by_name),
                )
            )
    notes += [one.note for one in configurations if one.note is not None]
    return Comparisons(configurations=configurations, benchmarks=benchmarks, notes=notes)


def _read(configurations: Sequence[Configuration], normaliser: Normaliser, notes: list[str]) -> _Scores:
    found: _Scores = {}
    for one in configurations:
        for seed, run in one.runs.items():
            for scores in read_item_scores(run.path, normaliser=normaliser, left_out=notes):
                found.setdefault(scores.benchmark, {}).setdefault(one.name, {})[seed] = scores
    return found


def _check_tokenizers(found: _Scores) -> None:
    """Refuse perplexities by the token of different tokenizers."""
    first: dict[tuple[str, str], ItemScores] = {}
    for benchmark, by_name in found.items():
        if benchmark.kind == PERPLEXITY:
            scores = next(iter(next(iter(by_name.values())).values()))
            other = first.setdefault((benchmark.subject, benchmark.conventions), scores)
            if (expected := other.benchmark.tokenizer) != benchmark.tokenizer:
                raise FingerprintMismatchError(
                    f"{scores.path}: tokenizer is {benchmark.tokenizer[:12]}, but {other.path} is by the tokens of "
                    f"{expected[:12]}, and nats a token compare with one tokenizer only; give --normaliser word or byte"
                )


def _complete(
    configurations: Sequence[Configuration], found: _Scores, notes: list[str]
) -> Iterator[tuple[Benchmark, dict[str, dict[int, ItemScores]]]]:
    """Yield each benchmark of two runs or more with the configurations that have all theirs on it; note the others."""
    for benchmark, by_name in found.items():
        lacking = [
            run.name
            for one in configurations
            for seed, run in one.runs.items()
            if seed not in by_name.get(one.name, {})
        ]
        if lacking:
            command = next(iter(next(iter(by_name.values())).values())).command
            notes.append(
                f"{benchmark.title}: no such result of {', '.join(lacking)}, and their configurations are left out; "
                f"evaluate them as by: {command}"
            )
        complete = {
            one.name: by_name[one.name] for one in configurations if one.runs.keys() == by_name.get(one.name, {}).keys()
        }
        if sum(len(by_seed) for by_seed in complete.values()) > 1:
            yield benchmark, complete


def _benchmark_as_json(found: BenchmarkComparison) -> dict[str, Any]:
    def as_json(difference: Difference) -> dict[str, Any]:
        return difference.to_json() | {"better": better_of(difference, more_is_better=found.benchmark.is_outcome)}

    def pair(one: PairComparison) -> dict[str, Any]:
        parts = {
            f"by_{by}": {name: as_json(difference) for name, difference in found.items()}
            for by, found in one.parts.items()
        }
        return {"first": one.first, "second": one.second, "overall": as_json(one.overall)} | parts

    return {
        "kind": found.kind,
        "benchmark": asdict(found.benchmark),
        "figures": {name: _mean_as_json(mean) for name, mean in found.figures.items()},
        "pairs": [pair(one) for one in found.pairs],
    }


def _mean_as_json(mean: SeedMean) -> dict[str, Any]:
    interval = None if mean.interval is None else [mean.interval.low, mean.interval.high]
    return asdict(mean) | {"interval": interval}
