"""What the report draws: learning curves, shares with intervals, mass and entropy of dumps, distributions of sizes.

Each function is given numbers and returns a figure for wide and narrow pages; what they mean is said by the callers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator

from pipeline.report.svg import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    NARROW,
    PAPER,
    WIDE,
    colour_of,
    drawn,
    line_style,
    new_figure,
)

POSITIONS, TIME = "positions seen in training", "time of training"
"""What learning curves may stand against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One quantity of one run: points on dev, and the training line behind them."""

    label: str
    series: int
    """Which colour, marker and dash; the same run has the same everywhere."""
    dev: Sequence[tuple[float, float]]
    """(positions seen, or seconds; nats a position)."""
    train: Sequence[tuple[float, float]] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of right answers of one run, its interval, and the share of ties beyond it; all in 0 to 1."""

    series: int
    right: float
    interval: tuple[float, float] | None
    """Of 95 % confidence; None for what is no share of independent items, as a mean of shares."""
    ties: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareGroup:
    """The shares of one phenomenon, or a heading over the next ones where it has none."""

    label: str
    shares: Sequence[Share] = field(default_factory=tuple)


def learning_curves(
    name: str, title: str, curves: Sequence[Curve], floors: Sequence[float], *, against: str = POSITIONS
) -> Markup:
    """Return loss against positions seen, or against seconds where ``against`` is ``TIME``.

    ``floors``, in nats a position, are dashed lines. The first, steep part of training is cut off where showing it
    would flatten the rest.
    """
    longest = max(x for curve in curves for x, _ in (*curve.dev, *curve.train))
    unit, scale = _unit_of_time(longest) if against == TIME else ("", 1.0)

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 400 if width == WIDE else 330, left=48, right=14, top=26, bottom=46)
        values = [y for curve in curves for _, y in (*curve.dev, *curve.train)]
        low = min([*values, *floors])
        top = max(_settled(curve) for curve in curves)
        pad = 0.06 * (top - low) or 0.1
        axes.set_ylim(low - pad, top + pad)
        axes.set_xlim(0, longest / scale * 1.015 or 1)
        axes.yaxis.grid(visible=True)
        axes.xaxis.set_major_formatter(lambda x, _: _short(x))
        axes.locator_params(axis="x", nbins=8 if width == WIDE else 4)
        for curve in curves:
            if curve.train:
                x, y = zip(*_means(curve.train, max(50, 240 // len(curves))), strict=True)
                axes.plot(np.divide(x, scale), y, color=colour_of(curve.series), alpha=0.42, linewidth=1.1, zorder=2)
            if curve.dev:
                x, y = zip(*_thinned(curve.dev, 40), strict=True)
                axes.plot(np.divide(x, scale), y, zorder=3, **line_style(curve.series))
        for height in floors:
            axes.axhline(height, color=INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                f"floor {height:.3f}", (1, height), xycoords=("axes fraction", "data"), xytext=(-2, -4),
                textcoords="offset points", ha="right", va="top", color=INK, size=11.5,
            )  # fmt: skip
        axes.set_xlabel(f"{against}, {unit}" if unit else against, labelpad=5)
        axes.set_title("nats a position", loc="left", size=11.5, color=MUTED, x=-(34 / width), pad=10)
        return figure

    return drawn(name, title, draw)


def shares(name: str, title: str, groups: Sequence[ShareGroup], *, chance: float | None) -> Markup:
    """Return horizontal bars of shares, a lane a series: bar to the mean of its runs, a mark and a whisker a run.

    Ties stand beyond the bar, paler; ``chance`` is marked where it is given.
    """
    most = max((_most_of_one(group.shares) for group in groups), default=1)
    thickness, gap, heading = max(11, 5 + 3 * min(most, 5)), 9, 30

    def draw(width: int) -> Figure:
        narrow = width == NARROW
        above = 17 if narrow else 0
        lanes = [sorted({share.series for share in group.shares}) for group in groups]
        heights = [above + max(len(of) * thickness, 0 if narrow else 13) + gap if of else heading for of in lanes]
        total = sum(heights) + 6
        left = 8 if narrow else min(340, 30 + max(int(7.3 * len(group.label)) for group in groups))
        figure, axes = new_figure(width, total + 50, left=left, right=16, top=24, bottom=26)
        axes.set_ylim(total, 0)
        axes.set_xlim(0, 1)
        boxes: dict[int, tuple[list[_Box], list[_Box]]] = {}
        marks: dict[int, list[tuple[Share, float]]] = {}
        y = 6.0
        for group, of, height in zip(groups, lanes, heights, strict=True):
            first, last = y + above, y + above + len(of) * thickness
            _label(axes, group.label, y if narrow else (first + last) / 2, narrow=narrow, heading=not of)
            if of and narrow:  # no line through the labels between bars
                _vertical_lines(axes, chance, first, last)
            for i, series in enumerate(of):
                at = first + (i + 0.5) * thickness
                mine = [share for share in group.shares if share.series == series]
                right, ties = (float(np.mean([getattr(s, of_share) for s in mine])) for of_share in ("right", "ties"))
                bars, beyond = boxes.setdefault(series, ([], []))
                bars.append((0, right, at))
                if ties:
                    beyond.append((right, right + ties, at))
                spread = (thickness - 5) / len(mine)
                marks.setdefault(series, []).extend(
                    (share, at + (j - (len(mine) - 1) / 2) * spread) for j, share in enumerate(mine)
                )
            y += height
        if not narrow:
            _vertical_lines(axes, chance, 0, total)
        for series, (bars, beyond) in boxes.items():
            axes.add_patch(_boxes(bars, thickness - 3, color=colour_of(series), alpha=0.34))
            if beyond:
                axes.add_patch(_boxes(beyond, thickness - 3, color=colour_of(series), alpha=0.18))
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


def left_out_mass(name: str, title: str, masses: Sequence[Sequence[tuple[int, float]]]) -> Markup:
    """Return the mean mass outside the k' most probable tokens against k', both logarithmic; a line a dump."""

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 270, left=56, right=20, top=26, bottom=46)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.grid(visible=True)
        ks: set[int] = set()
        for series, line in enumerate(masses):
            x = [k for k, _ in line]
            y = [max(1 - mass, 1e-9) for _, mass in line]
            ks.update(x)
            axes.plot(x, y, **line_style(series))
        axes.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.6g} %")
        axes.minorticks_off()
        axes.set_xlabel("k\u2032, most probable tokens kept", labelpad=5)
        axes.set_title("mean mass left out", loc="left", size=11.5, color=MUTED, x=-(42 / width), pad=10)
        return figure

    return drawn(name, title, draw)


def distributions(name: str, title: str, lines: Sequence[Sequence[tuple[float, float]]], *, x_label: str) -> Markup:
    """Return shares (0 to 1) against sizes, a line a series."""

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 270, left=48, right=14, top=26, bottom=46)
        axes.yaxis.grid(visible=True)
        for series, line in enumerate(lines):
            axes.plot([x for x, _ in line], [y for _, y in line], **(line_style(series) | {"markersize": 3.5}))
        axes.set_xlim(0, max((x for line in lines for x, _ in line), default=0) * 1.015 + 0.5)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        axes.locator_params(axis="x", nbins=10 if width == WIDE else 5, integer=True)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel(x_label, labelpad=5)
        return figure

    return drawn(name, title, draw)


