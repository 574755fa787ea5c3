"""Fit a tree over words to the tokens of the raw text: the tokens are given, the tree gives way.

A token inside one word goes under that word's lowest phrase, one over several words under their lowest common
ancestor. In terms of spans: a token belongs to a phrase if the phrase covers every word that the token touches, so a
phrase's tokens are one run, found by two binary searches. Pieces of a word become siblings; there is no word node.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.corpus.matching import Span
from pipeline.corpus.trees import Phrase


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


def _word_at(word_spans: Sequence[Span]) -> list[int]:
    """Return the index of the word at each character; a space counts to the word after it."""
    word_at: list[int] = []
    for i, (_, stop) in enumerate(word_spans):
        word_at += [i] * (stop - len(word_at))
    return word_at
