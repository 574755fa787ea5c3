"""Fit a tree over words to the tokens of the raw text, and convert a tree over tokens back to words.

The tokens are fixed, and the tree is adapted to them. A token inside one word goes under the lowest phrase over that
word. A token over several words goes under their lowest common ancestor. In terms of spans: a token belongs to a phrase
if the phrase covers every word that the token touches. So the tokens of a phrase are one run, and two binary searches
find it. The pieces of a word become siblings; the tree has no node for the word.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pipeline.corpus.text.text_files import escape_brackets
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.trees import Phrase, Tree

LEAF_TAG: Final = "XX"
"""Part of speech of the words in a tree made from tokens, where the true one is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTree:
    """The phrases of a tree over tokens."""

    phrases: list[Phrase]
    """In opening order. The first phrase covers all tokens, and no phrase is empty."""
    num_crossing: int
    """Number of tokens that cover both words inside and words outside a phrase, or parts of them."""
    num_lost: int
    """Number of phrases left without a token, because tokens that cross their edges cover all their words."""


def align(phrases: Sequence[Phrase], word_spans: Sequence[Span], token_spans: Sequence[Span]) -> TokenTree:
    """Return the phrases over tokens instead of words.

    Args:
        phrases: The phrases of a normalised tree, over words.
        word_spans: The characters of each word in the text. They rise, and together cover everything except spaces.
        token_spans: The characters of each token in the text. They never fall, and none is empty. A space belongs to
            the word after it, even if the space is a token of its own. Several tokens may cover the same character,
            if each has some of its bytes.
    """
    word_at = _word_at(word_spans)
    firsts = [word_at[start] for start, _ in token_spans]
    lasts = [word_at[stop - 1] + 1 for _, stop in token_spans]
    over_several = {(first, last) for first, last in zip(firsts, lasts, strict=True) if last > first + 1}
    found: list[Phrase] = []
    num_lost = 0
    for label, start, stop in phrases:
        phrase = (label, bisect_left(firsts, start), bisect_right(lasts, stop))
        if phrase[1] >= phrase[2]:
            num_lost += 1
        elif not found or phrase != found[-1]:
            found.append(phrase)
    crossing = {
        (first, last)
        for first, last in over_several
        if any(start < last and first < stop and not (start <= first and last <= stop) for _, start, stop in phrases)
    }
    num_crossing = sum(span in crossing for span in zip(firsts, lasts, strict=True)) if crossing else 0
    return TokenTree(phrases=found, num_crossing=num_crossing, num_lost=num_lost)


def tree_over_words(phrases: Sequence[Phrase], text: str, token_spans: Sequence[Span]) -> Tree:
    """Return a tree over tokens as a tree over words, which can be written in brackets and read by ``import-trees``.

    A word is the longest stretch of text without a space and without an edge of a phrase. So a string between spaces
    is one word, or several where the tree divides it ("barks" and "." in "barks.", or "do" and "n't"). Each phrase then
    covers whole words, and ``align`` restores its tokens.

    Two kinds of edges cannot be written and are lost. An edge between tokens that share a character moves behind the
    last of them. An edge between a word and the space before it, if that space is a token of its own, moves to the
    word. After that, a phrase that covers only spaces is left out, and X over a single X becomes one X.

    Args:
        phrases: The phrases over tokens, in opening order. The first covers all tokens.
        text: The normalised text.
        token_spans: As in ``align``.
    """
    edges = [start for start, _ in token_spans] + [len(text)]
    over_characters = [(label, edges[start], edges[stop]) for label, start, stop in phrases]
    cuts = sorted({edge for _, start, stop in over_characters for edge in (start, stop)})
    words = [found.span() for start, stop in pairwise(cuts) for found in _WORD.finditer(text, start, stop)]
    starts, stops = [start for start, _ in words], [stop for _, stop in words]
    found: list[Phrase] = []
    for label, start, stop in over_characters:
        phrase = (label, bisect_left(starts, start), bisect_right(stops, stop))
        if phrase[1] < phrase[2] and (not found or phrase != found[-1]):
            found.append(phrase)
    spelt = tuple(escape_brackets(text[start:stop]) for start, stop in words)
    return Tree(spelt, (LEAF_TAG,) * len(spelt), tuple(found))


_WORD: Final = re.compile("[^ ]+")


def _word_at(word_spans: Sequence[Span]) -> list[int]:
    """Return the index of the word at each character. A space belongs to the word after it."""
    word_at: list[int] = []
    for i, (_, stop) in enumerate(word_spans):
        word_at += [i] * (stop - len(word_at))
    return word_at
