"""Every cell of a table can be read back from each format for papers."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.text.table_forms import text_of_cell
from pipeline.corpus.text.text_files import normalise_text
from pipeline.report.page_blocks import TitledTable
from pipeline.report.table_text import CSV_COLUMNS, render_tables
from pipeline.report.tables import NOTHING, Cell, Number, Table

TABLE = TitledTable(
    title="Students & teachers",
    note="100 % is all right.",
    table=Table(
        header=["run", "per token", "right, %"],
        groups=[("", 1), ("dev perplexity", 1), ("pairs, BLiMP", 1)],
        rows=[
            [Cell("a_1", note="dump, \u03b1\u00a00.7", series=0), Number(61.25, ".2f"), Number(74.1, ".1f")],
            [Cell("b|<2>", series=7), Number(1204, ",.0f"), Number(None, ".1f")],
        ],
    ),
)
MACROS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"', "textquotesingle": "'", "textasciigrave": "`",
}  # fmt: skip
MATHEMATICS = {
    "-": "\u2212", "'": "\u2032", r"\Delta": "\u0394", r"\alpha": "\u03b1", r"\beta": "\u03b2", r"\gamma": "\u03b3",
    r"\lambda": "\u03bb", r"\sigma": "\u03c3", r"\tau": "\u03c4", r"\leq": "\u2264", r"\geq": "\u2265",
}  # fmt: skip
CELLS = st.one_of(
    st.text(max_size=8),
    st.text("ab-,*[]\\|~`'\"&<$#%_^{}1. \u03b1\u2212", max_size=8),
    st.sampled_from(["a--b", ",,,", "[a]"]),
)


@st.composite
def tables(draw: st.DrawFn) -> TitledTable:
    width = draw(st.integers(1, 4))
    row = st.lists(CELLS, min_size=width, max_size=width)
    first = draw(st.integers(0, width))
    groups = [group for group in ((draw(CELLS), first), (draw(CELLS), width - first)) if group[1]]
    table = Table(header=draw(row), rows=draw(st.lists(row, max_size=3)), groups=draw(st.sampled_from([groups, ()])))
    return TitledTable(title=draw(CELLS), note=draw(CELLS), table=table)


def normalised(table: Table) -> list[list[str]]:
    return [[normalise_text(cell) for cell in row] for row in table.rows]


def cells_of_markdown(line: str) -> list[str]:
    """Return cells by GitHub's rules: bars separate them, and a backslash before punctuation is dropped."""
    cells = re.findall(r"(?:\\.|[^\\|])+", line)
    assert not re.search(r"(?<!\\)[`*_\[\]<>~&$#]", re.sub(r"\\\\", "", line)), "read as markup"
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)[1:-1] for cell in cells]


def text_of_latex(source: str) -> str:
    """Return what pdflatex prints. A character that pdflatex would interpret is an error."""
    assert not re.search("--|,,", source), "one character in T1 fonts"
    text = ""
    while source:
        if found := re.match(r"\\([a-z]{4,})\{\}", source):
            text += MACROS[found[1]]
        elif found := re.match(r"\\ensuremath\{(.+?)\}", source):
            text += MATHEMATICS[found[1]]
        elif found := re.match(r"\\([{}$&#%_])|\{([\[\]*])\}|([-,])\{\}", source):
            text += found[1] or found[2] or found[3]
        else:
            found = re.match(r"[^\\{}$&#%_^~\[\]*<>|\"'`]", source)
            assert found, source
            assert found[0] not in MATHEMATICS.values(), source
            text += found[0]
        source = source[found.end() :]
    return text


def cells_of_latex(row: str) -> list[str]:
    assert re.fullmatch(r"    (?![\[*]).* \\\\", row), "an option of the row before"
    return [text_of_latex(cell.strip()) for cell in re.split(r"(?<!\\)&", row[4:-3])]


@given(tables())
def test_every_cell_can_be_read_back_from_markdown(titled: TitledTable) -> None:
    lines = render_tables([titled], "markdown").split("\n")
    assert cells_of_markdown(lines[0].removeprefix("###") + " ") == [normalise_text(titled.title)]
    header, rule, *rows = lines[-len(titled.table.rows) - 3 : -1]
    assert re.fullmatch(r"\|( -+:? \|)+", rule)
    assert len(cells_of_markdown(header)) == len(titled.table.header)
    assert [cells_of_markdown(row) for row in rows] == normalised(titled.table)


@given(tables())
def test_every_cell_can_be_read_back_from_latex(titled: TitledTable) -> None:
    lines = render_tables([titled], "latex").split("\n")
    first, last = lines.index(r"    \midrule"), lines.index(r"    \bottomrule")
    assert cells_of_latex(lines[first - 1]) == [normalise_text(name) for name in titled.table.header]
    assert [cells_of_latex(row) for row in lines[first + 1 : last]] == normalised(titled.table)


