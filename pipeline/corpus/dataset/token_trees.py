"""Convert trees over words to trees over the tokens of the text, and trees over tokens to trees over words.

The tokens are fixed, and the tree is adapted to them. A token belongs to a phrase if the phrase covers every word that
the token touches. So a token inside one word goes under the lowest phrase over this word, and a token over several
words goes under their lowest common ancestor. The tokens of a word become siblings; the tree has no node for the word.

``build-dataset`` stores these trees, and ``evaluate parses`` reads gold trees with this module. Both commands drop and
count a sentence if decoding its tokens does not restore its text.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError, escape_brackets, find_file
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences
from pipeline.corpus.trees.trees import Phrase, TokenPhrase, Tree
from storage.errors import InputError

UNSEEN: Final = "label unseen in training"
NOT_REVERSIBLE: Final = "text that decoding its tokens does not restore"
LEAF_TAG: Final = "XX"
"""Part of speech of every word in a tree made from tokens."""
_BATCH_SENTENCES: Final = 1_000
_WORD: Final = re.compile("[^ ]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTree:
    """The phrases of a tree over tokens."""

    phrases: list[Phrase]
    """In opening order. The first phrase covers all tokens, and no phrase is empty."""
    num_crossing: int
    """Number of tokens that cross the edge of a phrase: they touch a word inside the phrase and a word outside it."""
    num_lost: int
    """Number of phrases that get no token: each token that touches such a phrase also touches a word outside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSentence:
    """A sentence and its tree over its tokens, with labels as numbers."""

    text: str
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    spans: list[Span]
    """The characters of ``text`` that each token covers, including the space before a word."""
    phrases: list[TokenPhrase]
    """In opening order. The first phrase is TOP over all tokens: ``(0, 0, n)``."""
    sentence: Sentence
    """The sentence with its tree over words, as in the treebank."""


class FittedSentence(NamedTuple):
    """A sentence and its tree over its tokens, with labels as strings."""

    sentence: Sentence
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    spans: list[Span]
    """The characters of the text that each token covers."""
    tree: TokenTree


def align(phrases: Sequence[Phrase], word_spans: Sequence[Span], token_spans: Sequence[Span]) -> TokenTree:
    """Return the phrases of a tree over words as phrases over tokens.

    Args:
        phrases: The phrases of a normalised tree, over words.
        word_spans: The characters of each word in the text, in order. Together they cover everything except spaces.
        token_spans: The characters of each token in the text, in order. No span is empty. A space belongs to the word
            after it, even if the space is a token of its own. Several tokens may cover the same character, if each
            has some of its bytes.
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
    """Return a tree over tokens as a tree over words. It can be written in brackets and read by ``import-trees``.

    The text is divided into words at every space and at every edge of a phrase. For example, "barks." is two words if
    a phrase ends before the full stop. ``align`` restores the tokens of each phrase, with two exceptions. If two tokens
    share a character and a phrase begins or ends between them, this edge moves in front of the character. If a phrase
    begins or ends after a token that is only a space, this edge moves in front of the token. A phrase that then covers
    only spaces is left out, and a phrase X whose only child is then a phrase X is merged with this child.

    Args:
        phrases: The phrases over tokens, in opening order. The first covers all tokens.
        text: The normalised text.
        token_spans: The characters of each token in the text, as for ``align``.
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


def fit_to_tokens(sentences: Sequence[Sentence], tokenizer: Tokenizer) -> Iterator[FittedSentence | None]:
    """Yield each sentence with its tree over its tokens, or None if decoding does not restore its text."""
    encoded = tokenizer.encode_batch_with_spans([sentence.text for sentence in sentences])
    decoded = tokenizer.decode_batch([ids for ids, _ in encoded])
    for sentence, (ids, spans), text in zip(sentences, encoded, decoded, strict=True):
        if text != sentence.text:
            yield None
        else:
            yield FittedSentence(sentence, ids, spans, align(sentence.tree.phrases, sentence.spans, spans))


def read_gold_trees(
    stem: Path,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    *,
    on_error: OnError = "stop",
    progress: Callable[[int], None] | None = None,
) -> tuple[list[TokenSentence], Counts]:
    """Return the sentences of STEM.mrg and STEM.txt, with trees over a model's tokens, and the counts of dropped trees.

    Gold trees may have labels that are unknown to the model. These labels get numbers from ``len(labels)`` up. The
    model never predicts these numbers, so a gold phrase with such a label counts as missed. For each of these labels,
    ``Counts.repaired`` has the number of sentences in which it occurs.

    Args:
        stem: STEM, the path of the two files without ``.mrg`` and ``.txt``. Each file may be plain or a ``.gz``.
        tokenizer: The tokenizer of the model.
        labels: The labels of the model, TOP first.
        on_error: "stop" raises at a malformed line; "skip" drops and counts the sentence.
        progress: Called with the number of sentences read since the last call.

    Raises:
        InputError: If a file is missing or malformed, or no sentence is left.
    """
    counts = Counts()
    numbers = {label: number for number, label in enumerate(labels)}
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    sentences = read_sentences(trees, texts, on_error=on_error, counts=counts)
    found: list[TokenSentence] = []
    while batch := list(islice(sentences, _BATCH_SENTENCES)):
        for fitted in fit_to_tokens(batch, tokenizer):
            if fitted is None:
                counts.num_kept -= 1
                counts.dropped[NOT_REVERSIBLE] += 1
                continue
            phrases = fitted.tree.phrases
            for label in sorted({label for label, _, _ in phrases}.difference(labels)):
                counts.repaired[f"{UNSEEN}, kept: {label}"] += 1
                numbers.setdefault(label, len(numbers))
            found.append(
                TokenSentence(
                    text=fitted.sentence.text,
                    ids=fitted.ids,
                    spans=fitted.spans,
                    phrases=[(numbers[label], start, stop) for label, start, stop in phrases],
                    sentence=fitted.sentence,
                )
            )
        if progress is not None:
            progress(len(batch))
    if not found:
        raise no_sentence_left(trees, counts)
    return found, counts


def no_sentence_left(where: Path | str, counts: Counts) -> InputError:
    """Return the error for an input from which every sentence was dropped."""
    return InputError(
        f"{where}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; expected trees, and the text "
        "of tree n in line n of the text file. Check that both files belong together"
    )


def _word_at(word_spans: Sequence[Span]) -> list[int]:
    """Return the index of the word at each character. A space belongs to the word after it."""
    word_at: list[int] = []
    for i, (_, stop) in enumerate(word_spans):
        word_at += [i] * (stop - len(word_at))
    return word_at
