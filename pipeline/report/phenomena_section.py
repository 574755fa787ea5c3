"""Draw the accuracies on minimal pairs by phenomenon and paradigm, and on SyntaxGym by circuit and suite.

A circuit is a published group of suites. Ties are drawn beyond the bar, because they do not count as right.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.minimal_pairs import PairCounts
from pipeline.evaluation.results import PairResult, SuiteResult
from pipeline.evaluation.syntaxgym import ItemCounts
from pipeline.report.drawing import GRID, INK, MARKERS, MUTED, NARROW, PAPER, colour_of, drawn, margin, new_figure
from pipeline.report.page_blocks import Block, Details, Paragraph, Plot, Section
from pipeline.report.reported_runs import ReportedRuns, pair_sets, suite_sets
from pipeline.report.tables import NOTHING, Cells, Number, Table, interval, percent, plural

_WHISKERS: Final = (
    "Bars: the mean of the runs with the same mark. Whiskers: 95 % Wilson intervals over the items, for one trained "
    "model; a model with another seed may be outside of them. Paler ends of bars: ties, which do not count as right. "
)
_COUNTS_HEADER: Final = ("right", "ties", "right, %", "95 %")
_QUARTERS: Final = (0, 0.25, 0.5, 0.75, 1)
_Segment = tuple[float, float, float]
"""A horizontal line: the x of its two ends, and its y."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Score:
    """Share of right answers of one run on the items of one label, such as a paradigm."""

    run: str
    series: int
    num_items: int
    right: float
    """Share from 0 to 1; 0 if there are no items."""
    ties: float
    """Share of ties from 0 to 1."""
    interval: Interval | None = None
    """95 % Wilson interval; None for a mean of shares, because a mean is not a share of independent items."""
    cells: Cells = field(default_factory=list)
    """The counts behind the share, for the table behind the figure."""


_ByHeading = Mapping[str, Mapping[str, Sequence[_Score]]]
"""Scores of the runs by heading, then by label, such as the name of a paradigm."""
_Groups = list[tuple[str, Sequence[_Score]]]
"""Labels with the scores of the runs, in the order of drawing. A label without scores is a heading."""


def pairs_section(reported: ReportedRuns) -> Section:
    """Return the section on minimal pairs."""
    blocks: list[Block] = []
    for by_phenomenon, by_paradigm in phenomenon_plots(reported):
        blocks += [by_phenomenon, Details(by_paradigm.title, [by_paradigm], style="figure")]
    none = Paragraph("No run was evaluated on minimal pairs. Run evaluate minimal-pairs.")
    return Section(name="pairs", title="Minimal pairs", blocks=blocks or [none])


def suites_section(reported: ReportedRuns) -> Section:
    """Return the section on SyntaxGym."""
    none = Paragraph("No run was evaluated on SyntaxGym suites. Run evaluate syntaxgym.")
    return Section(name="suites", title="SyntaxGym", blocks=suite_plots(reported) or [none])


def phenomenon_plots(reported: ReportedRuns) -> list[tuple[Plot, Plot]]:
    """Return for each set of minimal pairs a figure by phenomenon and a figure by paradigm."""
    return [
        _pair_plots(reported, number, title, scored)
        for number, (title, scored) in enumerate(pair_sets(reported.runs).items())
    ]


def suite_plots(reported: ReportedRuns) -> list[Plot]:
    """Return for each set of SyntaxGym suites a figure of its circuits and suites."""
    return [
        _suite_plot(reported, number, title, scored)
        for number, (title, scored) in enumerate(suite_sets(reported.runs).items())
    ]


