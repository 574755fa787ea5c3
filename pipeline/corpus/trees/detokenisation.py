"""Rebuild running text from the words of a tree, for treebanks without their text.

A treebank splits text in known ways (PTB tokenisation): ``do n't``, ``$ 5``, ``-LRB- see below -RRB-``. The rules below
undo this. They first decide how a word is spelt, and then whether a space comes before it. The rules are in tables, and
the first rule of a table that fits applies. Every rule has an example, which a test runs. The rules cannot restore what
the treebank does not record: which quotes the text had, whether it was ``and/or`` or ``and / or``, and to which side a
lone ``"`` belongs.

``match_words`` always finds the words of the tree in the rebuilt text, even if the rules get a space wrong.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from pipeline.corpus.text.text_files import unescape_brackets

Joins = Literal["before", "after", "both", "neither"]
"""The sides of a word on which there is no space."""


@dataclass(frozen=True, slots=True)
class WordRule:
    """Decide from the spelling and the tag of a word on which sides it has no space."""

    word: str
    """Regular expression for the whole word, as spelt in the text."""
    tag: str
    """Regular expression for its whole part of speech."""
    joins: Joins
    tagged: str
    """Words of an example, as ``word/TAG word/TAG``."""
    text: str
    """Text of the example."""


@dataclass(frozen=True, slots=True)
class ContextRule:
    """Decide from the words around a word on which sides it has no space. This rule overrides a ``WordRule``."""

    around: str
    """Regular expression for five ``word/TAG``: two before the word, the word itself, two after it."""
    joins: Joins
    tagged: str
    text: str


@dataclass(frozen=True, slots=True)
class PairRule:
    """Decide that there is no space between two words. This rule overrides the other kinds of rules."""

    left: str
    """Regular expression for the whole ``word/TAG`` of the first word."""
    right: str
    """Regular expression for the whole ``word/TAG`` of the second word."""
    tagged: str
    text: str


OPENING, CLOSING = "``", "''"
"""Tags of quotes. ``_retagged`` gives each ``"`` one of these tags before the rules apply."""

PAIR_RULES: Final = (
    # Words that the treebank split.
    PairRule(r"(?i:can)/MD", r"(?i:not)/RB", "We/PRP can/MD not/RB go/VB", "We cannot go"),
    PairRule(r"(?i:gon|wan)/.*", r"(?i:na)/.*", "I/PRP 'm/VBP gon/VBG na/TO go/VB", "I'm gonna go"),
    PairRule(r"(?i:got)/.*", r"(?i:ta)/.*", "I/PRP got/VBP ta/TO go/VB", "I gotta go"),
    PairRule(r"(?i:gim|lem)/.*", r"(?i:me)/PRP", "Gim/VB me/PRP that/DT", "Gimme that"),
    PairRule(r"(?i:d['\u2019])/.*", r"(?i:ye|you)/PRP", "D'/VBP ye/PRP see/VB ?/.", "D'ye see?"),
    PairRule(r"(?i:['\u2019]t)/.*", r"(?i:is|was|were|will)/.*", "'T/PRP was/VBD night/NN", "'Twas night"),
    # Abbreviations that are never spaced, and degrees.
    PairRule(r"(?i:[ap]\.)/.*", r"(?i:m\.)/.*", "at/IN 5/CD a./NN m./NN today/NN", "at 5 a.m. today"),
    PairRule(r"(?i:b\./.*|a\./.*)", r"(?i:[cd]\.)/.*", "5000/CD b./NN c./NN on/IN", "5000 b.c. on"),
    PairRule(r"U\./.*", r"[SK]\./.*", "the/DT U./NNP S./NNP army/NN", "the U.S. army"),
    PairRule(".*\u00b0/.*", "[CFK]/.*", "24/CD \u00b0/NNS C/NNP", "24\u00b0C"),
)

_SIGN: Final = "[+\u2212-]/SYM"
_ANY: Final = r"\S+"
_NO_HYPHEN: Final = r"(?!\S+/HYPH)\S+"

