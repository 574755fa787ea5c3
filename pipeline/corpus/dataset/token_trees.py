"""Fit sentences and their trees to the tokens of the text.

``build-dataset`` stores the outcome as actions. ``evaluate parses`` reads gold trees here and compares predicted trees
with them. A sentence whose text the tokenizer does not give back is dropped and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.corpus.dataset.alignment import TokenTree, align
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError, find_file
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences
from pipeline.corpus.trees.trees import TokenPhrase
from storage.errors import InputError

UNSEEN: Final = "label unseen in training"
NOT_REVERSIBLE: Final = "text not given back by the tokenizer"
_BATCH_SENTENCES: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSentence:
    """A sentence as a model reads it, and its tree over the same tokens."""

    text: str
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    spans: list[Span]
    """The characters of ``text`` that each token covers, including a space before a word."""
    phrases: list[TokenPhrase]
    """In opening order; the first is TOP over all tokens: ``(0, 0, n)``."""


class FittedSentence(NamedTuple):
    """A sentence and its tree over its tokens. Labels are still strings."""

    sentence: Sentence
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    spans: list[Span]
    """The characters of the text that each token covers."""
    tree: TokenTree


def fit_to_tokens(sentences: Sequence[Sentence], tokenizer: Tokenizer) -> Iterator[FittedSentence | None]:
    """Yield each sentence with its tree over its tokens, or None if the tokenizer does not give its text back."""
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
    """Return the sentences of STEM.mrg and STEM.txt over a model's tokens, and the counts of kept and dropped trees.

    No sentence is dropped for a label that the model does not have. These labels get numbers from ``len(labels)`` up
    and are counted as repaired. No prediction has such a number, so the phrase costs recall, as it should.

    Args:
        stem: STEM, as in ``import-trees --out``. Either file may be a ``.gz``.
        tokenizer: The tokenizer of the model.
        labels: The labels of the model, TOP first.
        on_error: "stop" raises at a malformed line; "skip" drops and counts it.
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
        "of each in the same line of the text file. Check that both files belong together"
    )
