"""From a treebank and its text to token ids and phrases over them, with labels numbered: what models are fed.

Tokenise, fit the tree to the tokens, number its labels. ``build-dataset`` stores the outcome as actions; ``evaluate
parses`` compares predicted trees with it. A sentence that cannot be one is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pipeline.corpus.dataset.alignment import TokenTree, align
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError, find_file
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences
from pipeline.corpus.trees.trees import ROOT, Phrase, TokenPhrase
from storage.errors import InputError

UnseenLabels = Literal["drop", "map", "refuse"]
"""What a label does that the trees of training lack: its sentence is left out and counted, it is read as the most
frequent label of training and counted, or everything ends with one line that names all such labels."""
UNSEEN: Final = "label unseen in training"
NOT_GIVEN_BACK: Final = "text not given back by the tokenizer"
_BATCH_SENTENCES: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSentence:
    """A sentence as a model reads it, and its tree over the same tokens."""

    text: str
    ids: list[int]
    """n token ids, neither ``<bos>`` nor ``<eos>``."""
    spans: list[Span]
    """Characters of ``text`` that each token covers, a space before a word included."""
    phrases: list[TokenPhrase]
    """In opening order; the first is TOP over all tokens: ``(0, 0, n)``."""


class FittedSentence(NamedTuple):
    """A sentence and its tree over its tokens, labels not numbered yet."""

    sentence: Sentence
    ids: list[int]
    """n token ids, neither ``<bos>`` nor ``<eos>``."""
    spans: list[Span]
    """Characters of the text that each token covers."""
    tree: TokenTree


class LabelNumbers:
    """Numbers of the labels of a model or dataset, TOP's 0, and what becomes of others.

    Args:
        labels: TOP first.
        frequencies: Phrases of training by label, TOP left out.
    """

    def __init__(self, labels: Iterable[str] = (ROOT,), frequencies: Mapping[str, int] | None = None) -> None:
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.frequencies = frequencies or {}
        self.refused: Counter[str] = Counter()
        """Sentences by unseen label, where these are refused."""
        self._kept: dict[str, int] = {}

    @property
    def fallback(self) -> str | None:
        """The most frequent label of training, of two the first in the alphabet; None where there is only TOP."""
        return min(self.frequencies, key=lambda label: (-self.frequencies[label], label), default=None)

    def keep(self, phrases: Sequence[Phrase], counts: Counts) -> list[TokenPhrase]:
        """Return the phrases, those with unseen labels under numbers that no model has; counts these sentences.

        For trees to compare with: no predicted phrase has such a label, so the phrase costs recall, as it should.
        """
        for label in self._unseen(phrases):
            counts.repaired[f"{UNSEEN}, kept: {label}"] += 1
            self._kept.setdefault(label, len(self.numbers) + len(self._kept))
        return self._numbered(phrases, self.numbers | self._kept)

    def seen(self, phrases: Sequence[Phrase], counts: Counts, what: UnseenLabels) -> list[TokenPhrase] | None:
        """Return the phrases, unseen labels treated as ``what`` says; None if the sentence is to be dropped."""
        if not (unseen := self._unseen(phrases)):
            return self._numbered(phrases, self.numbers)
        if what == "refuse":
            self.refused.update(unseen)
        if what != "map" or (fallback := self.fallback) is None:
            return None
        for label in unseen:
            counts.repaired[f"{UNSEEN}, read as {fallback}: {label}"] += 1
        number = self.numbers[fallback]
        mapped = [(self.numbers.get(label, number), start, stop) for label, start, stop in phrases]
        # As everywhere, X directly over a single X is one X.
        return [phrase for i, phrase in enumerate(mapped) if i == 0 or phrase != mapped[i - 1]]

    def check_refused(self, where: Path | str) -> None:
        """Refuse the labels that ``seen`` met and was told to refuse.

        Raises:
            InputError: Naming each, and the options.
        """
        if self.refused:
            found = ", ".join(f"{label} ({number} sentences)" for label, number in sorted(self.refused.items()))
            raise InputError(
                f"{where}: labels unseen in training: {found}; expected those of the training trees. Use "
                f"--unseen-labels drop to leave these sentences out, or map to read such labels as {self.fallback}"
            )

    def _unseen(self, phrases: Sequence[Phrase]) -> list[str]:
        return sorted({label for label, _, _ in phrases} - self.numbers.keys())

    @staticmethod
    def _numbered(phrases: Sequence[Phrase], numbers: Mapping[str, int]) -> list[TokenPhrase]:
        return [(numbers[label], start, stop) for label, start, stop in phrases]


def fit_to_tokens(sentences: Sequence[Sentence], tokenizer: Tokenizer) -> Iterator[FittedSentence | None]:
    """Yield each sentence with its tree over its tokens; None where the tokenizer does not give its text back."""
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
    """Return the sentences of STEM.mrg and STEM.txt over a model's tokens, and what became of each tree.

    No sentence is dropped for a label that the model does not know: such phrases are kept under numbers from
    ``len(labels)`` up, which no prediction has, and counted as repaired.

    Args:
        stem: STEM, as ``import-trees --out`` names it; either file may be a ``.gz``.
        tokenizer: The model's.
        labels: The model's, TOP first.
        on_error: What a malformed line does.
        progress: Called with the number of sentences read since the last call.

    Raises:
        InputError: If a file is missing or malformed, or no sentence is left.
    """
    counts = Counts()
    numbers = LabelNumbers(labels)
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    sentences = read_sentences(trees, texts, on_error=on_error, counts=counts)
    found: list[TokenSentence] = []
    while batch := list(islice(sentences, _BATCH_SENTENCES)):
        for fitted in fit_to_tokens(batch, tokenizer):
            if fitted is None:
                counts.num_kept -= 1
                counts.dropped[NOT_GIVEN_BACK] += 1
                continue
            found.append(
                TokenSentence(
                    text=fitted.sentence.text,
                    ids=fitted.ids,
                    spans=fitted.spans,
                    phrases=numbers.keep(fitted.tree.phrases, counts),
                )
            )
        if progress is not None:
            progress(len(batch))
    if not found:
        raise no_sentence_left(trees, counts)
    return found, counts


def no_sentence_left(where: Path | str, counts: Counts) -> InputError:
    """Return the error for an input all of whose sentences were dropped."""
    return InputError(
        f"{where}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; expected trees with the text "
        "of each in the same line of the text file"
    )
