"""Recognise files that are not running text, and read the text inside JSON lines and tables.

If tables, trees or markup were read as running text, they would become sentences. Only the beginning of a file is
examined. The rules should never refuse real text, so in doubt a file is read as text. For example, a table without a
header is read as text if a comma and a space separate its cells, because prose also has commas and spaces.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pipeline.corpus.text.subtitles import has_cues
from pipeline.corpus.text.table_forms import DELIMITERS, Table, find_table, has_spaced_columns, open_table
from pipeline.corpus.text.text_files import Line, OnError, read_lines, with_documents
from storage.errors import ConfigError, InputError

HEAD_LINES: Final = 200
"""Maximum number of lines at the beginning of a file that are examined."""
HEAD_CHARS: Final = 1 << 20
"""After this number of characters, no further line is examined."""
TEXT_FIELD: Final = "text"
"""The field of JSON lines that is read if the user names no field."""

Kind = Literal["text", "JSON lines", "table", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a file holds."""

    kind: Kind
    """text: running text. JSON lines, table: records that may have a field of text. other: anything else."""
    found: str = "running text"
    """What was seen, for error messages."""
    remedy: str = ""
    """What to do about a file of kind "other"."""
    columns: tuple[str, ...] = ()
    """The fields of the first JSON objects, or the cells of the first row of a table."""
    table: Table | None = None
    """How to read a table."""


class Record(NamedTuple):
    """A JSON object or a row of a table."""

    number: int
    """Number of the record's line, from 1. If a row has several lines, the number of the first."""
    cells: Mapping[str, Any]
    """Values by field. In a table, the keys also include the numbers of the columns, from "1"."""
    fault: str = ""
    """Why the record cannot be read; else ""."""


