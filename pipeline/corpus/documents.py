"""Which sentence is of which document: a file beside trees and text, the name of a document for each tree.

    STEM.docs    as many lines as trees; a document is a run of lines with the same name

Where there is none, documents are not known, and nothing guesses them.
"""

from pathlib import Path

from pipeline.corpus.readers import find_file
from pipeline.corpus.text import read_texts
from storage.errors import InputError

SUFFIX = ".docs"


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


def find_documents(stem: Path) -> Path | None:
    """Return STEM.docs or STEM.docs.gz; None where there is neither.

    Raises:
        InputError: If there are both.
    """
    there = any(stem.with_name(stem.name + SUFFIX + end).is_file() for end in ("", ".gz"))
    return find_file(stem, SUFFIX) if there else None
