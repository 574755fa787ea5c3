"""The report's tables, and how a figure is written in a cell."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from markupsafe import Markup

from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.evaluation.compare.seed_groups import seed_groups
from pipeline.evaluation.intervals import wilson_interval
from pipeline.evaluation.minimal_pairs import PairCounts
from pipeline.evaluation.perplexity import FLOOR, OF_STUDENTS, PerplexityFigure
from pipeline.evaluation.results import PairResult, SuiteResult
from pipeline.report.result_sets import item_counts, mean_of_suites, pair_sets, pairs_of, suite_sets, suites_of
from pipeline.report.svg import swatch
from storage.errors import ConfigError

NOTHING = "\u2013"
"""Stands in a cell that has no figure."""

Cell = str | Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = field(default_factory=tuple)
    """(label, number of columns) over the header, where it is in two levels."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of a report, and what the figures of several of them share."""

    runs: Sequence[RunRecord]
    """Students, then teachers."""
    floors: Mapping[tuple[str, str], PerplexityFigure]
    """By name of the run and split, where one is recorded with the run's unconditional figure."""

    @property
    def has_floor(self) -> bool:
        """Whether a floor is recorded with any result."""
        return bool(self.floors)

    def of_kind(self, kind: str) -> list[RunRecord]:
        """Return the runs of a kind, in order."""
        return [run for run in self.runs if run.kind == kind]

    @cached_property
    def _families(self) -> Mapping[str, tuple[str, str]]:
        """By name of a run, its family and what that is called."""
        found: dict[str, tuple[str, str]] = {}
        for kind in dict.fromkeys(run.kind for run in self.runs):
            of_kind = self.of_kind(kind)
            try:
                alike = [(one.name, list(one.runs.values())) for one in seed_groups(of_kind)]
            except ConfigError:  # a run without a seed, or two of one: nothing is known to be alike
                alike = [(run.name, [run]) for run in of_kind]
            found |= {run.name: (runs[0].name, name) for name, runs in alike for run in runs}
        return found

    def series(self, run: RunRecord) -> int:
        """Return the number of a run's family, which decides its colour and mark everywhere."""
        return list(dict.fromkeys(self.family(other) for other in self.runs)).index(self.family(run))

    def family(self, run: RunRecord) -> str:
        """Return the name of the first of the runs that differ from this one in nothing but the seed, or of itself.

        Only how runs are drawn hangs on it, and every figure and row is still of one run.
        """
        return self._families[run.name][0]

    def names(self, runs: Sequence[RunRecord]) -> str:
        """Return the names of runs, those of one family together."""
        return ", ".join(name for name, _ in self._by_family((run, "") for run in runs))

    def key(self, entries: Sequence[tuple[RunRecord, str]], *, unit: str = "") -> list[tuple[Markup, str]]:
        """Return the legend of a figure: the mark of each family, its name, and what there is to say of its runs."""
        return [
            (
                swatch(self.series(of[0][0])),
                name + (f": {', '.join(texts)}{unit}" if (texts := [text for _, text in of if text]) else ""),
            )
            for name, of in self._by_family(entries)
        ]

    def _by_family(self, entries: Iterable[tuple[RunRecord, str]]) -> list[tuple[str, list[tuple[RunRecord, str]]]]:
        """Return entries by family: its name and how many runs are named, or the name of the one run that is."""
        found: dict[tuple[str, str], list[tuple[RunRecord, str]]] = {}
        for run, text in entries:
            found.setdefault(self._families[run.name], []).append((run, text))
        return [(f"{name} ({len(of)} runs)" if len(of) > 1 else of[0][0].name, of) for (_, name), of in found.items()]

    def label(self, run: RunRecord) -> Markup:
        """Return a run's mark and name."""
        return Markup("{} {}").format(swatch(self.series(run)), run.name)