_TREE = re.compile(r"\s*\(\s*[^\s()]*\s*(?:\(|$)")
_LINE_FORMS: Final = (
    (
        re.compile(r"\s*+(?:(?:(?>\S+[/_]\w)\S*+|(?:_|[^\w\s])++)(?:\s++|$)){3}"),
        0.8,
        "words with tags, such as the/DT or the_DT",
        "remove the tags",
    ),
    (
        re.compile(r"\S+(?:[ \t]\S+)*[ \t](?:O|[BIES]-[\w-]+)$|[^\s/]+/[A-Z$]+$"),
        0.8,
        "one word per line with tags, as in CoNLL's files",
        "leave only the words, and put all words of a sentence on one line",
    ),
    (
        re.compile(r"(?:\S+\s+){0,3}\d+\.\d+\s+\d+\.\d+\s+\S"),
        0.8,
        "lines that begin with times in seconds",
        "remove the times and names, for example with cut -d' ' -f3-",
    ),
    (
        re.compile(r"(?=\S{6,60}\s)(?=\w*\d)[\w-]+[-_]\w*\d{3}\s"),
        0.9,
        "lines that begin with names of recordings",
        "remove the names, for example with cut -d' ' -f2-",
    ),
    (
        re.compile(r"(?:[1-3] ?)?(?:[A-Z]\w*\.? ){0,3}[\[({]?\d{1,3}:\d{1,3}[\])}]?\s+\D"),
        0.8,
        "lines that begin with numbers, such as 1:3 for a verse",
        "remove the numbers, for example with sed -E 's/^[^:]*:[0-9]+[])}]? +//'",
    ),
    (
        re.compile(r"\s*(?://|/\*|\*/|[\])}]+;?$)|.*[{}\[(]$|.*[\])}\"'],$|(?=.*[(){}\[\]=]).*;$"),
        0.5,
        "a program",
        "leave only the text",
    ),
)
"""Forms of lines that are not text. Each form has a pattern for one line, the smallest share of lines that must match,
a name, and advice for the user."""
_FORM_LINES: Final = 8
"""A file with fewer lines than this is not compared with ``_LINE_FORMS``."""
_FRAMES = r"\{\d+\}\{\d+\}"
"""The beginning of a subtitle of MicroDVD: its first and last frame."""
_FOR_SUBTITLES: Final = "use clean-text --source open_subtitles, which removes the times"
_MAIL = (
    r"(?:from|to|cc|subject|date|sender|reply-to|return-path|received|delivered-to|message-id|in-reply-to|references|path|"
    r"newsgroups|organization|lines|nntp-\S+|mime-version|content-\S+|x\w*-\S+)"
)
"""The name of a header of an e-mail or of a message of Usenet."""
_SIGNATURES: Final = (
    (re.compile(r"<(?:\?xml|!doctype|html)\b", re.IGNORECASE), "markup (HTML or XML)", "extract the text first"),
    (re.compile(r"File type = \"ooTextFile"), "a file of Praat", "extract the text first"),
    (
        re.compile(r"<doc id=\""),
        "the output of WikiExtractor",
        "give WikiExtractor --json, or remove the lines with <doc and </doc>",
    ),
    (
        re.compile(
            r"<(?:[a-z][\w:.-]*\s+[\w:.-]+\s*=\s*[\"'][^<>]*|(?:doc|document|text|corpus|article|body|page|root|xml))>\s*?"
            r"(?:\n|$)",
            re.IGNORECASE,
        ),
        "markup (XML or SGML)",
        "extract the text first",
    ),
    (re.compile(rf"WEBVTT\b|\[Script Info\]|(?:{_FRAMES}[^\n]*(?:\n|$)){{2}}"), "subtitles with times", _FOR_SUBTITLES),
    (re.compile(r"WARC/\d"), "a web archive (WARC or WET)", "extract the text first"),
    (re.compile(r"PAR1"), "a Parquet file", "write it as JSON lines"),
    (re.compile(r"PK\x03\x04"), "a ZIP archive, or an office document", "unpack it, or save it as plain text"),
    (re.compile("\ufffd7zXZ|BZh\\d|\\(\ufffd/\ufffd"), "a file that is compressed, but not by gzip", "decompress it"),
    (
        re.compile("\ufffd\ufffd|(?:[^\0]\0){3}|(?:\0[^\0]){3}|.*\0{4}|(?=.*\ufffd).*[\x00-\x08\x0e-\x1a]", re.DOTALL),
        "text in UTF-16 or a binary file",
        "convert it to UTF-8 text",
    ),
    (re.compile(r"[^\r\n]*\r[^\n]*\Z"), "text whose lines end with CR", "convert the line ends to LF"),
    (re.compile(r"%PDF-"), "a PDF document", "convert it to text first"),
    (re.compile(r"\{\\rtf"), "an RTF document", "save it as plain text first"),
    (
        re.compile(r"(?:[^|\n]*\n)?\|?[^|\n]*\|[^\n]*\n\s*+(?=[^\n]*---)(?=[^\n]*\|)[ :|-]+(?:\n|$)"),
        "a Markdown table",
        "leave only the text",
    ),
    (
        re.compile(r"---\s*\n[a-z][\w-]*:(?: [^\n]*)?\n(?:[a-z][\w-]*:|---|\s*- )|\+\+\+\s*\n[\w-]+ *= "),
        "text after a block of settings (front matter)",
        "remove the block, for example with sed -E '1,/^(---|[+]{3})/d'",
    ),
    (
        re.compile(
            rf"From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [^\n]*\d:\d\d|(?=(?:[^\n]*\n){{0,2}}{_MAIL}: [^\n]*\S[@!]\S)"
            rf"(?:{_MAIL}:[^\n]*(?:\n|$)){{3}}",
            re.IGNORECASE,
        ),
        "e-mail",
        "leave only the text, without the headers",
    ),
    (
        re.compile(r"(?:%[^\n]*\n)*\\(?:documentclass|begin|chapter|(?:sub)*section)\b"),
        "LaTeX",
        "extract the text first",
    ),
    (
        re.compile(r"version https://git-lfs"),
        "a pointer of Git LFS, without the text",
        "fetch the file with git lfs pull",
    ),
    (
        re.compile(r"\"[^\"\n]*\"(?: \"[^\"\n]*\")*\n\"1\" "),
        "a table with spaces between columns, as R writes",
        "write it with write.csv",
    ),
    (
        re.compile(r"#\s*\S+\s+\d+\s+\S+\n[^\n]+\n\?"),
        "items of Linger",
        "remove the lines that begin with # or ?, and every @",
    ),
    (
        re.compile(r"[^\n]* \+\+\+\$\+\+\+ "),
        "a table with +++$+++ between columns",
        "leave only the text, for example with sed 's/.*+++$+++ //'",
    ),
    (
        re.compile(r"(?:#\s*\n)?# Results on [^\n]*\n# (?:USER AGENT|1\.)"),
        "results of Ibex, with rows of several kinds",
        "remove the lines that begin with #, and leave only the rows with the sentences or words",
    ),
)
"""Files that are neither text nor records. Each has a pattern for its beginning, a name, and advice for the user."""
_INLINE = "i|b|u|s|em|strong|font|span|sub|sup|small|big|ref|nowiki|center"
"""Tags that occur in subtitles and in Wikipedia. A file that has only such tags can be running text."""
_TAG = re.compile(rf"</?(?!(?:{_INLINE})\b)[a-z][\w:.-]*(?:\s[^<>]*)?/?>", re.IGNORECASE)
_SURE_TAG = re.compile(r"</[a-z]|<[a-z][^<>]*(?:=\s*[\"'][^<>]*|/)>|<(?:br|hr|img|p|li|td|div|h[1-6])\b", re.IGNORECASE)
"""An end tag, a tag with attributes, an empty tag, or a tag of HTML. ``<laughter>`` and ``<unk>`` do not match."""
_NAME = r"[A-Z][\w.'\u2019&#-]*(?: [\w.'\u2019&#-]+){0,4}"
_TIME = re.compile(
    r"[\[(]?\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4},?[ T]\d{1,2}:\d\d|[\[(]?\d\d:\d\d[\])]? <\S+> |"
    r"[\[(]?(?:\d{1,2}:)?\d{1,2}:\d\d(?:[.,]\d+)?\s*(?:-->|,\d{1,2}:\d\d|$)|[\[(]?\d{1,2}:\d\d:\d\d\b|\[\d\d:\d\d\.\d+\]|"
    r"[\[(]0\d:[0-5]\d[\])]|\[\d{1,2}:\d\d[^\]]{0,8}, \d+[/.]\d|Dialogue: [^,]*,\d|"
    # The name of a speaker beside a time.
    rf"\d{{1,2}}:\d\d\s+{_NAME}:\s|(?:\[\d+\] |\*\*)?{_NAME}(?:"
    r":?\s*[\[(](?:0\d|\d{1,2}:\d\d):\d\d[^\])]{0,30}[\])][:*]*$|(?:\t| {2,})(?:\d{1,2}:)?\d{1,2}:\d\d$|"
    r"\s*[\[(](?:\d{1,2}:)?\d{1,2}:\d\d[^\])]{0,30}[\])]\**:|:\s*[\[(](?:\d{1,2}:)?\d{1,2}:\d\d[\])])"
)
_OBJECT = re.compile(r"\s*(?:\S+ +)?\{\s*(['\"])[^'\"]*\1\s*:")
"""The beginning of a JSON object or of a dictionary of Python. A word, such as a key, may come before it."""
_MARKED_SHARE: Final = 0.1
"""A file is not text if at least this share of its lines has a tag or a time."""


