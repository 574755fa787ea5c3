"""Comparisons of configurations as tables and sentences: for the report, and for a terminal.

A configuration is called better only where ``significance.better_of`` says so, and the sentence gives what that rests
on; for all other pairs one sentence says that no difference is shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.compare.compare_runs import BenchmarkComparison, Comparisons, compare_records
from pipeline.evaluation.compare.item_scores import Benchmark
from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.compare.significance import ALPHA, Difference, PairComparison, better_of
from pipeline.evaluation.intervals import Interval
from pipeline.evaluation.results import MINIMAL_PAIRS, SYNTAXGYM
from pipeline.report.tables import NOTHING, Cell, Table, plural
from pipeline.runtime.display import table


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsTable:
    """The paradigms (or terms, fields, suites) on which configurations are shown to differ."""

    caption: str
    """How many were tested and what came of it."""
    table: Table | None
    """None where no difference is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSection:
    """What is shown of one benchmark."""

    title: str
    means: Table
    differences: Table | None
    """Of every pair of configurations; None where there is one configuration."""
    verdicts: Sequence[str]
    parts: Sequence[PartsTable]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigurationTables:
    """What is shown of configurations."""

    configurations: Table
    benchmarks: Sequence[BenchmarkSection]
    notes: Sequence[str]
    """As ``Comparisons.notes``."""


def configuration_tables(records: Sequence[RunRecord]) -> ConfigurationTables | None:
    """Return what the report shows of configurations; None where no run has results by item.

    Perplexities are by the token where all runs of a kind read one tokenizer, else by the word.

    Raises:
        ConfigError: If two runs of one configuration have one seed.
        InputError: If rows of results are damaged.
    """
    tokenizers = {(run.kind, str(run.fingerprints.get("tokenizer"))) for run in records}
    share_one = len(tokenizers) == len({kind for kind, _ in tokenizers})
    found = compare_records(records, normaliser="token" if share_one else "word")
    return tables_of(found) if found.benchmarks else None


def comparisons_as_text(found: Comparisons) -> str:
    """Return comparisons for a terminal."""
    tables = tables_of(found)
    parts = [_as_text(tables.configurations)]
    for section in tables.benchmarks:
        parts += [f"{section.title}\n{'=' * len(section.title)}", _as_text(section.means)]
        if section.differences is not None:
            parts.append(_as_text(section.differences))
        parts.append("\n".join(section.verdicts))
        for part in section.parts:
            parts.append(part.caption if part.table is None else f"{part.caption}\n{_as_text(part.table)}")
    if tables.notes:
        parts.append("Notes:\n" + "\n".join(tables.notes))
    return "\n\n".join(part for part in parts if part)


def tables_of(found: Comparisons) -> ConfigurationTables:
    """Return comparisons as tables and sentences."""
    rows: list[list[Cell]] = [
        [one.name, one.kind, ", ".join(map(str, one.runs)), one.settings or NOTHING] for one in found.groups
    ]
    return ConfigurationTables(
        configurations=Table(header=["configuration", "kind", "seeds", "what differs"], rows=rows),
        benchmarks=[_section(one) for one in found.benchmarks],
        notes=found.notes,
    )


def _section(found: BenchmarkComparison) -> BenchmarkSection:
    form = _Form(found.benchmark)
    means: list[list[Cell]] = [
        [
            name,
            str(mean.num_seeds),
            form.figure(mean.mean),
            form.interval(mean.interval, is_difference=False),
            form.figure(mean.standard_deviation) if mean.num_seeds > 1 else NOTHING,
        ]
        for name, mean in found.figures.items()
    ]
    differences: list[list[Cell]] = [
        [
            f"{pair.first} \u2212 {pair.second}",
            *form.cells(pair.overall),
            _shown(form.better(pair, pair.overall), pair.overall),
        ]
        for pair in found.pairs
    ]
    header = ["configuration", "seeds", form.unit, "95 % over seeds", "standard deviation"]
    return BenchmarkSection(
        title=f"{found.kind}s: {found.benchmark.title}",
        means=Table(header=header, rows=means),
        differences=Table(header=["difference", *form.header, "better"], rows=differences) if differences else None,
        verdicts=_verdicts(found, form),
        parts=[_parts(found, form, by) for by in (found.pairs[0].parts if found.pairs else ())],
    )


def _verdicts(found: BenchmarkComparison, form: "_Form") -> list[str]:
    """Return a sentence for each pair of which one is better, and one about all others."""
    shown = [pair for pair in found.pairs if form.better(pair, pair.overall)]
    sentences = [_verdict(pair, form) for pair in shown]
    if not found.pairs:
        return sentences
    if (num_others := len(found.pairs) - len(shown)) == 1 and len(found.pairs) == 1:
        sentences.append(f"No difference is shown between {found.pairs[0].first} and {found.pairs[0].second}.")
    elif num_others:
        sentences.append(
            f"No difference is shown between the other {plural(num_others, 'pair')} of configurations."
            if shown
            else f"No difference is shown between any of the {plural(num_others, 'pair')} of configurations."
        )
    if len(found.pairs) > 1 and any(pair.overall.over_seeds.interval is not None for pair in shown):
        sentences.append(f"Intervals over seeds are not corrected for there being {len(found.pairs)} pairs.")
    first = found.pairs[0].overall
    if first.least_p_value * first.num_tests > ALPHA:
        sentences.append(
            f"{plural(first.num_units, form.of_units)} can show none at all: the least p that so few can give is "
            f"{first.least_p_value:.2g}, before correction for {plural(first.num_tests, 'test')}."
        )
    return sentences