def comparison_table(comparison: Comparison, kind: str, distributions: Sequence[str]) -> Table:
    """Return a row a run of one kind; each perplexity stands under its split and the name of its distribution."""
    runs = comparison.of_kind(kind)
    table = _Columns([_run_cell(comparison, run)] for run in runs)
    compares = have_one_tokenizer(runs)
    for split in splits_of(runs):
        for distribution in distributions:
            figures = [run.perplexities.get(split, {}).get(distribution) for run in runs]
            if not any(figures):
                continue
            columns = {
                "per token": [perplexity(f.per_token) if f and compares else NOTHING for f in figures],
                "per word": [perplexity(f.per_word) if f else NOTHING for f in figures],
            }
            if not compares:
                columns["bits per byte"] = [f"{f.bits_per_byte:.4f}" if f else NOTHING for f in figures]
            if distribution in OF_STUDENTS and comparison.has_floor:
                floors = [comparison.floors.get((run.name, split)) for run in runs]
                columns["nats above floor"] = [
                    f"{f.nats_per_position - floor.nats_per_position:+.4f}" if f and floor and compares else NOTHING
                    for f, floor in zip(figures, floors, strict=True)
                ]
            table.add(f"{split} perplexity, {distribution}", columns)
    for title, key in pair_sets(runs).items():
        pairs = [pairs_of(run, key) for run in runs]
        table.add(
            f"pairs, {title}",
            {
                "right, %": [_pairs_right(found) if found else NOTHING for found in pairs],
                "ties": [f"{found.figures.overall.num_ties:,}" if found else NOTHING for found in pairs],
            },
        )
    for title, key in suite_sets(runs).items():
        suites = [suites_of(run, key) for run in runs]
        table.add(
            f"suites, {title}",
            {
                "right, %": [_items_right(found) if found else NOTHING for found in suites],
                "ties": [f"{item_counts(found)[2]:,}" if found else NOTHING for found in suites],
            },
        )
    table.add(
        "training",
        {
            "steps": [_count(run.last, "step") for run in runs],
            "positions": [_count(run.last, "positions") for run in runs],
            "time": [duration(value(run.last, "elapsed_s")) for run in runs],
        },
    )
    return Table(header=["run", *table.header], rows=table.rows, groups=[("", 1), *table.groups])


def perplexity_table(comparison: Comparison) -> Table:
    """Return every perplexity of every run by every normaliser, and the floors under them."""
    compares = have_one_tokenizer(comparison.runs)
    rows: list[list[Cell]] = []
    for run in comparison.runs:
        for split in splits_of([run]):
            figures = [figure for name, figure in run.perplexities[split].items() if name != FLOOR]
            if (floor := comparison.floors.get((run.name, split))) is not None:
                figures.append(floor)
            rows += [
                [
                    comparison.label(run),
                    split,
                    figure.distribution,
                    perplexity(figure.per_token if compares else None),
                    perplexity(figure.per_token_without_eos if compares else None),
                    perplexity(figure.per_word),
                    f"{figure.bits_per_byte:.4f}",
                    f"{figure.num_sentences:,}",
                    f"{figure.num_tokens:,}",
                    f"{figure.num_words:,}",
                    f"{figure.num_bytes:,}",
                ]
                for figure in figures
            ]
    header = ["run", "split", "distribution", "per token", "per token, without <eos>", "per word", "bits per byte"]
    return Table(header=[*header, "sentences", "tokens", "words", "bytes"], rows=rows)


def settings_table(comparison: Comparison, kind: str) -> Table | None:
    """Return the options, fingerprints and versions in which runs of a kind differ; None for fewer than two runs.

    A row a setting; a row a run where there are more runs than settings.
    """
    runs = comparison.of_kind(kind)
    if len(runs) < 2:
        return None
    settings = [
        {name: item for name, item in run.configuration.items() if name != "out"}
        | {f"{name} sha256": str(item)[:12] for name, item in run.fingerprints.items()}
        | {f"{name} version": item for name, item in run.versions.items()}
        for run in runs
    ]
    names = dict.fromkeys(name for found in settings for name in found)
    differing = [name for name in names if len({_written(found, name) for found in settings}) > 1]
    if len(runs) > len(differing) > 0:
        rows = zip(runs, settings, strict=True)
        return Table(
            header=["run", *differing],
            rows=[[comparison.label(run), *(_written(found, name) for name in differing)] for run, found in rows],
        )
    return Table(
        header=["setting", *(run.name for run in runs)],
        rows=[[name, *(_written(found, name) for found in settings)] for name in differing],
    )


def splits_of(runs: Sequence[RunRecord]) -> list[str]:
    """Return the titles of splits that any of the runs has a perplexity of: train, dev, test, then others."""
    known = ["train", "dev", "test"]
    names = {title: source.key.name for run in runs for title, source in run.splits.items()}
    return sorted(names, key=lambda title: (known.index(names[title]) if names[title] in known else len(known), title))


