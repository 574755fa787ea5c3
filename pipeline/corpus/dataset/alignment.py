"""Fit a tree over words to the tokens of the raw text, and a tree over tokens to words again.

The tokens are given, the tree gives way.

A token inside one word goes under that word's lowest phrase, one over several words under their lowest common
ancestor. In terms of spans: a token belongs to a phrase if the phrase covers every word that the token touches, so a
phrase's tokens are one run, found by two binary searches. Pieces of a word become siblings; there is no word node.
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
"""Part of speech of the words of a tree that was over tokens: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTree:
    """The phrases of a tree, over tokens."""

    phrases: list[Phrase]
    """In opening order; the first covers all tokens, and none is empty."""
    num_crossing: int
    """Tokens that hold words, or parts of words, of a phrase and others that are outside it."""
    num_lost: int
    """Phrases left without a token, because tokens that cross their edges hold all their words."""


def align(phrases: Sequence[Phrase], word_spans: Sequence[Span], token_spans: Sequence[Span]) -> TokenTree:
    """Return the phrases over tokens instead of words.

    Args:
        phrases: Of a normalised tree.
        word_spans: Of its words in the text: rising, and covering all characters but spaces.
        token_spans: Of the tokens in the text: never falling, none empty. A space belongs to the word after it, also
            where it is a token of its own. Tokens may share a character, of which each holds some bytes.
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
    """Return a tree over tokens as one over words, which brackets can hold and ``import-trees`` reads.

    A word is the longest stretch of text in which there is no space and no phrase begins or ends: a string between
    spaces, in pieces where the tree takes it apart ("barks" and "." of "barks.", or "do" and "n't"). So each phrase
    covers whole words, and ``align`` gives it back its tokens. Two things cannot be written, and are lost: an edge
    between the tokens that share a character, which goes with the last of them, and one between a space that is a token
    of its own and its word; what covers no character but spaces then is left out, and X over a single X is one X.

    Args:
        phrases: Over tokens, in opening order; the first covers all.
        text: Normalised.
        token_spans: As of ``align``.
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
    """Return the index of the word at each character; a space counts to the word after it."""
    word_at: list[int] = []
    for i, (_, stop) in enumerate(word_spans):
        word_at += [i] * (stop - len(word_at))
    return word_at