def _shown(better: str, found: Difference) -> str:
    if not better:
        return "not shown"
    return better if found.over_seeds.interval is not None else f"{better}, in these trainings"


def _verdict(pair: PairComparison, form: "_Form") -> str:
    found, figures = pair.overall, {pair.first: pair.overall.first, pair.second: pair.overall.second}
    winner = form.better(pair, found)
    loser = pair.second if winner == pair.first else pair.first
    over_seeds = found.over_seeds.interval
    came_out = "came out better" if over_seeds is None else "is better"
    text = (
        f"{winner} {came_out} than {loser}: {form.figure(figures[winner])} against {form.figure(figures[loser])} "
        f"{form.unit}; p = {_p(found.adjusted_p_value)} over {plural(found.num_units, form.of_units)}, adjusted for "
        f"{plural(found.num_tests, 'test')}"
    )
    if over_seeds is None:
        return (
            f"{text}. This is about these trainings and not about the settings: that takes two seeds or more of each."
        )
    return f"{text}; over seeds, 95 % of {pair.first} \u2212 {pair.second} {form.interval(over_seeds)}."


def _parts(found: BenchmarkComparison, form: "_Form", by: str) -> PartsTable:
    """Return what configurations are shown to differ on; and how much of it chance would give.

    The intervals over seeds are not corrected: with so few seeds nothing would be left. Of the differences that stand
    over units, so ``ALPHA`` of them are expected to stand over seeds by chance.
    """
    of_units = "item" if by == form.of_units else form.of_units
    tested = [(name, pair, one) for pair in found.pairs for name, one in pair.parts[by].items()]
    over_units = [case for case in tested if case[2].adjusted_p_value <= ALPHA]
    shown = [case for case in over_units if form.better(case[1], case[2])]
    caption = (
        f"By {by}: {plural(len(tested), 'difference')} tested; {len(over_units)} hold over {of_units}s after correction"
    )
    if with_seeds := [case for case in over_units if case[2].over_seeds.interval is not None]:
        num_both = sum(1 for case in shown if case[2].over_seeds.interval is not None)
        caption += f", {num_both} of them over seeds too, where chance would leave {ALPHA * len(with_seeds):.1f}"
    if len(with_seeds) < len(over_units):
        caption += f"; {len(over_units) - len(with_seeds)} are about these trainings only, with one seed of either"
    if num_small := sum(one.least_p_value > ALPHA for one in found.pairs[0].parts[by].values()):
        num_needed = 1 + math.ceil(-math.log2(ALPHA))
        caption += (
            f"; {num_small} of {plural(len(found.pairs[0].parts[by]), by)} can show nothing, with fewer than "
            f"{num_needed} {of_units}s"
        )
    rows: list[list[Cell]] = [
        [
            name,
            f"{pair.first} \u2212 {pair.second}",
            form.figure(one.first),
            form.figure(one.second),
            *form.cells(one),
        ]
        for name, pair, one in sorted(shown, key=lambda case: case[0])
    ]
    header = [by, "difference", "first, %", "second, %", *_Form(found.benchmark, of_units=of_units).header]
    return PartsTable(caption=f"{caption}.", table=Table(header=header, rows=rows) if rows else None)


class _Form:
    """How the figures of a benchmark are written."""

    def __init__(self, benchmark: Benchmark, *, of_units: str | None = None) -> None:
        self.benchmark = benchmark
        self.unit = "%" if benchmark.is_outcome else benchmark.unit
        self.of_units = of_units or {MINIMAL_PAIRS: "paradigm", SYNTAXGYM: "suite"}.get(benchmark.kind, "sentence")
        self.header = [
            "in points" if benchmark.is_outcome else f"in {benchmark.unit}",
            f"95 % over {self.of_units}s",
            "p",
            "p adjusted",
            "95 % over seeds",
        ]
        self._factor, self._decimals = (100, 1) if benchmark.is_outcome else (1, 4)

    def figure(self, value: float) -> str:
        """Return a figure."""
        return f"{self._factor * value:.{self._decimals}f}"

    def difference(self, value: float) -> str:
        """Return a difference, with its sign."""
        return f"{self._factor * value:+.{self._decimals}f}"

    def interval(self, interval: Interval | None, *, is_difference: bool = True) -> str:
        """Return an interval."""
        form = self.difference if is_difference else self.figure
        return NOTHING if interval is None else f"[{form(interval.low)}, {form(interval.high)}]"

    def cells(self, found: Difference) -> list[Cell]:
        """Return the cells under ``header``."""
        return [
            self.difference(found.difference),
            self.interval(found.interval),
            _p(found.p_value),
            _p(found.adjusted_p_value),
            self.interval(found.over_seeds.interval),
        ]

    def better(self, pair: PairComparison, found: Difference) -> str:
        """Return the name of the configuration that is shown to be better; empty where none is."""
        better = better_of(found, more_is_better=self.benchmark.is_outcome)
        return {"first": pair.first, "second": pair.second, "neither": ""}[better]


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _as_text(content: Table) -> str:
    return table(content.rows, header=content.header)
