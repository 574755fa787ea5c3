"""Read a file of trees and a file of text with the same sentences; pair each tree with its text and normalise both.

If a treebank has no text, the text is rebuilt from the words. A file has one tree per line, or its trees go over
several lines as in the Penn Treebank's ``.mrg`` files. The first lines of the file show which it is. In both cases an
error names the first line of a broken tree. A broken tree does not affect other trees, so trees and text stay aligned.
Files are read once. If the text has blank lines, a second pass counts trees and lines. No file is ever in memory as a
whole.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from pipeline.corpus.text.text_files import Line, OnError, normalise_text, read_lines, read_texts, unescape_brackets
from pipeline.corpus.trees.joiners import JOINERS, Rebuild
from pipeline.corpus.trees.matching import MARKUP_TAGS, Span, match_words
from pipeline.corpus.trees.trees import (
    ROOT_NAMES,
    TRACE_TAG,
    MalformedTreeError,
    Tree,
    normalise_tree,
    parse_tree,
    shortened,
)
from storage.errors import InputError
from storage.fingerprints import Json

_SNIFFED_LINES = 2_000
_BRACKET = re.compile("[()]")
MAX_TREE_CHARACTERS: Final = 1 << 20
"""Characters of the longest tree: some 50,000 words. A longer piece of a file has a bracket that does not close."""


@dataclass(kw_only=True, slots=True)
class Counts:
    """Counts of the trees of an input. Each tree is kept, or dropped for a reason."""

    num_trees: int = 0
    num_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped sentences by reason."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Kept sentences by what was changed in them."""
    num_other_parses: int = 0
    """Trees left out because their sentence has a better tree. They do not count in ``num_trees``."""

    def to_json(self) -> dict[str, Json]:
        """Return the counts, reasons in alphabetical order."""
        return {
            "num_trees": self.num_trees,
            "num_kept": self.num_kept,
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A normalised text and its normalised tree."""

    number: int
    """Number of the tree, from 0. Dropped trees count too."""
    text: str
    tree: Tree
    spans: list[Span]
    """Span in ``text`` of each word of the tree. The spans cover all characters except the spaces between words."""


class RawTree(NamedTuple):
    """The text of one tree, not parsed yet."""

    line: int
    """Line of its first character, from 1."""
    text: str | None
    """None if there is a fault."""
    fault: str = ""
    """Why the text cannot be parsed: ``NOT_UTF8``, ``TOO_LONG`` or another reason to count by."""
    num_other_parses: int = 0
    """Number of other trees of the same sentence in the file. These trees are left out."""


NOT_UTF8: Final = "not UTF-8"
TOO_LONG: Final = "too long"
END_OF_TEXT: Final = "mark of the end of a text"
_FAULTS: Final = {
    NOT_UTF8: "not UTF-8, expected UTF-8 text; convert the file",
    TOO_LONG: f"longer than {MAX_TREE_CHARACTERS} characters, or brackets that are not closed",
}
Read: TypeAlias = Callable[[Path], Iterator[RawTree]]
"""Function that yields the trees of a file, and the pieces that should be trees but are not."""


def looks_like_trees(line: str) -> bool:
    """Return whether a line that should be running text is a tree in brackets with a labelled phrase."""
    if len(line) > MAX_TREE_CHARACTERS or not line.lstrip().startswith("("):
        return False
    try:
        return any(label for label, _, _ in parse_tree(line).phrases)
    except MalformedTreeError:
        return False


class RawPair(NamedTuple):
    """A tree, not parsed yet, and its text."""

    number: int
    """Number of the tree, from 0. The trees of files that were read earlier are included in the count."""
    raw: RawTree
    text: str | None
    """Normalised text. None if the line is not UTF-8 or too long."""


def read_raw_trees(path: Path) -> Iterator[RawTree]:
    """Yield each tree of a file, and each piece that should be a tree but is not. Nothing is parsed yet.

    A file is read in one of three ways. If it indents continuation lines, a tree ends where its brackets close. A tree
    whose brackets never close ends before the next line that begins with a bracket at the margin. If no line is
    indented, but most lines are not whole trees and their brackets close in later lines, a tree ends where its brackets
    close. In any other file, each line is a tree.

    Raises:
        InputError: If the file cannot be read, is empty, or is running text. It is running text if nearly all of its
            first 2,000 lines are without a bracket.
    """
    head, rest, is_all = _sniff(read_lines(path, "skip"), path)
    texts = [line.text for line in head if line.is_whole]
    lines = (line for line in chain(head, rest) if line.text.strip() or not line.is_whole)
    margin = min((len(text) - len(text.lstrip()) for text in texts), default=0)
    if any(text[margin].isspace() for text in texts):
        yield from _spread_over_lines(lines, margin)
    elif _close_over_lines(texts, is_all=is_all):
        yield from _spread_over_lines(lines, None)
    else:
        yield from (_joined([line]) for line in lines)


def read_sentences(
    trees: Path,
    texts: Path | None,
    *,
    on_error: OnError,
    counts: Counts,
    read: Read = read_raw_trees,
    rebuild: Rebuild = JOINERS["english"],
) -> Iterator[Sentence]:
    """Yield the sentences of a treebank and its raw text, normalised. ``counts`` is updated.

    A tree is dropped and counted if it has no words, or if its words are not the words of its line of text. If
    ``on_error`` is "skip", pieces that are not trees and lines that are not UTF-8 are dropped and counted too.

    Args:
        trees: Trees in brackets, plain or gzipped.
        texts: One line for each tree. Blank lines are skipped if there are as many lines with text as trees. If this is
            None, the text is rebuilt from the words of each tree without markup.
        on_error: What to do at a malformed line.
        counts: Updated with each tree.
        read: Function that reads ``trees``.
        rebuild: Function that rebuilds a text.

    Raises:
        InputError: If a file cannot be read, there are not as many lines as trees, or trees and text are swapped. If
            ``on_error`` is "stop", also at the first malformed line.
    """
    for pair in read_pairs(trees, texts, on_error=on_error, first=counts.num_trees, read=read):
        rebuilt_by = None if texts else rebuild
        sentence = read_sentence(trees, pair, on_error=on_error, counts=counts, rebuild=rebuilt_by)
        if sentence is not None:
            yield sentence


def read_pairs(
    trees: Path, texts: Path | None, *, on_error: OnError, first: int = 0, read: Read = read_raw_trees
) -> Iterator[RawPair]:
    """Yield each tree of a treebank, not parsed yet, with its line of text. Trees are numbered from ``first``.

    The files are read once, side by side. At the first blank line of text, the trees and lines of both files are
    counted, because the counts show whether a blank line is the text of a tree.

    Raises:
        InputError: As ``read_sentences``, except for malformed trees.
    """
    raw_trees = enumerate(read(trees), first)
    if texts is None:
        yield from (RawPair(number, raw, "") for number, raw in raw_trees)
        return
    blank_lines_count: bool | None = None
    is_text = False
    for line, text in enumerate(read_texts(texts, on_error), 1):
        if text == "":
            if blank_lines_count is None:
                blank_lines_count = _blank_lines_count(trees, texts, on_error, read)
            if not blank_lines_count:
                continue
        elif text is not None and not is_text:
            is_text = True
            if looks_like_trees(text):
                raise InputError(f"{texts}:{line}: looks like a tree, expected running text: {shortened(text)}")
        numbered = next(raw_trees, None)
        if numbered is None:
            break
        yield RawPair(*numbered, text)
    else:
        if next(raw_trees, None) is None:
            return
    _blank_lines_count(trees, texts, on_error, read)
    raise InputError(f"{texts}: changed while it was read, or {trees} did; run the same command again")


def read_sentence(
    path: Path, pair: RawPair, *, on_error: OnError, counts: Counts, rebuild: Rebuild | None = None
) -> Sentence | None:
    """Return the sentence of a pair, or None if it is dropped. ``counts`` is updated.

    If ``rebuild`` is given, it makes the text. Otherwise the text is that of the pair.

    Raises:
        InputError: If the tree is malformed and ``on_error`` is "stop". The error names file and line.
    """
    counts.num_trees += 1
    try:
        sentence = _sentence(pair, counts, rebuild)
    except MalformedTreeError as error:
        if on_error == "stop" and error.reason not in _ALWAYS_DROPPED:
            raise malformed_tree(path, pair.raw.line, error) from None
        counts.dropped[error.reason] += 1
        return None
    counts.num_kept += 1
    counts.num_other_parses += pair.raw.num_other_parses
    return sentence


_ALWAYS_DROPPED = frozenset({"no words", "no text", "words are not those of the text", END_OF_TEXT})


def parse_raw_tree(raw: RawTree) -> Tree:
    """Return the tree of a piece of a file, not normalised.

    Raises:
        MalformedTreeError: If the piece is not a tree, or has a fault.
    """
    if raw.text is None:
        raise MalformedTreeError(_FAULTS.get(raw.fault, raw.fault), raw.fault)
    return parse_tree(raw.text)


def _sentence(pair: RawPair, counts: Counts, rebuild: Rebuild | None) -> Sentence:
    text, has_text = pair.text, rebuild is None
    given = parse_raw_tree(pair.raw)
    if text is None:
        raise MalformedTreeError("its text is not UTF-8, or too long", "text not UTF-8 or too long")
    invisible = {i for i, word in enumerate(given.words) if not word.isascii() and not normalise_text(word)}
    tree = normalise_tree(given, invisible if has_text else invisible | _markup(given))
    if not text and has_text:
        raise MalformedTreeError("a tree, but no text", "no text")
    text, spans = (text, match_words(tree, text)) if rebuild is None else _rebuilt(tree, rebuild)
    if spans is None:
        raise MalformedTreeError("words are not those of the text", "words are not those of the text")
    found = [span for span in spans if span is not None]
    if len(found) < len(spans):
        tree = normalise_tree(tree, {i for i, span in enumerate(spans) if span is None})
    num_words = sum(tag != TRACE_TAG for tag in given.tags)
    repaired = {
        "markup left out that is not in the text": len(found) < num_words - len(invisible),
        "words without a visible character left out": bool(invisible),
        "brackets without a label taken out": any(label in ROOT_NAMES for label, _, _ in given.phrases[1:]),
        "traces removed": num_words < len(given.words),
    }
    counts.repaired.update(reason for reason, applies in repaired.items() if applies)
    return Sentence(number=pair.number, text=text, tree=tree, spans=found)


def _markup(tree: Tree) -> set[int]:
    """Return the indices of markup: words with a markup tag, and words under a phrase with a markup label."""
    by_tag = {i for i, tag in enumerate(tree.tags) if tag in MARKUP_TAGS}
    return by_tag.union(*(range(start, stop) for label, start, stop in tree.phrases if label in MARKUP_TAGS))


def _rebuilt(tree: Tree, rebuild: Rebuild) -> tuple[str, list[Span | None] | None]:
    text = normalise_text(rebuild(tree.words, tree.tags))
    spans = match_words(tree, text)
    if spans is None:  # a word that is a combining mark became one character with the word before it
        text = normalise_text(" ".join(map(unescape_brackets, tree.words)))
        spans = match_words(tree, text)
    return text, spans


def _blank_lines_count(trees: Path, texts: Path, on_error: OnError, read: Read) -> bool:
    """Count trees and lines of text. Return whether a blank line of text also stands for the text of a tree.

    Raises:
        InputError: If trees and lines of text cannot be paired one to one.
    """
    num_trees = sum(1 for _ in read(trees))
    num_lines = num_texts = 0
    for text in read_texts(texts, "skip"):
        num_lines += 1
        num_texts += text != ""
    if num_trees not in (num_lines, num_texts):
        if on_error == "stop":  # a tree that does not end swallows the next trees, so name it first
            for raw in read(trees):
                try:
                    parse_raw_tree(raw)
                except MalformedTreeError as error:
                    raise malformed_tree(trees, raw.line, error) from None
        raise InputError(
            f"{texts}: {num_lines} lines ({num_texts} with text), but {trees} has {num_trees} trees; expected as many "
            "lines as trees, the text of each tree in a line of its own"
        )
    return num_trees == num_lines


def _sniff(lines: Iterator[Line], path: Path) -> tuple[list[Line], Iterator[Line], bool]:
    """Look at the first lines of a file, up to a limit of lines and characters.

    Returns:
        The first lines that are not blank, all lines that are left, and whether none is left.

    Raises:
        InputError: If there is no line with text, or nearly all lines are without a bracket.
    """
    head: list[Line] = []
    size = 0
    is_all = True
    for line in lines:
        if line.number > _SNIFFED_LINES or size > MAX_TREE_CHARACTERS:
            lines, is_all = chain([line], lines), False
            break
        size += len(line.text)
        head += [line] * (bool(line.text.strip()) or not line.is_whole)
    if not head:
        raise InputError(f"{path}: empty, expected trees in brackets")
    without = [line for line in head if line.is_utf8 and line.is_whole and not _BRACKET.search(line.text)]
    if 5 * len(without) > 4 * len(head):
        raise InputError(
            f"{path}:{without[0].number}: looks like running text, expected trees in brackets: "
            f"{shortened(without[0].text)}"
        )
    return head, lines, is_all


def _close_over_lines(texts: list[str], *, is_all: bool) -> bool:
    """Return whether most lines are not whole trees, and yet brackets that open in one line close in another."""
    depths = list(accumulate(map(_change_of_depth, texts)))
    num_whole = sum(above == below for above, below in pairwise([0, *depths]))
    return 2 * num_whole < len(texts) and min(depths) >= 0 and not (is_all and depths[-1])


def _spread_over_lines(rest: Iterator[Line], margin: int | None) -> Iterator[RawTree]:
    """Cut lines into trees by counting brackets. If ``margin`` is known, a bracket in this column begins a tree."""
    lines: list[Line] = []
    depth = size = 0
    for line in rest:
        if lines and margin is not None and line.text[margin : margin + 1] == "(":
            yield _joined(lines)
            lines, depth, size = [], 0, 0
        size += len(line.text)
        lines.append(line)
        if size > MAX_TREE_CHARACTERS:  # keep only the number of the first line
            lines = [lines[0]._replace(text="", is_whole=False)]
        depth += _change_of_depth(line.text)
        if depth <= 0:
            yield _joined(lines)
            lines, depth, size = [], 0, 0
    if lines:
        yield _joined(lines)


def _joined(lines: list[Line]) -> RawTree:
    number = lines[0].number
    if not all(line.is_utf8 for line in lines):
        return RawTree(number, None, NOT_UTF8)
    if not all(line.is_whole for line in lines) or sum(len(line.text) for line in lines) > MAX_TREE_CHARACTERS:
        return RawTree(number, None, TOO_LONG)
    return RawTree(number, "\n".join(line.text for line in lines))


def _change_of_depth(text: str) -> int:
    return text.count("(") - text.count(")")


def malformed_tree(path: Path, line: int, error: MalformedTreeError) -> InputError:
    """Return the error of a tree with its file, line and remedy."""
    expected = "" if "expected" in str(error) else "; expected one tree in brackets"
    return InputError(f"{path}:{line}: {error}{expected}. Fix the file, or use --on-error skip")
