"""Which sentence is of which document, and where documents come from: files beside trees and text.

    STEM.docs             as many lines as trees, the name of each one's document; a document is a run of lines with
                          the same name
    STEM.documents.tsv    a row a document, in the order of STEM.docs: document, source, licence; no quoting

Where there is no STEM.docs, documents are not known, and nothing guesses them. A source or licence that is not known
is an empty field.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import IO

from pipeline.corpus.readers import find_file
from pipeline.corpus.text import not_utf8, read_lines, read_texts
from storage.errors import InputError

SUFFIX = ".docs"
TABLE_SUFFIX = ".documents.tsv"


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
        raise InputError(f"{path}: {len(names)} lines, expected {num_trees}, the name of a document for each tree")
    if "" in names:
        raise InputError(f"{path}:{names.index('') + 1}: an empty line, expected the name of this tree's document")
    return names


def find_documents(stem: Path, suffix: str = SUFFIX) -> Path | None:
    """Return STEM.docs or STEM.docs.gz, or the table beside it by ``TABLE_SUFFIX``; None where there is neither.

    Raises:
        InputError: If there are both.
    """
    there = any(stem.with_name(stem.name + suffix + end).is_file() for end in ("", ".gz"))
    return find_file(stem, suffix) if there else None