def quantile_strips(
    name: str, title: str, strips: Sequence[tuple[str, Sequence[float], float | None]], *, x_label: str
) -> Markup:
    """Return a strip for each (label, five ascending quantiles, mean): line, box, median bar; the mean is a diamond."""

    def draw(width: int) -> Figure:
        narrow = width == NARROW
        row = 44 if narrow else 34
        left = 8 if narrow else min(340, 30 + max(int(7.3 * len(label)) for label, _, _ in strips))
        figure, axes = new_figure(width, 60 + row * len(strips), left=left, right=16, top=8, bottom=46)
        axes.set_ylim(len(strips), 0)
        axes.set_xlim(0, max(max(quantiles) for _, quantiles, _ in strips) * 1.05 or 1)
        axes.xaxis.grid(visible=True)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=10 if width == WIDE else 5)
        for i, (label, (low, first, median, third, high), mean) in enumerate(strips):
            at, half = i + (0.68 if narrow else 0.5), 0.2
            colour = colour_of(i)
            if narrow:
                axes.text(0, i + 0.22, label, ha="left", va="center", size=11.5, color=MUTED)
            else:
                axes.annotate(
                    label, (0, at), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
                    ha="right", va="center", size=11.5, color=MUTED,
                )  # fmt: skip
            axes.plot([low, high], [at, at], color=colour, linewidth=1.6, zorder=2)
            axes.barh(at, third - first, left=first, height=2 * half, color=colour, alpha=0.42, zorder=2)
            axes.vlines(median, at - half, at + half, color=INK, linewidth=2, zorder=3)
            if mean is not None:
                axes.plot([mean], [at], color=colour, marker="D", markersize=6, markeredgecolor=PAPER, zorder=4)
        axes.set_xlabel(x_label, labelpad=5)
        return figure

    return drawn(name, title, draw)


