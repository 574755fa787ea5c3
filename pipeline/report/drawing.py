"""Turn matplotlib drawings into small inline SVG in the page's theme.

matplotlib has no CSS variables, so figures are drawn in place-holder colours, which are then replaced by CSS variables.
The page defines these variables for light and for dark screens. Text stays text, in the page's font. Each figure is
drawn twice, wide and narrow, and the page shows the drawing that fits. The same data give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUM_COLOURS = 6
"""Number of colours, ``--series-0`` and so on in ``page.css``. Further series repeat these colours with other
dashes."""
WIDE, NARROW = 1016, 350
"""Widths of the two drawings, in CSS pixels."""
TALL = 1200
"""Height in CSS pixels. A figure taller than this is printed over several pages."""

# Place-holders for the colours of the page.
INK, MUTED, GRID, PAPER = "#fe0201", "#fe0202", "#fe0203", "#fe0204"
SERIES = [f"#fe01{i:02x}" for i in range(NUM_COLOURS)]
_VARIABLES = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--rule)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)
}
MARKERS = "osD^vPX"
"""One more marker than colours, so that a repeated colour has a different marker."""
DASHES: Sequence[str | tuple[float, tuple[float, ...]]] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))

_STYLE: list[str | Path | dict[str, Any]] = [
    "default",
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "rnng-distill",
        "text.parse_math": False,
        "font.size": 12,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "grid.color": GRID,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    },
]


def swatch(series: int) -> Markup:
    """Return the mark of a series for keys and tables: its colour, dash and marker."""
    colour = f"var(--series-{series % NUM_COLOURS})"
    dash = ("", ' stroke-dasharray="5 2"', ' stroke-dasharray="2 2"')[series // NUM_COLOURS % len(DASHES)]
    shapes = {
        "o": '<circle cx="13" cy="6" r="3.6"/>',
        "s": '<path d="M9.6 2.6h6.8v6.8h-6.8z"/>',
        "D": '<path d="M13 1.4 17.6 6 13 10.6 8.4 6z"/>',
        "^": '<path d="M13 1.8 17.2 9.4H8.8z"/>',
        "v": '<path d="M13 10.2 17.2 2.6H8.8z"/>',
        "X": '<path d="M9.4 4 11 2.4l2 2 2-2L16.6 4l-2 2 2 2L15 9.6l-2-2-2 2L9.4 8l2-2z"/>',
        "P": '<path d="M11.6 2h2.8v2.6h2.6v2.8h-2.6V10h-2.8V7.400H9V4.600h2.600z"/>',
    }
    shape = shapes[MARKERS[series % len(MARKERS)]]
    return Markup(  # noqa: S704 - built of our own constants
        f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" style="color:{colour}">'
        f'<path d="M0 6h26" stroke="currentColor" stroke-width="2" fill="none"{dash}/>'
        f'<g fill="currentColor">{shape}</g></svg>'
    )


def new_figure(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """Return a figure and its axes. Call this function only inside ``drawn``, which sets the style.

    All arguments are in CSS pixels: the size of the figure and the four margins around the axes.
    """
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    return figure, axes


def margin(labels: Iterable[str], *, most: int) -> int:
    """Return the width of a margin for labels: what the longest label needs, in CSS pixels, but at most ``most``."""
    return min(most, 30 + max(int(7.3 * len(label)) for label in labels))


def colour_of(series: int) -> str:
    """Return the place-holder for the colour of a series."""
    return SERIES[series % NUM_COLOURS]


def line_style(series: int) -> dict[str, Any]:
    """Return the colour, dash and marker of a series as options of ``Axes.plot``."""
    return {
        "color": colour_of(series),
        "linestyle": DASHES[series // NUM_COLOURS % len(DASHES)],
        "linewidth": 2,
        "marker": MARKERS[series % len(MARKERS)],
        "markersize": 5.5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.8,
    }


def drawn(name: str, title: str, draw: Callable[[int], Figure]) -> Markup:
    """Return the wide and the narrow drawing as elements of the page.

    Args:
        name: Beginning of all ids in the drawings.
        title: Description for readers who cannot see the figure.
        draw: Draws the figure for a width in CSS pixels.
    """
    parts = []
    for width, variant in ((WIDE, "wide"), (NARROW, "narrow")):
        with style.context(_STYLE), warnings.catch_warnings():
            # matplotlib measures text in DejaVu Sans. The reader sees another font, which may have the missing glyphs.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            buffer = io.StringIO()
            draw(width).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        parts.append(_inline(buffer.getvalue(), f"{name}-{variant}", f"plot {variant}", title))
    return Markup("").join(parts)


def _inline(svg: str, prefix: str, css_class: str, title: str) -> Markup:
    """Return matplotlib's SVG document as an element of the page, with theme colours and unique ids."""
    view_box = re.search(r'viewBox="([^"]*)"', svg)
    if view_box is None:
        raise ValueError("matplotlib wrote an SVG document without a viewBox")
    tall = " tall" if float(view_box[1].split()[3]) > TALL else ""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag.group(), prefix), body)
    body = re.sub(r"\n\s*", "\n", body)
    return Markup(  # noqa: S704 - matplotlib escapes the text it is given
        f'<svg class="{css_class}{tall}" viewBox="{view_box[1]}" role="img" aria-label="{escape(title)}">{body}</svg>'
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
