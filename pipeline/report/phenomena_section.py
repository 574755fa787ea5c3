"""Minimal pairs and SyntaxGym by what they test: phenomena, paradigms, circuits, suites, with 95 % intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.intervals import wilson_interval
from pipeline.evaluation.minimal_pairs import MinimalPairFigures, PairCounts
from pipeline.evaluation.results import PairResult, SuiteResult
from pipeline.report.charts import Share, ShareGroup, shares
from pipeline.report.plots import Plot
from pipeline.report.result_sets import (
    item_counts,
    mean_of_suites,
    pair_sets,
    pairs_of,
    suite_sets,
    suites_of,
)
from pipeline.report.tables import (
    NOTHING,
    Cell,
    Comparison,
    Table,
    interval,
    pair_cells,
    percent,
    plural,
)

LEVELS: Final[Sequence[tuple[str, Callable[[MinimalPairFigures], Mapping[str, PairCounts]]]]] = (
    ("field", lambda figures: figures.by_field),
    ("phenomenon", lambda figures: figures.by_term),
)
"""How paradigms are put together, coarsest first."""
_WHISKERS: Final = (
    "Whiskers: 95 % Wilson intervals, of the items alone: they say nothing of other seeds. Bars reach to the mean of "
    "the runs that share a mark; paler, beyond them: ties, which are not right. "
)
_PAIR_HEADER: Final = ("pairs", "right", "ties", "right, %", "95 %", "mean difference, nats")

_Scored = Sequence[tuple[RunRecord, PairResult]]


def phenomenon_plots(comparison: Comparison) -> list[tuple[Plot, Plot]]:
    """Return for each set of minimal pairs a figure by phenomenon, and one paradigm by paradigm."""
    plots = []
    for number, (title, key) in enumerate(pair_sets(comparison.runs).items()):
        scored = [(run, pairs) for run in comparison.runs if (pairs := pairs_of(run, key)) is not None]
        plots.append(
            (
                _by_phenomenon(comparison, f"pairs-{number}", title, scored),
                _by_paradigm(comparison, f"paradigms-{number}", title, scored),
            )
        )
    return plots


def suite_plots(comparison: Comparison) -> list[Plot]:
    """Return for each set of SyntaxGym suites a figure circuit by circuit and suite by suite."""
    plots = []
    for number, (title, key) in enumerate(suite_sets(comparison.runs).items()):
        scored = [(run, suites) for run in comparison.runs if (suites := suites_of(run, key)) is not None]
        plots.append(_by_suite(comparison, f"suites-{number}", title, scored))
    return plots


def _by_phenomenon(comparison: Comparison, name: str, title: str, scored: _Scored) -> Plot:
    means = [
        Share(
            series=comparison.series(run),
            right=pairs.figures.macro_accuracy or 0.0,
            interval=None,
            ties=_mean_ties(pairs.figures.by_paradigm),
        )
        for run, pairs in scored
    ]
    overall = [(run, pairs.figures.overall) for run, pairs in scored]
    groups = [ShareGroup(label="mean of paradigms", shares=means), _group(comparison, "all pairs", overall)]
    rows: list[list[Cell]] = [["all pairs", NOTHING, run.name, *pair_cells(counts)] for run, counts in overall]
    for level, of in LEVELS:
        labels = sorted({label for _, pairs in scored for label in of(pairs.figures)})
        groups += [ShareGroup(label=f"by {level}")] if labels else []
        for label in labels:
            found = [(run, of(pairs.figures)[label]) for run, pairs in scored if label in of(pairs.figures)]
            groups += [group] if (group := _group(comparison, label.replace("_", " "), found)).shares else []
            rows += [[label, level, run.name, *pair_cells(counts)] for run, counts in found]
    said = [(run, _right_and_ties(pairs)) for run, pairs in scored]
    return Plot(
        title=title,
        svg=shares(name, f"Minimal pairs by phenomenon: {title}", groups, chance=0.5),
        key=comparison.key(said),
        caption=_pair_caption(comparison, scored),
        sources=_sources(scored),
        data=Table(header=["pairs of", "level", "run", *_PAIR_HEADER], rows=rows),
    )


def _by_paradigm(comparison: Comparison, name: str, title: str, scored: _Scored) -> Plot:
    terms = {paradigm: term for _, pairs in scored for paradigm, term in pairs.figures.terms.items()}
    groups = []
    rows: list[list[Cell]] = []
    for term in sorted(set(terms.values())):
        groups.append(ShareGroup(label=term.replace("_", " ")))
        for paradigm in sorted(paradigm for paradigm in terms if terms[paradigm] == term):
            found = [
                (run, counts)
                for run, pairs in scored
                if (counts := pairs.figures.by_paradigm.get(paradigm)) is not None
            ]
            groups += [group] if (group := _group(comparison, paradigm, found)).shares else []
            rows += [[paradigm, term, run.name, *pair_cells(counts)] for run, counts in found]
    return Plot(
        title=f"{title}, paradigm by paradigm",
        svg=shares(name, f"Minimal pairs by paradigm: {title}", groups, chance=0.5),
        key=comparison.key([(run, "") for run, _ in scored]),
        caption=_pair_caption(comparison, scored),
        sources=_sources(scored),
        data=Table(header=["paradigm", "phenomenon", "run", *_PAIR_HEADER], rows=rows),
    )


def _by_suite(comparison: Comparison, name: str, title: str, scored: Sequence[tuple[RunRecord, SuiteResult]]) -> Plot:
    circuits = {suite: of.circuit for _, suites in scored for suite, of in suites.figures.by_suite.items()}
    means = [
        Share(
            series=comparison.series(run),
            right=mean_of_suites(suites),
            interval=None,
            ties=sum(suite.items.num_ties / suite.items.num_items for suite in suites.figures.by_suite.values())
            / len(suites.figures.by_suite),
        )
        for run, suites in scored
    ]
    overall = [_share(comparison, run, *item_counts(suites)) for run, suites in scored]
    groups = [ShareGroup(label="mean of suites", shares=means), ShareGroup(label="all items", shares=overall)]
    rows: list[list[Cell]] = [
        ["all items", NOTHING, run.name, *_item_cells(*item_counts(suites))] for run, suites in scored
    ]
    for circuit in sorted(set(circuits.values())):
        groups.append(ShareGroup(label=circuit))
        for suite in sorted(suite for suite in circuits if circuits[suite] == circuit):
            found = [
                (run, of.items) for run, suites in scored if (of := suites.figures.by_suite.get(suite)) is not None
            ]
            of_suite = [_share(comparison, run, c.num_right, c.num_items, c.num_ties) for run, c in found]
            groups.append(ShareGroup(label=suite, shares=of_suite))
            rows += [[suite, circuit, run.name, *_item_cells(c.num_right, c.num_items, c.num_ties)] for run, c in found]
    caption = (
        "Share of items all of whose predictions come true. An item may have several: there is no one level of chance. "
        f"{_WHISKERS}Scored with {scored[0][1].convention}. From results of "
    )
    return Plot(
        title=title,
        svg=shares(name, f"SyntaxGym: {title}", groups, chance=None),
        key=comparison.key([(run, f"{percent(mean_of_suites(suites))} %") for run, suites in scored]),
        caption=f"{caption}{comparison.names([run for run, _ in scored])}.",
        sources=[suites.command for _, suites in scored],
        data=Table(header=["suite", "circuit", "run", "items", "right", "ties", "right, %", "95 %"], rows=rows),
    )


def _group(comparison: Comparison, label: str, found: Sequence[tuple[RunRecord, PairCounts]]) -> ShareGroup:
    return ShareGroup(
        label=label,
        shares=[_share(comparison, run, c.num_right, c.num_pairs, c.num_ties) for run, c in found if c.num_pairs],
    )


def _share(comparison: Comparison, run: RunRecord, num_right: int, num_items: int, num_ties: int) -> Share:
    found = wilson_interval(num_right, num_items)
    return Share(
        series=comparison.series(run),
        right=num_right / num_items,
        interval=None if found is None else (found.low, found.high),
        ties=num_ties / num_items,
    )


def _item_cells(num_right: int, num_items: int, num_ties: int) -> list[Cell]:
    return [
        f"{num_items:,}",
        f"{num_right:,}",
        f"{num_ties:,}",
        percent(num_right / num_items),
        interval(num_right, num_items),
    ]


def _mean_ties(by_paradigm: Mapping[str, PairCounts]) -> float:
    shares_of_ties = [counts.num_ties / counts.num_pairs for counts in by_paradigm.values() if counts.num_pairs]
    return sum(shares_of_ties) / len(shares_of_ties) if shares_of_ties else 0.0


def _right_and_ties(pairs: PairResult) -> str:
    num_ties = pairs.figures.overall.num_ties
    return f"{percent(pairs.figures.macro_accuracy)} %" + (f" ({plural(num_ties, 'tie')})" if num_ties else "")


def _pair_caption(comparison: Comparison, scored: _Scored) -> str:
    _, first = scored[0]
    caption = (
        "Share of pairs of which the grammatical sentence is strictly the more probable one. Dashed: chance. "
        f"{_WHISKERS}Scored with {first.convention}. "
    )
    if first.figures.num_identical:
        caption += f"{plural(first.figures.num_identical, 'pair')} of two identical sentences left out. "
    return f"{caption}From results of {comparison.names([run for run, _ in scored])}."


def _sources(scored: _Scored) -> list[str]:
    return [pairs.command for _, pairs in scored]
