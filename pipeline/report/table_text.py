r"""Write the report's tables as text for papers and programs: Markdown, LaTeX or CSV.

    markdown    GitHub's tables, each under a heading. The header of a table is one line, in which the name of a column
                includes the name of its group of columns.
    latex       One table environment per table, with booktabs' rules. The names of groups form a line above the header.
    csv         One table for everything, with the columns table, row_number, row, column and value.

On the page, a cell can have a mark, a bar and a note. Here marks and bars are left out, the note follows in
parentheses, and white space becomes single spaces. In CSV a cell without a value is empty. All other contents are as on
the page, thousands separators included.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pipeline.corpus.text.table_forms import as_cell
from pipeline.corpus.text.text_files import normalise_text
from pipeline.report.page_blocks import TitledTable
from pipeline.report.tables import NOTHING, Table

Form = Literal["markdown", "latex", "csv"]
CSV_COLUMNS: Final = ("table", "row_number", "row", "column", "value")
"""The columns of the CSV. Each line holds one cell of one of the tables. ``table`` is the title of the table,
and ``row_number`` counts its rows from 1. ``row`` is the first cell of the cell's row. First cells get no line of their
own. ``column`` is the name of the cell's column, with the name of its group of columns before it. ``value`` is the
cell."""

_FIGURE: Final = re.compile(r"[-+\u2212\u00b1]?[0-9].*")
_MARKDOWN: Final = re.compile(r"[\\`*_\[\]<>|~&$#]")
_MARKDOWN_BLOCK: Final = re.compile(r"^([0-9]*)([-+.)=])")
"""Matches the beginning of a line that Markdown would read as a list or a horizontal line."""
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
"""Characters that LaTeX interprets, or for which its text fonts have no glyph."""
_LATEX_SPECIAL: Final = re.compile("|".join([*map(re.escape, _LATEX), "-(?=-)", ",(?=,)"]))
"""Matches the keys of ``_LATEX``, and the first of two characters that T1 fonts join into one, such as ``--``."""
_PREAMBLE: Final = r"% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs}; LaTeX of 2020 or later."
_IN_T1_FONTS: Final = re.compile(
    "[\n -~\u00a1-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e"
    "\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026]"
)
"""Characters that pdfLaTeX prints in T1 fonts: European Latin letters and punctuation. Tested with TeX Live 2022."""


def render_tables(tables: Sequence[TitledTable], form: Form) -> str:
    """Return tables as text. The same tables give the same text.

    Raises:
        ValueError: If a row and its header differ in length, or groups do not cover the header.
    """
    for titled in tables:
        table = titled.table
        if any(len(row) != len(table.header) for row in table.rows):
            lengths = sorted({len(row) for row in table.rows})
            raise ValueError(f"{titled.title}: rows have {lengths} cells, expected {len(table.header)}")
        if table.groups and sum(width for _, width in table.groups) != len(table.header):
            raise ValueError(f"{titled.title}: groups {table.groups} over {len(table.header)} columns")
    return {"markdown": _markdown, "latex": _latex, "csv": _csv}[form](tables)


def _rows(table: Table) -> list[list[str]]:
    return [[normalise_text(str(cell)) for cell in row] for row in table.rows]


def _column_names(table: Table) -> list[str]:
    """Return the header, with each group's name before the names of its columns."""
    groups = [label for label, width in table.groups for _ in range(width)] or [""] * len(table.header)
    pairs = zip(map(normalise_text, groups), map(normalise_text, table.header), strict=True)
    return [f"{group}: {name}" if group else name for group, name in pairs]


def _are_figures(table: Table) -> list[bool]:
    """Return for each column whether all its cells are numbers. The first column counts as text."""
    rows = _rows(table)
    return [
        i > 0 and all(row[i] in {"", NOTHING} or _FIGURE.fullmatch(row[i]) for row in rows)
        for i in range(len(table.header))
    ]


def _markdown(tables: Sequence[TitledTable]) -> str:
    parts = []
    for titled in tables:
        parts.append(f"### {_markdown_text(titled.title)}")
        if note := _markdown_text(titled.note):
            parts.append(_MARKDOWN_BLOCK.sub(r"\1\\\2", note))
        rule = ["---:" if figures else "---" for figures in _are_figures(titled.table)]
        header, *rows = (map(_markdown_text, row) for row in (_column_names(titled.table), *_rows(titled.table)))
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))
    return "\n\n".join(parts) + "\n"


def _markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", normalise_text(text))


def _latex(tables: Sequence[TitledTable]) -> str:
    text = "\n".join(map(_latex_table, tables))
    head = _PREAMBLE + "\n"
    if others := sorted(set(_IN_T1_FONTS.sub("", text))):
        head += f"% Compile with LuaLaTeX or XeLaTeX and a font that has {' '.join(others)}\n"
    return head + text


def _latex_table(titled: TitledTable) -> str:
    table = titled.table
    caption = f"{titled.title.rstrip('.')}. {titled.note}" if titled.note else titled.title
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
        rf"  \begin{{tabular}}{{{''.join('r' if figures else 'l' for figures in _are_figures(table))}}}",
        r"    \toprule",
        *([rf"    {' & '.join(groups)} \\", f"    {' '.join(rules)}"] if rules else []),
        _latex_row(table.header),
        r"    \midrule",
        *map(_latex_row, _rows(table)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(map(_latex_text, cells))} \\"


def _latex_text(text: str) -> str:
    return _LATEX_SPECIAL.sub(lambda found: _LATEX.get(found[0], found[0] + "{}"), normalise_text(text))


def _csv(tables: Sequence[TitledTable]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for titled in tables:
        title, names = normalise_text(titled.title), _column_names(titled.table)
        for number, (first, *cells) in enumerate(_rows(titled.table), 1):
            for name, cell in zip(names[1:], cells, strict=True):
                texts = (as_cell(text) for text in (first, name, "" if cell == NOTHING else cell))
                writer.writerow((as_cell(title), number, *texts))
    return file.getvalue()
