"""Pair each tree of a file with its text, and normalise both.

The texts are in a file of their own. Without this file, they are rebuilt from the words. A broken tree counts as one
tree, so the other trees stay aligned with their texts. If a broken tree swallows the next trees, the numbers of trees
and lines differ, which is an error. Memory does not grow with the size of the files, except that ``RunningText`` reads
a whole raw file of the Penn Treebank.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from pipeline.corpus.text.text_files import OnError, normalise_text, unescape_brackets
from pipeline.corpus.trees.joiners import JOINERS, Rebuild
from pipeline.corpus.trees.matching import MARKUP_TAGS, Span, match_words
from pipeline.corpus.trees.raw_trees import (
    ALWAYS_DROPPED,
    MASKED,
    MAX_TREE_CHARACTERS,
    NOT_UTF8,
    TOO_LONG,
    RawTree,
    read_raw_trees,
)
from pipeline.corpus.trees.tree_texts import RunningText, is_running_text, read_tree_texts
from pipeline.corpus.trees.trees import (
    ROOT_NAMES,
    TRACE_TAG,
    MalformedTreeError,
    Tree,
    is_binarised,
    normalise_tree,
    parse_tree,
    shortened,
)
from storage.errors import InputError
from storage.fingerprints import Json


@dataclass(kw_only=True, slots=True)
class Counts:
    """Counts of the trees of an input. Each tree is kept, or dropped for a reason."""

    num_trees: int = 0
    num_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of dropped sentences for each reason."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Number of kept sentences for each kind of change that was made."""
    num_other_parses: int = 0
    """Number of trees left out because their sentence has a better tree in its n-best list. They are not counted in
    ``num_trees``."""
    dialects: Counter[str] = field(default_factory=Counter)
    """Number of trees for each dialect (way to write leaves). Trees in plain brackets are not counted."""
    lines_left_out: Counter[str] = field(default_factory=Counter)
    """Number of lines that belong to no tree, for each kind of line."""

    def to_json(self) -> dict[str, Json]:
        """Return the first four counts. Reasons are in alphabetical order."""
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
    """The span of each word in ``text``."""


_FAULTS: Final = {
    NOT_UTF8: "not UTF-8, expected UTF-8 text; convert the file",
    TOO_LONG: f"longer than {MAX_TREE_CHARACTERS} characters, or brackets that are not closed",
}
_MASK = "[_\uff3f\u2581\u2588\u2587\u25a0\u25a1\u2591-\u2593\u26d4]"
_BLANK = re.compile(rf"{_MASK}[\W_]*|[\W_]*{_MASK}|[\[<](?:mask(?:ed)?|redacted|removed|deleted)[\]>]", re.IGNORECASE)
_CROSSED_OUT = re.compile(r"x+|\*+|#+", re.IGNORECASE)
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
    """Number of the tree, from 0, counted over all files that were read."""
    raw: RawTree
    text: str | None
    """Normalised text. None if the line is not UTF-8 or too long."""


def read_sentences(
    trees: Path,
    texts: Path | None,
    *,
    on_error: OnError,
    counts: Counts,
    read: Read = read_raw_trees,
    rebuild: Rebuild = JOINERS["english"],
) -> Iterator[Sentence]:
    """Yield the sentences of a treebank and its raw text, normalised.

    A tree is dropped and counted for any reason of ``ALWAYS_DROPPED``, for example if its words are not those of its
    text. If ``on_error`` is "skip", pieces that are not trees and lines that are not UTF-8 are dropped and counted too.

    Args:
        trees: Trees in brackets, plain or gzipped.
        texts: A file in one of the forms that ``tree_texts`` describes. If the number of lines with text equals the
            number of trees, blank lines are skipped. If ``texts`` is None, each text is rebuilt from the words of its
            tree, without markup.
        on_error: What to do at a malformed line.
        counts: Updated with each tree.
        read: Function that reads ``trees``.
        rebuild: Function that rebuilds a text from words and their parts of speech.

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

    At the first blank line of text, another pass over both files counts trees and lines. The counts show whether a
    blank line is the text of a tree.

    Raises:
        InputError: As ``read_sentences``, except for malformed trees.
    """
    raw_trees = enumerate(read(trees), first)
    if texts is None:
        yield from (RawPair(number, raw, "") for number, raw in raw_trees)
    elif is_running_text(texts):
        yield from _pairs_of_running_text(trees, texts, raw_trees, on_error)
    else:
        yield from _pairs_of_lines(trees, texts, raw_trees, on_error, read)


def _pairs_of_lines(
    trees: Path, texts: Path, raw_trees: Iterator[tuple[int, RawTree]], on_error: OnError, read: Read
) -> Iterator[RawPair]:
    """Yield each tree with its line of text."""
    blank_lines_count: bool | None = None
    is_text = False
    for line, text in read_tree_texts(texts, on_error):
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


def _pairs_of_running_text(
    trees: Path, texts: Path, raw_trees: Iterator[tuple[int, RawTree]], on_error: OnError
) -> Iterator[RawPair]:
    """Yield each tree with its part of a running text.

    Raises:
        InputError: If no tree has its words in the text.
    """
    running = RunningText(texts, on_error)
    num_trees = num_found = 0
    for number, raw in raw_trees:
        text, found = "", False
        try:
            tree, _ = _normalised(parse_raw_tree(raw), has_text=True)
        except MalformedTreeError:
            pass  # the caller says what is wrong with the tree
        else:
            text, found = running.next(tree)
            num_trees += 1
        num_found += found
        yield RawPair(number, raw, text)
    if num_trees and not num_found:
        raise InputError(
            f"{texts}: the words of none of the {num_trees} trees of {trees} are in this text, expected the text of "
            "these trees; give the file or folder with the right text, or leave out --text"
        )