def form_of(head: Sequence[Line], path: Path) -> Form:
    """Return what a file holds.

    Args:
        head: The first lines of the file, at most ``HEAD_LINES``.
        path: The file. If its name ends in ``.csv`` or ``.tsv``, it is a table, unless the lines show that it is
            something else, such as JSON or trees.
    """
    texts = [line.text for line in head]
    full = [text for text in texts if text.strip()]
    start = "\n".join(full[:3]).lstrip()
    if not full:
        return Form(kind="text")
    for pattern, found, remedy in _SIGNATURES:
        if pattern.match(start):
            return Form(kind="other", found=found, remedy=remedy)
    if sum(bool(_TREE.match(text)) for text in full) * 2 > len(full):
        return Form(kind="other", found="bracketed trees", remedy="use import-trees for trees")
    is_all = len(head) < HEAD_LINES and sum(map(len, texts)) < HEAD_CHARS
    if (form := _json(start[0], full, path, is_all=is_all)) or (form := _table(texts, path)):
        return form
    return _marked(full) or _of_lines(full) or Form(kind="text")


def read_head(lines: Iterator[Line]) -> list[Line]:
    """Return the first lines of a file, which show its form. The iterator continues with the line after them."""
    head: list[Line] = []
    num_chars = 0
    while len(head) < HEAD_LINES and num_chars < HEAD_CHARS and (line := next(lines, None)):
        head.append(line)
        num_chars += len(line.text)
    return head