CONTEXT_RULES: Final = (
    # A hanging hyphen: two words share a part.
    ContextRule(
        rf"{_ANY} {_ANY} \S/HYPH \S+/CC {_NO_HYPHEN}", "before", "pre/AFX -/HYPH and/CC post/NN", "pre- and post"
    ),
    ContextRule(rf"{_ANY} \S+/CD \S/HYPH to/\S+ {_NO_HYPHEN}", "before", "two/CD -/HYPH to/TO six/CD", "two- to six"),
    ContextRule(rf"{_NO_HYPHEN} \S+/CC \S/HYPH {_ANY} {_ANY}", "after", "A/NN and/CC -/HYPH B/NN", "A and -B"),
    # Numbers: ranges, ratios, citations, a sign.
    ContextRule(rf"{_ANY} \S+/CD [:\u2013\u2212-]/\S+ \S+/CD {_ANY}", "both", "a/DT 3/CD :/: 1/CD mix/NN", "a 3:1 mix"),
    ContextRule(rf"{_ANY} \S+/CD ,/\[,\] \S+/CD {_ANY}", "both", "[/-LRB- 2/CD ,/, 8/CD ]/-RRB-", "[2,8]"),
    ContextRule(
        rf"{_ANY} \S+/(?:IN|TO|VB\w?|:|,|-LRB-) [\u2212-]/SYM \S+/CD {_ANY}", "after", "at/IN -/SYM 5/CD", "at -5"
    ),
    # Superscript signs, as in names of ions and genes.
    ContextRule(rf"{_ANY} \S+/NNP? {_SIGN} /\S+ {_ANY}", "both", "Tg/NN +/SYM //SYM -/SYM mice/NNS", "Tg+/- mice"),
    ContextRule(rf"\S+ /\S+ {_SIGN} {_ANY} {_ANY}", "before", "+/SYM //HYPH -/SYM mice/NNS", "+/- mice"),
    ContextRule(rf"{_ANY} \S+/NN {_SIGN} (?:[,.;:]/\S+|\S+/-RRB-) {_ANY}", "before", "Cl/NN -/SYM ,/, I/NN", "Cl-, I"),
    # A dash between the ends of a range.
    ContextRule(rf"{_ANY} \w\S*/\S+ [\u2013-]/SYM \w\S*/\S+ {_ANY}", "both", "S1/NN \u2013/SYM S4/NN", "S1\u2013S4"),
)

WORD_RULES: Final = (
    # Quotes, by their tags.
    WordRule(
        r"[\"\u201c\u201d\u2018'`\u00ab\u201e]+|``|''",
        "``",
        "after",
        "``/`` Go/VB ,/, ''/'' he/PRP said/VBD",
        '"Go," he said',
    ),
    WordRule(
        r"[\"\u201c\u201d\u2019'\u00bb]+|''",
        "''",
        "before",
        "so/RB -/HYPH called/VBN ``/`` b/NN ''/''",
        'so-called "b"',
    ),
    # Parts that a tokeniser cut off the word before.
    WordRule(
        r"(?i:['\u2019](?:s|re|ve|ll|d|m)|n['\u2019]t)",
        ".*",
        "before",
        "It/PRP 's/VBZ n't/RB Ann/NNP 's/POS",
        "It'sn't Ann's",
    ),
    WordRule("['\u2019]", "POS", "before", "the/DT dogs/NNS '/POS tails/NNS", "the dogs' tails"),
    WordRule("'", "SYM", "before", "the/DT 5/CD '/SYM end/NN", "the 5' end"),
    # Brackets.
    WordRule(r"[(\[{]", ".*", "after", "go/VB -LRB-/-LRB- or/CC stay/VB -RRB-/-RRB-", "go (or stay)"),
    WordRule(r"[)\]}]", ".*", "before", "[/-LRB- 1/CD ]/-RRB- ,/, {/-LRB- x/NN }/-RRB-", "[1], {x}"),
    # Hyphens, dashes, slashes.
    WordRule(".*", "HYPH", "both", "well/RB -/HYPH known/VBN and/CC //HYPH or/CC", "well-known and/or"),
    WordRule("/", ".*", "both", r"1\/2/CD of/IN and/CC \//SYM or/CC", "1/2 of and/or"),
    WordRule("\u2014", ".*", "both", "Go/VB \u2014/: now/RB", "Go\u2014now"),
    WordRule(r"[.]{2,}|\u2026", "[^.]*", "neither", "Well/UH .../: no/UH", "Well ... no"),
    # Punctuation.
    WordRule(r"[.,;:?!]+", ".*", "before", "No/UH ,/, he/PRP said/VBD :/: stop/VB !/.", "No, he said: stop!"),
    # Money, measures, numbers.
    WordRule(
        r"(?:[A-Z]{1,3})?[$\u00a3\u20ac\u00a5]", r"\$", "after", "US$/$ 5/CD or/CC \u00a3/$ 3/CD", "US$5 or \u00a33"
    ),
    WordRule("#", r"#|SYM|\$|NN", "after", "the/DT #/SYM 1/CD", "the #1"),
    WordRule(
        "[%\u2030\u00b0\u2032\u2033]|\u00b0[CFK]", ".*", "before", "4/CD %/NN at/IN 5/CD \u00b0C/NN", "4% at 5\u00b0C"
    ),
    WordRule("[~@]", "SYM", "after", "~/SYM 5/CD", "~5"),
    WordRule(".*", ".*", "neither", "rock/NN &/CC roll/NN --/: now/RB", "rock & roll -- now"),
)