def read_sentence(
    path: Path, pair: RawPair, *, on_error: OnError, counts: Counts, rebuild: Rebuild | None = None
) -> Sentence | None:
    """Return the sentence of a pair, or None if it is dropped. ``counts`` is updated.

    If ``rebuild`` is given, it makes the text from the words.

    Raises:
        InputError: If the tree is malformed and ``on_error`` is "stop". The error names file and line.
    """
    counts.num_trees += 1
    counts.lines_left_out.update(pair.raw.lines_left_out)
    counts.dialects.update([pair.raw.dialect] if pair.raw.dialect else [])
    try:
        sentence = _sentence(pair, counts, rebuild)
    except MalformedTreeError as error:
        if on_error == "stop" and error.reason not in ALWAYS_DROPPED:
            raise malformed_tree(path, pair.raw.line, error) from None
        counts.dropped[error.reason] += 1
        return None
    counts.num_kept += 1
    counts.num_other_parses += pair.raw.num_other_parses
    counts.repaired.update(pair.raw.left_out)
    return sentence


def parse_raw_tree(raw: RawTree) -> Tree:
    """Return the tree of a piece of a file, not normalised.

    Raises:
        MalformedTreeError: If the piece is not a tree, or has a fault.
    """
    if raw.text is None:
        raise MalformedTreeError(_FAULTS.get(raw.fault, raw.fault), raw.fault)
    return raw.tree if raw.tree is not None else parse_tree(raw.text)


def _sentence(pair: RawPair, counts: Counts, rebuild: Rebuild | None) -> Sentence:
    text, has_text = pair.text, rebuild is None
    given = parse_raw_tree(pair.raw)
    if text is None:
        raise MalformedTreeError("its text is not UTF-8, or too long", "text not UTF-8 or too long")
    if _is_masked(given):
        raise MalformedTreeError("words replaced by underscores", MASKED)
    tree, invisible = _normalised(given, has_text=has_text)
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
        "brackets of a binarisation taken out": any(is_binarised(label) for label, _, _ in given.phrases),
        "traces removed": num_words < len(given.words),
    }
    counts.repaired.update(reason for reason, applies in repaired.items() if applies)
    return Sentence(number=pair.number, text=text, tree=tree, spans=found)


def _normalised(given: Tree, *, has_text: bool) -> tuple[Tree, set[int]]:
    """Return the normalised tree, and the indices of the words left out because they have no visible character."""
    invisible = {i for i, word in enumerate(given.words) if not word.isascii() and not normalise_text(word)}
    return normalise_tree(given, invisible if has_text else invisible | _markup(given)), invisible


def _is_masked(tree: Tree) -> bool:
    """Return whether the words of a sentence were replaced by underscores or similar, as in GUM's texts from Reddit.

    A blank is one replaced word, or several in a row. A sentence is masked if it has a blank and no word, or at least
    two blanks for each word. It is also masked if all its words are crossed out, as in ``xxx xx``, and do not all have
    the same length. Punctuation does not count. So ``___ ___ .`` is masked, but ``Fill in the ___ .`` and ``* * *`` are
    not.
    """
    if {"blank", "crossed out"}.isdisjoint(map(_kind_of_word, tree.words)):
        return False
    without = _markup(tree)
    kinds, lengths = [], set()
    for i, (word, tag) in enumerate(zip(tree.words, tree.tags, strict=True)):
        kind = _kind_of_word(word) if tag != TRACE_TAG and i not in without else ""
        if kind:
            kinds.append(kind)
            lengths.add(len(word))
    if {*kinds} == {"crossed out"} and len(lengths) > 1:
        return True
    num_blanks = sum(kind == "blank" for kind, _ in groupby(kinds))
    num_words = len(kinds) - kinds.count("blank")
    return num_blanks > 0 and (num_words == 0 or num_blanks >= 2 * num_words)


@lru_cache(maxsize=1 << 16)
def _kind_of_word(word: str) -> str:
    """Return "blank", "crossed out" or "word", or "" for punctuation."""
    if _BLANK.fullmatch(word):
        return "blank"
    if _CROSSED_OUT.fullmatch(word):
        return "crossed out"
    return "word" if any(map(str.isalnum, word)) else ""


def _markup(tree: Tree) -> set[int]:
    """Return the indices of the words that have a tag of ``MARKUP_TAGS`` or are under a phrase with such a label."""
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
    """Return whether blank lines of text belong to trees, by counting trees and lines.

    Raises:
        InputError: If trees and lines of text cannot be paired one to one.
    """
    num_trees = sum(1 for _ in read(trees))
    num_lines = num_texts = 0
    for _, text in read_tree_texts(texts, "skip"):
        num_lines += 1
        num_texts += text != ""
    if num_trees not in (num_lines, num_texts):
        if on_error == "stop":  # a broken tree may swallow the next trees: report it, not the counts
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


def malformed_tree(path: Path, line: int, error: MalformedTreeError) -> InputError:
    """Return the error of a tree with its file, line and remedy."""
    expected = "" if "expected" in str(error) or "; write " in str(error) else "; expected one tree in brackets"
    return InputError(f"{path}:{line}: {error}{expected}. Fix the file, or use --on-error skip")