def read_running_text(
    path: Path, *, column: str = "", on_error: OnError = "stop", is_subtitles: bool = False
) -> Iterator[Line]:
    """Yield the lines of running text in a file.

    The text in a JSON object or a table row may have several lines. Each is yielded with the line number of its object
    or row. The first of them has ``begins_document``.

    Args:
        path: The file, plain or gzipped.
        column: Where the text is. For JSON lines, the name of a field. For a table, the name or the number (from 1) of
            a column. "" stands for the field ``text`` of JSON lines.
        on_error: What to do at a line that is too long, and at an object or row that cannot be read: "stop", or "skip"
            to yield a line without text.
        is_subtitles: Whether the file may be subtitles with times or frames. The caller removes the times and frames.

    Raises:
        InputError: As ``read_lines``; if the file is neither text nor records with this column; or if a record cannot
            be read and ``on_error`` is "stop".
        ConfigError: If a column is given for a file of text.
    """
    lines = read_lines(path, on_error)
    head = read_head(lines)
    shown = [line._replace(text=re.sub(f"^{_FRAMES}", "", line.text)) for line in head] if is_subtitles else head
    is_timed = is_subtitles and has_cues([line.text for line in head])
    form = Form(kind="text") if is_timed else form_of(shown, path)
    lines = chain(head, lines)
    if not (column := text_column(form, column, path)):
        yield from with_documents(lines)
        return
    for record in read_records(form, lines, column):
        text = record.cells.get(column)
        fault = record.fault
        if not fault and not isinstance(text, str | None):
            fault = not_a_text(column, text) or f"{column} is {text!r:.40}, expected a string"
        if fault and on_error == "stop":
            raise InputError(f"{path}:{record.number}: {fault}; correct or remove it, or use --on-error skip")
        if fault:
            yield Line(record.number, "", is_utf8=True, fault=fault)
            continue
        for i, piece in enumerate((text or "").split("\n")):
            yield Line(record.number, piece.rstrip("\r"), is_utf8=True, begins_document=i == 0)


def refuse_unless_text(path: Path) -> None:
    """Check that a file holds running text.

    Raises:
        InputError: If the file holds anything else, or cannot be read.
    """
    form = form_of(read_head(read_lines(path, "skip")), path)
    if form.kind != "text":
        records = "use clean-text --column NAME first, to read the text of a column"
        raise _not_text(path, form, form.remedy or records)


def text_column(form: Form, column: str, path: Path) -> str:
    """Return the field or column that holds the text; "" if the file is running text.

    Raises:
        InputError: If the file is neither text nor records, or has no such column. The error names the first columns.
        ConfigError: If a column is given for a file of text.
    """
    if form.kind == "text":
        if column:
            raise ConfigError(f"{path}: is running text, expected a table or JSON lines; leave out --column {column}")
        return ""
    if form.kind == "other":
        raise _not_text(path, form, form.remedy)
    by_number = [str(i + 1) for i in range(len(form.columns))] if form.kind == "table" else []
    if column in (*form.columns, *by_number) and column:
        return column
    if not column and form.kind == "JSON lines" and TEXT_FIELD in form.columns:
        return TEXT_FIELD
    remedy = "name the column of the text with --column NAME"
    if column:
        raise InputError(f"{path}: no column {column}, expected one of {_listed(form.columns, ', ')}; {remedy}")
    raise _not_text(path, form, remedy)


