"""Show comparisons of seed groups as tables and sentences, in the report and on a terminal.

A seed group is a set of runs that differ only in their seed. ``significance.better_of`` decides whether a group is
called better than another.
"""

import math
from collections.abc import Sequence

from pipeline.evaluation.compare.compare_runs import BenchmarkComparison, Comparisons, compare_records
from pipeline.evaluation.compare.item_scores import Benchmark, Normaliser
from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.compare.significance import ALPHA, Difference, PairComparison, better_of
from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.results import MINIMAL_PAIRS, SYNTAXGYM
from pipeline.report.page_blocks import Block, Details, Heading, Items, Paragraph, Section, TitledTable
from pipeline.report.reported_runs import have_one_tokenizer
from pipeline.report.tables import NOTHING, Cells, Number, Table, plural
from pipeline.runtime import display

_INTRODUCTION = (
    "A group is all runs that differ in nothing but their seed. A group is called better than another only if a test "
    "over the same items has p \u2264 0.05 after correction for the number of tests. With two seeds or more of both "
    "groups, the 95 % interval over seeds must also exclude 0. The command 'compare' prints the same tables."
)


def compare_for_report(records: Sequence[RunRecord]) -> Comparisons | None:
    """Return the comparisons of all seed groups, or None if there is nothing to compare.

    Perplexities are per token if all students share a tokenizer and all teachers share a tokenizer, else per word.

    Raises:
        ConfigError: If two runs of one seed group have the same seed.
        InputError: If item rows (one per scored sentence, pair or suite item) are damaged.
    """
    by_kind = [[run for run in records if run.kind == kind] for kind in ("student", "teacher")]
    normaliser: Normaliser = "token" if all(map(have_one_tokenizer, by_kind)) else "word"
    found = compare_records(records, normaliser=normaliser)
    return found if found.benchmarks else None


def comparisons_section(found: Comparisons) -> Section:
    """Return the section of the page."""
    blocks: list[Block] = [Paragraph(_INTRODUCTION), *comparison_blocks(found)]
    if found.notes:
        about = "runs or results that were left out, or on groups whose runs learned from different dumps"
        summary = f"{plural(len(found.notes), 'note')} on {about}"
        blocks.append(Details(summary, [Items(found.notes)]))
    return Section(name="comparisons", title="Comparisons of groups", link="Comparisons", blocks=blocks)


def comparisons_as_text(found: Comparisons) -> str:
    """Return comparisons for a terminal."""
    parts = [part for block in comparison_blocks(found) if (part := _as_text(block))]
    if found.notes:
        parts.append("Notes:\n" + "\n".join(found.notes))
    return "\n\n".join(parts)


def comparison_blocks(found: Comparisons) -> list[Block]:
    """Return the tables and sentences on all groups and benchmarks."""
    rows: list[Cells] = [
        [group.name, group.kind, ", ".join(map(str, group.runs)), group.settings or NOTHING] for group in found.groups
    ]
    groups = Table(header=["group", "kind", "seeds", "what differs"], rows=rows)
    blocks: list[Block] = [TitledTable(title="Groups of runs", table=groups, style="text")]
    for benchmark in found.benchmarks:
        blocks += _benchmark_blocks(benchmark)
    return blocks