_PAIRS = [(re.compile(rule.left), re.compile(rule.right)) for rule in PAIR_RULES]
_CONTEXTS = [(re.compile(rule.around), rule.joins) for rule in CONTEXT_RULES]
_WORDS = [(re.compile(rule.word), re.compile(rule.tag), rule.joins) for rule in WORD_RULES]
_ESCAPED = re.compile(r"\\([/*])")
_SPELT: Final = {"``": '"', "''": '"', "`": "'"}
_OUTSIDE: Final = ("^/^", "^/^")
"""Two words that stand for the text before the first word, and for the text after the last word."""


def detokenise(words: Sequence[str], tags: Sequence[str]) -> str:
    """Return the running text of words with their parts of speech."""
    spelt = [spell(word) for word in words]
    if len(spelt) > 1 and spelt[-1] == "." == tags[-1] and _is_abbreviation(spelt[-2]):
        spelt.pop()  # a treebank ends "in the U.S." with two periods, and the text with one
    tags = _retagged(spelt, tags)
    tagged = [*_OUTSIDE, *(f"{word}/{tag}" for word, tag in zip(spelt, tags, strict=False)), *_OUTSIDE]
    joins = [_joins_around(*tagged[i : i + 5]) or _joins(spelt[i], tags[i]) for i in range(len(spelt))]
    pieces = spelt[:1]
    for i in range(1, len(spelt)):
        is_joined = joins[i - 1] in _AFTER or joins[i] in _BEFORE or _is_pair(tagged[i + 1], tagged[i + 2])
        pieces.append(spelt[i] if is_joined else " " + spelt[i])
    return "".join(pieces)


_AFTER: Final = ("after", "both")
_BEFORE: Final = ("before", "both")


def _is_abbreviation(word: str) -> bool:
    return len(word) > 1 and word[-1] == "." and word[-2].isalpha()


@lru_cache(maxsize=1 << 16)
def spell(word: str) -> str:
    """Return a word of a treebank as text spells it: brackets and quotes as characters, ``/`` and ``*`` unescaped."""
    return _ESCAPED.sub(r"\1", unescape_brackets(_SPELT.get(word, word)))


def _retagged(spelt: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return the tags, with an opening or closing tag for each ``"``, and ``[,]`` for a comma in square brackets.

    If the number of ``"`` is even, they open and close by turns. If it is odd, a ``"`` that is the first word opens and
    a ``"`` that is the last word closes. Any other ``"`` keeps its tag if the tag is an opening or closing tag, and
    else opens or closes by turns.
    """
    found = list(tags)
    quotes = [i for i, word in enumerate(spelt) if word == '"']
    for number, i in enumerate(quotes):
        if i in (0, len(spelt) - 1):
            found[i] = CLOSING if i else OPENING
        elif len(quotes) % 2 == 0 or tags[i] not in (OPENING, CLOSING):
            found[i] = CLOSING if number % 2 else OPENING
    depth = 0
    for i, word in enumerate(spelt):
        depth += (word == "[") - (word == "]")
        if word == "," and depth > 0:
            found[i] = "[,]"
    return found


def _joins_around(*around: str) -> Joins | None:
    if not around[2].startswith(_SYMBOLS):
        return None
    window = " ".join(around)
    return next((joins for pattern, joins in _CONTEXTS if pattern.fullmatch(window)), None)


_SYMBOLS: Final = ("-", "+", ",", ":", "\u2010", "\u2013", "\u2212")
"""The middle word of every rule in ``CONTEXT_RULES`` begins with one of these characters."""


@lru_cache(maxsize=1 << 18)
def _is_pair(left: str, right: str) -> bool:
    return any(first.fullmatch(left) and second.fullmatch(right) for first, second in _PAIRS)


@lru_cache(maxsize=1 << 16)
def _joins(word: str, tag: str) -> Joins:
    return next(joins for spelling, tags, joins in _WORDS if spelling.fullmatch(word) and tags.fullmatch(tag))