def check_columns(form: Form, names: Sequence[str], path: Path, remedy: str = "") -> None:
    """Check that a table or JSON lines have these columns or fields, and that no two columns share one of these names.

    Raises:
        InputError: If a column is missing or occurs twice. The error names the first columns.
    """
    numbers = range(1, len(form.columns) + 1) if form.kind == "table" else ()  # JSON objects have names only
    known = {*form.columns, *map(str, numbers)}
    if missing := [name for name in names if name not in known]:
        raise InputError(
            f"{path}: no column {', '.join(missing)}, expected one of {_listed(form.columns, ', ')}{remedy}"
        )
    if twice := [name for name in names if form.columns.count(name) > 1 and not name.isdecimal()]:
        raise InputError(f"{path}: two columns {twice[0]}, expected one; rename one, or give the number of the column")


def read_records(form: Form, lines: Iterable[Line], column: str) -> Iterator[Record]:
    """Yield the records of JSON lines or of a table. Blank lines are left out.

    If ``column`` is the name of a column of a table, the first row is the header and is not yielded. If ``column`` is
    the number of a column, the first row is yielded like any other row. But a first row that holds only the numbers of
    the columns, with ``column`` among them, is a header.
    """
    yield from _objects(lines, column) if form.table is None else _rows(lines, form.table, column)


def _not_text(path: Path, form: Form, remedy: str) -> InputError:
    return InputError(f"{path}: looks like {form.found}, expected running text; {remedy}")


def _listed(columns: Sequence[str], separator: str) -> str:
    return separator.join([column[:40] for column in columns[:12]] + ["…"] * (len(columns) > 12))


def _objects(lines: Iterable[Line], column: str) -> Iterator[Record]:
    for line in lines:
        if line.text.strip() or not (line.is_utf8 and line.is_whole):
            value = _parsed(line.text) if line.is_utf8 and line.is_whole else None
            if not isinstance(value, dict):
                yield Record(line.number, {}, _fault(line, "JSON object"))
            else:
                yield Record(line.number, value, "" if column in value else f"no field {column}")


def _rows(lines: Iterable[Line], table: Table, column: str) -> Iterator[Record]:
    faults: list[str] = []

    def texts() -> Iterator[str]:
        for line in lines:
            if not (line.is_utf8 and line.is_whole):
                faults.append(_fault(line, "row"))
            yield line.text + "\n"

    reader = open_table(texts(), table)
    names = table.columns
    has_header = column in names and not (column.isdecimal() and not _counts(names))
    is_before_header = has_header
    while True:
        number = reader.line_num + 1
        faults.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(
                f"not a row of a table with {DELIMITERS[table.delimiter]} ({error}); double each quote inside a cell"
            )
            row = [""]
        if not row or (not any(row) and not faults):
            continue
        if is_before_header:
            is_before_header = row[0].lower() == "sep=" or len(row) != len(names)  # a title may come first
            continue
        if not faults and len(row) != len(names):
            faults.append(f"{len(row)} cells, expected {len(names)} as in the first row")
        numbered = {str(i): cell for i, cell in enumerate(row, 1)}
        named = {} if faults else dict(zip(names, row, strict=True))
        cells = numbered | named if has_header else named | numbered
        yield Record(number, cells, faults[0] if faults else "")


def _counts(names: Sequence[str]) -> bool:
    """Return whether a first row holds only the numbers of the columns: 0, 1, 2, … or 1, 2, 3, …."""
    numbers = [name for name in names if name]
    return numbers in ([str(i + first) for i in range(len(numbers))] for first in (0, 1))


def _fault(line: Line, expected: str) -> str:
    return "not UTF-8" if not line.is_utf8 else "too long" if not line.is_whole else f"not a {expected}"


def not_a_text(column: str, value: object) -> str:
    """Return what is wrong with a value of JSON that is a list or an object; "" for any other value."""
    remedy = "expected a string; write the text as a field of its own, for example with jq"
    return f"{column} is {value!r:.40}, {remedy}" if isinstance(value, dict | list) else ""


def _parsed(text: str) -> Any:  # noqa: ANN401 - parsed JSON
    try:
        return json.loads(text.strip())  # strip also removes a record separator (U+001E)
    except (ValueError, RecursionError):
        return None


