"""Where in the raw text each word of a tree stands.

Words are matched by their characters, white space ignored on both sides. Treebanks write some characters in their own
way (``-LRB-`` for a bracket, also inside a token; `` `` `` and ``''`` for quotes; ``--`` for a dash), and mark up what
was never in the text (``<disfluency>``): such markup is skipped. The text is never changed to fit the tree.
"""

import re
from typing import Final

from pipeline.corpus.text import normalise_text
from pipeline.corpus.trees import Tree

MARKUP_TAGS: Final = frozenset({"CODE", "SU"})
"""Tags of markup tokens (speaker and disfluency codes, slash-unit marks): absent from a text, they are no words."""

_BRACKETS: Final = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_BRACKET = re.compile("|".join(_BRACKETS))
_DOUBLE_QUOTE = "(?:``|''|[\"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033])"
_SINGLE_QUOTE = "['`\u2018\u2019\u201a\u201b\u00b4\u2032]"
_UNIT = re.compile(
    "|".join(_BRACKETS)
    + f"|(?P<double>{_DOUBLE_QUOTE})|(?P<single>{_SINGLE_QUOTE})"
    + r"|(?P<dash>--|[\u2013\u2014])|(?P<ellipsis>\.\.\.|\u2026)|\\(?P<escaped>[/*])|."
)
_SPELLINGS: Final[dict[str | None, str]] = {
    "double": _DOUBLE_QUOTE,
    "single": _SINGLE_QUOTE,
    "dash": "(?:--+|[-\u2010-\u2015])",
    "ellipsis": r"(?:\. ?\. ?\.|\u2026)",
}

Span = tuple[int, int]
"""First character and one past the last."""


def unescape_brackets(word: str) -> str:
    """Return a word with ``-LRB-``, ``-RRB-``, ``-LSB-``, ``-RSB-``, ``-LCB-``, ``-RCB-`` as the brackets they are."""
    return _BRACKET.sub(lambda found: _BRACKETS[found[0]], word)


def escape_brackets(word: str) -> str:
    """Return a word that can stand in a tree: round brackets as ``-LRB-`` and ``-RRB-``, no white space."""
    return "".join(word.split()).replace("(", "-LRB-").replace(")", "-RRB-")


def match_words(tree: Tree, text: str) -> list[Span | None] | None:
    """Return the span of each word in a normalised text, or None if the words are not those of the text.

    A word is None if it is markup (its tag is one of ``MARKUP_TAGS``) that the text does not have. The other spans
    follow each other and cover every character but the spaces between them.
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


def _match_variants(tree: Tree, text: str) -> list[Span | None] | None:
    """Match all words at once by one regular expression, each character of theirs with its other spellings."""
    pattern = []
    for word, tag in zip(tree.words, tree.tags, strict=True):
        characters = " ?".join(map(_variants, _UNIT.finditer("".join(normalise_text(word).split()))))
        pattern.append(f"({characters}){'?' if tag in MARKUP_TAGS else ''}")
    found = re.fullmatch(" ?".join(pattern), text)
    if found is None:
        return None
    spans = [found.span(i + 1) for i in range(len(tree.words))]
    return [span if span[0] < span[1] else None for span in spans]


def _variants(unit: re.Match[str]) -> str:
    text = unit[0]
    if unit.lastgroup == "escaped":
        return rf"\\?{re.escape(unit['escaped'])}"
    if text in _BRACKETS:
        return f"(?:{re.escape(_BRACKETS[text])}|{text})"
    return _SPELLINGS.get(unit.lastgroup, re.escape(text))
