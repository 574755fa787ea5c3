"""Recognise tables: rows of cells with tabs, commas, semicolons or vertical bars between them, as in CSV and TSV.

Prose has commas too. So lines with commas or semicolons must have equal numbers of cells and also look like a table:
they need a header or a column of numbers, or both if there are spaces next to the delimiters. For lines with tabs or
vertical bars, three rows with the same number of cells are enough. But lines that have an indent or a speaker before
the tab are text. Rows that begin with consecutive numbers, such as 1, 2 and 3, are a table even if some rows have more
cells than others. For example, ``2,Yes, I do`` has three cells instead of two if the quotes around ``Yes, I do`` are
missing.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.corpus.text.text_files import MAX_LINE_BYTES

DELIMITERS: Final = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}

_NUMBER = re.compile(r"\s*[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?%?\s*")
_NAME = re.compile(r"[^\W\d][\w.%()/#-]*(?: [\w.%()/#-]+){0,4}")
"""The name of a column: a letter or ``_`` first, up to five words, and no marks except ``. % ( ) / # - _``."""
_SAME_WIDTH: Final = 0.95
"""Least share of the rows that must have the most frequent number of cells. It is also a share of cells: if the spaces
after commas or semicolons are not ignored, at least this share of the cells must have no space at either end."""
_COLUMNS_OF_TEXT: Final = frozenset({"text", "sentence", "sentences", "content", "utterance"})