def _table(texts: Sequence[str], path: Path) -> Form | None:
    """Return the form of a table."""
    if (table := find_table(texts, path)) is None:
        spaced = "a table with spaces between columns"
        is_spaced = has_spaced_columns(texts)
        return Form(kind="other", found=spaced, remedy="write it with tabs or commas") if is_spaced else None
    between = f"{DELIMITERS[table.delimiter]} between columns, " if len(table.columns) > 1 else ""
    found = f"a table ({between}first row: {_listed(table.columns, ' | ')})"
    return Form(kind="table", found=found, columns=table.columns, table=table)


def _marked(full: Sequence[str]) -> Form | None:
    """Return the form of markup or of lines with times, if enough lines have tags or times."""
    tags = [found for text in full if (found := [match[0] for match in _TAG.finditer(text)])]
    is_all = all(text.lstrip()[0] == "<" and text.rstrip()[-1] == ">" for text in full)
    is_marked = (len(tags) > 1 or is_all) and len(tags) >= len(full) * _MARKED_SHARE
    if is_marked and any(_SURE_TAG.match(tag) for found in tags for tag in found):
        return Form(kind="other", found=f"markup, such as {tags[0][0][:40]}", remedy="extract the text first")
    times = [text for text in full if _TIME.match(text.strip())]
    if (len(times) > 1 or any("-->" in text for text in times)) and len(times) >= len(full) * _MARKED_SHARE:
        if has_cues(full):
            return Form(kind="other", found="subtitles with times", remedy=_FOR_SUBTITLES)
        return Form(kind="other", found="lines with times", remedy="remove the times, and the names beside them")
    return None


def _of_lines(full: Sequence[str]) -> Form | None:
    """Return the first form in ``_LINE_FORMS`` that enough lines match."""
    for pattern, share, found, remedy in _LINE_FORMS:
        if len(full) >= _FORM_LINES and sum(bool(pattern.match(text.rstrip())) for text in full) >= len(full) * share:
            return Form(kind="other", found=found, remedy=remedy)
    return None


def _json(first: str, full: Sequence[str], path: Path, *, is_all: bool) -> Form | None:
    """Return the form of JSON."""
    objects = [value for text in full if isinstance(value := _parsed(text), dict)]
    if len(objects) * 2 > len(full):
        columns = tuple(dict.fromkeys(name for value in objects for name in value))
        return Form(kind="JSON lines", found=f"JSON lines (fields: {_listed(columns, ' | ')})", columns=columns)
    is_named = Path(path.name.lower().removesuffix(".gz")).suffix in (".json", ".jsonl", ".ndjson")
    is_begun = sum(bool(_OBJECT.match(text)) for text in full) * 2 > len(full)
    is_json = is_named or is_begun or (first in "{[" and _is_json("\n".join(full), is_all=is_all))
    remedy = "write one JSON object per line, for example with jq -c '.[]'"
    return Form(kind="other", found="JSON that is not one object per line", remedy=remedy) if is_json else None


def _is_json(whole: str, *, is_all: bool) -> bool:
    """Return whether a text is JSON with strings or objects. If ``is_all`` is false, the end may be missing."""
    decoder, at = json.JSONDecoder(), 0
    has_strings = False
    while at < len(whole):
        try:
            value, end = decoder.raw_decode(whole, at)
        except json.JSONDecodeError as error:
            return not is_all and _is_cut(whole, error)
        except (ValueError, RecursionError):  # a number of thousands of digits, or thousands of brackets
            return False
        if not isinstance(value, dict | list):
            return False
        has_strings = has_strings or isinstance(value, dict) or any(isinstance(part, str | dict) for part in value)
        at = len(whole) - len(whole[end:].lstrip(" \t\n,"))
    return has_strings


def _is_cut(whole: str, error: json.JSONDecodeError) -> bool:
    """Return whether JSON is correct up to the place where it was cut."""
    rest = whole[error.pos :]
    return not rest.strip() or (error.msg.startswith("Unterminated string") and "\n" not in rest)
