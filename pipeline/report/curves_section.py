"""Draw the learning curves of all students and of each teacher: loss against positions seen, and loss against time.

The loss of every student, distilled or not, is the cross-entropy with the gold tokens, so that the curves are
comparable. Each teacher has a figure of its own: a teacher is given the tree, so its loss is not comparable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT
from pipeline.report.drawing import INK, MUTED, WIDE, colour_of, drawn, line_style, new_figure, swatch
from pipeline.report.page_blocks import Paragraph, Plot, Section
from pipeline.report.reported_runs import ReportedRuns, have_one_tokenizer
from pipeline.report.tables import Number, Table, duration

POSITIONS, TIME = "positions", "elapsed_s"
"""The fields of ``metrics.jsonl`` that curves are drawn against."""
_CURVE_ROWS: Final = 40
"""Largest number of rows per curve and split in the table behind a figure."""

_Points = list[tuple[float, float]]
"""Points (x, y): x is positions seen or seconds, y is nats per position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """The curves of one loss of one run, on dev and in training."""

    run: RunRecord
    label: str
    series: int
    """Index of the line, which selects its colour, marker and dash."""
    names: Sequence[str]
    """Fields of ``metrics.jsonl`` in order of preference. The first one that a row has is drawn."""

    def points(self, rows: Iterable[Row], against: str) -> _Points:
        """Return a point for each row that has the field ``against`` and a field of ``names``."""
        points = []
        for row in rows:
            x = value(row, against)
            y = next((found for name in self.names if (found := value(row, name)) is not None), None)
            if x is not None and y is not None:
                points.append((x, y))
        return points

    @property
    def end(self) -> str:
        """The last loss on dev, as text; empty if there is none."""
        dev = self.points(self.run.dev, POSITIONS)
        return f"{dev[-1][1]:.3f}" if dev else ""


def curves_section(reported: ReportedRuns) -> Section:
    """Return the section with all learning curves."""
    plots = [*_student_curves(reported), *_teacher_curves(reported)]
    none = Paragraph("No run has a metrics.jsonl with a loss.")
    return Section(name="curves", title="Learning curves", blocks=plots or [none])


def _student_curves(reported: ReportedRuns) -> list[Plot]:
    lines = [
        _Line(run=run, label=run.name, series=reported.series(run), names=("cross_entropy", "loss"))
        for run in reported.of_kind("student")
    ]
    lines = [line for line in lines if line.points((*line.run.train, *line.run.dev), POSITIONS)]
    if not lines:
        return []
    runs = [line.run for line in lines]
    dev_titles = {title for run in runs for title, source in run.splits.items() if source.key.name == "dev"}
    floors = sorted({round(f.nats_per_position, 9) for (_, at), f in reported.floors.items() if at in dev_titles})
    caption = "Cross-entropy with the gold tokens, for distilled students too. "
    if floors:
        caption += "Dashed: the floor, the loss of the grammar that wrote the dev sentences. "
    elif reported.floors:
        caption += "No floor is drawn, because none is recorded for dev: run evaluate perplexity with --truth on dev. "
    if not have_one_tokenizer(runs):
        caption += "Only curves of runs with the same tokenizer are comparable. "
    key = reported.key([(line.run, line.end) for line in lines], unit=" at the end")
    return [_curve_plot(reported, "students", "Students", lines, key, floors, caption)]


def _teacher_curves(reported: ReportedRuns) -> list[Plot]:
    """Return a figure for each teacher: its joint loss and the two parts of that loss."""
    losses = (("loss", JOINT), ("token_loss", f"tokens, {GIVEN_TREE}"), ("action_loss", "actions"))
    plots = []
    for number, run in enumerate(reported.of_kind("teacher")):
        lines = [_Line(run=run, label=label, series=i, names=(name,)) for i, (name, label) in enumerate(losses)]
        lines = [line for line in lines if line.points((*run.dev, *run.train), POSITIONS)]
        if lines:
            key = [
                (swatch(line.series), f"{line.label}: {line.end} at the end" if line.end else line.label)
                for line in lines
            ]
            caption = (
                "The joint loss is the sum of the other two losses. None of the three is comparable with a "
                "student\u2019s loss, because the teacher is given the tree. "
            )
            plots.append(_curve_plot(reported, f"teacher-{number}", f"Teacher {run.name}", lines, key, [], caption))
    return plots