def _pair_plots(
    reported: ReportedRuns, number: int, title: str, scored: Sequence[tuple[RunRecord, PairResult]]
) -> tuple[Plot, Plot]:
    """Return the figures by phenomenon and by paradigm."""
    by_level: dict[str, dict[str, list[_Score]]] = {"field": {}, "phenomenon": {}}
    by_term: dict[str, dict[str, list[_Score]]] = {}
    overall, means, key = [], [], []
    for run, pairs in scored:
        figures = pairs.figures
        for level, found in (("field", figures.by_field), ("phenomenon", figures.by_term)):
            for label, counts in found.items():
                by_level[level].setdefault(label, []).append(_score(reported, run, counts))
        by_paradigm = {name: _score(reported, run, counts) for name, counts in figures.by_paradigm.items()}
        for paradigm, score in by_paradigm.items():
            term = figures.by_paradigm[paradigm].linguistics_term
            by_term.setdefault(term, {}).setdefault(paradigm, []).append(score)
        overall.append(_score(reported, run, figures.overall))
        means.append(_mean_score(reported, run, figures.macro_accuracy or 0.0, by_paradigm.values()))
        ties = f" ({plural(figures.overall.num_ties, 'tie')})" if figures.overall.num_ties else ""
        key.append((run, f"{percent(figures.macro_accuracy)} %{ties}"))
    by_spaced = {
        f"by {level}": {label.replace("_", " "): scores for label, scores in found.items()}
        for level, found in by_level.items()
    }
    groups = [("mean of paradigms", means), *_groups({"": {"all pairs": overall}}), *_groups(by_spaced)]
    by_term = dict(sorted(by_term.items()))
    first = scored[0][1]
    caption = (
        "Share of pairs in which the grammatical sentence is strictly more probable than the other. Dashed: chance. "
        f"{_WHISKERS}Scored with {first.convention}. "
    )
    if first.figures.num_identical:
        are = "is" if first.figures.num_identical == 1 else "are"
        caption += f"{plural(first.figures.num_identical, 'pair')} of two identical sentences {are} left out. "
    header = ("run", "pairs", *_COUNTS_HEADER, "mean difference, nats")
    rows = _rows({NOTHING: {"all pairs": overall}}) + _rows(by_level)
    by_phenomenon = Plot(
        topic="Minimal pairs",
        title=title,
        svg=shares(f"pairs-{number}", f"Minimal pairs by phenomenon: {title}", groups, chance=0.5),
        key=reported.key(key),
        caption=f"{caption}From results of {reported.names([run for run, _ in scored])}.",
        sources=[pairs.command for _, pairs in scored],
        data=Table(header=["pairs of", "level", *header], rows=rows),
    )
    return by_phenomenon, replace(
        by_phenomenon,
        title=f"{title}, paradigm by paradigm",
        svg=shares(f"paradigms-{number}", f"Minimal pairs by paradigm: {title}", _groups(by_term), chance=0.5),
        key=reported.key([(run, "") for run, _ in scored]),
        data=Table(header=["paradigm", "phenomenon", *header], rows=_rows(by_term)),
    )


def _suite_plot(
    reported: ReportedRuns, number: int, title: str, scored: Sequence[tuple[RunRecord, SuiteResult]]
) -> Plot:
    by_circuit: dict[str, dict[str, list[_Score]]] = {}
    overall, means, key = [], [], []
    for run, suites in scored:
        figures = suites.figures
        by_suite = {name: _score(reported, run, suite) for name, suite in figures.by_suite.items()}
        for name, score in by_suite.items():
            by_circuit.setdefault(figures.by_suite[name].circuit, {}).setdefault(name, []).append(score)
        overall.append(_score(reported, run, figures.overall))
        means.append(_mean_score(reported, run, figures.mean_of_suites, by_suite.values()))
        key.append((run, f"{percent(figures.mean_of_suites)} %"))
    by_circuit = dict(sorted(by_circuit.items()))
    groups = [("mean of suites", means), ("all items", overall), *_groups(by_circuit)]
    return Plot(
        topic="SyntaxGym",
        title=title,
        svg=shares(f"suites-{number}", f"SyntaxGym: {title}", groups, chance=None),
        key=reported.key(key),
        caption="Share of items whose predictions all come true. Items have different numbers of predictions, so there "
        f"is no single level of chance. {_WHISKERS}Scored with {scored[0][1].convention}. From results of "
        f"{reported.names([run for run, _ in scored])}.",
        sources=[suites.command for _, suites in scored],
        data=Table(
            header=["suite", "circuit", "run", "items", *_COUNTS_HEADER],
            rows=_rows({NOTHING: {"all items": overall}}) + _rows(by_circuit),
        ),
    )


def _score(reported: ReportedRuns, run: RunRecord, counts: PairCounts | ItemCounts) -> _Score:
    num_items, more_cells = (
        (counts.num_pairs, [Number(counts.mean_difference, "+.3f")])
        if isinstance(counts, PairCounts)
        else (counts.num_items, [])
    )
    numbers = [Number(number, ",") for number in (num_items, counts.num_right, counts.num_ties)]
    return _Score(
        run=run.name,
        series=reported.series(run),
        num_items=num_items,
        right=counts.accuracy or 0.0,
        ties=counts.num_ties / num_items if num_items else 0.0,
        interval=counts.interval,
        cells=[*numbers, percent(counts.accuracy), interval(counts.interval), *more_cells],
    )


def _mean_score(reported: ReportedRuns, run: RunRecord, right: float, scores: Iterable[_Score]) -> _Score:
    ties = [score.ties for score in scores if score.num_items]
    return _Score(run=run.name, series=reported.series(run), num_items=len(ties), right=right, ties=_mean(ties))


def _groups(by_heading: _ByHeading) -> _Groups:
    """Return each heading, then the labels below it in alphabetical order."""
    groups: _Groups = []
    for heading, found in by_heading.items():
        groups += [(heading.replace("_", " "), [])] if heading and found else []
        by_label = {label: [score for score in scores if score.num_items] for label, scores in sorted(found.items())}
        groups += [(label, scores) for label, scores in by_label.items() if scores]
    return groups


