"""Cut a file into trees by counting brackets. Nothing is parsed yet, and no file is ever in memory as a whole.

A tree ends where its brackets close. So there may be several trees on one line, and a tree may go over several lines,
whatever their indentation. Only after a tree that stays open, a bracket at the margin begins the next tree. If brackets
close too early, everything up to the next beginning of a tree is one broken piece. So no scrap of a broken tree becomes
a tree.

Lines that belong to a file and not to its trees (a licence, SGML tags, comments) are left out and counted.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.corpus.text.text_files import Line, escape_brackets, read_lines
from pipeline.corpus.trees.trees import ROOT_NAMES, Tree, shortened
from storage.errors import InputError

_SNIFFED_LINES = 2_000
MAX_TREE_CHARACTERS: Final = 1 << 20
"""Characters of the longest tree: some 50,000 words. A longer piece of a file has a bracket that does not close."""

NOT_UTF8: Final = "not UTF-8"
TOO_LONG: Final = "too long"
END_OF_TEXT: Final = "mark of the end of a text"
ONLY_CODES: Final = "only codes, ids or comments"
UNCLEAR: Final = "speech that was not understood left out"
MASKED: Final = "masked text"
ALWAYS_DROPPED: Final = frozenset(
    {"no words", "no text", "words are not those of the text", END_OF_TEXT, ONLY_CODES, UNCLEAR, MASKED}
)
"""Reasons for which a tree is dropped even if a malformed tree is an error."""
LICENCE: Final = "lines of a licence"
SGML: Final = "lines of SGML"
COMMENT: Final = "lines of comments"
_OUTSIDE = frozenset({LICENCE, SGML})
_BOTH = frozenset("()")

_BRACKET = re.compile("[()]")
_BRACKET_LEAF = re.compile(r"(\([ \t]*(?:-?[LR][RSC]B-?|PU|PUNCT?|SYM|NFP|HYPH|[^\w\s()]+)[ \t]+)([()])(?=[ \t]*\))")
"""A leaf whose word is a bracket that is not escaped, as in ``(-LRB- ()``. Its tag can be that of no phrase."""
_LABEL = re.compile(r"\s*\(\s*([^\s()]*)")
_LEAF_AT_BEGINNING = re.compile(r"\s*\(\s*[^\s()]+\s+[^\s()]+\s*\)")
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>]*>")
_OPENED = re.compile(r"<([A-Za-z][\w-]*)[^<>]*>")
_HEADER_TAGS = frozenset(
    ["author", "date", "datetime", "date_time", "docid", "docno", "doctype", "endtime", "header", "slug", "source"]
)
_SGML_LINE = re.compile(rf"{_TAG.pattern}[^()]*|<({'|'.join(_HEADER_TAGS)})\b[^<>]*>[^<>]*</\1>\s*", re.IGNORECASE)
_OTHER_FORMATS = {
    re.compile(r"<\?xml|<corpus[ >]"): "XML, such as TIGER-XML",
    re.compile(r"#FORMAT \d|#BOT|#BOS \d|%% word"): "NEGRA's export format",
    re.compile(r"#begin document|\d+\t[^\t()]+\t[^\t()]+\t"): "CoNLL",
    re.compile(r"ID=\S+ PARSER=|\(<[TL] "): "CCGbank",
    re.compile(r"Plain sentence:"): "an OntoNotes .onf file; give the .parse files",
}


class RawTree(NamedTuple):
    """The text of one tree."""

    line: int
    """Line of its first character, from 1."""
    text: str | None
    """None if there is a fault."""
    fault: str = ""
    """Why the text cannot be parsed: ``NOT_UTF8``, ``TOO_LONG`` or another reason to count by."""
    num_other_parses: int = 0
    """Number of other trees of the same sentence in the file. These trees are left out."""
    tree: Tree | None = None
    """The tree as its dialect is read. None: ``text`` is to be parsed."""
    dialect: str = ""
    """Name of the dialect that ``tree`` was written in, or "" for plain brackets."""
    left_out: tuple[str, ...] = ()
    """What ``text`` has and ``tree`` has not, or what was changed, each as a reason to count by."""
    lines_left_out: tuple[str, ...] = ()
    """For each line before this tree that belongs to no tree (after the last tree too): what the line is."""


def read_raw_trees(path: Path) -> Iterator[RawTree]:
    """Yield each tree of a file, and each piece that should be a tree but is not. Nothing is parsed yet.

    Raises:
        InputError: If the file cannot be read, is empty, is running text (nearly all of its first 2,000 lines are
            without a bracket) or has a format without brackets.
    """
    head, rest, is_all = _sniff(map(_with_escaped_brackets, read_lines(path, "skip")), path)
    shape = _shape([line.text for line, what in _labelled(head) if line.is_whole and not what], is_all=is_all)
    lines = (line for line in chain(head, rest) if line.text.strip() or not line.is_whole)
    yield from _with_counted_lines(_cut(_Lines(_labelled(lines)), shape))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the lines of a file are laid out, judged by its first lines."""

    margin: int
    """Indentation of the lines that are indented the least."""
    is_indented: bool
    """Whether other lines are indented further."""
    is_tree_per_line: bool
    """Whether most lines are whole trees."""

    def is_at_margin(self, text: str) -> bool:
        """Return whether a line begins with a bracket at the margin, or before it."""
        return text.lstrip()[:1] == "(" and _indentation(text) <= self.margin

    def begins_tree(self, text: str, first: str) -> bool:
        """Return whether a line begins a tree, if all brackets before it are closed. ``first`` begins the tree before.

        A tree that ended too early must not leave its other lines as trees. If the trees have a root with a name, or
        the file has no indentation, only the label tells these lines from the beginning of a tree.
        """
        label, before = _label(text), _label(first)
        if label is not None and (label == before or label in ROOT_NAMES):
            return True
        return self.is_at_margin(text) and (
            self.is_tree_per_line
            or (self.is_indented and before not in ROOT_NAMES and not _LEAF_AT_BEGINNING.match(text))
        )

    def is_rest(self, text: str, first: str) -> bool:
        """Return whether a line after closed brackets can only be the rest of a tree that ended too early."""
        if self.is_tree_per_line or self.begins_tree(text, first):
            return False
        return not self.is_at_margin(text) if self.is_indented else _label(first) in ROOT_NAMES

    def interrupts_tree(self, text: str, first: str) -> bool:
        """Return whether a line shows that the tree that begins with ``first`` and is still open is broken."""
        label = _label(text)
        return self.is_at_margin(text) and label == _label(first) and (label in ROOT_NAMES or self.is_tree_per_line)


def _shape(texts: list[str], *, is_all: bool) -> _Shape:
    indentations = [_indentation(text) for text in texts if text.lstrip()[:1] == "("]
    margin = min(indentations, default=0)
    depths = list(accumulate(map(_change_of_depth, texts)))
    num_whole = sum(above == below for above, below in pairwise([0, *depths]))
    closes_over_lines = 2 * num_whole < len(texts) and min(depths, default=0) >= 0 and not (is_all and depths[-1])
    is_indented = any(_indentation(text) > margin for text in texts)
    is_tree_per_line = 2 * num_whole >= len(texts) if is_indented else not closes_over_lines
    return _Shape(margin, is_indented, is_tree_per_line)


class _Lines(Iterator[tuple[Line, str]]):
    """The lines of a file, each with what it is if it belongs to no tree. Lines can be put back."""

    def __init__(self, lines: Iterator[tuple[Line, str]]) -> None:
        self._lines = lines
        self._waiting: deque[tuple[Line, str]] = deque()

    def __next__(self) -> tuple[Line, str]:
        return self._waiting.popleft() if self._waiting else next(self._lines)

    def put_back(self, lines: Sequence[tuple[Line, str]]) -> None:
        self._waiting.extendleft(reversed(lines))


def _cut(lines: _Lines, shape: _Shape) -> Iterator[RawTree | str]:
    """Yield the trees and broken pieces of a file, and for each line that is left out what it is.

    A block is all lines from a beginning of a tree up to the next beginning. If something is wrong in a block, no tree
    of it can be trusted.
    """
    never_closing: set[int] = set()
    block: list[Line] = []
    is_broken = False
    for line, what in lines:
        begins = line.text.lstrip()[:1]
        is_open = line.number in never_closing
        if block and (what or is_open or begins not in _BOTH or shape.begins_tree(line.text, block[0].text)):
            yield from _trees(block, is_broken=is_broken)
            block, is_broken = [], False
        if what:
            yield what
        elif is_open:
            yield from _trees(_up_to_next(line, lines, shape), is_open=True)
        else:
            lines_of_tree = _while_open(line, lines, shape, never_closing)
            is_broken |= bool(block and begins == "(" and lines_of_tree and shape.is_rest(line.text, block[0].text))
            block += lines_of_tree
            if block and begins not in _BOTH:
                yield from _trees(block)
                block = []
    yield from _trees(block, is_broken=is_broken)


def _while_open(line: Line, lines: _Lines, shape: _Shape, never_closing: set[int]) -> list[Line]:
    """Return a line and the lines after it, until all brackets are closed.

    If they are never closed, put the lines back, add the number of the first line to ``never_closing``, and return no
    line. Then the same is found out for the other lines, so that each line is looked at only a few times.
    """
    found, depth, size = [(line, "")], _change_of_depth(line.text), len(line.text)
    while depth > 0:
        read = next(lines, None)
        is_interrupted = read is not None and (read[1] in _OUTSIDE or shape.interrupts_tree(read[0].text, line.text))
        if read is None or is_interrupted or size > MAX_TREE_CHARACTERS:
            never_closing.add(line.number)
            if not is_interrupted:
                never_closing |= _never_closing([each for each, _ in found], shape, is_all=read is None)
            lines.put_back([*found, *([read] if read else [])])
            return []
        found.append(read)
        depth += _change_of_depth(read[0].text)
        size += len(read[0].text)
    return [each for each, _ in found]


def _never_closing(lines: list[Line], shape: _Shape, *, is_all: bool) -> set[int]:
    """Return the numbers of the lines at the margin whose brackets are open at the end of the lines.

    If more lines follow, only those are returned that would be too long a tree.
    """
    depths = list(accumulate((_change_of_depth(line.text) for line in lines), initial=0))
    size = 0
    lowest = depths[-1]
    found = set()
    for i in reversed(range(len(lines))):
        size += len(lines[i].text)
        lowest = min(lowest, depths[i + 1])
        is_long = is_all or 2 * size > MAX_TREE_CHARACTERS
        if lowest > depths[i] and is_long and shape.is_at_margin(lines[i].text):
            found.add(lines[i].number)
    return found


def _up_to_next(line: Line, lines: _Lines, shape: _Shape) -> list[Line]:
    """Return a line and the lines after it, up to the next that can begin a tree. Long pieces lose their text."""
    found, size = [line], len(line.text)
    for following, what in lines:
        if what or (shape.is_at_margin(following.text) and shape.begins_tree(following.text, line.text)):
            lines.put_back([(following, what)])
            break
        size += len(following.text)
        if size > MAX_TREE_CHARACTERS:
            found = [line._replace(text="", is_whole=False)]
        else:
            found.append(following)
    return found


def _trees(block: list[Line], *, is_broken: bool = False, is_open: bool = False) -> Iterator[RawTree]:
    """Yield the trees of a block, or the whole block if it is broken. The last tree of an open block is broken."""
    text = "\n".join(line.text for line in block)
    spans, end, depth = [], 0, 0
    for found in _BRACKET.finditer(text) if not is_broken else ():
        bracket = found[0]
        if depth == 0 and (bracket == ")" or _TAG.sub("", text[end : found.start()]).strip()):
            is_broken = True
            break
        if depth == 0:
            start = found.start()
        depth += 1 if bracket == "(" else -1
        if depth == 0:
            end = found.end()
            spans.append((start, end))
    if depth > 0:
        spans.append((start, len(text)))
        is_broken |= not is_open
    is_broken |= depth == 0 and bool(_TAG.sub("", text[end:]).strip())
    if block and (is_broken or not spans):
        spans = [(0, len(text))]
    at = line = 0
    for start, stop in spans:
        line += text.count("\n", at, start)
        at = start
        lines = block[line : line + text.count("\n", start, stop) + 1]
        fault = "" if all(each.is_utf8 for each in lines) else NOT_UTF8
        if stop - start > MAX_TREE_CHARACTERS or not all(each.is_whole for each in lines):
            fault = TOO_LONG
        yield RawTree(lines[0].number, None if fault else text[start:stop], fault)


def _with_counted_lines(pieces: Iterable[RawTree | str]) -> Iterator[RawTree]:
    """Yield the trees with the lines that were left out before them, and the last tree also with those after it."""
    held: RawTree | None = None
    left_out: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            left_out.append(piece)
            continue
        if held is not None:
            yield held
        held = piece._replace(lines_left_out=tuple(left_out))
        left_out = []
    if held is not None:
        yield held._replace(lines_left_out=held.lines_left_out + tuple(left_out))


def _with_escaped_brackets(line: Line) -> Line:
    text = _BRACKET_LEAF.sub(lambda found: found[1] + escape_brackets(found[2]), line.text)
    return line if text == line.text else line._replace(text=text)


def _labelled(lines: Iterable[Line]) -> Iterator[tuple[Line, str]]:
    """Yield each line, and what it is if it belongs to no tree: a licence, an SGML tag, a header or a comment."""
    ends_comment: re.Pattern[str] | None = None
    header = ""
    for line in lines:
        text = line.text.lstrip()
        what = ""
        if ends_comment:
            what = COMMENT
            ends_comment = None if ends_comment.search(text) else ends_comment
        elif text.startswith(("/~*", "/*")):
            what = COMMENT
            end = re.compile(r"\*~/" if text.startswith("/~*") else r"\*/")
            ends_comment = None if end.search(text, 2) else end
        elif text.startswith(("%%", ";;", "# ")):
            what = COMMENT
        elif text.startswith("*x*"):
            what = LICENCE
        elif _SGML_LINE.fullmatch(text):
            what = SGML
            if header:
                header = "" if f"</{header}>" in text else header
            elif (opened := _OPENED.match(text)) and f"</{opened[1]}>" not in text:
                header = opened[1] if opened[1].lower() in _HEADER_TAGS else ""
        elif header and not _BRACKET.search(text):
            what = SGML
        yield line, what


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
    for line in head[:20]:
        for beginning, name in _OTHER_FORMATS.items():
            if beginning.match(line.text):
                raise InputError(
                    f"{path}:{line.number}: this looks like {name}, which is not read; convert it to trees in brackets"
                )
    tree_lines = [line for line, what in _labelled(head) if not what]
    without = [line for line in tree_lines if line.is_utf8 and line.is_whole and not _BRACKET.search(line.text)]
    if 5 * len(without) > 4 * len(tree_lines) or not tree_lines:
        raise InputError(
            f"{path}:{(without or head)[0].number}: looks like running text, expected trees in brackets: "
            f"{shortened((without or head)[0].text)}"
        )
    return head, lines, is_all


def _change_of_depth(text: str) -> int:
    return text.count("(") - text.count(")")


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip())


def _label(text: str) -> str | None:
    """Return the label of the bracket that a line begins with, or None if it begins with something else."""
    found = _LABEL.match(text)
    return found[1] if found else None