def have_one_tokenizer(runs: Sequence[RunRecord]) -> bool:
    """Return whether figures a token of these runs compare."""
    return len({run.tokenizer for run in runs}) <= 1


def plural(count: int, noun: str) -> str:
    """Return ``1 pair``, ``2 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def perplexity(figure: float | None) -> str:
    """Return a perplexity with as many decimals as could matter."""
    if figure is None:
        return NOTHING
    return f"{figure:,.2f}" if figure < 1000 else f"{figure:,.0f}" if figure < 1e7 else f"{figure:.2e}"


def percent(share: float | None) -> str:
    """Return a share in percent, with one decimal."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def interval(num_right: int, num_items: int) -> str:
    """Return the 95 % Wilson interval of a share, in percent."""
    found = wilson_interval(num_right, num_items)
    return NOTHING if found is None else f"{100 * found.low:.1f}\u2013{100 * found.high:.1f}"


def pair_cells(counts: PairCounts) -> list[Cell]:
    """Return pairs, right, ties, accuracy, its interval, and mean difference."""
    return [
        f"{counts.num_pairs:,}",
        f"{counts.num_right:,}",
        f"{counts.num_ties:,}",
        percent(counts.accuracy),
        interval(counts.num_right, counts.num_pairs),
        f"{counts.mean_difference:+.3f}",
    ]


def size(num_bytes: float) -> str:
    """Return a size in bytes, readable."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name} ({num_bytes:,.0f} bytes)"
    return f"{num_bytes:,.0f} bytes"


def duration(seconds: float | None) -> str:
    """Return a time, readable."""
    if seconds is None:
        return NOTHING
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s" if m else f"{s} s"


class _Columns:
    """A table in the making, to which columns are added group by group."""

    def __init__(self, rows: Iterable[list[Cell]]) -> None:
        self.rows = list(rows)
        self.header: list[str] = []
        self.groups: list[tuple[str, int]] = []

    def add(self, group: str, columns: Mapping[str, Sequence[Cell]]) -> None:
        """Add columns, each with a cell a row."""
        self.groups.append((group, len(columns)))
        for name, cells in columns.items():
            self.header.append(name)
            for row, cell in zip(self.rows, cells, strict=True):
                row.append(cell)


def _pairs_right(result: PairResult) -> Markup:
    """Return the mean of paradigms, and under it the share of all pairs with its interval."""
    overall = result.figures.overall
    return Markup("{} <small>{}, {}</small>").format(
        percent(result.figures.macro_accuracy),
        percent(overall.accuracy),
        interval(overall.num_right, overall.num_pairs),
    )


def _items_right(result: SuiteResult) -> Markup:
    """Return the mean of suites, and under it the share of all items with its interval."""
    num_right, num_items, _ = item_counts(result)
    return Markup("{} <small>{}, {}</small>").format(
        percent(mean_of_suites(result)), percent(num_right / num_items), interval(num_right, num_items)
    )


def _run_cell(comparison: Comparison, run: RunRecord) -> Markup:
    return Markup("{} <small>{}</small>").format(comparison.label(run), _trained_on(run))


def _trained_on(run: RunRecord) -> str:
    if run.kind == "teacher":
        return "sentences and trees"
    made_by = run.configuration
    told = ["documents" if made_by.get("context") == "document" else "sentences"]
    if run.dump is not None:
        schema = run.dump.get("schema")
        of_student = isinstance(schema, dict) and schema.get("condition") == "none"
        source = "a student's dump" if of_student else "dump"
        shuffled = "shuffled " if made_by.get("targets") == "shuffled" else ""
        told[0] += f" and {shuffled}{source}"
        told += [f"\u03b1\u00a0{made_by.get('alpha')}", f"T\u00a0{made_by.get('temperature')}"]
        told += [
            f"{name} {made_by[name]}"
            for name, usual in (("divergence", "kl"), ("tail", "bucket"))
            if made_by.get(name, usual) != usual
        ]
    return ", ".join(told)


def _count(row: Row, name: str) -> str:
    found = value(row, name)
    return NOTHING if found is None else f"{found:,.0f}"


def _written(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return NOTHING
    found = settings[name]
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True, ensure_ascii=False)
