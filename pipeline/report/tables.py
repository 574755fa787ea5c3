"""Hold the tables of the report as data: cells are text, or a number with its format, and may carry a note.

``page.html.j2`` and ``table_text`` render the same objects, so the page and the tables for papers show the same digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.evaluation.intervals_and_p_values import Interval

NOTHING = "\u2013"
"""The text of a cell without a value."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it is written."""

    value: float | None
    """None is written as ``NOTHING``."""
    form: str
    """Format specification, such as ``,.3f``."""

    def __str__(self) -> str:
        """Return the number as it is written in every format."""
        return NOTHING if self.value is None else format(self.value, self.form)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that can have a note, a mark and a bar besides its content."""

    content: str | Number
    note: str = ""
    """Small print: under the content on the page, in parentheses elsewhere."""
    series: int | None = None
    """Number of the data series whose mark comes before the content. Only the page draws the mark."""
    bar: float | None = None
    """Length of a bar before the content, from 0 to 1. Only the page draws the bar."""

    def __str__(self) -> str:
        """Return the content and the note as one text."""
        return f"{self.content} ({self.note})" if self.note else str(self.content)


AnyCell = str | Number | Cell
Cells = list[AnyCell]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[AnyCell]]
    groups: Sequence[tuple[str, int]] = field(default_factory=tuple)
    """For each group of columns: its label and its number of columns. The labels form a line above the header. Without
    groups, there is no such line."""


def perplexity(figure: float | None) -> Number:
    """Return a perplexity. Depending on its size, it is written like ``13.98``, ``1,398`` or ``1.40e+07``."""
    return Number(figure, ",.2f" if figure is None or figure < 1000 else ",.0f" if figure < 1e7 else ".2e")


def percent(share: float | None) -> Number:
    """Return a share from 0 to 1 in percent, with one decimal."""
    return Number(None if share is None else 100 * share, ".1f")


def interval(found: Interval | None) -> str:
    """Return an interval in percent, with one decimal. Its limits are shares: 0.55 is written as ``55.0``."""
    return NOTHING if found is None else f"{100 * found.low:.1f}\u2013{100 * found.high:.1f}"


def size(num_bytes: float) -> str:
    """Return a size in a readable unit, with the number of bytes in parentheses."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name} ({num_bytes:,.0f} bytes)"
    return f"{num_bytes:,.0f} bytes"


def duration(seconds: float | None) -> str:
    """Return a time in hours and minutes, minutes and seconds, or seconds."""
    if seconds is None:
        return NOTHING
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s" if m else f"{s} s"


def plural(count: int, noun: str) -> str:
    """Return ``1 pair``, ``2 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
