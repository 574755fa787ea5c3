"""From a file of trees and a file of text, line by line the same sentences, to normalised pairs.

Trees may stand one a line or be spread over lines, as in the Penn Treebank's ``.mrg`` files; which it is, the file
itself says. Either way a broken tree is named by its first line and costs only itself, so that trees and text stay
aligned. Files are read twice, once to count, and never held whole.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import NamedTuple

from pipeline.corpus.matching import Span, match_words
from pipeline.corpus.text import Line, OnError, not_utf8, read_lines, read_texts
from pipeline.corpus.trees import ROOT_NAMES, MalformedTreeError, Tree, normalise_tree, parse_tree
from storage.errors import InputError
from storage.fingerprints import Json

_SNIFFED_LINES = 2_000


@dataclass(kw_only=True, slots=True)
class Counts:
    """What became of the trees of an input: each is kept, or dropped for a reason."""

    num_trees: int = 0
    num_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Sentences by reason."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Sentences kept, and what was done to them, or is remarkable in them."""

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
    """Of its tree in the file, from 0, those that were dropped included."""
    text: str
    tree: Tree
    spans: list[Span]
    """Of each word of the tree in ``text``; together they cover all of it but spaces between words."""


class RawTree(NamedTuple):
    """The text of one tree, not parsed yet."""

    line: int
    """Of its first character, from 1."""
    text: str | None
    """None if a line of it is not UTF-8."""


class RawPair(NamedTuple):
    """A tree, not parsed yet, and its text."""

    number: int
    """Of the tree, from 0, those of files read before included."""
    raw: RawTree
    text: str | None
    """Normalised; None if it is not UTF-8."""


def find_file(stem: Path, suffix: str) -> Path:
    """Return the file ``STEM + suffix``, or its ``.gz``.

    Raises:
        InputError: If there is neither, or both.
    """
    found = [path for end in ("", ".gz") if (path := stem.with_name(stem.name + suffix + end)).is_file()]
    if len(found) != 1:
        plain = stem.name + suffix
        problem = f"both {plain} and {plain}.gz" if found else f"neither {plain} nor {plain}.gz"
        remedy = "leave one of them" if found else f"give the path without {suffix}"
        raise InputError(f"{stem}: there is {problem}, expected one; {remedy}")
    return found[0]


def read_raw_trees(path: Path) -> Iterator[RawTree]:
    """Yield each tree of a file, and each piece of it that should be one; nothing is parsed yet.

    A tree ends where its brackets close. One whose brackets do not close ends before the next line that begins with a
    bracket at the margin, if the file indents continuation lines. If it indents none, each line is a piece, unless
    most lines are no whole trees and yet all brackets close.

    Raises:
        InputError: If the file cannot be read or is empty.
    """
    lines = list(islice(read_lines(path), _SNIFFED_LINES))
    texts = [line.text for line in lines if line.text.strip()]
    if not texts:
        raise InputError(f"{path}: empty, expected trees in brackets")
    margin = min(len(text) - len(text.lstrip()) for text in texts)
    if any(text[margin].isspace() for text in texts):
        yield from _spread_over_lines(path, margin)
    elif _close_over_lines(texts, is_all=len(lines) < _SNIFFED_LINES):
        yield from _spread_over_lines(path, None)
    else:
        for line in read_lines(path):
            if line.text.strip():
                yield RawTree(line.number, line.text if line.is_utf8 else None)


def read_trees(path: Path) -> Iterator[tuple[int, Tree]]:
    """Yield the first line and the tree, as it stands, of each tree of a file.

    Raises:
        InputError: Naming file and line, at the first piece that is not a tree.
    """
    for raw in read_raw_trees(path):
        if raw.text is None:
            raise not_utf8(path, raw.line)
        try:
            yield raw.line, parse_tree(raw.text)
        except MalformedTreeError as error:
            raise _placed(path, raw.line, error) from None


def read_sentences(trees: Path, texts: Path, *, on_error: OnError, counts: Counts) -> Iterator[Sentence]:
    """Yield the sentences of a treebank and its raw text, normalised; ``counts`` is kept up to date.

    A tree without words, or whose words are not those of its line of text, is always dropped and counted; what is
    not a tree or not UTF-8 is too, where ``on_error`` is "skip".

    Args:
        trees: Trees in brackets, plain or gzipped.
        texts: As many lines as there are trees; blank lines are left out if the lines with text are as many.
        on_error: What a malformed line does.
        counts: Grows.

    Raises:
        InputError: If a file cannot be read, there are not as many lines as trees, or, where ``on_error`` is "stop",
            at the first malformed line.
    """
    for pair in read_pairs(trees, texts, on_error=on_error, first=counts.num_trees):
        if (sentence := read_sentence(trees, pair, on_error=on_error, counts=counts)) is not None:
            yield sentence