def _rows(by_heading: _ByHeading) -> list[Cells]:
    """Return the rows of the table behind a figure: label, heading, run, counts."""
    return [
        [label, heading, score.run, *score.cells]
        for heading, found in by_heading.items()
        for label, scores in sorted(found.items())
        for score in scores
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def shares(name: str, title: str, groups: _Groups, *, chance: float | None) -> Markup:
    """Return horizontal bars of shares.

    A series is a group of runs that differ only in their seed. They have the same mark. Each series has a bar up to the
    mean of its runs, then a paler bar for the ties, and a mark with a whisker for each run. ``chance``, if given, is a
    dashed line.
    """
    most = max((max(Counter(score.series for score in scores).values(), default=0) for _, scores in groups), default=1)
    thickness, gap, heading = max(11, 5 + 3 * min(most, 5)), 9, 30

    def draw(width: int) -> Figure:
        narrow = width == NARROW
        above = 17 if narrow else 0
        lanes = [sorted({score.series for score in scores}) for _, scores in groups]
        heights = [above + max(len(lane) * thickness, 0 if narrow else 13) + gap if lane else heading for lane in lanes]
        total = sum(heights) + 6
        left = 8 if narrow else margin((label for label, _ in groups), most=340)
        figure, axes = new_figure(width, total + 50, left=left, right=16, top=24, bottom=26)
        axes.set_ylim(total, 0)
        axes.set_xlim(0, 1)
        bars: dict[int, list[_Segment]] = {}
        ties: dict[int, list[_Segment]] = {}
        marks: dict[int, list[tuple[_Score, float]]] = {}
        y = 6.0
        for (label, scores), lane, height in zip(groups, lanes, heights, strict=True):
            first, last = y + above, y + above + len(lane) * thickness
            _label(axes, label, y if narrow else (first + last) / 2, narrow=narrow, heading=not lane)
            if lane and narrow:  # The lines must not cross the labels between the bars.
                _vertical_lines(axes, chance, first, last)
            for i, series in enumerate(lane):
                at = first + (i + 0.5) * thickness
                mine = [score for score in scores if score.series == series]
                right, tied = _mean([score.right for score in mine]), _mean([score.ties for score in mine])
                bars.setdefault(series, []).append((0, right, at))
                if tied:
                    ties.setdefault(series, []).append((right, right + tied, at))
                spread = (thickness - 5) / len(mine)
                marks.setdefault(series, []).extend(
                    (score, at + (j - (len(mine) - 1) / 2) * spread) for j, score in enumerate(mine)
                )
            y += height
        if not narrow:
            _vertical_lines(axes, chance, 0, total)
        for series, segments in bars.items():
            look = {"color": colour_of(series), "linewidth": thickness - 3, "zorder": 2}
            _draw_segments(axes, segments, alpha=0.34, **look)
            _draw_segments(axes, ties.get(series, []), alpha=0.18, **look)
            _marks(axes, series, marks[series])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0, labeltop=True)
        axes.set_xticks(_QUARTERS, [f"{100 * x:g} %" for x in _QUARTERS])
        ticks = axes.xaxis.get_major_ticks()
        for leftmost, rightmost in ((ticks[0].label1, ticks[-1].label1), (ticks[0].label2, ticks[-1].label2)):
            leftmost.set_horizontalalignment("left")
            rightmost.set_horizontalalignment("right")
        return figure

    return drawn(name, title, draw)


def _draw_segments(axes: Axes, segments: Sequence[_Segment], **look: Any) -> None:  # noqa: ANN401 - matplotlib's options
    """Draw all segments as one path, because one path per bar would make the page large."""
    x = [x for low, high, _ in segments for x in (low, high, np.nan)]
    y = [y for _, _, at in segments for y in (at, at, np.nan)]
    axes.plot(x, y, solid_capstyle="butt", **look)


def _marks(axes: Axes, series: int, marks: Sequence[tuple[_Score, float]]) -> None:
    """Draw the runs of a series: one whisker and one mark per run."""
    whiskers = [(score.interval.low, score.interval.high, at) for score, at in marks if score.interval is not None]
    _draw_segments(axes, whiskers, color=colour_of(series), linewidth=1.2, zorder=4)
    axes.plot(
        [score.right for score, _ in marks], [at for _, at in marks], color=colour_of(series), linestyle="none",
        marker=MARKERS[series % len(MARKERS)], markersize=5.5, markeredgecolor=PAPER, markeredgewidth=0.5, zorder=5,
    )  # fmt: skip


def _vertical_lines(axes: Axes, chance: float | None, first: float, last: float) -> None:
    axes.vlines(_QUARTERS, first, last, color=GRID, linewidth=0.8, zorder=0)
    if chance is not None:
        axes.vlines(chance, first, last, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)


def _label(axes: Axes, text: str, y: float, *, narrow: bool, heading: bool) -> None:
    look: dict[str, Any] = {"weight": "bold", "size": 12} if heading else {"size": 11.5, "color": MUTED}
    y += 18 if heading else 8 if narrow else 0
    axes.text(0 if narrow else -0.008, y, text, ha="left" if narrow else "right", va="center", **look)
