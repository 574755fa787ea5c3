"""Hold the runs of a report, give them colours and marks, and find their results on the same items.

Runs that differ only in the seed share a colour and a mark. Results are compared only if they cover the same items and
were scored in the same way.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from markupsafe import Markup

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.compare.seed_groups import seed_groups
from pipeline.evaluation.perplexity import FLOOR, OF_STUDENTS, PerplexityFigure
from pipeline.evaluation.results import PairResult, SuiteResult
from pipeline.report.drawing import swatch
from pipeline.report.tables import Cell
from storage.errors import ConfigError

_Result = TypeVar("_Result", PairResult, SuiteResult)


class ReportedRuns:
    """The runs of a report."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self.runs = sorted(runs, key=lambda run: run.kind)
        """Students, then teachers. Within each kind, runs stay in the order given."""

    @cached_property
    def floors(self) -> Mapping[tuple[str, str], PerplexityFigure]:
        """The floors (perplexities of the corpus's grammar) that students' results record, by run name and split."""
        return {
            (run.name, split): figures[FLOOR]
            for run in self.runs
            for split, figures in run.perplexities.items()
            if FLOOR in figures and any(distribution in figures for distribution in OF_STUDENTS)
        }

    def of_kind(self, kind: str) -> list[RunRecord]:
        """Return the runs of a kind, in order."""
        return [run for run in self.runs if run.kind == kind]

    @cached_property
    def _groups(self) -> Mapping[str, tuple[str, str]]:
        """For each run, by name: the name of the first run of its seed group, and the name of the seed group."""
        found: dict[str, tuple[str, str]] = {}
        for kind in dict.fromkeys(run.kind for run in self.runs):
            of_kind = self.of_kind(kind)
            try:
                groups = [(group.name, list(group.runs.values())) for group in seed_groups(of_kind)]
            except ConfigError:  # A run records no seed, or two share a seed. Each run becomes a group of its own.
                groups = [(run.name, [run]) for run in of_kind]
            found |= {run.name: (runs[0].name, name) for name, runs in groups for run in runs}
        return found

    def group_name(self, run: RunRecord) -> str:
        """Return the name of a run's seed group."""
        return self._groups[run.name][1]

    def series(self, run: RunRecord) -> int:
        """Return the number of a run's seed group, which decides the run's colour and mark in all plots."""
        return list(dict.fromkeys(self._groups[each.name] for each in self.runs)).index(self._groups[run.name])

    def label(self, run: RunRecord, note: str = "") -> Cell:
        """Return a run's mark and name."""
        return Cell(run.name, note=note, series=self.series(run))

    def names(self, runs: Sequence[RunRecord]) -> str:
        """Return the names of runs. Several runs of one seed group appear as one name, such as "distilled (3 runs)"."""
        return ", ".join(name for name, _ in self._by_group((run, "") for run in runs))

    def key(self, entries: Sequence[tuple[RunRecord, str]], *, unit: str = "") -> list[tuple[Markup, str]]:
        """Return the legend of a plot: a mark and a text for each seed group.

        ``entries`` has a string for each run, such as the run's accuracy. The text of a seed group is its name, then
        the strings of its runs. Empty strings are left out.
        """
        return [
            (
                swatch(self.series(of_group[0][0])),
                name + (f": {', '.join(texts)}{unit}" if (texts := [text for _, text in of_group if text]) else ""),
            )
            for name, of_group in self._by_group(entries)
        ]

    def _by_group(self, entries: Iterable[tuple[RunRecord, str]]) -> list[tuple[str, list[tuple[RunRecord, str]]]]:
        """Return entries by seed group, under the name of the group. A group with one entry has the name of its run."""
        found: dict[tuple[str, str], list[tuple[RunRecord, str]]] = {}
        for run, text in entries:
            found.setdefault(self._groups[run.name], []).append((run, text))
        return [
            (f"{name} ({len(entries)} runs)" if len(entries) > 1 else entries[0][0].name, entries)
            for (_, name), entries in found.items()
        ]


def pair_sets(runs: Sequence[RunRecord]) -> dict[str, list[tuple[RunRecord, PairResult]]]:
    """Return the comparable results on each set of minimal pairs, by a title that tells the sets apart."""
    return _by_set((run, result) for run in runs for result in run.results.pairs)


def suite_sets(runs: Sequence[RunRecord]) -> dict[str, list[tuple[RunRecord, SuiteResult]]]:
    """Return the comparable results on each set of SyntaxGym suites, by a title that tells the sets apart."""
    return _by_set((run, result) for run in runs for result in run.results.suites)


def splits_of(runs: Sequence[RunRecord]) -> list[str]:
    """Return the titles of the splits with a perplexity: train, dev, test, then others."""
    order = ["train", "dev", "test"]
    names = {title: source.key.name for run in runs for title, source in run.splits.items()}
    return sorted(names, key=lambda title: (order.index(names[title]) if names[title] in order else len(order), title))


def have_one_tokenizer(runs: Sequence[RunRecord]) -> bool:
    """Return whether these runs have the same tokenizer, so that their values per token are comparable."""
    return len({run.tokenizer for run in runs}) <= 1


def _by_set(results: Iterable[tuple[RunRecord, _Result]]) -> dict[str, list[tuple[RunRecord, _Result]]]:
    """Group results by subject (the data's name), fingerprint (of the data) and convention (how they were scored)."""
    found: dict[tuple[str, str, str], dict[str, tuple[RunRecord, _Result]]] = {}
    for run, result in results:
        key = (result.subject, result.fingerprint, result.convention)
        found.setdefault(key, {}).setdefault(run.name, (run, result))
    titled = {}
    for key, by_run in found.items():
        subject, fingerprint, convention = key
        others = [other for other in found if other[0] == subject and other != key]
        title = subject
        if any(other[1] != fingerprint for other in others):
            title += f" ({fingerprint[:8]})"
        if any(other[2] != convention for other in others):
            title += f", {convention}"
        titled[title] = list(by_run.values())
    return titled
