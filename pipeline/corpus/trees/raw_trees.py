"""Cut a file into trees by counting brackets. Nothing is parsed yet. Memory does not grow with the file.

A tree ends where its brackets close. A line may have several trees, and a tree may go over several lines. If the
brackets of a tree close too early or never, everything up to the next line that looks like the beginning of a tree is
one broken piece. So no part of a broken tree becomes a tree.

Lines that belong to no tree, such as a licence, SGML tags or comments, are left out. Their kinds are recorded with the
next tree.
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
"""Largest number of characters of a tree, some 50,000 words. If a piece of a file is longer, one of its brackets is
assumed never to close."""

NOT_UTF8: Final = "not UTF-8"
TOO_LONG: Final = "too long"
END_OF_TEXT: Final = "mark of the end of a text"
ONLY_CODES: Final = "only codes, ids or comments"
UNCLEAR: Final = "speech left out because it was not understood"
MASKED: Final = "masked text"
ALWAYS_DROPPED: Final = frozenset(
    {"no words", "no text", "words are not those of the text", END_OF_TEXT, ONLY_CODES, UNCLEAR, MASKED}
)
"""Reasons for which a tree is dropped and counted even with ``--on-error stop``. These trees are not malformed."""
LICENCE: Final = "lines of a licence"
SGML: Final = "lines of SGML"
COMMENT: Final = "lines of comments"
REMARK: Final = "lines of a header or a remark"
DEPENDENCY: Final = "lines of dependencies"
_BOTH = frozenset("()")

_BRACKET = re.compile("[()]")
_BRACKET_LEAF = re.compile(r"(\([ \t]*(?:-?[LR][RSC]B-?|PU|PUNCT?|SYM|NFP|HYPH|[^\w\s()]+)[ \t]+)([()])(?=[ \t]*\))")
"""A leaf whose word is a bracket that is not escaped, as in ``(-LRB- ()``. None of the tags in this pattern is the
label of a phrase."""
_BRACKET_TAG = re.compile(r"(\(\s*\$)\((?=\s)")
"""The tag ``$(`` of German treebanks."""
_LABEL = re.compile(r"\s*\(\s*([^\s()]*)")
_LEAVES = re.compile(r"\s*(\(\s*[^\s()]+\s+[^\s()]+\s*\)\s*)*")
_LEAF_AT_BEGINNING = re.compile(r"\s*\(\s*[^\s()]+\s+[^\s()]+\s*\)")
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>]*>")
_OPENED = re.compile(r"<([A-Za-z][\w-]*)[^<>]*>")
_HEADER_TAGS = frozenset(
    ["author", "date", "datetime", "date_time", "docid", "docno", "doctype", "endtime", "header", "slug", "source"]
)
_SGML_LINE = re.compile(rf"{_TAG.pattern}[^()]*|<({'|'.join(_HEADER_TAGS)})\b[^<>]*>[^<>]*</\1>\s*", re.IGNORECASE)
_ENDS_OF_COMMENTS = {"/~*": re.compile(r"\*~/"), "/*": re.compile(r"\*/"), "<!--": re.compile("-->")}
_MESSAGE = (
    r"(?:\[main\] INFO|Loading parser|Parsing file:|Parsing \[sent\.|Parsed file:|Parsed \d+ words|Sentence skipped:) "
)
"""What Stanford's parser writes between its trees."""
_REMARK = re.compile(rf"[#%;@]|//|--|\*.*\*\s*$|[^\w\s()]+\s*$|{_MESSAGE}")
"""Lines that begin with a mark of a comment, or begin and end with ``*``, or have only signs, such as ``=====``."""
_KINDS = {
    re.compile("%%|;;|# "): COMMENT,
    re.compile(r"\*x\*"): LICENCE,
    re.compile(r"[\w:]+\(\S+-\d+'*, \S+-\d+'*\)\s*$"): DEPENDENCY,
}
"""Kinds of lines by their beginning. Stanford's parsers write ``nsubj(barks-3, dog-2)`` after a tree."""
_OTHER_BRACKETS = re.compile(r"\s*(?:[\[{](?![\"'])|\uff08|\\)")
_NESTED = re.compile(r"\(\s*[^\s()]*\s*\(")
_MOST_HEADER_LINES = 50
_OTHER_FORMATS = {
    re.compile(
        "BZh\\d|\ufffd7zXZ|7z\ufffd\ufffd|PK\x03\x04|.{0,300}\0ustar"
    ): "an archive or a packed file (unpack it)",
    re.compile(r"<\?xml|<corpus[ >]"): "XML, such as TIGER-XML",
    re.compile(r"#FORMAT \d|#BOT|#BOS \d|%% word"): "NEGRA's export format",
    re.compile(r"#begin document|\d+\t[^\t()]+\t[^\t()]+\t|[^\s#%;*(].*\s(\([^\s()*]+)+\*"): "CoNLL",
    re.compile(r"[{[]\s*([{\"]|$)"): "JSON (write the trees alone, for example with jq -r .FIELD)",
    re.compile(r"NT\(\S+\)\s*$"): "an oracle of an RNNG (give the trees that it was made from)",
    re.compile(r"ID=\S+ PARSER=|\(<[TL] "): "CCGbank",
    re.compile(r"Plain sentence:"): "an OntoNotes .onf file (give the .parse files)",
}


class RawTree(NamedTuple):
    """The text of one tree."""

    line: int
    """Line of its first character, from 1."""
    text: str | None
    """None if there is a fault."""
    fault: str = ""
    """Why there is no text: ``NOT_UTF8``, ``TOO_LONG`` or another reason."""
    num_other_parses: int = 0
    """Number of other trees of the same sentence in the file, which are left out."""
    tree: Tree | None = None
    """The tree, if it is already parsed by the rules of its dialect (the way in which a file writes leaves)."""
    dialect: str = ""
    """Name of the dialect of ``tree``, or "" for plain brackets."""
    left_out: tuple[str, ...] = ()
    """What was left out or changed to make ``tree`` from ``text``, for example "lemmas left out". Each change is listed
    once."""
    lines_left_out: tuple[str, ...] = ()
    """The kind of each line left out between the previous tree and this one, for example ``COMMENT``. The last tree
    also has the kinds of the lines after it."""


def read_raw_trees(path: Path) -> Iterator[RawTree]:
    """Yield each tree of a file, and each piece that should be a tree but is not.

    Raises:
        InputError: If the file cannot be read; if it is empty or has only a header or comments; if it is running text
            (more than four fifths of its first 2,000 lines have no bracket); if it has another known format, such as
            XML or CoNLL; or if a comment in it does not end.
    """
    head, rest = _sniff(map(_with_escaped_brackets, read_lines(path, "skip")), path)
    begin = _first_line_of_trees(head)
    shape = _shape([line.text for line, what in _labelled(head, begin) if line.is_whole and not what])
    lines = (line for line in chain(head, rest) if line.text.strip() or not line.is_whole)
    yield from _with_counted_lines(_cut(_Lines(_labelled(lines, begin, whole=path)), shape))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the lines of a file are laid out, judged by its first lines.

    A block is a line that begins a tree and the lines after it. It ends before the next line that begins a tree or
    belongs to no tree. The methods ``begins_tree`` and ``is_rest`` judge the next line after a block. This line is
    ``text``, and the first line of the block is ``first``.
    """

    margin: int
    """The smallest indentation of the lines that begin with a bracket."""
    is_indented: bool
    """Whether any line is indented further than the margin."""
    is_tree_per_line: bool
    """Whether most lines are whole trees."""

    def is_at_margin(self, text: str) -> bool:
        """Return whether a line begins with a bracket at the margin, or left of the margin."""
        return text.lstrip()[:1] == "(" and _indentation(text) <= self.margin

    def begins_tree(self, text: str, first: str, *, is_broken: bool = False) -> bool:
        """Return whether a line begins a tree. Call this only if no bracket is open, or if the open ones never close.

        A line begins a tree if its first bracket has a label of ``ROOT_NAMES`` or the same label as the first bracket
        of ``first``. Any other line may be the rest of a tree that ended too early, so it must meet more conditions.
        The argument ``is_broken`` says that the brackets of the block do not match.
        """
        label, before = _label(text), _label(first)
        if label is not None and (label == before or label in ROOT_NAMES):
            return True
        may_begin = before not in ROOT_NAMES and not _LEAF_AT_BEGINNING.match(text)
        if self.is_tree_per_line:
            return self.is_at_margin(text) and (not is_broken or (may_begin and _change_of_depth(text) == 0))
        return self.is_at_margin(text) and self.is_indented and may_begin

    def is_rest(self, text: str, first: str) -> bool:
        """Return whether a line must be the rest of a tree that ended too early.

        Call this only if no bracket is open.
        """
        if self.is_tree_per_line or self.begins_tree(text, first):
            return False
        return not self.is_at_margin(text) if self.is_indented else _label(first) in ROOT_NAMES

    def interrupts_tree(self, text: str, first: str, depth: int) -> bool:
        """Return whether a line shows that the open tree, which begins with the line ``first``, is broken.

        The result is False if the line is not at the margin or does not begin with the label of ``first``. If this
        label is one of ``ROOT_NAMES``, a new tree begins here, and the result is True. With any other label, the line
        may be a phrase of the open tree, and the result is False. There is one exception: if the file has a tree per
        line, and the line would close all ``depth`` open brackets, the result is True. In such a file, a tree of two
        lines is less likely than two broken trees, the open one with too few closing brackets and this one with too
        many.
        """
        label = _label(text)
        closes = self.is_tree_per_line and depth + _change_of_depth(text) <= 0
        return self.is_at_margin(text) and label == _label(first) and (label in ROOT_NAMES or closes)


def _shape(texts: list[str]) -> _Shape:
    """Judge the shape of a file by its first lines, some of which may be broken.

    If trees go over several lines, the number of opening brackets differs from that of closing brackets in most lines.
    Lines with nothing but leaves are not counted. A file may have such lines whether or not its trees go over several
    lines.
    """
    indentations = [_indentation(text) for text in texts if text.lstrip()[:1] == "("]
    margin = min(indentations, default=0)
    changes = [_change_of_depth(text) for text in texts if not _LEAVES.fullmatch(text)]
    num_opened = sum(change for change in changes if change > 0)
    num_closed = -sum(change for change in changes if change < 0)
    goes_over_lines = 2 * sum(map(bool, changes)) > len(changes) and (
        2 * min(num_opened, num_closed) >= max(num_opened, num_closed)
    )
    return _Shape(margin, any(_indentation(text) > margin for text in texts), not goes_over_lines)


class _Lines(Iterator[tuple[Line, str]]):
    """The lines of a file with their kinds, as ``_labelled`` yields them. Lines can be put back."""

    def __init__(self, lines: Iterator[tuple[Line, str]]) -> None:
        self._lines = lines
        self._waiting: deque[tuple[Line, str]] = deque()

    def __next__(self) -> tuple[Line, str]:
        return self._waiting.popleft() if self._waiting else next(self._lines)

    def put_back(self, lines: Sequence[tuple[Line, str]]) -> None:
        self._waiting.extendleft(reversed(lines))


def _cut(lines: _Lines, shape: _Shape) -> Iterator[RawTree | str]:
    """Yield the trees and broken pieces of a file, and for each line that is left out the name of its kind.

    The lines are first grouped into blocks, and ``_trees`` cuts each block.
    """
    never_closing: set[int] = set()
    block: list[Line] = []
    depth = 0
    is_broken = False
    for line, what in lines:
        begins = line.text.lstrip()[:1]
        is_open = line.number in never_closing
        if block and (
            what or is_open or begins not in _BOTH or shape.begins_tree(line.text, block[0].text, is_broken=depth < 0)
        ):
            yield from _trees(block, is_broken=is_broken)
            block, is_broken, depth = [], False, 0
        if what:
            yield what
        elif is_open:
            yield from _trees(_up_to_next(line, lines, shape), is_open=True)
        else:
            lines_of_tree = _while_open(line, lines, shape, never_closing)
            is_broken |= bool(block and begins == "(" and lines_of_tree and shape.is_rest(line.text, block[0].text))
            block += lines_of_tree
            depth += sum(_change_of_depth(each.text) for each in lines_of_tree)
            if block and begins not in _BOTH:
                yield from _trees(block)
                block, depth = [], 0
    yield from _trees(block, is_broken=is_broken)


def _while_open(line: Line, lines: _Lines, shape: _Shape, never_closing: set[int]) -> list[Line]:
    """Return ``line`` and the lines after it, up to the line that closes the last open bracket.

    The search fails if the file ends, the tree gets too long, or a line comes that cannot be in the tree. Then all
    these lines are put back, the number of ``line`` is added to ``never_closing``, and the result is empty. If the file
    ended or the tree got too long, the numbers that ``_never_closing`` returns are added too. This saves time: no
    search begins at a line whose number is in ``never_closing``.
    """
    found, depth, size = [(line, "")], _change_of_depth(line.text), len(line.text)
    while depth > 0:
        read = next(lines, None)
        is_interrupted = read is not None and (
            read[1] not in ("", REMARK) or shape.interrupts_tree(read[0].text, line.text, depth)
        )
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
    """Return the numbers of the lines at the margin that open a bracket which none of ``lines`` closes.

    If ``is_all`` is false, the file goes on, and a later line may close the bracket. Then only lines that begin more
    than ``MAX_TREE_CHARACTERS`` / 2 characters before the end of ``lines`` are returned.
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
    """Return ``line`` and the lines after it, up to the next line that can begin a tree or belongs to no tree.

    If these lines have more than ``MAX_TREE_CHARACTERS`` characters together, return only ``line``, with an empty text
    and ``is_whole`` false.
    """
    found, size = [line], len(line.text)
    for following, what in lines:
        begins = shape.begins_tree(following.text, line.text, is_broken=True)
        if what or (begins and shape.is_at_margin(following.text)):
            lines.put_back([(following, what)])
            break
        size += len(following.text)
        if size > MAX_TREE_CHARACTERS:
            found = [line._replace(text="", is_whole=False)]
        else:
            found.append(following)
    return found


def _trees(block: list[Line], *, is_broken: bool = False, is_open: bool = False) -> Iterator[RawTree]:
    """Yield the trees of a block, and its broken pieces, which ``parse_tree`` refuses later.

    If ``is_broken``, the whole block is one broken piece. If ``is_open``, its last tree is never closed and is a broken
    piece. But if a faulty block begins with a label of ``ROOT_NAMES``, it is cut before each bracket with this label.
    So its correct trees are kept.
    """
    if not block:
        return
    text = "\n".join(line.text for line in block)
    root = _label(text)
    spans = [] if is_broken else _spans(text, is_open=is_open)
    is_clean = bool(spans) and all(is_tree for _, _, is_tree in spans)
    if not spans or (root in ROOT_NAMES and (is_open or not is_clean)):
        spans = [(start, stop, False) for start, stop in _from_root_to_root(text, root)]
    at = line = 0
    for begin, stop, _ in spans:
        start = stop - len(text[begin:stop].lstrip())
        line += text.count("\n", at, start)
        at = start
        piece = text[start:stop].rstrip()
        lines = block[line : line + piece.count("\n") + 1]
        fault = "" if all(each.is_utf8 for each in lines) else NOT_UTF8
        if len(piece) > MAX_TREE_CHARACTERS or not all(each.is_whole for each in lines):
            fault = TOO_LONG
        yield RawTree(lines[0].number, None if fault else piece, fault)


def _spans(text: str, *, is_open: bool) -> list[tuple[int, int, bool]]:
    """Return where each piece of a block begins and ends, and whether it is a tree.

    A ``)`` that closes nothing ends a broken piece. The rest of the block, after the last such bracket, is cut into
    trees. But if there is text outside these trees, or if the last one is not closed, this rest is one broken piece.
    With ``is_open``, a last tree that is not closed has a span of its own and counts as a tree, because otherwise it
    and the trees before it would be one broken piece. ``parse_tree`` refuses it later.
    """
    spans: list[tuple[int, int, bool]] = []
    trees: list[tuple[int, int, bool]] = []
    start = end = depth = 0
    has_text = False
    for found in _BRACKET.finditer(text):
        if depth == 0:
            start = found.start()
            has_text |= bool(_TAG.sub("", text[end:start]).strip())
            if found[0] == ")":
                if trees or has_text or not spans:
                    spans.append((spans[-1][1] if spans else 0, found.end(), False))
                else:
                    spans[-1] = (spans[-1][0], found.end(), False)
                trees, end, has_text = [], found.end(), False
                continue
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            end = found.end()
            trees.append((start, end, True))
    if depth > 0:
        trees.append((start, len(text), is_open))
    elif _TAG.sub("", text[end:]).strip():
        has_text = True
    if has_text or (depth > 0 and not is_open):
        return [*spans, (spans[-1][1] if spans else 0, len(text), False)]
    return spans + trees


def _from_root_to_root(text: str, root: str | None) -> list[tuple[int, int]]:
    """Return where each piece of a block with a fault begins and ends.

    The first label of the block is ``root``. If it is one of ``ROOT_NAMES``, each bracket with this label begins a
    piece. Otherwise, the block is one piece.
    """
    if root not in ROOT_NAMES:
        return [(0, len(text))]
    begin = re.compile(rf"\(\s*{root}(?=[\s(])" if root else r"\(\s*(?=\([^\s()])")
    starts = [found.start() for found in begin.finditer(text)]
    return list(pairwise([0, *starts[1:], len(text)]))


def _with_counted_lines(pieces: Iterable[RawTree | str]) -> Iterator[RawTree]:
    """Yield each tree with the kinds of the lines left out before it, and the last tree also with those after it."""
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
    text = _BRACKET_TAG.sub(r"\1[", line.text)
    text = _BRACKET_LEAF.sub(lambda found: found[1] + escape_brackets(found[2]), text)
    return line if text == line.text else line._replace(text=text)


def _header_after(text: str, header: str) -> str:
    """Return the tag of the SGML header that is still open after the line ``text``, or "" if none is.

    ``header`` is the result for the previous line.
    """
    if header:
        return "" if f"</{header}>" in text else header
    opened = _OPENED.match(text)
    is_header = opened is not None and f"</{opened[1]}>" not in text and opened[1].lower() in _HEADER_TAGS
    return opened[1] if opened is not None and is_header else ""


def _first_line_of_trees(head: list[Line]) -> int:
    """Return the number of the first line that can begin a tree, if a header and then a blank line come before it.

    Without a header, return 0.
    """
    before = None
    for line in head[:_MOST_HEADER_LINES]:
        text = line.text.strip()
        if text[:1] == "(" and (text[-1] == ")" or _NESTED.match(text) or _change_of_depth(text) > 0):
            return line.number if before is not None and line.number > before + 1 else 0
        before = line.number
    return 0


def _labelled(lines: Iterable[Line], begin: int, *, whole: Path | None = None) -> Iterator[tuple[Line, str]]:
    """Yield each line with its kind: "" if it may belong to a tree, otherwise a string such as ``COMMENT``.

    The argument ``begin`` is the result of ``_first_line_of_trees``. The lines before it are a header. If ``lines`` are
    all lines of a file, ``whole`` is its path.

    Raises:
        InputError: If ``whole`` is given and a comment does not end.
    """
    ends_comment: re.Pattern[str] | None = None
    begins = 0
    header = ""
    for line in lines:
        text = line.text.lstrip()
        what = ""
        if ends_comment:
            what = COMMENT
            ends_comment = None if ends_comment.search(text) else ends_comment
        elif opening := next(filter(text.startswith, _ENDS_OF_COMMENTS), ""):
            what = COMMENT
            end = _ENDS_OF_COMMENTS[opening]
            ends_comment = None if end.search(text, 2) else end
            begins = line.number
        elif kind := next((kind for beginning, kind in _KINDS.items() if beginning.match(text)), ""):
            what = kind
        elif _SGML_LINE.fullmatch(text):
            what = SGML
            header = _header_after(text, header)
        elif header and not _BRACKET.search(text):
            what = SGML
        elif line.number < begin or (_REMARK.match(text) and _change_of_depth(text) == 0):
            what = "" if _NESTED.search(text) or _change_of_depth(text) > 0 or not line.is_whole else REMARK
        yield line, what
    if whole is not None and ends_comment is not None:
        raise InputError(f"{whole}:{begins}: a comment begins here and does not end; end it, or remove this line")


def _sniff(lines: Iterator[Line], path: Path) -> tuple[list[Line], Iterator[Line]]:
    """Return the first lines of a file, without the blank ones, and an iterator over the lines after them.

    Raises:
        InputError: For the reasons of ``read_raw_trees``, as far as the first lines show them.
    """
    head: list[Line] = []
    size = 0
    for line in lines:
        if line.number > _SNIFFED_LINES or size > MAX_TREE_CHARACTERS:
            lines = chain([line], lines)
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
    tree_lines = [line for line, what in _labelled(head, _first_line_of_trees(head)) if not what]
    without = [line for line in tree_lines if line.is_utf8 and line.is_whole and not _BRACKET.search(line.text)]
    if 5 * len(without) > 4 * len(tree_lines) or not tree_lines:
        first = (without or head)[0]
        found = "looks like running text, expected trees in brackets"
        if not tree_lines:
            found = (
                "only a header or comments, expected trees in brackets; remove this file, or name only files of trees"
            )
        elif _OTHER_BRACKETS.match(first.text):
            found = "looks like trees in other brackets, expected round ones, as in (S (NN dog)); replace them"
        raise InputError(f"{path}:{first.number}: {found}: {shortened(first.text)}")
    return head, lines


def _change_of_depth(text: str) -> int:
    return text.count("(") - text.count(")")


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip())


def _label(text: str) -> str | None:
    """Return the label of the bracket that a line begins with, or None if it begins with something else."""
    found = _LABEL.match(text)
    return found[1] if found else None
