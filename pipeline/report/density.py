"""A panel of the density of points, as SVG written by hand: a path a level of counts instead of a mark a point.

A panel of any number of points is some kilobytes. Levels are shades of one colour, by the logarithm of the count; the
page's theme gives the colour.
"""

from typing import Final

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

LEVELS: Final = ("1\u20132", "3\u20139", "10\u201331", "32\u201399", "100\u2013315", "316 and more tokens a cell")
"""Counts of each shade, half a power of ten wide."""
_FLOORS: Final = np.array([1, 3, 10, 32, 100, 316])
_OPACITY: Final = (0.13, 0.26, 0.42, 0.6, 0.8, 1.0)
MAX_BITS: Final = 20
"""Where the axes end; what is beyond is in the outermost cells."""
CELLS: Final = 40
"""Along each axis: half a bit each."""
_CELL: Final = 6
_LEFT, _TOP, _BOTTOM = 34, 22, 36


def density_panel(name: str, title: str, across: NDArray[np.float64], up: NDArray[np.float64]) -> Markup:
    """Return a panel of points ``[N]``, in bits, with the diagonal on which both are equal.

    Args:
        name: Of its title element, for those who cannot see it.
        title: What is up; written over the panel.
        across: At least 0.
        up: At least 0.
    """
    edges = np.linspace(0, MAX_BITS, CELLS + 1)
    last = np.nextafter(MAX_BITS, 0)
    counts, _, _ = np.histogram2d(across.clip(0, last), up.clip(0, last), bins=(edges, edges))
    levels = np.searchsorted(_FLOORS, counts, side="right") - 1  # -1: no point
    size = CELLS * _CELL
    shades = "".join(
        f'<path fill-opacity="{opacity}" d="{_cells(levels == level)}"/>'
        for level, opacity in enumerate(_OPACITY)
        if (levels == level).any()
    )
    ticks = range(0, MAX_BITS + 1, 5)
    grid = "".join(f"M{_x(t)} 0V{size}M0 {_x(t)}H{size}" for t in ticks)
    labels = "".join(
        f'<text x="{_x(t)}" y="{size + 15}" text-anchor="middle">{t}</text>'
        f'<text x="-6" y="{size - _x(t) + 4}" text-anchor="end">{t}</text>'
        for t in ticks
    )
    return Markup(  # noqa: S704 - built of numbers, and of text that is escaped here
        f'<svg class="panel" viewBox="{-_LEFT} {-_TOP} {size + _LEFT + 12} {size + _TOP + _BOTTOM}" role="img" '
        f'aria-labelledby="{escape(name)}"><title id="{escape(name)}">Density of surprisals: {escape(title)}</title>'
        f'<path class="grid" d="{grid}"/><g class="cells">{shades}</g>'
        f'<path class="diagonal" d="M0 {size}L{size} 0"/><g class="ticks">{labels}'
        f'<text x="{size / 2:g}" y="{size + 31}" text-anchor="middle">teacher, bits</text></g>'
        f'<text class="name" x="0" y="-8">{escape(title)}, bits</text></svg>'
    )


def level_swatch(level: int) -> Markup:
    """Return the key of a shade."""
    return Markup(  # noqa: S704 - our own constants
        f'<svg class="shade" viewBox="0 0 12 12" aria-hidden="true"><path class="cells" d="M0 0h12v12H0z" '
        f'fill-opacity="{_OPACITY[level]}"/></svg>'
    )


def _cells(which: NDArray[np.bool_]) -> str:
    """Return the cells as one path: neighbours across are one rectangle."""
    found = []
    for row in range(CELLS):
        padded = np.concatenate([[0], which[:, row].astype(np.int8), [0]])
        starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
        y = (CELLS - 1 - row) * _CELL
        found += [
            f"M{start * _CELL} {y}h{(stop - start) * _CELL}v{_CELL}h-{(stop - start) * _CELL}z"
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
    return "".join(found)


def _x(bits: float) -> int:
    return round(bits * CELLS * _CELL / MAX_BITS)