@given(st.lists(tables(), max_size=3))
def test_csv_is_one_table_with_all_cells(titled: list[TitledTable]) -> None:
    header, *rows = csv.reader(io.StringIO(render_tables(titled, "csv"), newline=""))
    assert tuple(header) == CSV_COLUMNS
    expected = [
        [normalise_text(each.title), str(number), row[0], cell if cell != NOTHING else ""]
        for each in titled
        for number, row in enumerate(normalised(each.table), 1)
        for cell in row[1:]
    ]
    texts = [list(map(text_of_cell, cells)) for cells in rows]
    assert [[title, number, row, cell] for title, number, row, _, cell in texts] == expected


def test_markdown_is_a_github_table() -> None:
    assert render_tables([TABLE, TABLE], "markdown") == f"{MARKDOWN}\n\n{MARKDOWN}\n"


MARKDOWN = r"""### Students \& teachers

100 % is all right.

| run | dev perplexity: per token | pairs, BLiMP: right, % |
| --- | ---: | ---: |
| a\_1 (dump, ALPHA 0.7) | 61.25 | 74.1 |
| b\|\<2\> | 1,204 | NOTHING |""".replace("ALPHA", "\u03b1").replace("NOTHING", NOTHING)


def test_latex_is_a_table_with_the_rules_of_booktabs() -> None:
    table = TitledTable(title="Made-up runs", table=TABLE.table)
    assert render_tables([TABLE], "latex") == LATEX
    assert r"\caption{Made-up runs}" in render_tables([table], "latex")
    wide = Table(header=["run", "a", "b", "c"], rows=[], groups=[("", 1), ("of two", 2), ("of one", 1)])
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in render_tables([TitledTable(title="wide", table=wide)], "latex")
    odd = TitledTable(title="\u4e2d", table=Table(header=["run"], rows=[]))
    assert "\n% Compile with LuaLaTeX or XeLaTeX and a font that has \u4e2d\n" in render_tables([odd], "latex")


LATEX = r"""% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs}; LaTeX of 2020 or later.
\begin{table}
  \centering
  \caption{Students \& teachers. 100 \% is all right.}
  \begin{tabular}{lrr}
    \toprule
     & \multicolumn{1}{c}{dev perplexity} & \multicolumn{1}{c}{pairs, BLiMP} \\
    \cmidrule(lr){2-2} \cmidrule(lr){3-3}
    run & per token & right, \% \\
    \midrule
    a\_1 (dump, \ensuremath{\alpha} 0.7) & 61.25 & 74.1 \\
    b\textbar{}\textless{}2\textgreater{} & 1,204 & NOTHING \\
    \bottomrule
  \end{tabular}
\end{table}
""".replace("NOTHING", NOTHING)


def test_csv_leaves_cells_without_a_figure_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(render_tables([TABLE], "csv"))))
    assert [row["column"] for row in rows] == ["dev perplexity: per token", "pairs, BLiMP: right, %"] * 2
    assert [row["value"] for row in rows] == ["61.25", "74.1", "1,204", ""]
    assert rows[0]["row"] == "a_1 (dump, \u03b1 0.7)"


@pytest.mark.parametrize(
    ("note", "written"),
    [
        ("- a", r"\- a"),
        ("12. a", r"12\. a"),
        ("---", r"\---"),
        ("# a", r"\# a"),
        ("0.5 a", r"0\.5 a"),
        ("a - b", "a - b"),
    ],
)
def test_a_note_is_a_paragraph_whatever_its_first_characters(note: str, written: str) -> None:
    table = TitledTable(title="a", note=note, table=Table(header=["run"], rows=[]))
    assert render_tables([table], "markdown").split("\n\n")[1] == written


def test_a_note_follows_its_cell_in_parentheses_and_marks_are_left_out() -> None:
    table = Table(header=["run"], rows=[[Cell("a  <i>", note="b, c", series=3)], [Cell(Number(0.5, ".1f"), bar=0.5)]])
    rows = render_tables([TitledTable(title="a", table=table)], "markdown").splitlines()[-2:]
    assert rows == [r"| a \<i\> (b, c) |", "| 0.5 |"]


def test_rows_and_groups_that_do_not_fit_the_header_are_refused() -> None:
    for table in (Table(header=["a"], rows=[["1", "2"]]), Table(header=["a"], rows=[], groups=[("b", 2)])):
        with pytest.raises(ValueError, match="title: "):
            render_tables([TitledTable(title="title", table=table)], "csv")
