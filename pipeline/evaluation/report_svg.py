"""The report's figures: matplotlib drawings turned into small inline SVG that follows the page's theme.

matplotlib knows no CSS. So colours are drawn as place-holders and replaced afterwards by CSS variables, which the page
defines once for light and once for dark; text stays text, in the page's own font. Each figure is drawn twice, wide
and narrow, and the page shows the one that fits: a scaled-down plot cannot be read on a phone.
The same data give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

NUM_COLOURS = 6
"""Colours of series, defined as ``--series-0`` … by ``report.css``; further series repeat them with other dashes."""
WIDE, NARROW = 1016, 350
"""Widths drawn, in CSS pixels."""

_INK, _MUTED, _GRID, _PAPER = "#fe0201", "#fe0202", "#fe0203", "#fe0204"
_SERIES = [f"#fe01{i:02x}" for i in range(NUM_COLOURS)]
_VARIABLES = {_INK: "currentColor", _MUTED: "var(--muted)", _GRID: "var(--rule)", _PAPER: "var(--paper)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)
}
MARKERS = "osD^vP"
DASHES: Sequence[str | tuple[float, tuple[float, ...]]] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))

_STYLE: list[str | Path | dict[str, Any]] = [
    "default",
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "rnng-distill",
        "text.parse_math": False,
        "font.size": 12,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _MUTED,
        "axes.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": _INK,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "grid.color": _GRID,
        "grid.linewidth": 0.8,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "path.simplify": True,
    },
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One quantity of one run: points on dev, and the training line behind them."""

    label: str
    series: int
    """Which colour, marker and dash; the same run has the same everywhere."""
    dev: Sequence[tuple[float, float]]
    """(positions seen, nats a position)."""
    train: Sequence[tuple[float, float]] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A share of right pairs of one run, and the share of ties beyond it; both in 0 to 1."""

    series: int
    right: float
    ties: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BarGroup:
    """The bars of one paradigm, or a heading over the next ones where it has none."""

    label: str
    bars: Sequence[Bar] = field(default_factory=tuple)


def learning_curves(name: str, title: str, curves: Sequence[Curve], floors: Sequence[float]) -> Markup:
    """Return loss against positions seen; ``floors``, in nats a position, are dashed lines.

    The first, steep part of training is cut off where showing it would flatten the rest.
    """

    def draw(width: int) -> Figure:
        figure, axes = _figure(width, 430 if width == WIDE else 330, left=48, right=14, top=26, bottom=46)
        values = [y for curve in curves for _, y in (*curve.dev, *curve.train)]
        low = min([*values, *floors])
        top = max(_settled(curve) for curve in curves)
        pad = 0.06 * (top - low) or 0.1
        axes.set_ylim(low - pad, top + pad)
        axes.set_xlim(0, max(x for curve in curves for x, _ in (*curve.dev, *curve.train)) * 1.015)
        axes.yaxis.grid(visible=True)
        axes.xaxis.set_major_formatter(lambda x, _: _short(x))
        axes.locator_params(axis="x", nbins=8 if width == WIDE else 4)
        for curve in curves:
            colour = _SERIES[curve.series % NUM_COLOURS]
            if curve.train:
                x, y = zip(*_means(curve.train, max(50, 240 // len(curves))), strict=True)
                axes.plot(x, y, color=colour, alpha=0.42, linewidth=1.1, zorder=2)
            if curve.dev:
                x, y = zip(*_thinned(curve.dev, 40), strict=True)
                axes.plot(x, y, zorder=3, **_line(curve.series))
        for height in floors:
            axes.axhline(height, color=_INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                f"floor {height:.3f}", (1, height), xycoords=("axes fraction", "data"), xytext=(-2, -4),
                textcoords="offset points", ha="right", va="top", color=_INK, size=11.5,
            )  # fmt: skip
        axes.set_xlabel("positions seen in training", labelpad=5)
        axes.set_title("nats a position", loc="left", size=11.5, color=_MUTED, x=-(34 / width), pad=10)
        return figure

    return _both(name, title, draw)


def paradigm_bars(name: str, title: str, groups: Sequence[BarGroup]) -> Markup:
    """Return horizontal bars of the share of right pairs; ties stand beyond it, paler; chance is marked."""
    thickness, gap, heading = 8, 9, 30

    def draw(width: int) -> Figure:
        narrow = width == NARROW
        above = 17 if narrow else 0
        heights = [
            above + max(len(g.bars) * thickness, 0 if narrow else 13) + gap if g.bars else heading for g in groups
        ]
        total = sum(heights) + 6
        left = 8 if narrow else 340
        figure, axes = _figure(width, total + 50, left=left, right=16, top=24, bottom=26)
        axes.set_ylim(total, 0)
        axes.set_xlim(0, 1)
        quarters = (0, 0.25, 0.5, 0.75, 1)
        chance: dict[str, Any] = {"color": _INK, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 3}
        if not narrow:
            axes.vlines(quarters, 0, total, color=_GRID, linewidth=0.8, zorder=0)
            axes.vlines(0.5, 0, total, **chance)
        y = 6.0
        for group, height in zip(groups, heights, strict=True):
            if not group.bars:
                axes.text(
                    0 if narrow else -0.008, y + heading - 12, group.label, weight="bold", size=12,
                    ha="left" if narrow else "right", va="center",
                )  # fmt: skip
                y += height
                continue
            centre = y + above + len(group.bars) * thickness / 2
            if narrow:
                axes.text(0, y + 8, group.label, ha="left", va="center", size=11.5, color=_MUTED)
                ends = (y + above, y + above + len(group.bars) * thickness)  # no line through the labels between bars
                axes.vlines(quarters, *ends, color=_GRID, linewidth=0.8, zorder=0)
                axes.vlines(0.5, *ends, **chance)
            else:
                axes.text(-0.008, centre, group.label, ha="right", va="center", size=11.5, color=_MUTED)
            for i, bar in enumerate(group.bars):
                colour = _SERIES[bar.series % NUM_COLOURS]
                at = y + above + (i + 0.5) * thickness
                axes.barh(at, bar.right, height=thickness - 1.6, color=colour, zorder=2)
                if bar.ties:
                    axes.barh(at, bar.ties, left=bar.right, height=thickness - 1.6, color=colour, alpha=0.3, zorder=2)
            y += height
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0, labeltop=True)
        axes.set_xticks(quarters, [f"{100 * x:g} %" for x in quarters])
        ticks = axes.xaxis.get_major_ticks()
        for first, last in ((ticks[0].label1, ticks[-1].label1), (ticks[0].label2, ticks[-1].label2)):
            first.set_horizontalalignment("left")
            last.set_horizontalalignment("right")
        return figure

    return _both(name, title, draw)


def left_out_mass(name: str, title: str, masses: Sequence[Sequence[tuple[int, float]]]) -> Markup:
    """Return the mean mass outside the k' most probable tokens against k', both logarithmic; a line a dump."""

    def draw(width: int) -> Figure:
        figure, axes = _figure(width, 270, left=56, right=20, top=26, bottom=46)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.grid(visible=True)
        ks: set[int] = set()
        for series, line in enumerate(masses):
            x = [k for k, _ in line]
            y = [max(1 - mass, 1e-9) for _, mass in line]
            ks.update(x)
            axes.plot(x, y, **_line(series))
        axes.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.6g} %")
        axes.minorticks_off()
        axes.set_xlabel("k\u2032, most probable tokens kept", labelpad=5)
        axes.set_title("mean mass left out", loc="left", size=11.5, color=_MUTED, x=-(42 / width), pad=10)
        return figure

    return _both(name, title, draw)


def distributions(name: str, title: str, lines: Sequence[Sequence[tuple[float, float]]], *, x_label: str) -> Markup:
    """Return shares (0 to 1) against sizes, a line a series."""

    def draw(width: int) -> Figure:
        figure, axes = _figure(width, 270, left=48, right=14, top=26, bottom=46)
        axes.yaxis.grid(visible=True)
        for series, line in enumerate(lines):
            axes.plot([x for x, _ in line], [y for _, y in line], **(_line(series) | {"markersize": 3.5}))
        axes.set_xlim(0, max((x for line in lines for x, _ in line), default=0) * 1.015 + 0.5)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        axes.locator_params(axis="x", nbins=10 if width == WIDE else 5, integer=True)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel(x_label, labelpad=5)
        return figure

    return _both(name, title, draw)


def swatch(series: int) -> Markup:
    """Return the key of a series: its colour, dash and marker, for legends and tables."""
    colour = f"var(--series-{series % NUM_COLOURS})"
    dash = ("", ' stroke-dasharray="5 2"', ' stroke-dasharray="2 2"')[series // NUM_COLOURS % len(DASHES)]
    shapes = {
        "o": '<circle cx="13" cy="6" r="3.6"/>',
        "s": '<path d="M9.6 2.6h6.8v6.8h-6.8z"/>',
        "D": '<path d="M13 1.4 17.6 6 13 10.6 8.4 6z"/>',
        "^": '<path d="M13 1.8 17.2 9.4H8.8z"/>',
        "v": '<path d="M13 10.2 17.2 2.6H8.8z"/>',
        "P": '<path d="M11.6 2h2.8v2.6h2.6v2.8h-2.6V10h-2.8V7.400H9V4.600h2.600z"/>',
    }
    shape = shapes[MARKERS[series % len(MARKERS)]]
    return Markup(  # noqa: S704 - built of our own constants
        f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" style="color:{colour}">'
        f'<path d="M0 6h26" stroke="currentColor" stroke-width="2" fill="none"{dash}/>'
        f'<g fill="currentColor">{shape}</g></svg>'
    )


def _figure(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    return figure, axes


def _line(series: int) -> dict[str, Any]:
    return {
        "color": _SERIES[series % NUM_COLOURS],
        "linestyle": DASHES[series // NUM_COLOURS % len(DASHES)],
        "linewidth": 2,
        "marker": MARKERS[series % len(MARKERS)],
        "markersize": 5.5,
        "markeredgecolor": _PAPER,
        "markeredgewidth": 0.8,
    }


def _both(name: str, title: str, draw: Callable[[int], Figure]) -> Markup:
    parts = []
    for width, variant in ((WIDE, "wide"), (NARROW, "narrow")):
        with style.context(_STYLE), warnings.catch_warnings():
            # Widths are measured in DejaVu Sans; a glyph it lacks is still drawn by the reader's own fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            buffer = io.StringIO()
            draw(width).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        parts.append(_inline(buffer.getvalue(), f"{name}-{variant}", f"plot {variant}", title))
    return Markup("").join(parts)


def _inline(svg: str, prefix: str, css_class: str, title: str) -> Markup:
    """Return matplotlib's SVG document as an element: themed, with ids of its own, rid of what a page does not need."""
    view_box = re.search(r'viewBox="([^"]*)"', svg)
    if view_box is None:
        raise ValueError("matplotlib wrote an SVG document without a viewBox")
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag.group(), prefix), body)
    body = re.sub(r"\n\s*", "\n", body)
    return Markup(  # noqa: S704 - matplotlib escapes the text it is given
        f'<svg class="{css_class}" viewBox="{view_box[1]}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _tag(tag: str, prefix: str) -> str:
    tag = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, tag)
    tag = re.sub("#fe02\\d\\d|#fe01\\d\\d", lambda match: _VARIABLES[match.group()], tag)
    tag = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r'^<g id="[^"]*">', "<g>", tag)
    tag = tag.replace(' id="', f' id="{prefix}-')
    return re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', tag).replace("url(#", f"url(#{prefix}-")


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


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
