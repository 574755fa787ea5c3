"""Read constituency trees from brackets, and represent them as labelled spans.

A tree has tagged words and phrases. A phrase is a label and the span of words that it covers. Phrases are in the order
in which they open. So if two phrases have the same span, the first is above the second. This representation needs no
recursion into deep trees. It does not show the parent of a phrase without words, but normalisation removes such
phrases.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from storage.errors import InputError

ROOT: Final = "TOP"
"""Label of the root of every normalised tree. No other phrase has this label."""
ROOT_NAMES: Final = frozenset({"", "ROOT", "S1", "TOP", "VROOT"})
"""Labels that treebanks give to a root that is not a phrase."""
TRACE_TAG: Final = "-NONE-"
_BINARISED: Final = re.compile(r"@[^\W\d]|.+\|<")

Phrase: TypeAlias = tuple[str, int, int]
"""Label, first word, one past the last word."""

TokenPhrase: TypeAlias = tuple[int, int, int]
"""Number of the label, first token, one past the last token."""


class MalformedTreeError(InputError):
    """A piece of a file is not a tree. ``reason`` is a short category, by which such pieces are counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree over words."""

    words: tuple[str, ...]
    """Words in the spelling of the treebank, for example ``-LRB-`` for a round bracket."""
    tags: tuple[str, ...]
    """Part of speech of each word."""
    phrases: tuple[Phrase, ...]
    """Phrases in the order in which they open. After normalisation the first is ``TOP`` over all words."""


_W, _A = r"[ \t\r\n\f\v]", r"[^ \t\r\n\f\v()]"
_TOKEN = re.compile(rf"\({_W}*({_A}+){_W}+({_A}+){_W}*\)|\({_W}*({_A}*)|(\))|({_A}+)")
_BRACKET_IN_WORD = re.compile(
    r"\\[()]|\s[:;=8](?:[-^o'][()]|\()|\s[^\s()]+\([^\s()]+\)|\s\([^\s()]+\)[^\s()]|\(\$[()]\s"
)
_WORD_IN_BRACKETS = re.compile(rf"\({_W}*{_A}+{_W}*\({_W}*{_A}+{_W}*\){_W}*\)")
_LABEL_OUTSIDE = re.compile(r"[^()]*\w\(")
_LABEL_AT_END = re.compile(r"\(\s*([^\s()]+)\s[^()]*\s\1\s*\)")
_NUMBERED = re.compile(rf"\({_W}*\d+{_W}+{_A}+{_W}*\(")
_WRITE_BRACKETS = "write -LRB- and -RRB- for the brackets inside a word"
_WRITE_WORDS = "write words without brackets of their own: (NN dog), not (NN (dog)) or (NNdog)"
_BALANCE = "; correct the brackets; write -LRB- and -RRB- for brackets that are words"


def parse_tree(text: str) -> Tree:
    """Return the one tree that ``text`` holds, not normalised.

    Raises:
        MalformedTreeError: If there is no tree or more than one, brackets do not match, or a word has no tag.
    """
    words: list[str] = []
    tags: list[str] = []
    labels: list[str] = []
    starts: list[int] = []
    stops: list[int] = []
    is_open: list[int] = []
    for tag, word, label, close, stray in _TOKEN.findall(text):
        if not is_open and (labels or close or stray):
            raise _outside(text, close=bool(close), first=not labels)
        if tag:
            if not labels:  # the tree is one tagged word: "(VB Edit)"
                labels, starts, stops = [""], [0], [1]
            tags.append(tag)
            words.append(word)
        elif close:
            stops[is_open.pop()] = len(words)
        elif stray:
            raise _without_tag(text, stray)
        else:
            is_open.append(len(labels))
            labels.append(label)
            starts.append(len(words))
            stops.append(-1)
    if is_open:
        raise MalformedTreeError(
            f"unbalanced brackets: {len(is_open)} not closed{_hint(text) or _BALANCE}", "unbalanced brackets"
        )
    if not labels:
        raise MalformedTreeError("empty, expected a tree", "not a tree")
    phrases = tuple(zip(labels, starts, stops, strict=True))
    _refuse_words_in_brackets(phrases)
    if not words:
        raise MalformedTreeError("an empty tree, expected at least one word in its brackets", "empty tree")
    return Tree(tuple(words), tuple(tags), phrases)


def without_words(tree: Tree, without: Collection[int]) -> Tree:
    """Return a tree without the words that have the indices ``without``. Phrases without words stay."""
    if not without:
        return tree
    kept = [i for i in range(len(tree.words)) if i not in without]
    before = _counts_before(kept, len(tree.words))
    phrases = tuple((label, before[start], before[stop]) for label, start, stop in tree.phrases)
    return Tree(tuple(tree.words[i] for i in kept), tuple(tree.tags[i] for i in kept), phrases)


def normalise_tree(tree: Tree, without: Collection[int] = ()) -> Tree:
    """Return the normalised tree, the only form that models see. The function is idempotent.

    - Traces are removed, and so are the words whose indices are in ``without``. Phrases that have no word left are
      removed too.
    - Function tags and indices are stripped (``strip_label``).
    - If a phrase X has another X as its only child, the two become one X. Other unary chains stay.
    - The root is ``TOP``. Other phrases with a label of ``ROOT_NAMES`` or with no label are removed, and their children
      go to the phrase above.
    - Phrases that a tool made to binarise the tree (``is_binarised``) are removed in the same way.

    Raises:
        MalformedTreeError: If no word is left.
    """
    tree = without_words(tree, {*without, *(i for i, tag in enumerate(tree.tags) if tag == TRACE_TAG)})
    if not tree.words:
        raise MalformedTreeError("a tree without words: only traces or markup", "no words")
    found: list[Phrase] = [(ROOT, 0, len(tree.words))]
    for label, start, stop in tree.phrases:
        if start == stop or label in ROOT_NAMES or is_binarised(label):
            continue
        phrase = (strip_label(label), start, stop)
        if phrase != found[-1]:
            found.append(phrase)
    return Tree(tree.words, tuple(map(strip_label, tree.tags)), tuple(found))


@lru_cache(maxsize=65_536)
def is_binarised(label: str) -> bool:
    """Return whether a tool gives this label to phrases that it adds to make a tree binary.

    Such labels are ``@NP`` (Berkeley parser) and ``NP|<DT-NN>`` (NLTK).
    """
    return _BINARISED.match(label) is not None


@lru_cache(maxsize=65_536)
def strip_label(label: str) -> str:
    """Return a label without function tags, indices and other additions.

    The other additions are SPMRL's features (``NN##case=nom##``), the head in the output of Collins's parser
    (``NP~dog~2~1``) and the label of the parent, as NLTK adds it (``NP^<S>``). A label that begins with the mark of an
    addition, such as ``-LRB-``, stays whole.
    """
    return re.split(r"[-=#~]|\^<", label, maxsplit=1)[0] or label


def format_tree(tree: Tree) -> str:
    """Return a tree as one line of brackets, with tags. If each phrase has a word, ``parse_tree`` restores the tree."""
    pieces: list[str] = []
    is_open: list[int] = []
    following = 0
    for i, (word, tag) in enumerate(zip(tree.words, tree.tags, strict=True)):
        while following < len(tree.phrases) and tree.phrases[following][1] == i:
            label, _, stop = tree.phrases[following]
            pieces.append(f"({label} ")
            is_open.append(stop)
            following += 1
        pieces.append(f"({tag} {word})")
        while is_open and is_open[-1] == i + 1:
            is_open.pop()
            pieces.append(")")
        pieces.append(" ")
    return "".join(pieces).rstrip(" ")


def _counts_before(kept: list[int], num_words: int) -> list[int]:
    """Return for each word the number of kept words before it, and as one more entry the number of all kept words."""
    before = []
    count = 0
    for i in range(num_words):
        before.append(count)
        if count < len(kept) and kept[count] == i:
            count += 1
    return [*before, count]


def _refuse_words_in_brackets(phrases: tuple[Phrase, ...]) -> None:
    """Refuse an empty phrase whose label can be a word.

    For example, ``(NN (dog))`` is refused, because labels of phrases have no small letters. The tree ``(UH (OK))`` is
    refused, because ``OK`` is alone in ``UH`` and does not look like the label of a phrase, such as NP or S. But
    ``(NP (NP ))`` is accepted, because the inner NP may have lost its trace.
    """
    for i, (label, start, stop) in enumerate(phrases):
        if start != stop or label in ("", TRACE_TAG):
            continue
        if any(map(str.isspace, label)):
            raise _odd_space(label)
        is_last = i + 1 == len(phrases) or phrases[i + 1][1:] != (start, stop)
        is_alone = i > 0 and is_last and phrases[i - 1][1:] == (start, stop) and phrases[i - 1][0] not in ROOT_NAMES
        is_word = is_alone and not re.fullmatch(r"[A-Z]*P|S[A-Z]*|NX|FRAG|PRN", strip_label(label))
        if is_word or not label[0].isupper() or any(map(str.islower, label)):
            raise MalformedTreeError(
                f"the word {shortened(label)} has brackets of its own; {_WRITE_WORDS}", "word without a tag"
            )


def _without_tag(text: str, word: str) -> MalformedTreeError:
    if not word.strip():
        return _odd_space(text)
    remedy = _hint(text) or "; expected each word with its own tag, as in (NN dog)"
    return MalformedTreeError(f"the word {shortened(word)} has no part of speech{remedy}", "word without a tag")


def _odd_space(text: str) -> MalformedTreeError:
    message = "unusual spaces, such as no-break spaces, between tags, words or brackets; write ordinary spaces"
    return MalformedTreeError(f"{shortened(text)} has {message}", "word without a tag")


def _hint(text: str) -> str:
    """Return a remedy if the brackets have a known form that cannot be read, else ""."""
    if "\\n" in text:
        return r"; write a line end in place of each \n"
    if _NUMBERED.search(text):
        return "; write labels without numbers before them: (NP (NN dog)), not (1 NP (2 NN dog))"
    if _LABEL_AT_END.search(text):
        return "; write no labels before closing brackets: (NP (NN dog)), not (NP (NN dog) NP)"
    if _BRACKET_IN_WORD.search(text):
        return f"; {_WRITE_BRACKETS}"
    return f"; {_WRITE_WORDS}" if _WORD_IN_BRACKETS.search(text) else ""


def _outside(text: str, *, close: bool, first: bool) -> MalformedTreeError:
    if close:
        return MalformedTreeError(
            f"unbalanced brackets: a ')' without its '('{_hint(text) or _BALANCE}", "unbalanced brackets"
        )
    if first:
        remedy = f"; remove it, or write # before it{_hint(text)}"
        if _LABEL_OUTSIDE.match(text):
            remedy = "; write labels inside their brackets: (NN dog), not NN(dog)"
        elif "(" in text:
            remedy = f"; remove the text before the first bracket, for example with sed 's/^[^(]*//'{_hint(text)}"
        return MalformedTreeError(f"text where a tree was expected: {shortened(text)}{remedy}", "not a tree")
    if text.count(")") > text.count("("):
        return MalformedTreeError(
            f"unbalanced brackets: a ')' that closes a tree too early{_hint(text) or _BALANCE}", "unbalanced brackets"
        )
    return MalformedTreeError(
        f"more than one tree, or text after the tree; expected one tree; remove the text after the tree{_hint(text)}",
        "more than one tree",
    )


def shortened(text: str) -> str:
    """Return the quoted beginning of a text, for a message of one line."""
    text = " ".join(text[:200].split())
    return repr(text if len(text) <= 40 else text[:37] + "...")
