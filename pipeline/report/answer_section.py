"""Draw the report's first screen: the differences from the baseline as a forest plot, and one table of all runs."""

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.compare.run_records import value
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL, OF_STUDENTS
from pipeline.report.answer import Answer, Effect, Measure
from pipeline.report.drawing import INK, MARKERS, MUTED, NARROW, PAPER, colour_of, drawn, margin
from pipeline.report.page_blocks import Block, Plot, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns, have_one_tokenizer, pair_sets, splits_of, suite_sets
from pipeline.report.run_tables import trained_on
from pipeline.report.tables import NOTHING, AnyCell, Cells, Number, Table, duration, percent, perplexity

_FAR: Final = 4
"""The floor is the perplexity of the grammar that wrote the text. If the floor is very far from the baseline, a plot
that reached so far would make the intervals too small to see. The floor is then only written as a number at the edge.
For example, if all groups and their intervals are within 5 % of the baseline, a floor is too far if it is more than
20 % (``_FAR`` times 5 %) away."""
_ROW, _NARROW_ROW, _ABOVE, _FLOOR, _BELOW = 34, 70, 26, 20, 52
"""Heights in CSS pixels, in this order: a group on a wide page, a group on a narrow page, the space above the groups,
the label of a floor, the space below the groups."""
_VALUES: Final = 200
"""Width of the column of numbers at the right of the plot, in CSS pixels."""
_BEHIND_TEXT: Final = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
"""A box behind text, so that grid lines do not cross the text on narrow pages."""


def answer_section(reported: ReportedRuns, answer: Answer) -> Section:
    """Return the section with the plot of differences and the table of the runs."""
    runs = TitledTable(title="Runs", table=_runs_table(reported), style="compact")
    blocks: list[Block] = [_forest_plot(reported, answer), runs] if answer.measures else [runs]
    title = f"Difference from {answer.baseline}" if answer.measures else "The runs"
    return Section(name="answer", title=title, link="At a glance", blocks=blocks)


def _forest_plot(reported: ReportedRuns, answer: Answer) -> Plot:
    measures = answer.measures
    title = f"Difference from {answer.baseline}"
    over_seeds = [effect.is_over_seeds for measure in measures for effect in measure.effects]
    caption = f"Each mark is the difference of a group of runs from {answer.baseline}. The line is its 95 % interval. "
    if any(over_seeds):
        caption += "Filled marks: the interval is over seeds. "
    if not all(over_seeds):
        caption += (
            "Hollow marks: one of the two groups has one seed, so the interval is over sentences, paradigms or suites. "
            "Such an interval says nothing about other seeds. "
        )
    if any(measure.floor is not None for measure in measures):
        caption += "Floor: the perplexity of the grammar that wrote the text. No model is expected to get below it. "
    rows: list[Cells] = [
        [
            measure.name,
            effect.group,
            f"{effect.signed(effect.change)} {measure.unit}",
            _interval(effect),
            "seeds" if effect.is_over_seeds else measure.units,
            Number(effect.num_seeds, "d"),
            Number(effect.num_baseline_seeds, "d"),
            NOTHING if measure.floor is None else f"{effect.signed(measure.floor)} {measure.unit}",
        ]
        for measure in measures
        for effect in measure.effects
    ]
    header = ["measure", "group", "difference", "95 % interval", "interval over", "seeds", "seeds of baseline", "floor"]
    return Plot(
        title=title,
        svg=drawn("forest", title, lambda width: _forest(reported, measures, width)),
        key=[],
        caption=f"{caption}The section Comparisons has the tests.",
        sources=list(dict.fromkeys(command for run in reported.of_kind("student") for command in run.commands[1:])),
        data=Table(header=header, rows=rows),
    )


def _forest(reported: ReportedRuns, measures: Sequence[Measure], width: int) -> Figure:
    """Draw one panel per measure, with one row per group."""
    narrow = width == NARROW
    row = _NARROW_ROW if narrow else _ROW
    heights = [
        _ABOVE + (0 if measure.floor is None else _FLOOR) + row * len(measure.effects) + _BELOW for measure in measures
    ]
    groups = [effect.group for measure in measures for effect in measure.effects]
    left, right = (12, 12) if narrow else (margin(groups, most=300), _VALUES)
    total = sum(heights)
    figure = Figure(figsize=(width / 72, total / 72))
    top = total
    for measure, height in zip(measures, heights, strict=True):
        bottom = top - height + _BELOW
        box = (left / width, bottom / total, 1 - (left + right) / width, row * len(measure.effects) / total)
        _panel(reported, figure.add_axes(box), measure, narrow=narrow)
        figure.text(0, (top - 12) / total, measure.name, ha="left", va="center", size=13, weight="bold")
        top -= height
    return figure


