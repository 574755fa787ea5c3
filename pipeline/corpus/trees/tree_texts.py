"""Find the text of a file of trees, and read the text of each tree from it.

A text has one of three forms:

    lines            one sentence per line, one line for each tree
    CoNLL-U          the comments ``# text = ...`` of a .conllu file, one for each tree
    running text     the Penn Treebank's raw files: ``.START``, then paragraphs. The words of the trees show where each
                     sentence ends.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from pipeline.corpus.text.text_files import Line, OnError, find_file, normalise_text, not_utf8, read_lines
from pipeline.corpus.trees.matching import match_beginning
from pipeline.corpus.trees.trees import Tree
from storage.errors import InputError
from storage.files import beside

_SUFFIXES: Final = (".txt", ".conllu", "")
_START: Final = ".START"
_COMMENT: Final = re.compile(r"# ?text ?= ?(.*)")
_MOST_LINES_SKIPPED: Final = 20
"""Maximum number of lines that are skipped to find the text of a tree."""


def find_text(stem: Path, folder: Path) -> Path:
    """Return the path of the text that belongs to a file of trees.

    The text of ``02/wsj_0201`` is ``02/wsj_0201.txt``, ``02/wsj_0201.conllu`` or ``02/wsj_0201``, plain or gzipped. If
    ``folder`` has none of these files, the text is looked up without the first folder of the path: ``wsj_0201.txt``,
    ``wsj_0201.conllu`` or ``wsj_0201``. If the path has more folders, they are left out one after another.

    Args:
        stem: Path of the file of trees relative to its source, without suffixes.
        folder: The folder of texts.

    Raises:
        InputError: If there is no such file, or both the plain and the gzipped one.
    """
    for first in range(len(stem.parts)):
        inner = folder.joinpath(*stem.parts[first:])
        for suffix in _SUFFIXES:
            if any(beside(inner, suffix + end).is_file() for end in ("", ".gz")):
                return find_file(inner, suffix)
    names = ", ".join(f"{stem.name}{suffix}" for suffix in _SUFFIXES)
    raise InputError(
        f"{folder}: no text of {stem}, expected one of {names} in it; leave out --text to rebuild the text"
    )


def read_tree_texts(path: Path, on_error: OnError) -> Iterator[tuple[int, str | None]]:
    """Yield the line number and the normalised text of each sentence of a file of lines, or of CoNLL-U.

    The text is None for a line that is not UTF-8 (if ``on_error`` is "skip"), and in a file of lines also for a line
    that is too long.

    Raises:
        InputError: As ``read_lines``; and if ``on_error`` is "stop", at the first line that is not UTF-8.
    """
    is_conllu = path.name.removesuffix(".gz").endswith(".conllu")
    for line in read_lines(path, on_error):
        if not line.is_utf8 and on_error == "stop":
            raise not_utf8(path, line.number)
        if not is_conllu:
            yield line.number, normalise_text(line.text) if line.is_utf8 and line.is_whole else None
        elif comment := _COMMENT.fullmatch(line.text):
            yield line.number, normalise_text(comment[1]) if line.is_utf8 else None


def is_running_text(path: Path) -> bool:
    """Return whether a file begins with ``.START``, as the Penn Treebank's raw files do."""
    lines = (line.text.strip() for line in islice(read_lines(path, "skip"), 100))
    return next(filter(None, lines), "") == _START


class RunningText:
    """A raw file of the Penn Treebank. It gives each tree its text, in the order of the trees."""

    def __init__(self, path: Path, on_error: OnError) -> None:
        """Read the whole file, which is one article.

        Raises:
            InputError: If the file cannot be read, or if ``on_error`` is "stop" and a line is not UTF-8.
        """
        lines: list[Line] = list(read_lines(path, on_error))
        for line in lines:
            if not line.is_utf8 and on_error == "stop":
                raise not_utf8(path, line.number)
        texts = [normalise_text(line.text) for line in lines]
        texts = [text for text in texts if text and text != _START]
        self._text = " ".join(texts)
        self._starts = [0]
        for text in texts:
            self._starts.append(self._starts[-1] + len(text) + 1)
        self._at = 0

    def next(self, tree: Tree) -> tuple[str, bool]:
        """Return the text of ``tree`` and True. If its words are not found, return the text that comes next, and False.

        Up to ``_MOST_LINES_SKIPPED`` lines that belong to no tree are skipped.
        """
        longest = sum(2 * len(word) + 4 for word in tree.words) + 40
        later = bisect_left(self._starts, self._at)
        for start in (self._at, *self._starts[later : later + _MOST_LINES_SKIPPED]):
            if (length := match_beginning(tree, self._text[start : start + longest])) is not None:
                self._at = start + length + 1
                return self._text[start : start + length], True
        return self._text[self._at : self._at + longest], False
