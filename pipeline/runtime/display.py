"""Show log lines and summaries on a terminal, as aligned text."""

import logging
import sys
from collections.abc import Mapping, Sequence

from pipeline.runtime.terminal import visible, visible_line

OUR_LOGGERS = ("pipeline", "storage", "student", "teacher")


def configure_logging() -> None:
    """Send log lines to standard error without prefixes: our lines from INFO on, lines of libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    set_log_level(logging.INFO)


def set_log_level(level: int) -> None:
    """Set the level from which our own log lines are shown."""
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level)


class _Visible(logging.Formatter):
    r"""Escapes characters that could steer the terminal. For example, the character ESC becomes the text ``\x1b``.

    In the messages of this program, tabs and line ends are shown as ``\t`` and ``\n``, so each message is one line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        is_ours = record.name.partition(".")[0] in OUR_LOGGERS
        return (visible_line if is_ours else visible)(super().formatMessage(record))


def as_text(summary: Mapping[str, object], *, indent: str = "") -> str:
    """Return a JSON-like summary as lines of ``name  value``. Nested summaries are indented."""
    summary = {visible_line(name): value for name, value in summary.items()}
    plain = {name: value for name, value in summary.items() if not isinstance(value, Mapping) or not value}
    width = max((len(name) for name in plain), default=0)
    lines = []
    for name, value in summary.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}", as_text(value, indent=indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{width}}  {_value(value)}")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[object]], *, header: Sequence[str]) -> str:
    """Return rows as aligned columns. Columns of numbers are aligned to the right."""
    cells = [[*map(visible_line, header)], *([_value(cell) for cell in row] for row in rows)]
    columns = range(len(header))
    widths = [max(len(row[column]) for row in cells) for column in columns]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in columns]
    lines = [
        "  ".join(row[c].rjust(widths[c]) if numeric[c] else row[c].ljust(widths[c]) for c in columns) for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def size(num_bytes: float) -> str:
    """Return a number of bytes in a suitable decimal unit: ``31.4 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 1000 else f"{num_bytes:,.0f} TB"


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10 or abs(value) >= 1e7 else f"{value:,.2f}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return visible_line(str(value))