def read_pairs(trees: Path, texts: Path, *, on_error: OnError, first: int = 0) -> Iterator[RawPair]:
    """Yield each tree of a treebank, not parsed yet, with its line of text; trees are numbered from ``first``.

    Raises:
        InputError: As ``read_sentences``, but for malformed trees.
    """
    blank_lines = _compare_lengths(trees, texts, on_error)
    lines = (text for text in read_texts(texts, on_error) if text != "" or blank_lines)
    for number, (raw, text) in enumerate(zip(read_raw_trees(trees), lines, strict=True), first):
        yield RawPair(number, raw, text)


def read_sentence(path: Path, pair: RawPair, *, on_error: OnError, counts: Counts) -> Sentence | None:
    """Return the sentence of a pair, or None if it is dropped; ``counts`` is kept up to date.

    Raises:
        InputError: Naming file and line of a malformed tree, where ``on_error`` is "stop".
    """
    counts.num_trees += 1
    try:
        sentence = _pair(path, pair, counts)
    except MalformedTreeError as error:
        if on_error == "stop" and error.reason not in _ALWAYS_DROPPED:
            raise _placed(path, pair.raw.line, error) from None
        counts.dropped[error.reason] += 1
        return None
    counts.num_kept += 1
    return sentence


_ALWAYS_DROPPED = frozenset({"no words", "no text", "words are not those of the text"})


def _pair(path: Path, pair: RawPair, counts: Counts) -> Sentence:
    raw, text = pair.raw, pair.text
    if raw.text is None or text is None:
        raise MalformedTreeError("not UTF-8, expected UTF-8 text; convert the file", "not UTF-8")
    tree = normalise_tree(given := parse_tree(raw.text))
    if not text:
        raise MalformedTreeError(f"{path}:{raw.line}: a tree, but no text", "no text")
    spans = match_words(tree, text)
    if spans is None:
        raise MalformedTreeError("words are not those of the text", "words are not those of the text")
    found = [span for span in spans if span is not None]
    if len(found) < len(spans):
        counts.repaired["markup left out that is not in the text"] += 1
        tree = normalise_tree(tree, {i for i, span in enumerate(spans) if span is None})
    if any(label in ROOT_NAMES for label, _, _ in given.phrases[1:]):
        counts.repaired["brackets without a label taken out"] += 1
    if len(given.words) > len(spans):
        counts.repaired["traces removed"] += 1
    return Sentence(number=pair.number, text=text, tree=tree, spans=found)


def _compare_lengths(trees: Path, texts: Path, on_error: OnError) -> bool:
    """Return whether blank lines of the text stand for trees too.

    Raises:
        InputError: If trees and lines of text cannot be paired one to one.
    """
    num_trees = sum(1 for _ in read_raw_trees(trees))
    blank = [text == "" for text in read_texts(texts, "skip")]
    num_texts = len(blank) - sum(blank)
    if num_trees not in (len(blank), num_texts):
        if on_error == "stop":  # a tree that does not end swallows others: then it is what has to be mended
            deque(read_trees(trees), maxlen=0)
        raise InputError(
            f"{texts}: {len(blank)} lines ({num_texts} with text), but {trees} has {num_trees} trees; expected as "
            "many lines as trees, the text of each tree in a line of its own"
        )
    return num_trees == len(blank)


def _close_over_lines(texts: list[str], *, is_all: bool) -> bool:
    """Return whether most lines are no whole trees, and yet brackets close, over lines."""
    depths = list(accumulate(map(_change_of_depth, texts)))
    num_whole = sum(above == below for above, below in pairwise([0, *depths]))
    return 2 * num_whole < len(texts) and min(depths) >= 0 and not (is_all and depths[-1])


def _spread_over_lines(path: Path, margin: int | None) -> Iterator[RawTree]:
    """Cut a file into trees by counting brackets; ``margin`` is the column where only trees begin, if one is known."""
    lines: list[Line] = []
    depth = 0
    for line in read_lines(path):
        if not line.text.strip():
            continue
        if lines and margin is not None and line.text[margin : margin + 1] == "(":
            yield _joined(lines)
            lines, depth = [], 0
        lines.append(line)
        depth += _change_of_depth(line.text)
        if depth <= 0:
            yield _joined(lines)
            lines, depth = [], 0
    if lines:
        yield _joined(lines)


def _joined(lines: list[Line]) -> RawTree:
    is_utf8 = all(line.is_utf8 for line in lines)
    return RawTree(lines[0].number, "\n".join(line.text for line in lines) if is_utf8 else None)


def _change_of_depth(text: str) -> int:
    return text.count("(") - text.count(")")


def _placed(path: Path, line: int, error: MalformedTreeError) -> InputError:
    return InputError(f"{path}:{line}: {error}; expected one tree in brackets. Mend it, or use --on-error skip")
