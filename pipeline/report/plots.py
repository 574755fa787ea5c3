"""What a figure of the report consists of, and the learning curves: over positions and over time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT
from pipeline.report.charts import TIME, Curve, learning_curves
from pipeline.report.svg import swatch
from pipeline.report.tables import Cell, Comparison, Table, duration, have_one_tokenizer

CURVE_ROWS = 40
"""Most rows a curve and split in the table under a figure; the figure is drawn from all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A figure and all that stands around it."""

    title: str
    svg: Markup
    key: Sequence[tuple[Markup, str]]
    """(mark, label) of each series."""
    caption: str
    sources: Sequence[str]
    """Commands that made what is drawn."""
    data: Table


def student_curves(comparison: Comparison) -> Plot | None:
    """Return the students' curves over the floor, or None where no student has one."""
    names = ("cross_entropy", "loss")
    runs = [run for run in comparison.of_kind("student") if _points((*run.train, *run.dev), "positions", *names)]
    if not runs:
        return None
    lines = [(run, run.name, comparison.series(run), names) for run in runs]
    dev_titles = {title for run in runs for title, source in run.splits.items() if source.key.name == "dev"}
    floors = sorted({round(f.nats_per_position, 9) for (_, at), f in comparison.floors.items() if at in dev_titles})
    caption = "Cross-entropy with the gold tokens, for distilled students too. "
    if floors:
        caption += "Dashed: the floor, which the grammar that wrote the dev sentences gives them. "
    elif comparison.has_floor:
        caption += "No floor is drawn: none is recorded for dev; run evaluate perplexity with --floor on it. "
    if not have_one_tokenizer(runs):
        caption += "Curves compare only among runs of one tokenizer. "
    ends = [(run, f"{dev[-1][1]:.3f}" if (dev := _points(run.dev, "positions", *names)) else "") for run in runs]
    return _curve_plot(
        comparison, "students", "Students", lines, comparison.key(ends, unit=" at the end"), floors, caption
    )


def teacher_curves(comparison: Comparison) -> list[Plot]:
    """Return a figure for each teacher: its joint loss and the two parts of it."""
    parts = (("loss", JOINT), ("token_loss", f"tokens, {GIVEN_TREE}"), ("action_loss", "actions"))
    plots = []
    for number, run in enumerate(comparison.of_kind("teacher")):
        lines = [
            (run, label, i, (name,))
            for i, (name, label) in enumerate(parts)
            if _points((*run.dev, *run.train), "positions", name)
        ]
        if lines:
            key = [
                (
                    swatch(i),
                    f"{label}: {dev[-1][1]:.3f} at the end" if (dev := _points(run.dev, "positions", *of)) else label,
                )
                for _, label, i, of in lines
            ]
            caption = "The joint loss is the sum of the two others. None compares with a student's: the tree is given. "
            plots.append(_curve_plot(comparison, f"teacher-{number}", f"Teacher {run.name}", lines, key, [], caption))
    return plots


_Line = tuple[RunRecord, str, int, Sequence[str]]
"""Run, label, series, and the figures of a row to draw, the first that it has."""


def _curve_plot(
    comparison: Comparison,
    name: str,
    title: str,
    lines: Sequence[_Line],
    key: Sequence[tuple[Markup, str]],
    floors: Sequence[float],
    caption: str,
) -> Plot:
    """Return curves against positions, and against time where it is known."""
    svg = learning_curves(f"curves-{name}", f"Learning curves: {title}", _curves(lines, "positions"), floors)
    if timed := _curves(lines, "elapsed_s"):
        title_of_times = f"Learning curves against time: {title}"
        svg += learning_curves(f"times-{name}", title_of_times, timed, floors, against=TIME)
        caption += (
            "Time is that of training with its evaluations on dev; what an interrupted process did after its last "
            "checkpoint is not counted. "
        )
    rows: list[list[Cell]] = [
        [label, split, f"{x:,.0f}", duration(value(row, "elapsed_s")), f"{y:.4f}"]
        for run, label, _, names in lines
        for split, of_split in (("dev", run.dev), ("train", run.train))
        for row in _sample(of_split)
        for x, y in _points([row], "positions", *names)
    ]
    caption += "Marked: dev; thin: training. A steep start may lie above the frame; the table has it. "
    runs = list({run.name: run for run, _, _, _ in lines}.values())
    return Plot(
        title=title,
        svg=svg,
        key=key,
        caption=f"{caption}From metrics.jsonl of {comparison.names(runs)}.",
        sources=[run.command for run in runs],
        data=Table(header=["curve", "split", "positions seen", "time", "nats a position"], rows=rows),
    )


def _curves(lines: Sequence[_Line], against: str) -> list[Curve]:
    curves = [
        Curve(
            label=label,
            series=series,
            dev=_points(run.dev, against, *names),
            train=_points(run.train, against, *names),
        )
        for run, label, series, names in lines
    ]
    return [curve for curve in curves if curve.dev or curve.train]


def _points(rows: Iterable[Row], against: str, *names: str) -> list[tuple[float, float]]:
    """Return (``against``, figure) of the rows, the figure being the first of ``names`` that a row has."""
    points = []
    for row in rows:
        x = value(row, against)
        y = next((found for name in names if (found := value(row, name)) is not None), None)
        if x is not None and y is not None:
            points.append((x, y))
    return points


def _sample(rows: Sequence[Row]) -> list[Row]:
    """Return at most ``CURVE_ROWS`` of the rows, first and last among them."""
    if len(rows) <= CURVE_ROWS:
        return list(rows)
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, CURVE_ROWS).round()]
