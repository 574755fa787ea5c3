"""Read ``RUN/metrics.jsonl``, the rows of metrics of a training. This module imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from storage.errors import RunError
from storage.json_files import Count, convert, decode, read_bytes

Row: TypeAlias = dict[str, int | float | str | None]
"""A row: its ``split`` and ``step``, and metrics by name. A metric that was not finite is None."""

METRICS: Final = "metrics.jsonl"
GAP: Final = "gap"
"""If rows are missing from the file when a training continues, the training writes a row that says so. The ``split`` of
this row is ``gap``, and its metric ``missing_rows`` is the number of missing rows."""
_REMEDY: Final = "remove the line"
_MAX_BYTES: Final = 1 << 30
_NOT_FINITE: Final = re.compile(rb'": ?(NaN|-?Infinity)(?=[,}])')
"""Values that older versions wrote when a training diverged. They are not JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    split: str
    step: Count


def read_rows(run: Path) -> tuple[list[Row], bool]:
    """Return the rows of a run in order, and whether the last line is incomplete, as a killed process leaves it.

    Raises:
        RunError: If the run has no ``metrics.jsonl``, or a complete line is damaged. The error names the line.
    """
    lines = content(run).split(b"\n")
    where = run / METRICS
    rows = [parse_row(line, f"{where}:{number}") for number, line in enumerate(lines[:-1], start=1) if line.strip()]
    return rows, bool(lines[-1])


def content(run: Path) -> bytes:
    """Return the bytes of a run's ``metrics.jsonl``.

    Raises:
        RunError: If the file cannot be read.
    """
    return read_bytes(run / METRICS, remedy="make it readable", error=RunError, max_bytes=_MAX_BYTES)


def parse_row(line: bytes, where: str) -> Row:
    """Return the row that a line holds.

    Raises:
        RunError: If the line is not a row.
    """
    row = decode(_NOT_FINITE.sub(b'": null', line), Row, where=where, remedy=_REMEDY, error=RunError)
    convert(row, _Place, where=where, remedy=_REMEDY, error=RunError)
    return row