def _curve_plot(
    reported: ReportedRuns,
    name: str,
    title: str,
    lines: Sequence[_Line],
    key: Sequence[tuple[Markup, str]],
    floors: Sequence[float],
    caption: str,
) -> Plot:
    """Return curves against positions and, if times are known, against time."""
    svg = learning_curves(f"curves-{name}", f"Learning curves: {title}", lines, floors, against=POSITIONS)
    timed = [line for line in lines if line.points((*line.run.dev, *line.run.train), TIME)]
    if timed:
        svg += learning_curves(f"times-{name}", f"Learning curves against time: {title}", timed, floors, against=TIME)
        caption += (
            "Time includes the evaluations on dev. It excludes what an interrupted process did after its last "
            "checkpoint. "
        )
    caption += "Lines with marks: dev. Thin lines: training. A steep start may be cut off; the table has it. "
    runs = list({line.run.name: line.run for line in lines}.values())
    return Plot(
        topic="Learning curves",
        title=title,
        svg=svg,
        key=key,
        caption=f"{caption}From metrics.jsonl of {reported.names(runs)}.",
        sources=[run.command for run in runs],
        data=Table(
            header=["curve", "split", "positions seen", "time", "nats per position"],
            rows=[
                [line.label, split, Number(x, ",.0f"), duration(value(row, TIME)), Number(y, ".4f")]
                for line in lines
                for split, rows in (("dev", line.run.dev), ("train", line.run.train))
                for row in _sample(rows)
                for x, y in line.points([row], POSITIONS)
            ],
        ),
    )


def learning_curves(name: str, title: str, lines: Sequence[_Line], floors: Sequence[float], *, against: str) -> Markup:
    """Return a drawing of the loss against positions seen, or against seconds.

    ``floors``, in nats per position, are dashed lines. The steep start of training is cut off if it would flatten the
    rest.
    """
    curves = [(line.series, line.points(line.run.dev, against), line.points(line.run.train, against)) for line in lines]
    points = [point for _, dev, train in curves for point in (*dev, *train)]
    longest = max(x for x, _ in points)
    unit, scale = _unit_of_time(longest) if against == TIME else ("", 1.0)

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 400 if width == WIDE else 330, left=48, right=14, top=26, bottom=46)
        low = min([*(y for _, y in points), *floors])
        top = max(_settled(dev, train) for _, dev, train in curves)
        pad = 0.06 * (top - low) or 0.1
        axes.set_ylim(low - pad, top + pad)
        axes.set_xlim(0, longest / scale * 1.015 or 1)
        axes.yaxis.grid(visible=True)
        axes.xaxis.set_major_formatter(lambda x, _: _short(x))
        axes.locator_params(axis="x", nbins=8 if width == WIDE else 4)
        for series, dev, train in curves:
            if train:
                x, y = zip(*_means(train, max(50, 240 // len(curves))), strict=True)
                axes.plot(np.divide(x, scale), y, color=colour_of(series), alpha=0.42, linewidth=1.1, zorder=2)
            if dev:
                x, y = zip(*_thinned(dev, 40), strict=True)
                axes.plot(np.divide(x, scale), y, zorder=3, **line_style(series))
        for height in floors:
            axes.axhline(height, color=INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                f"floor {height:.3f}", (1, height), xycoords=("axes fraction", "data"), xytext=(-2, -4),
                textcoords="offset points", ha="right", va="top", color=INK, size=11.5,
            )  # fmt: skip
        axes.set_xlabel(f"time of training, {unit}" if unit else "positions seen in training", labelpad=5)
        axes.set_title("nats per position", loc="left", size=11.5, color=MUTED, x=-(34 / width), pad=10)
        return figure

    return drawn(name, title, draw)


def _unit_of_time(longest_s: float) -> tuple[str, float]:
    """Return the unit for times up to ``longest_s``, and its length in seconds."""
    return ("hours", 3600.0) if longest_s >= 3 * 3600 else ("minutes", 60.0) if longest_s >= 180 else ("seconds", 1.0)


def _settled(dev: _Points, train: _Points) -> float:
    """Return the upper quartile of a curve's losses. A drawing may cut the curve off above it."""
    points = dev if len(dev) > 2 else (*dev, *train)
    return float(np.quantile([y for _, y in points], 0.75)) if points else 0.0


def _means(points: _Points, most: int) -> _Points:
    """Return the points or, if there are more than ``most``, the means of ``most`` stretches of neighbouring points."""
    if len(points) <= most:
        return points
    stretches = np.array_split(np.asarray(points, np.float64), most)
    return [(float(x), float(y)) for x, y in (stretch.mean(axis=0) for stretch in stretches)]


def _thinned(points: _Points, most: int) -> _Points:
    """Do as ``_means``, but keep the last point as it is."""
    return points if len(points) <= most else [*_means(points, most - 1), points[-1]]


def _sample(rows: Sequence[Row]) -> list[Row]:
    """Return at most ``_CURVE_ROWS`` of the rows, including the first and the last."""
    if len(rows) <= _CURVE_ROWS:
        return list(rows)
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, _CURVE_ROWS).round()]


def _short(count: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"