_Box = tuple[float, float, float]
"""(from, to, centre of its height)."""
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)


def _most_of_one(of: Sequence[Share]) -> int:
    """Return how many shares of a group are in its fullest lane."""
    return max(Counter(share.series for share in of).values(), default=0)


def _boxes(boxes: Iterable[_Box], height: float, *, color: str, alpha: float) -> PathPatch:
    """Return all bars of a series as one path: a path a bar makes a large page."""
    corners = [
        [(low, at - height / 2), (high, at - height / 2), (high, at + height / 2), (low, at + height / 2), (low, at)]
        for low, high, at in boxes
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(corners)
    path = Path(np.array(corners, np.float64).reshape(-1, 2), codes)
    return PathPatch(path, facecolor=color, edgecolor="none", alpha=alpha, zorder=2)


def _marks(axes: Axes, series: int, marks: Sequence[tuple[Share, float]]) -> None:
    """Draw the runs of a series: all whiskers as one path, and a mark each."""
    whiskers = [(interval, at) for share, at in marks if (interval := share.interval) is not None]
    x = [x for interval, _ in whiskers for x in (*interval, np.nan)]
    y = [y for _, at in whiskers for y in (at, at, np.nan)]
    axes.plot(x, y, color=colour_of(series), linewidth=1.2, zorder=4)
    axes.plot(
        [share.right for share, _ in marks], [at for _, at in marks], color=colour_of(series), linestyle="none",
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


def _unit_of_time(longest_s: float) -> tuple[str, float]:
    """Return the unit in which to show times up to ``longest_s``, and its seconds."""
    return ("hours", 3600.0) if longest_s >= 3 * 3600 else ("minutes", 60.0) if longest_s >= 180 else ("seconds", 1.0)


def _settled(curve: Curve) -> float:
    """Return the value a curve is below for three quarters of its points."""
    points = curve.dev if len(curve.dev) > 2 else (*curve.dev, *curve.train)
    return float(np.quantile([y for _, y in points], 0.75)) if points else 0.0


def _means(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most ``most`` points: means of equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    runs = np.array_split(np.asarray(points, np.float64), most)
    return [(float(x), float(y)) for x, y in (run.mean(axis=0) for run in runs)]


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most ``most`` points, means but for the last, which is the last of ``points``."""
    return list(points) if len(points) <= most else [*_means(points, most - 1), points[-1]]


def _short(count: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"
