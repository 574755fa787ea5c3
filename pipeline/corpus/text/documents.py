"""Which sentence is of which document, and where documents come from: files beside trees and text.

    STEM.docs             as many lines as trees, the name of each one's document; a document is a run of lines with
                          the same name
    STEM.documents.tsv    a row a document, in the order of STEM.docs: document, source, licence; no quoting

Where there is no STEM.docs, documents are not known, and nothing guesses them. A source or licence that is not known
is an empty field.
"""

from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.text_files import find_file, not_utf8, read_lines, read_texts
from storage.errors import InputError

SUFFIX = ".docs"
TABLE_SUFFIX = ".documents.tsv"
SPEAKERS_SUFFIX = ".speakers"


@dataclass(frozen=True, slots=True)
class Document:
    """A row of STEM.documents.tsv; the fields are its columns."""

    document: str
    """Its name, as in STEM.docs."""
    source: str = ""
    """Corpus, or part of one, that it is of."""
    licence: str = ""


_COLUMNS = [field.name for field in fields(Document)]


def write_document_table(file: IO[str], documents: Iterable[Document]) -> None:
    """Write the table of documents; white space inside a field, a tab too, becomes one space."""
    for row in (_COLUMNS, *map(astuple, documents)):
        file.write("\t".join(" ".join(field.split()) for field in row) + "\n")


def read_document_table(path: Path) -> list[Document]:
    """Return the rows of STEM.documents.tsv; columns beyond ours are ignored.

    Raises:
        InputError: If a column is missing, a row has more or fewer fields than the header, a name is empty or stands
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
        document = Document(*(row[header.index(name)] for name in _COLUMNS))
        if not document.document or document.document in found:
            problem = f"document {document.document!r} a second time" if document.document else "no document's name"
            raise InputError(f"{path}:{number}: {problem}; expected one row a document, with its name")
        found[document.document] = document
    return list(found.values())


def read_documents(path: Path, *, num_trees: int) -> list[str]:
    """Return the document's name of each tree.

    Raises:
        InputError: If there are not as many lines as trees, or a line is empty or not UTF-8.
    """
    names = [name or "" for name in read_texts(path)]
    if len(names) != num_trees:
        raise wrong_length(path, len(names), num_trees)
    if "" in names:
        raise InputError(f"{path}:{names.index('') + 1}: an empty line, expected the name of this tree's document")
    return names


@dataclass(frozen=True, slots=True, eq=False)
class DocumentRuns:
    """The documents of a STEM, each a run of trees."""

    numbers: NDArray[np.int32]
    """``[num_trees]``: which of ``documents`` each tree is of, from 0."""
    documents: tuple[Document, ...]


def read_document_runs(names: Path, table: Path | None) -> DocumentRuns:
    """Return the documents of STEM.docs, with sources and licences of STEM.documents.tsv where there is one.

    Raises:
        InputError: If a line of ``names`` is empty or not UTF-8, a document has no row in the table, or the table is
            malformed.
    """
    numbers, runs = array("i"), list[str]()
    for number, name in enumerate(read_texts(names), 1):
        if not name:
            raise InputError(f"{names}:{number}: an empty line, expected the name of this tree's document")
        if not runs or name != runs[-1]:
            runs.append(name)
        numbers.append(len(runs) - 1)
    known = {document.document: document for document in read_document_table(table)} if table is not None else None
    if known is not None and (missing := [name for name in runs if name not in known]):
        raise InputError(f"{table}: no row of document {missing[0]!r}, which {names} names; expected a row a document")
    documents = tuple(known[name] if known is not None else Document(name) for name in runs)
    return DocumentRuns(np.frombuffer(numbers, np.int32) if numbers else np.zeros(0, np.int32), documents)


def documents_array(documents: Iterable[Document]) -> NDArray[np.uint8]:
    """Return a table of documents as the bytes of its TSV: unlike attributes, an array may be large."""
    table = StringIO()
    write_document_table(table, documents)
    return np.frombuffer(table.getvalue().encode(), np.uint8)


def documents_of_array(table: NDArray[np.uint8]) -> tuple[Document, ...]:
    """Return the documents of ``documents_array``, of which several may have one name.

    Raises:
        ValueError: If it is not such an array.
    """
    rows = [line.split("\t") for line in table.tobytes().decode().split("\n")[:-1]]
    if rows and (rows[0] != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows)):
        raise ValueError(f"a table of documents with columns {rows[0]}")
    return tuple(Document(*row) for row in rows[1:])


def wrong_length(names: Path, num_lines: int, num_trees: int) -> InputError:
    """Return the error for a STEM.docs that does not go with its trees."""
    return InputError(f"{names}: {num_lines} lines, expected {num_trees}, the name of a document for each tree")


def find_documents(stem: Path, suffix: str = SUFFIX) -> Path | None:
    """Return STEM.docs or STEM.docs.gz, or the table beside it by ``TABLE_SUFFIX``; None where there is neither.

    Raises:
        InputError: If there are both.
    """
    there = any(stem.with_name(stem.name + suffix + end).is_file() for end in ("", ".gz"))
    return find_file(stem, suffix) if there else None
