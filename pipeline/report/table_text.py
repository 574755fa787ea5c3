r"""Tables of the report as text for papers: Markdown, LaTeX or CSV.

    markdown    tables as GitHub shows them, each under a heading; one line of header, names of groups put before it
    latex       a table environment each, with booktabs' rules; the groups stand over the header
    csv         one table of all: table, row_number, row, column, value; read it with one call, pivot it as needed

Cells become what a reader of the page sees of them: keys of series are left out, small print stands in parentheses,
white space is single spaces. In CSV a cell without a figure is empty; all others stay as they are written on the page,
thousands separators too.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final, Literal

from markupsafe import Markup

from pipeline.corpus.text.text_files import normalise_text
from pipeline.report.tables import NOTHING, Cell, Table

Form = Literal["markdown", "latex", "csv"]
CSV_COLUMNS: Final = ("table", "row_number", "row", "column", "value")
"""Title of the table; number of the row in it, from 1, for rows may share a name; its first cell; name of another
column, its group before it; the cell there."""

_FIGURE: Final = re.compile(r"[-+\u2212\u00b1]?[0-9].*")
_MARKDOWN: Final = re.compile(r"[\\`*_\[\]<>|~&$#]")
_MARKDOWN_BLOCK: Final = re.compile(r"^([0-9]*)([-+.)=])")
"""What makes a list or a rule of a line that begins with it."""
_LATEX: Final[Mapping[str, str]] = {
    **{character: "\\" + character for character in "{}$&#%_"},
    # A bracket or star at the beginning of a row would be read as an option of the command before it.
    **{character: f"{{{character}}}" for character in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "\u2212": r"\ensuremath{-}",
    "\u2032": r"\ensuremath{'}",
    "\u0394": r"\ensuremath{\Delta}",
    **{
        greek: rf"\ensuremath{{\{name}}}"
        for greek, name in zip(
            "\u03b1\u03b2\u03b3\u03bb\u03c3\u03c4\u2264\u2265",
            ("alpha", "beta", "gamma", "lambda", "sigma", "tau", "leq", "geq"),
            strict=True,
        )
    },
}
"""Characters that LaTeX reads as something else, or has no glyph for in its text fonts."""
_LATEX_SPECIAL: Final = re.compile("|".join([*map(re.escape, _LATEX), "-(?=-)", ",(?=,)"]))
"""Also the first of two characters that T1 fonts join into one."""
_PREAMBLE: Final = r"% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs}; LaTeX of 2020 or later."
_SET_UP: Final = re.compile(
    "[\n -~\u00a1-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e"
    "\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026]"
)
"""What pdfLaTeX prints in T1 fonts: Latin letters of Europe, marks of text; tried with TeX Live 2022."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TitledTable:
    """A table of the report, and what stands over it."""

    title: Cell
    table: Table
    note: Cell = ""
    """What its figures are, in a sentence or more; empty where the title says it."""


def render_tables(tables: Sequence[TitledTable], form: Form) -> str:
    """Return tables as text in one of the forms; the same tables give the same text.

    Raises:
        ValueError: If a row is not as long as its header, or groups do not cover the header.
    """
    plain = [_plain_table(table) for table in tables]
    renderers: Mapping[Form, Callable[[Sequence[_PlainTable]], str]] = {
        "markdown": _markdown,
        "latex": _latex,
        "csv": _csv,
    }
    return renderers[form](plain)


def plain_text(cell: Cell) -> str:
    """Return what a reader sees of a cell: no drawings, ``<small>`` in parentheses, normalised."""
    if not isinstance(cell, Markup):
        return normalise_text(cell)
    reader = _TextOfMarkup()
    reader.feed(cell)
    reader.close()
    return normalise_text("".join(reader.parts))


class _TextOfMarkup(HTMLParser):
    """Collects the text of markup."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._in_drawing = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - of the library
        if tag == "svg":
            self._in_drawing = True
        elif tag == "small":
            self.parts.append(" (")
        elif tag == "br":
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg":
            self._in_drawing = False
        elif tag == "small":
            self.parts.append(")")

    def handle_data(self, data: str) -> None:
        if not self._in_drawing:
            self.parts.append(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class _PlainTable:
    """A table whose cells are plain text."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    groups: list[tuple[str, int]]

    def column_names(self) -> list[str]:
        """Return the header, each name after that of its group."""
        groups = [label for label, width in self.groups for _ in range(width)] or [""] * len(self.header)
        return [f"{group}: {name}" if group else name for group, name in zip(groups, self.header, strict=True)]

    def is_figures(self) -> list[bool]:
        """Return of each column but the first whether it holds figures alone, False for the first."""
        return [
            i > 0 and all(row[i] in {"", NOTHING} or _FIGURE.fullmatch(row[i]) for row in self.rows)
            for i in range(len(self.header))
        ]


def _plain_table(titled: TitledTable) -> _PlainTable:
    table = titled.table
    if any(len(row) != len(table.header) for row in table.rows):
        raise ValueError(f"{titled.title}: rows of {sorted({len(row) for row in table.rows})}, not {len(table.header)}")
    if table.groups and sum(width for _, width in table.groups) != len(table.header):
        raise ValueError(f"{titled.title}: groups {table.groups} over {len(table.header)} columns")
    return _PlainTable(
        title=plain_text(titled.title),
        note=plain_text(titled.note),
        header=[plain_text(name) for name in table.header],
        rows=[[plain_text(cell) for cell in row] for row in table.rows],
        groups=[(plain_text(label), width) for label, width in table.groups],
    )


def _markdown(tables: Sequence[_PlainTable]) -> str:
    parts = []
    for table in tables:
        parts.append(f"### {_markdown_text(table.title)}")
        if table.note:
            parts.append(_MARKDOWN_BLOCK.sub(r"\1\\\2", _markdown_text(table.note)))
        header, *rows = ([_markdown_text(cell) for cell in row] for row in (table.column_names(), *table.rows))
        rule = ["---:" if figures else "---" for figures in table.is_figures()]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))
    return "\n\n".join(parts) + "\n"


def _markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _latex(tables: Sequence[_PlainTable]) -> str:
    text = "\n".join(_latex_table(table) for table in tables)
    head = _PREAMBLE + "\n"
    if others := sorted(set(_SET_UP.sub("", text))):
        head += f"% Compile with LuaLaTeX or XeLaTeX and a font that has {' '.join(others)}\n"
    return head + text


def _latex_table(table: _PlainTable) -> str:
    caption = f"{table.title.rstrip('.')}. {table.note}" if table.note else table.title
    groups, rules, column = [], [], 1
    for label, width in table.groups:
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex_text(label)}}}" if label else " & ".join([""] * width))
        if label:
            rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex_text(caption)}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if figures else 'l' for figures in table.is_figures())}}}",
        r"    \toprule",
        *([rf"    {' & '.join(groups)} \\", f"    {' '.join(rules)}"] if rules else []),
        _latex_row(table.header),
        r"    \midrule",
        *map(_latex_row, table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(map(_latex_text, cells))} \\"


def _latex_text(text: str) -> str:
    return _LATEX_SPECIAL.sub(lambda found: _LATEX.get(found[0], found[0] + "{}"), text)


def _csv(tables: Sequence[_PlainTable]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        names = table.column_names()
        for number, (first, *cells) in enumerate(table.rows, 1):
            for name, cell in zip(names[1:], cells, strict=True):
                writer.writerow((table.title, number, first, name, "" if cell == NOTHING else cell))
    return file.getvalue()
