"""Read and write the files next to a text STEM.txt: the document of each sentence, and the source of each document.

    STEM.docs             one line per sentence: the name of its document. Successive equal lines are one document
    STEM.documents.tsv    table with the columns document, source and licence, and one row per document, in the order of
                          STEM.docs. Cells are not quoted
    STEM.speakers         one line per sentence: its speaker
    STEM.dropped.tsv      examples of what cleaning dropped and repaired
    STEM.failures.tsv     the sentences that could not be parsed
    STEM.parse.json       how a parser made the trees
    STEM.sample.json      which teacher the trees and the text were drawn from

Without STEM.docs the documents are unknown. An unknown source or licence is an empty field.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields
from io import StringIO
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.table_forms import as_cell, text_of_cell
from pipeline.corpus.text.text_files import find_file, not_utf8, read_lines, read_texts
from pipeline.corpus.text.word_budget import PARSER, TrainingText, count_words, from_json
from storage.errors import InputError
from storage.files import beside, is_there
from storage.fingerprints import sha256_file
from storage.json_files import Count, convert, read_json

DOCS_SUFFIX: Final = ".docs"
TABLE_SUFFIX: Final = ".documents.tsv"
SPEAKERS_SUFFIX: Final = ".speakers"
DROPPED_SUFFIX: Final = ".dropped.tsv"
FAILURES_SUFFIX: Final = ".failures.tsv"
PARSE_RECORD_SUFFIX: Final = ".parse.json"
SAMPLE_RECORD_SUFFIX: Final = ".sample.json"
COMPANION_SUFFIXES: Final = (
    DOCS_SUFFIX, TABLE_SUFFIX, SPEAKERS_SUFFIX, DROPPED_SUFFIX, FAILURES_SUFFIX, PARSE_RECORD_SUFFIX,
    SAMPLE_RECORD_SUFFIX,
)  # fmt: skip
"""The endings of the files that are outdated as soon as STEM.txt or STEM.mrg is replaced."""
NO_SPEAKER: Final = "-"
"""Line of STEM.speakers for a sentence whose speaker is unknown."""


@dataclass(frozen=True, slots=True)
class Document:
    """A row of STEM.documents.tsv. The fields are the columns."""

    document: str
    """Name, as in STEM.docs."""
    source: str = ""
    """Corpus, or part of a corpus, that the document comes from."""
    licence: str = ""


_COLUMNS = [column.name for column in fields(Document)]


def write_document_table(file: IO[str], documents: Iterable[Document]) -> None:
    """Write the table of documents. Any run of white space inside a field, tabs included, becomes one space.

    An apostrophe is put before a field that a spreadsheet would read as a formula (``as_cell``).
    """
    for row in (_COLUMNS, *map(astuple, documents)):
        file.write("\t".join(as_cell(" ".join(cell.split())) for cell in row) + "\n")


def read_document_table(path: Path) -> list[Document]:
    """Return the rows of STEM.documents.tsv. Columns that are not fields of ``Document`` are ignored.

    Raises:
        InputError: If a column is missing, a row has more or fewer fields than the header, a name is empty or occurs
            twice, or a line is not UTF-8.
    """
    rows = []
    for line in read_lines(path):
        if not line.is_utf8:
            raise not_utf8(path, line.number)
        if line.text:
            rows.append((line.number, line.text.split("\t")))
    header = rows[0][1] if rows else []
    if missing := [name for name in _COLUMNS if name not in header]:
        raise InputError(f"{path}:1: no column {', '.join(missing)}; expected a header with {', '.join(_COLUMNS)}")
    found: dict[str, Document] = {}
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}:{number}: {len(row)} fields, expected {len(header)}, as in the header")
        document = Document(*(text_of_cell(row[header.index(name)]) for name in _COLUMNS))
        if not document.document or document.document in found:
            problem = f"document {document.document!r} has a second row" if document.document else "no document name"
            raise InputError(f"{path}:{number}: {problem}; expected one row per document, with its name")
        found[document.document] = document
    return list(found.values())


def read_documents(path: Path, *, num_trees: int) -> list[str]:
    """Return the document name of each tree.

    Raises:
        InputError: If there are not as many lines as trees, or a line is empty or not UTF-8.
    """
    names = list(_read_names(path))
    if len(names) != num_trees:
        raise wrong_length(path, len(names), num_trees)
    return names


@dataclass(frozen=True, slots=True, eq=False)
class DocumentRuns:
    """The documents of a STEM. The trees of a document follow one another."""

    numbers: NDArray[np.int32]
    """``[num_trees]``: index into ``documents`` for each tree, from 0."""
    documents: tuple[Document, ...]


def read_document_runs(names: Path, table: Path | None) -> DocumentRuns:
    """Return the documents of STEM.docs, with the sources and licences of STEM.documents.tsv if there is a table.

    Raises:
        InputError: If a line of ``names`` is empty or not UTF-8, a document has no row in the table, or the table is
            malformed.
    """
    numbers, runs = array("i"), list[str]()
    for name in _read_names(names):
        if not runs or name != runs[-1]:
            runs.append(name)
        numbers.append(len(runs) - 1)
    documents = map(Document, runs) if table is None else read_document_table(table)
    rows = {document.document: document for document in documents}
    if missing := [name for name in runs if name not in rows]:
        raise InputError(
            f"{table}: no row of document {missing[0]!r}, which is in {names}; expected one row per document"
        )
    return DocumentRuns(np.array(numbers, np.int32), tuple(rows[name] for name in runs))


def _read_names(path: Path) -> Iterator[str]:
    for number, name in enumerate(read_texts(path), 1):
        if not name:
            raise InputError(f"{path}:{number}: the line is empty, expected the name of this tree's document")
        yield name


def documents_array(documents: Iterable[Document]) -> NDArray[np.uint8]:
    """Return the bytes of the TSV of a table of documents.

    A dataset stores the table as this array, because it may be too large for a Zarr attribute.
    """
    table = StringIO()
    write_document_table(table, documents)
    return np.frombuffer(table.getvalue().encode(), np.uint8)


def documents_of_array(table: NDArray[np.uint8]) -> tuple[Document, ...]:
    """Return the documents of an array that ``documents_array`` made.

    Raises:
        ValueError: If ``table`` is not such an array.
    """
    rows = [line.split("\t") for line in table.tobytes().decode().split("\n")[:-1]]
    if rows and (rows[0] != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows)):
        raise ValueError(f"the table of documents has the columns {rows[0]}, expected {_COLUMNS} in each row")
    return tuple(Document(*map(text_of_cell, row)) for row in rows[1:])


def wrong_length(names: Path, num_lines: int, num_trees: int) -> InputError:
    """Return the error for a STEM.docs that does not have one line per tree."""
    return InputError(f"{names}: {num_lines} lines, expected {num_trees}: one line per tree, with its document's name")


def find_companion(stem: Path, suffix: str) -> Path | None:
    """Return the optional file ``STEM + suffix``, or its ``.gz``.

    Raises:
        InputError: If both files exist.
    """
    exists = any(is_there(beside(stem, suffix + end)) for end in ("", ".gz"))
    return find_file(stem, suffix) if exists else None


def parsed_by(stem: Path) -> str:
    """Return the parser that made the trees of a STEM, or "flat" for flat trees; "" if there is no STEM.parse.json.

    Raises:
        InputError: If STEM.parse.json is damaged.
    """
    if (record := _read_record(beside(stem, PARSE_RECORD_SUFFIX), _ParseRecord)) is None:
        return ""
    model, version = record.made_from.model, record.made_from.versions.get("benepar", "of unknown version")
    return model if model == "flat" else f"benepar {version}, model sha256 {model[:12]}"


def sampled_from(stem: Path) -> str:
    """Return the teacher and the seed from which the trees of a STEM were drawn; "" if there is no STEM.sample.json.

    Raises:
        InputError: If STEM.sample.json is damaged.
    """
    if (record := _read_record(beside(stem, SAMPLE_RECORD_SUFFIX), _SampleRecord)) is None:
        return ""
    return f"teacher {record.made_from.fingerprint[:12]} with seed {record.made_from.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _MadeByParser:
    model: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _MadeByTeacher:
    fingerprint: str = "of an unknown version"
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _ParseRecord:
    made_from: _MadeByParser
    words: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _SampleRecord:
    made_from: _MadeByTeacher
    words: dict[str, Any] | None = None


_Record = TypeVar("_Record", _ParseRecord, _SampleRecord)


def _read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """Return the record that ``parse`` or ``sample`` wrote next to its trees."""
    if not is_there(path):
        return None
    remedy = "expected the record that 'parse' or 'sample' writes next to its trees; make the trees again, or remove "
    return read_json(path, kind, remedy=remedy + "this file if neither command made them")


def words_of_stem(stem: Path, texts: Path) -> tuple[dict[str, int | None], list[TrainingText]]:
    """Return which files the text of a STEM comes from, and which texts its parser or teacher was trained on.

    Args:
        stem: STEM.
        texts: STEM.txt, plain or gzipped.

    Returns:
        The number of words of each file by its sha256, and the training texts of the parser or teacher. For a treebank,
        the only file is STEM.txt, and there are no training texts.

    Raises:
        InputError: If STEM.parse.json or STEM.sample.json is damaged.
    """
    own_file: dict[str, int | None] = {sha256_file(texts): count_words(texts)}
    parse_record, sample_record = beside(stem, PARSE_RECORD_SUFFIX), beside(stem, SAMPLE_RECORD_SUFFIX)
    parsed, sampled = _read_record(parse_record, _ParseRecord), _read_record(sample_record, _SampleRecord)
    if parsed is not None:
        path, of, words = parse_record, PARSER, parsed.words or {}
    elif sampled is not None:
        path, of, words = sample_record, "teacher", sampled.words or {}
    else:
        return own_file, []
    remedy = "make the trees again, or remove this file if neither 'parse' nor 'sample' made them"
    files = convert(
        words.get("files") or own_file, dict[str, Count | None], where=f"{path}: words.files", remedy=remedy
    )
    if parsed is not None and parsed.made_from.model == "flat":
        return files, []
    return files, from_json(words.get(of), of=of, name=f"of {stem.name}", where=str(path))