_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""How a formula begins. Some spreadsheets accept the full-width forms of ``=``, ``+``, ``-`` and ``@``."""
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?%?")

csv.field_size_limit(MAX_LINE_BYTES)  # a cell can hold a book; the default limit is 131,072 characters


class Table(NamedTuple):
    """The form of a table."""

    columns: tuple[str, ...]
    """Cells of the first row, without spaces around them."""
    delimiter: str
    """A key of ``DELIMITERS``."""
    quoted: bool
    """Whether cells may be in quotes."""


def as_cell(text: str) -> str:
    """Return a text as a cell of a table, changed so that no spreadsheet treats the cell as a formula.

    A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe in front, which
    spreadsheets do not show. Numbers and texts without a letter or digit stay as they are. ``text_of_cell`` restores
    the text.
    """
    return f"'{text}" if _is_taken_for_formula(text) else text


def text_of_cell(cell: str) -> str:
    """Return the text from which ``as_cell`` made a cell."""
    return cell[1:] if cell.startswith("'") and _is_taken_for_formula(cell[1:]) else cell


def _is_taken_for_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _PLAIN_NUMBER.fullmatch(text) is None and any(map(str.isalnum, text))


def find_table(texts: Sequence[str], path: Path) -> Table | None:
    """Return the form of a table, or None if the lines are not a table.

    Args:
        texts: The first lines of a file, of which at least one is not blank.
        path: The file. A name that ends in ``.csv`` or ``.tsv`` makes any lines a table.
    """
    for delimiter in "\t|":
        quoted = _head_rows(texts, delimiter, quoted=True, spaced=False)
        plain = _head_rows(texts, delimiter, quoted=False, spaced=False)
        if delimiter == "|" and plain and len(plain[0]) == 1 and re.search("[,;]", plain[0][0]):
            continue  # the first row has commas and no bars, so the bars in other rows are parts of cells
        # If all lines have the same number of cells when quotes are ignored, but the quotes would join some lines,
        # the quotes belong to the text.
        are_marks = len(quoted) < len(plain) and len({*map(len, plain)}) == 1
        if not are_marks and (columns := _columns(quoted, is_prose=False)) and _shows_quotes(texts, quoted, delimiter):
            return Table(columns, delimiter, quoted=True)
        if columns := _columns(plain, is_prose=False):
            return Table(columns, delimiter, quoted=False)
    for delimiter in ",;":
        rows = _head_rows(texts, delimiter, quoted=True, spaced=False)
        spaced = _head_rows(texts, delimiter, quoted=True, spaced=True)
        unquoted = _head_rows(texts, delimiter, quoted=False, spaced=False)  # for files with wrong quotes
        columns = _columns(rows, is_prose=True) or _columns(spaced, is_prose=True, spaced=True)
        if columns := columns or _numbered(rows) or _numbered(unquoted):
            return Table(columns, delimiter, quoted=True)
    first = next(text for text in texts if text.strip())
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in (".csv", ".tsv"):
        usual, most = {".csv": ",", ".tsv": "\t"}[suffix], max(DELIMITERS, key=first.count)
        # In a .tsv file, the delimiter is the tab if the first line has at least one tab. Sentences in the cells can
        # have more commas than there are tabs.
        is_usual = most not in first or (usual == "\t" and usual in first)
        delimiter = usual if is_usual else most
        is_quoted = delimiter in ",;"
        rows = _head_rows(texts, delimiter, quoted=is_quoted, spaced=is_quoted)
        cells = rows[0] if rows else first.split(delimiter)
        return Table(tuple(cell.strip().strip('"') for cell in cells), delimiter, quoted=is_quoted)
    rows = _head_rows(texts, ",", quoted=True, spaced=False)
    if first.strip('"') in _COLUMNS_OF_TEXT and all(len(row) == 1 for row in rows) and _shows_quotes(texts, rows, ","):
        return Table((first.strip('"'),), ",", quoted=True)
    return None


def open_table(texts: Iterable[str], table: Table) -> Any:  # noqa: ANN401 - the type is private to csv
    """Return a ``csv.reader`` over lines that include their line ends. It raises ``csv.Error`` at a malformed row."""
    return _reader(texts, table.delimiter, quoted=table.quoted, spaced=table.delimiter in ",;")


def _reader(texts: Iterable[str], delimiter: str, *, quoted: bool, spaced: bool) -> Any:  # noqa: ANN401 - as above
    return csv.reader(
        texts,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=spaced,
        strict=quoted,
    )


def _head_rows(texts: Sequence[str], delimiter: str, *, quoted: bool, spaced: bool) -> list[list[str]]:
    """Return the rows at the beginning of a file; no rows if ``csv`` cannot read them with this delimiter."""
    rows: list[list[str]] = []
    try:
        for row in _reader((text + "\n" for text in texts if text.strip()), delimiter, quoted=quoted, spaced=spaced):
            # Tables of words have comments (CoNLL-U) or tags such as <s> between the sentences.
            is_between = row[0].startswith("# ") or (
                len(row) == 1 and (row[0][:1] == "#" or (row[0][:1] == "<" and delimiter == "\t"))
            )
            if any(row) and not is_between and row[0].lower() != "sep=":
                rows.append(row)
    except csv.Error as error:
        if "end of data" not in str(error):  # "end of data" only means that the last row is cut inside a cell
            return []
    return rows


def _columns(rows: Sequence[Sequence[str]], *, is_prose: bool, spaced: bool = False) -> tuple[str, ...]:
    """Return the cells of the first row; () if the rows differ in length or do not look like rows of a table.

    Args:
        rows: The first rows.
        is_prose: Whether the delimiter is common in prose.
        spaced: Whether spaces after a delimiter were ignored. Prose then looks more like a table. So if ``is_prose``
            is true as well, the rows must have both a header and a column of numbers.
    """
    width = max(Counter(map(len, rows)).items(), key=itemgetter(1), default=(0, 0))[0]
    if rows and len(rows[0]) == 1 < width:
        rows = rows[1:]  # a title
    num_rows = len(rows)
    rows = [row for row in rows if len(row) == width]
    if width < 2 or len(rows) < max(2, num_rows * _SAME_WIDTH):
        return ()
    firsts = [row[0].strip() for row in rows[1:]]
    if sum(not first or first.endswith(":") for first in firsts) * 2 > len(rows):  # an indent, or a speaker as in CHAT
        return ()
    names = tuple(name.strip() for name in rows[0])
    has_header = len(set(names)) == width and all(_NAME.fullmatch(name) for name in names if name or name != names[0])
    has_numbers = any(all(map(_NUMBER.fullmatch, column)) for column in zip(*rows[1:], strict=True))
    is_long = len(rows) > 2
    cells = [cell for row in rows for cell in row]
    is_tight = sum(cell == cell.strip() for cell in cells) >= len(cells) * _SAME_WIDTH
    if not is_prose:
        is_table = is_long or has_header or has_numbers
    elif spaced:
        is_table = is_long and has_header and has_numbers
    else:
        # Without a column of numbers, only a header in ASCII counts. In Chinese, which has no spaces, a whole sentence
        # looks like the name of a column.
        has_latin_header = has_header and "".join(names).isascii()
        is_long_table = is_long and (has_latin_header or (has_numbers and width > 2))
        is_table = is_tight and (is_long_table or (has_header and has_numbers))
    return names if is_table else ()


def has_spaced_columns(texts: Sequence[str]) -> bool:
    """Return whether lines are rows of a table with spaces between columns: a header, and numbers in one column.

    A table of more than two columns must have decimals or two columns of numbers. The header may lack a name for a
    first column of row numbers.
    """
    rows = [text.split() for text in texts if text.strip()]
    if len(rows) > 1 and len(rows[1]) == len(rows[0]) + 1 and rows[1][0].isdecimal():
        rows[0] = ["row", *rows[0]]
    columns = _columns(rows, is_prose=True, spaced=True)
    if len(columns) == 2:
        return len(rows) > 3
    rows = [row for row in rows[1:] if len(row) == len(columns)]
    numbers = [column for column in zip(*rows, strict=True) if all(map(_NUMBER.fullmatch, column))]
    return bool(columns) and (len(numbers) > 1 or any("." in cell for column in numbers for cell in column))


def _numbered(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the cells of the first row if the rows, or all rows after a header, begin with consecutive numbers."""
    if len(rows) < 3 or any(len(row) < 2 or row[1][:1].isspace() for row in rows):
        return ()
    firsts = [row[0] for row in rows]
    firsts = firsts if firsts[0].isdecimal() else firsts[1:]
    is_counted = firsts[0].isdecimal() and firsts == [str(int(firsts[0]) + i) for i in range(len(firsts))]
    is_prose = all(re.match(r"\d{3}\b", row[1]) for row in rows)  # as in "1,000 cups"
    return tuple(cell.strip() for cell in rows[0]) if is_counted and not is_prose else ()


def _shows_quotes(texts: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Return whether the quotes around cells belong to the format of the table, and not to the text in the cells."""
    first = next(text for text in texts if text.strip())
    has_ends = any("\n" in cell or delimiter in cell or '"' in cell for row in rows for cell in row)
    return has_ends or all(cell[:1] == '"' == cell[-1:] for cell in first.split(delimiter))
