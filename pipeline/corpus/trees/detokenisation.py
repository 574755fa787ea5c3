"""Rebuild running text from the words of a tree, for treebanks without their text.

The rules undo PTB tokenisation for English. For example, ``do n't`` becomes ``don't``, ``$ 5`` becomes ``$5``, and
``-LRB- so -RRB-`` becomes ``(so)``. There are three tables of rules: ``PAIR_RULES``, ``CONTEXT_RULES`` and
``WORD_RULES``. In each table, the first rule that fits applies. Every rule has an example, which a test runs.

The rules cannot restore what the treebank does not record: whether a dash had spaces, whether the text had ``and/or``
or ``and / or``, and to which side a lone ``"`` belongs. A wrong space does no further harm, because spaces are ignored
when the words of the tree are looked up in the text (``matching``).
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
    """Decide on which sides a word has no space, from its spelling and its tag."""

    word: str
    """Regular expression for the whole word, as spelt in the text."""
    tag: str
    """Regular expression for the whole part-of-speech tag of the word."""
    joins: Joins
    tagged: str
    """Words of an example, as ``word/TAG word/TAG``."""
    text: str
    """Text of the example."""


@dataclass(frozen=True, slots=True)
class ContextRule:
    """Decide on which sides a word has no space, from the word and its neighbours. It overrides a ``WordRule``."""

    around: str
    """Regular expression for ``word/TAG`` of five words: two before the word, the word itself, and two after it."""
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
    PairRule(r"(?i:du|in)/.*", r"(?i:n)/.*", "in/VBZ n/RB it/PRP ?/.", "innit?"),
    PairRule(r"(?i:n)/.*", r"(?i:no|it)/.*", "I/PRP du/VBP n/RB no/VB", "I dunno"),
    PairRule(r"(?i:['\u2019][dm]|\w+ld)/.*", r"a/(?!DT).*", "I/PRP would/MD a/VB gone/VBN", "I woulda gone"),
    # Abbreviations that are never spaced, degrees of temperature, and generations of animals.
    PairRule(r"(?i:[ap]\.)/.*", r"(?i:m\.)/.*", "at/IN 5/CD a./NN m./NN today/NN", "at 5 a.m. today"),
    PairRule(r"(?i:[ab])\./.*", r"(?i:[cd])\.?/.*", "5000/CD b./NN c./NN on/IN", "5000 b.c. on"),
    PairRule(r"U\./.*", r"[SKN]\./.*", "the/DT U./NNP S./NNP army/NN", "the U.S. army"),
    PairRule(r"N\./.*", r"[YJ]\./.*", "in/IN N./NNP Y./NNP ,/, now/RB", "in N.Y., now"),
    PairRule(r"Ph\./.*", r"D\./.*", "a/DT Ph./NNP D./NNP thesis/NN", "a Ph.D. thesis"),
    PairRule(r"(?:i|e)\./.*", r"(?:e|g)\./.*", "pets/NNS ,/, e./FW g./FW cats/NNS", "pets, e.g. cats"),
    PairRule(r"[\u00a3\u00a5\u20a0-\u20cf]/SYM", r"\d.*/CD", "for/IN \u20ac/SYM 5/CD", "for \u20ac5"),
    PairRule(".*\u00b0/.*", "[CFK]/.*", "24/CD \u00b0/NNS C/NNP", "24\u00b0C"),
    PairRule(r"\)/.*", r"[FN]\d/NN", "-LRB-/-LRB- A/NN x/SYM B/NN -RRB-/-RRB- F1/NN mice/NNS", "(A x B)F1 mice"),
)

_SIGN: Final = "[+\u2212\u0394-]/SYM"
_ANY: Final = r"\S+"
_NO_HYPHEN: Final = r"(?!\S+/HYPH)\S+"
_PERIODS: Final = r"\./\S+ \./\S+ \./\S+"
_DATE: Final = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sep|Oct|Nov|Dec)\w*\.?/\S+"

CONTEXT_RULES: Final = (
    # A hanging hyphen: two words share a part.
    ContextRule(
        rf"{_ANY} {_ANY} \S/HYPH \S+/CC {_NO_HYPHEN}", "before", "pre/AFX -/HYPH and/CC post/NN", "pre- and post"
    ),
    ContextRule(rf"{_ANY} \S+/CD \S/HYPH to/\S+ {_NO_HYPHEN}", "before", "two/CD -/HYPH to/TO six/CD", "two- to six"),
    ContextRule(rf"{_NO_HYPHEN} \S+/CC \S/HYPH {_ANY} {_ANY}", "after", "A/NN and/CC -/HYPH B/NN", "A and -B"),
    # A dash between dates or times that are written with several words keeps its spaces.
    ContextRule(
        rf",/, \S+/CD [\u2013-]/\S+ {_DATE} \S+/CD|{_DATE} \S+/CD [\u2013-]/\S+ (?:{_DATE} \S+/CD|\S+/CD {_DATE})",
        "neither",
        "May/NNP 2/CD ,/, 1872/CD \u2013/SYM June/NNP 3/CD ,/, 1896/CD",
        "May 2, 1872 \u2013 June 3, 1896",
    ),
    ContextRule(
        r"\S+/CD [ap]\.?m\.?/\S+ [\u2013-]/\S+ \S+/CD [ap]\.?m\.?/\S+",
        "neither",
        "9/CD am/NN -/SYM 3/CD pm/NN",
        "9 am - 3 pm",
    ),
    # An ellipsis of three words.
    ContextRule(
        rf"{_ANY} {_ANY} {_PERIODS}|{_ANY} {_PERIODS} {_ANY}|{_PERIODS} {_ANY} {_ANY}",
        "neither",
        "so/RB ./. ./. ./. ''/''",
        'so . . ."',
    ),
    # A dash at the edge of a sentence.
    ContextRule(rf"{_ANY} {_ANY} \u2014/\S+ \^/\^ {_ANY}", "neither", "to/TO the/DT \u2014/:", "to the \u2014"),
    ContextRule(rf"{_ANY} \^/\^ \u2014/\S+ {_ANY} {_ANY}", "neither", "\u2014/: Ann/NNP", "\u2014 Ann"),
    # The dash between an abbreviation and its meaning, in a list of abbreviations.
    ContextRule(
        rf"\^/\^ ([A-Z])[A-Z\d]+/NNP? -/HYPH (?i:\1)[a-z]\S+ {_ANY}",
        "neither",
        "KO/NN -/HYPH knockout/NN mice/NNS",
        "KO - knockout mice",
    ),
    # Numbers: ranges, ratios, citations, a sign.
    ContextRule(
        rf"{_ANY} (?:\S+/CD|%/NN) [:\u2013\u2212-]/\S+ \S+/CD {_ANY}", "both", "a/DT 3/CD :/: 1/CD mix/NN", "a 3:1 mix"
    ),
    ContextRule(rf"{_ANY} \d+/\S+ :/\S+ \d+/\S+ {_ANY}", "both", "Cell/NNP 8/LS :/: 65/LS", "Cell 8:65"),
    ContextRule(
        rf"{_ANY} [^\W\d]{{1,4}}/NN [\u2212-]/SYM [1-3]/CD {_ANY}",
        "both",
        "5/CD m/NN s/NN \u2212/SYM 1/CD",
        "5 m s\u22121",
    ),
    ContextRule(rf"{_ANY} \S+/CD ,/\[,\] \S+/CD {_ANY}", "both", "[/-LRB- 2/CD ,/, 8/CD ]/-RRB-", "[2,8]"),
    ContextRule(
        rf"{_ANY} \S+/(?:IN|TO|DT|VB\w?|:|,|-LRB-) [\u2212-]/SYM \S+/CD {_ANY}", "after", "at/IN -/SYM 5/CD", "at -5"
    ),
    # Superscript signs, as in names of ions and genes.
    ContextRule(
        rf"(?:{_ANY} \S+/NNP?|-/HYPH \d+/CD) {_SIGN} /\S+ {_ANY}",
        "both",
        "Tg/NN +/SYM //SYM -/SYM mice/NNS",
        "Tg+/- mice",
    ),
    ContextRule(rf"\S+ /\S+ {_SIGN} {_ANY} {_ANY}", "before", "+/SYM //HYPH -/SYM mice/NNS", "+/- mice"),
    ContextRule(rf"{_ANY} \S+/NN {_SIGN} (?:[,.;:]/\S+|\S+/-RRB-) {_ANY}", "before", "Cl/NN -/SYM ,/, I/NN", "Cl-, I"),
    ContextRule(
        rf"{_ANY} [A-Z]\S*/NNP? [+\u2212]/SYM (?!\w/|\d|[(\[])\S+ {_ANY}", "before", "K/NN +/SYM ions/NNS", "K+ ions"
    ),
    ContextRule(
        rf"{_ANY} \S+/CD \u00d7/SYM [),.]/\S+ {_ANY}",
        "before",
        "-LRB-/-LRB- 40/CD \u00d7/SYM -RRB-/-RRB-",
        "(40\u00d7)",
    ),
    ContextRule(
        rf"\S+/(?:IN|-LRB-) \S+/CD \u00d7/SYM [A-Za-z]{{2,}}/NN {_ANY}",
        "before",
        "in/IN 2/CD \u00d7/SYM buffer/NN",
        "in 2\u00d7 buffer",
    ),
    # Brackets right after a word, a number or a variable.
    ContextRule(
        rf"{_ANY} \S+/NNS? \(/\S+ (?:s|es|ren)/\S+ \)/\S+",
        "both",
        "the/DT gene/NN -LRB-/-LRB- s/AFX -RRB-/-RRB-",
        "the gene(s)",
    ),
    ContextRule(
        rf"{_ANY} (?:\d[\d.]*/CD|\)/\S+) \(/\S+ (?:\d{{1,3}}|[a-z])/\S+ \)/\S+",
        "both",
        "Rule/NNP 12/CD -LRB-/-LRB- b/LS -RRB-/-RRB- -LRB-/-LRB- 6/LS -RRB-/-RRB-",
        "Rule 12(b)(6)",
    ),
    ContextRule(
        rf"{_ANY} [A-Za-z]/(?!CD|DT|PRP)\S+ \(/\S+ (?:\d{{1,2}}|[a-z])/\S+ [,)]/\S+",
        "both",
        "f/NN -LRB-/-LRB- x/NN -RRB-/-RRB-",
        "f(x)",
    ),
    ContextRule(rf"{_ANY} [A-Z]\d+/\S+ ,/, \d+/CD =/\S+", "both", "F2/NN ,/, 18/CD =/SYM 12/CD", "F2,18 = 12"),
    ContextRule(rf"{_ANY} \D+/(?!CD|SYM)\S+ %/\S+ {_ANY} {_ANY}", "neither", "the/DT %/NN change/NN", "the % change"),
    ContextRule(
        rf"{_ANY} (?:log\d*|ln|exp|poly)/\S+ \(/\S+ {_ANY} {_ANY}",
        "both",
        "of/IN log/NN -LRB-/-LRB- age/NN -RRB-/-RRB-",
        "of log(age)",
    ),
    # Letters of the parts of a figure.
    ContextRule(
        rf"{_ANY} \d+[A-Z]/\S+ ,/, [A-Z]/\S+ {_ANY}", "both", "Fig./NN 2A/NN ,/, B/NN and/CC C/NN", "Fig. 2A,B and C"
    ),
    # A dash between the ends of a range.
    ContextRule(
        rf"{_ANY} \w\S*/\S+ [\u2013-]/SYM \w\S*/(?!CC|IN)\S+ {_ANY}", "both", "S1/NN \u2013/SYM S4/NN", "S1\u2013S4"
    ),
)

WORD_RULES: Final = (
    # Quotes, by their tags.
    WordRule(
        r"[\"\u201c\u201d\u2018'`\u00ab\u00bb\u2039\u203a\u201a\u201e\u300c\u300e]+|``|''",
        "``",
        "after",
        "``/`` Go/VB ,/, ''/'' he/PRP said/VBD",
        '"Go," he said',
    ),
    WordRule(
        r"[\"\u201c\u201d\u2018\u2019'\u00ab\u00bb\u2039\u203a\u300d\u300f]+|''",
        "''",
        "before",
        "so/RB -/HYPH called/VBN ``/`` b/NN ''/''",
        'so-called "b"',
    ),
    WordRule(
        "[\u201c\u2018\u00ab\u2039\u201a\u201e\u300c\u300e]",
        ".*",
        "after",
        "a/DT \u201c/SYM b/NN \u201d/SYM c/NN",
        "a \u201cb\u201d c",
    ),
    WordRule(
        "[\u201d\u00bb\u203a\u300d\u300f]", ".*", "before", "a/DT \u00ab/: b/NN \u00bb/: c/NN", "a \u00abb\u00bb c"
    ),
    # Parts that a tokeniser cut off from a neighbouring word.
    WordRule(
        r"(?i:['\u2018\u2019`\u00b4](?:s|re|ve|ll|d|m)|n['\u2018\u2019`\u00b4]t)",
        ".*",
        "before",
        "It/PRP 's/VBZ n't/RB Ann/NNP 's/POS",
        "It'sn't Ann's",
    ),
    WordRule(
        "(?i:s|ll|re|ve|nt)",
        "POS|VB[ZP]?|MD|RB",
        "before",
        "you/PRP ll/MD see/VB it/PRP s/VBZ red/JJ",
        "youll see its red",
    ),
    WordRule(
        "(?i:[cdjloy]|qu)['\u2019]",
        "(?!NN$|SYM|POS|'').*",
        "after",
        "y'/PRP all/DT know/VBP l'/FW \u00e9t\u00e9/FW",
        "y'all know l'\u00e9t\u00e9",
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
        r"(?:[A-Z]{1,3})?[$\u00a3\u00a5\u20a0-\u20cf]",
        r"\$",
        "after",
        "US$/$ 5/CD or/CC \u00a3/$ 3/CD",
        "US$5 or \u00a33",
    ),
    WordRule("#", r"#|SYM|\$|NN", "after", "the/DT #/SYM 1/CD", "the #1"),
    WordRule("[%\u2030\u00b0\u2032\u2033]", ".*", "before", "4/CD %/NN at/IN 5/CD \u00b0C/NN", "4% at 5 \u00b0C"),
    WordRule("[~@\u223c]", "SYM", "after", "~/SYM 5/CD or/CC \u223c/SYM 5/CD", "~5 or \u223c5"),
    WordRule(".*", ".*", "neither", "rock/NN &/CC roll/NN --/: now/RB", "rock & roll -- now"),
)

_PAIRS = [(re.compile(rule.left), re.compile(rule.right)) for rule in PAIR_RULES]
_CONTEXTS = [(re.compile(rule.around), rule.joins) for rule in CONTEXT_RULES]
_WORDS = [(re.compile(rule.word), re.compile(rule.tag), rule.joins) for rule in WORD_RULES]
_ESCAPED = re.compile(r"\\([/*])")
_SPELT: Final = {"``": '"', "''": '"'}
_OUTSIDE: Final = ("^/^", "^/^")
"""Two placeholders. They are put before the first word and again after the last word. So each word has two neighbours
on each side."""


def detokenise(words: Sequence[str], tags: Sequence[str]) -> str:
    """Return the running text of words with their parts of speech."""
    spelt = [spell(word) for word in words]
    tags = _retagged(words, spelt, tags)
    # If a sentence ends with "U.S.", a treebank writes a second period, as a word of its own. The text does not.
    kept = [i for i, word in enumerate(spelt) if not doubles_period(spelt, i)]
    spelt, tags = [spelt[i] for i in kept], [tags[i] for i in kept]
    tagged = [*_OUTSIDE, *(f"{word}/{tag}" for word, tag in zip(spelt, tags, strict=True)), *_OUTSIDE]
    joins = [_joins_around(*tagged[i : i + 5]) or _joins(spelt[i], tags[i]) for i in range(len(spelt))]
    pieces = spelt[:1]
    for i in range(1, len(spelt)):
        is_joined = joins[i - 1] in _AFTER or joins[i] in _BEFORE or _is_pair(tagged[i + 1], tagged[i + 2])
        pieces.append(spelt[i] if is_joined else " " + spelt[i])
    return "".join(pieces)


_AFTER: Final = ("after", "both")
_BEFORE: Final = ("before", "both")


def doubles_period(words: Sequence[str], i: int) -> bool:
    """Return whether word i is a period that the text lacks, because it follows an abbreviation with a period."""
    if words[i] != "." or i == 0 or (i + 1 < len(words) and words[i + 1] == "."):
        return False
    return len(words[i - 1]) > 1 and words[i - 1][-1] == "." and words[i - 1][-2].isalpha()


@lru_cache(maxsize=1 << 16)
def spell(word: str) -> str:
    """Return a word of a treebank in the spelling of ordinary text.

    Names of brackets and quotes become characters, and a backslash before ``/`` or ``*`` is removed.
    """
    return _ESCAPED.sub(r"\1", unescape_brackets(_SPELT.get(word, word)))


def _retagged(words: Sequence[str], spelt: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return the tags, but with ``OPENING`` or ``CLOSING`` for each quote, and ``[,]`` for commas in square brackets.

    A quote spelt ``OPENING`` opens, and a quote spelt ``CLOSING`` closes, whatever its tag. The following rules are for
    the other quotes.

    The first ``"`` of a sentence opens, the second closes, and so on by turns. There are two exceptions:

    - A ``"`` opens if it is the first word of the sentence, and closes if it is the last word.
    - In a sentence with an odd number of ``"``, each ``"`` between the first and the last word keeps its tag if this is
      ``OPENING`` or ``CLOSING``.

    The same rules apply to each ``'`` that is tagged as a quote. But if the sentence has a backquote as a word, each
    ``'`` keeps its tag.
    """
    found = [word if word in (OPENING, CLOSING) else tag for word, tag in zip(words, tags, strict=True)]
    for quote in ('"', "'"):
        quotes = [
            i
            for i, word in enumerate(words)
            if word == quote and (quote == '"' or (tags[i] in (OPENING, CLOSING) and "`" not in words))
        ]
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


_SYMBOLS: Final = (
    ".",
    "-",
    "+",
    ",",
    ":",
    "(",
    "&",
    "*",
    "%",
    "\u0394",
    "\u00d7",
    "\u2010",
    "\u2013",
    "\u2014",
    "\u2212",
)
"""Every word that ``CONTEXT_RULES`` can decide about begins with one of these characters."""


@lru_cache(maxsize=1 << 18)
def _is_pair(left: str, right: str) -> bool:
    return any(first.fullmatch(left) and second.fullmatch(right) for first, second in _PAIRS)


@lru_cache(maxsize=1 << 16)
def _joins(word: str, tag: str) -> Joins:
    return next(joins for spelling, tags, joins in _WORDS if spelling.fullmatch(word) and tags.fullmatch(tag))