def _as_text(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{block.text}\n{'=' * len(block.text)}"
    if isinstance(block, TitledTable):
        return display.table([[str(cell) for cell in row] for row in block.table.rows], header=block.table.header)
    if isinstance(block, Items):
        return "\n".join(block.texts)
    if isinstance(block, Paragraph):
        return block.text
    assert isinstance(block, Details)
    return "\n".join([str(block.summary), *map(_as_text, block.blocks)])


def _benchmark_blocks(found: BenchmarkComparison) -> list[Block]:
    form, title = _Form(found.benchmark), f"{found.kind}s: {found.benchmark.title}"
    means: list[Cells] = [
        [
            name,
            str(mean.num_seeds),
            form.figure(mean.mean),
            form.interval(mean.interval, is_difference=False),
            form.figure(mean.standard_deviation) if mean.num_seeds > 1 else NOTHING,
        ]
        for name, mean in found.figures.items()
    ]
    header = ["group", "seeds", form.unit, "95 % over seeds", "standard deviation"]
    table = TitledTable(title=f"{title}: means over seeds", table=Table(header=header, rows=means))
    blocks: list[Block] = [Heading(title), table]
    if found.pairs:
        verdicts = _verdicts(found, form)
        differences: list[Cells] = [
            [
                f"{pair.first} \u2212 {pair.second}",
                *form.cells(pair.overall),
                _shown(form.better(pair, pair.overall), pair.overall),
            ]
            for pair in found.pairs
        ]
        content = Table(header=["difference", *form.header, "better"], rows=differences)
        table = TitledTable(title=f"{title}: differences", note=" ".join(verdicts), table=content)
        blocks += [table, Items(verdicts)]
        blocks += [_category_block(found, form, title, by) for by in found.pairs[0].parts]
    return blocks


def _verdicts(found: BenchmarkComparison, form: "_Form") -> list[str]:
    """Return one sentence for each pair with a better group, and one sentence for all other pairs."""
    shown = [pair for pair in found.pairs if form.better(pair, pair.overall)]
    sentences = [_verdict(pair, form) for pair in shown]
    num_others = len(found.pairs) - len(shown)
    if num_others and len(found.pairs) == 1:
        sentences.append(f"No difference is shown between {found.pairs[0].first} and {found.pairs[0].second}.")
    elif num_others:
        others = "other pair of groups shows" if num_others == 1 else f"other {num_others:,} pairs of groups show"
        none = f"None of the {num_others:,} pairs of groups shows a difference."
        sentences.append(f"The {others} no difference." if shown else none)
    if len(found.pairs) > 1 and any(pair.overall.over_seeds.interval is not None for pair in shown):
        sentences.append(f"Intervals over seeds are not corrected for comparing {len(found.pairs)} pairs of groups.")
    first = found.pairs[0].overall
    if first.least_p_value * first.num_tests > ALPHA:
        sentences.append(
            f"{plural(first.num_units, form.test_unit)} {_are(first.num_units)} too few to show a difference: the "
            f"smallest possible p is {first.least_p_value:.2g}, before correction for "
            f"{plural(first.num_tests, 'test')}."
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
        f"{form.unit}; p = {_p(found.adjusted_p_value)} over {plural(found.num_units, form.test_unit)}, adjusted for "
        f"{plural(found.num_tests, 'test')}"
    )
    if over_seeds is None:
        return (
            f"{text}. This is about these trainings and not about the settings: train two seeds or more of each group."
        )
    return f"{text}; the 95 % interval of {pair.first} \u2212 {pair.second} over seeds is {form.interval(over_seeds)}."


def _category_block(found: BenchmarkComparison, form: "_Form", title: str, by: str) -> Block:
    """Return the paradigms, suites or categories that show a difference, with a caption that counts them.

    The intervals over seeds are not corrected for the number of tests, because with so few seeds no difference would
    remain. Therefore some of them exclude 0 by chance alone. For example, if 40 differences are significant over items
    and have an interval over seeds, the caption says that at least 2 of these intervals (``ALPHA`` times 40) are
    expected to exclude 0 by chance. More are likely: a difference that is large by chance is more often significant
    over items, and its interval over seeds more often excludes 0.
    """
    test_unit = "item" if by == form.test_unit else form.test_unit
    tested = [(name, pair, each) for pair in found.pairs for name, each in pair.parts[by].items()]
    over_units = [case for case in tested if case[2].adjusted_p_value <= ALPHA]
    shown = [case for case in over_units if form.better(case[1], case[2])]
    caption = f"By {by}: {plural(len(tested), 'difference')} tested; {len(over_units)} {_are(len(over_units))} "
    caption += f"significant over {test_unit}s after correction"
    if with_seeds := [case for case in over_units if case[2].over_seeds.interval is not None]:
        num_both = sum(1 for case in shown if case[2].over_seeds.interval is not None)
        least = f"{ALPHA * len(with_seeds):.1f}"
        caption += f", and {num_both} of these also over seeds (at least {least} expected by chance)"
    if len(with_seeds) < len(over_units):
        num_single = len(over_units) - len(with_seeds)
        caption += f"; {num_single} {_are(num_single)} about these trainings only, because a group has a single seed"
    if num_small := sum(each.least_p_value > ALPHA for each in found.pairs[0].parts[by].values()):
        num_needed = 1 + math.ceil(-math.log2(ALPHA))
        caption += (
            f"; {num_small} of {plural(len(found.pairs[0].parts[by]), by)} {'has' if num_small == 1 else 'have'} fewer "
            f"than {num_needed} {test_unit}s, too few for any difference to be significant"
        )
    rows: list[Cells] = [
        [
            name,
            f"{pair.first} \u2212 {pair.second}",
            form.figure(each.first),
            form.figure(each.second),
            *form.cells(each),
        ]
        for name, pair, each in sorted(shown, key=lambda case: case[0])
    ]
    if not rows:
        return Paragraph(f"{caption}.")
    header = [by, "difference", "first, %", "second, %", *_Form(found.benchmark, test_unit=test_unit).header]
    table = Table(header=header, rows=rows)
    return Details(f"{caption}.", [TitledTable(title=f"{title}: differences by {by}", note=f"{caption}.", table=table)])


class _Form:
    """Formats the numbers of a benchmark."""

    def __init__(self, benchmark: Benchmark, *, test_unit: str | None = None) -> None:
        self.benchmark = benchmark
        self.unit = "%" if benchmark.is_outcome else benchmark.unit
        default = {MINIMAL_PAIRS: "paradigm", SYNTAXGYM: "suite"}.get(benchmark.kind, "sentence")
        self.test_unit = test_unit or default
        """The unit of the test over items, in the singular, such as ``paradigm``."""
        self.header = [
            "in points" if benchmark.is_outcome else f"in {benchmark.unit}",
            f"95 % over {self.test_unit}s",
            "p",
            "p adjusted",
            "95 % over seeds",
        ]
        self._factor, self._decimals = (100, 1) if benchmark.is_outcome else (1, 4)

    def figure(self, value: float) -> Number:
        """Return a value of the benchmark as it is shown."""
        return Number(self._factor * value, f".{self._decimals}f")

    def difference(self, value: float) -> Number:
        """Return a difference with its sign."""
        return Number(self._factor * value, f"+.{self._decimals}f")

    def interval(self, interval: Interval | None, *, is_difference: bool = True) -> str:
        """Return an interval."""
        form = self.difference if is_difference else self.figure
        return NOTHING if interval is None else f"[{form(interval.low)}, {form(interval.high)}]"

    def cells(self, found: Difference) -> Cells:
        """Return the cells of the columns in ``header``."""
        return [
            self.difference(found.difference),
            self.interval(found.interval),
            _p(found.p_value),
            _p(found.adjusted_p_value),
            self.interval(found.over_seeds.interval),
        ]

    def better(self, pair: PairComparison, found: Difference) -> str:
        """Return the name of the group that is shown to be better, or an empty text."""
        better = better_of(found, more_is_better=self.benchmark.is_outcome)
        return {"first": pair.first, "second": pair.second, "neither": ""}[better]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"
