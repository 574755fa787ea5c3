"""Find each word of a tree in the raw text.

Only visible characters are compared, and spaces are ignored. Treebanks spell some characters in their own way, and all
these spellings are tried. For example, they write ``-LRB-`` for a bracket, even inside a word, and ``--`` for a dash.
Trees also contain markup that was never in the text (``<disfluency>``). The text is never changed to fit the tree.
"""

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from pipeline.corpus.text.text_files import BRACKETS, normalise_text, unescape_brackets
from pipeline.corpus.trees.detokenisation import doubles_period
from pipeline.corpus.trees.trees import Tree

MARKUP_TAGS: Final = frozenset({"CODE", "SU", "-DFL-"})
"""Tags of words that are markup, such as names of speakers and marks of disfluencies. The text may lack such words."""

_DOUBLE_QUOTE = "(?:``|''|[\"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033])"
_SINGLE_QUOTE = "['`\u2018\u2019\u201a\u201b\u00b4\u2032]"
_UNIT = re.compile(
    "|".join(BRACKETS)
    + f"|(?P<double>{_DOUBLE_QUOTE})|(?P<single>{_SINGLE_QUOTE})"
    + r"|(?P<dash>--|[\u2013\u2014])|(?P<ellipsis>\.\.\.|\u2026)|\\(?P<escaped>[/*])|."
)
_SPELLINGS: Final = {
    "double": re.compile(_DOUBLE_QUOTE),
    "single": re.compile(_SINGLE_QUOTE),
    "dash": re.compile("--+|[-\u2010-\u2015]"),
    "ellipsis": re.compile(r"\. ?\. ?\.|\u2026"),
}

Span = tuple[int, int]
"""Index of the first character, and one past that of the last."""


def match_words(tree: Tree, text: str) -> list[Span | None] | None:
    """Return the span of each word in a normalised text, or None if tree and text do not have the same words.

    The span of a word is None if the word is markup (its tag is in ``MARKUP_TAGS``) that is not in the text, or if it
    has no visible character. The other spans are in order and cover every character except the spaces between words.
    """
    spans: list[Span | None] = []
    at = 0
    for word in tree.words:
        plain = word if word.isascii() else normalise_text(word)
        if "-" in plain:
            plain = unescape_brackets(plain)
        if text[at : at + 1] == " ":
            at += 1
        if not plain or not text.startswith(plain, at):
            return _match_variants(tree, text)
        spans.append((at, at + len(plain)))
        at += len(plain)
    return spans if at == len(text) else _match_variants(tree, text)


def match_beginning(tree: Tree, text: str) -> int | None:
    """Return the number of characters that the words of a tree take up at the beginning of a normalised text.

    Return None if the text does not begin with these words, or if neither a space nor the end of the text follows them.
    """
    ends = [end for end in _all_ends(tree, text) if text[end : end + 1] in {"", " "}]
    return max(ends, default=None)


def _match_variants(tree: Tree, text: str) -> list[Span | None] | None:
    """Match all words, and try all spellings of each character."""
    ends = _all_ends(tree, text)
    reached = ends.get(len(text))
    spans: list[Span | None] = []
    while reached is not None:
        span, reached = reached
        spans.append(span)
    return spans[::-1] if len(text) in ends else None


_Reached: TypeAlias = tuple[Span | None, "_Reached | None"]
"""The span of a word, and a tuple of the same form for the word before it. The first word has None in place of the
tuple."""


def _all_ends(tree: Tree, text: str) -> dict[int, _Reached | None]:
    """Match the words of a tree from the beginning of a text.

    Return every position where the last word may end, and for each position the spans of the words. A dash may have
    several lengths in the text, so there may be several positions. The likeliest is first. Only one way to reach each
    position is kept, so time does not grow with the number of ways.
    """
    ends: dict[int, _Reached | None] = {0: None}
    for i, (word, tag) in enumerate(zip(tree.words, tree.tags, strict=True)):
        units = list(_UNIT.finditer("".join(normalise_text(word).split())))
        shares_period = i + 1 < len(tree.words) and doubles_period(tree.words, i + 1)
        following: dict[int, _Reached | None] = {}
        for end, before in ends.items():
            at = _skip_space(text, end)
            for stop in _stops(units, text, at, shares_period=shares_period) if units else ():
                following.setdefault(stop, ((at, stop), before))
            if tag in MARKUP_TAGS or not units:
                following.setdefault(end, (None, before))
        ends = following
    return ends


def _stops(units: list[re.Match[str]], text: str, at: int, *, shares_period: bool) -> list[int]:
    """Return the positions where a word that begins at ``at`` may end. The text may have spaces inside the word.

    With ``shares_period`` the word may also end before its last period. For example, a tree may end with the two words
    "etc." and ".", where the text has only "etc."
    """
    found = {at: None}
    for number, unit in enumerate(units):
        without = found if shares_period and number == len(units) - 1 else {}
        starts = [_skip_space(text, start) if number else start for start in found]
        found = dict.fromkeys(stop for start in starts for stop in _ends(unit, text, start)) | without
    return list(found)


def _ends(unit: re.Match[str], text: str, at: int) -> Iterable[int]:
    if unit.lastgroup in _SPELLINGS:
        spelt = _SPELLINGS[unit.lastgroup].match(text, at)
        if spelt is None:
            return ()
        return range(spelt.end(), at + 1, -1) if spelt[0].startswith("--") else (spelt.end(),)
    plain = unit[0]
    spellings = [BRACKETS.get(plain, plain), plain, *([unit["escaped"]] if unit["escaped"] else [])]
    return (at + len(spelling) for spelling in spellings if text.startswith(spelling, at))


def _skip_space(text: str, at: int) -> int:
    return at + 1 if text[at : at + 1] == " " else at