def _panel(reported: ReportedRuns, axes: Axes, measure: Measure, *, narrow: bool) -> None:
    series_of = {reported.group_name(run): reported.series(run) for run in reported.runs}
    ends = [0.0, *(effect.change for effect in measure.effects)]
    ends += [end for e in measure.effects if e.interval is not None for end in (e.interval.low, e.interval.high)]
    floor = measure.floor
    is_far = floor is not None and abs(floor) > _FAR * max(map(abs, ends))
    if floor is not None and not is_far:
        ends.append(floor)
    pad = 0.08 * (max(ends) - min(ends)) or 1
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.set_ylim(len(measure.effects), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.grid(visible=True)
    axes.locator_params(axis="x", nbins=5 if narrow else 9)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}".replace("-", "\u2212") if x else "0")
    axes.axvline(0, color=INK, linewidth=1.4, zorder=2)
    for i, effect in enumerate(measure.effects):
        at, series = i + (0.8 if narrow else 0.5), series_of.get(effect.group, 0)
        colour = colour_of(series)
        if effect.interval is not None:
            axes.plot([effect.interval.low, effect.interval.high], [at, at], color=colour, linewidth=2.4, zorder=3)
        axes.plot(
            [effect.change], [at], color=colour, marker=MARKERS[series % len(MARKERS)], markersize=9, zorder=4,
            markerfacecolor=colour if effect.is_over_seeds else PAPER, markeredgecolor=colour, markeredgewidth=1.8,
        )  # fmt: skip
        text = f"{effect.signed(effect.change)} {measure.unit} {_interval(effect)}"
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": 12, "bbox": _BEHIND_TEXT}
        if narrow:
            axes.annotate(effect.group, (0, i + 0.22), (0, 0), xycoords=("axes fraction", "data"), **look)
            axes.annotate(text, (0, i + 0.49), (0, 0), xycoords=("axes fraction", "data"), **look)
        else:
            axes.annotate(effect.group, (0, at), (-12, 0), xycoords=("axes fraction", "data"), ha="right", **look)
            axes.annotate(text, (1, at), (12, 0), xycoords=("axes fraction", "data"), **look)
    side = "right" if measure.benchmark.is_outcome else "left"
    unit = "points" if measure.unit == "points" else "percent"
    axes.set_xlabel(f"difference in {unit}; {side} is better", labelpad=5)
    if floor is None:
        return
    label = f"floor {measure.effects[0].signed(floor)} %"
    if is_far:
        label = f"\u2190 {label}" if floor < 0 else f"{label} \u2192"
    else:
        axes.axvline(floor, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    axes.annotate(
        label, (0 if is_far else floor, 1), (0 if is_far else -4, 6), textcoords="offset points", color=MUTED,
        size=11.5, xycoords=("axes fraction", "axes fraction") if is_far else ("data", "axes fraction"),
    )  # fmt: skip


def _interval(effect: Effect) -> str:
    if effect.interval is None:
        return NOTHING
    return f"[{effect.signed(effect.interval.low)}, {effect.signed(effect.interval.high)}]"


def _runs_table(reported: ReportedRuns) -> Table:
    """Return one row per run: perplexity, accuracies and training time.

    The perplexities are those on test. If no run has a perplexity on test, they are those on the last split.
    """
    runs = reported.runs
    columns: dict[str, Sequence[AnyCell]] = {}
    unit = "token" if have_one_tokenizer(runs) else "word"
    for split in [split for split in splits_of(runs) if split.startswith("test")] or splits_of(runs)[-1:]:
        for distribution in (*OF_STUDENTS, MARGINAL, GIVEN_TREE):
            figures = [run.perplexities.get(split, {}).get(distribution) for run in runs]
            if any(figures):
                name = f"{split} perplexity per {unit}, {distribution}"
                columns[name] = [perplexity(getattr(f, f"per_{unit}") if f else None) for f in figures]
    for title, pairs in pair_sets(runs).items():
        shares = {run.name: result.figures.macro_accuracy for run, result in pairs}
        columns[f"pairs right, %: {title}"] = [percent(shares.get(run.name)) for run in runs]
    for title, suites in suite_sets(runs).items():
        means = {run.name: result.figures.mean_of_suites for run, result in suites}
        columns[f"suites right, %: {title}"] = [percent(means.get(run.name)) for run in runs]
    columns["time of training"] = [duration(value(run.last, "elapsed_s")) for run in runs]
    named = [reported.label(run, note=trained_on(run)) for run in runs]
    return Table(header=["run", *columns], rows=[list(row) for row in zip(named, *columns.values(), strict=True)])
