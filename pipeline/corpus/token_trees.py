"""From a treebank and its text to token ids and phrases over them, with labels numbered: what models are fed.

Read, normalise, tokenise, fit the tree to the tokens, number its labels. ``build-dataset`` stores the outcome as
actions; ``evaluate parses`` compares predicted trees with it. A sentence that cannot be one is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from pipeline.corpus.alignment import align
from pipeline.corpus.matching import Span
from pipeline.corpus.oracle import TokenPhrase
from pipeline.corpus.readers import Counts, Sentence, find_file, read_sentences
from pipeline.corpus.text import OnError
from pipeline.corpus.tokenizer import Tokenizer
from pipeline.corpus.trees import ROOT, Phrase
from storage.errors import InputError

UnseenLabels = Literal["drop", "map", "refuse"]
"""What a label does that the trees of training lack: its sentence is left out and counted, it is read as the most
frequent label of training and counted, or everything ends with one line that names all such labels."""
UNSEEN: Final = "label unseen in training"
_BATCH_SENTENCES: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSentence:
    """A sentence as a model reads it, and its tree over the same tokens."""

    number: int
    """Of its tree in the file, from 0, those that were dropped included."""
    text: str
    ids: list[int]
    """n token ids, neither ``<bos>`` nor ``<eos>``."""
    spans: list[Span]
    """Characters of ``text`` that each token covers, a space before a word included."""
    phrases: list[TokenPhrase]
    """In opening order; the first is TOP over all tokens: ``(0, 0, n)``."""
    num_crossing: int
    """Tokens that hold parts of a phrase and of what is outside it (``alignment.TokenTree``)."""
    num_lost: int
    """Phrases left without a token."""


class LabelNumbers:
    """Numbers of labels, TOP's 0: those of a model or dataset, or, while training trees are read, growing."""

    def __init__(self, labels: Iterable[str] = (ROOT,)) -> None:
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.frequencies: Counter[str] = Counter()
        """Phrases by label, TOP left out, in trees that ``add`` saw."""
        self.refused: Counter[str] = Counter()
        """Sentences by unseen label, where these are refused."""
        self._kept: dict[str, int] = {}

    @property
    def fallback(self) -> str | None:
        """The most frequent label of training, of two the first in the alphabet; None where there is only TOP."""
        return min(self.frequencies, key=lambda label: (-self.frequencies[label], label), default=None)

    def add(self, phrases: Sequence[Phrase]) -> list[TokenPhrase]:
        """Return the phrases with numbers for labels; a new label gets the next number."""
        for label, _, _ in phrases:
            self.numbers.setdefault(label, len(self.numbers))
        self.frequencies.update(label for label, _, _ in phrases[1:])
        return self._numbered(phrases, self.numbers)

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

    def check_refused(self, where: Path) -> None:
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


Numbering = Callable[[Sequence[Phrase], Counts], list[TokenPhrase] | None]
"""Numbers the labels of a tree, or returns None to drop its sentence, whose label is unseen; may count repairs."""


def read_token_trees(
    trees: Path,
    texts: Path,
    tokenizer: Tokenizer,
    numbering: Numbering,
    *,
    on_error: OnError,
    counts: Counts,
    progress: Callable[[int], None] | None = None,
) -> Iterator[TokenSentence]:
    """Yield the sentences of a treebank over the tokens of their text; ``counts`` is kept up to date.

    Args:
        trees: Trees in brackets, plain or gzipped.
        texts: The text of each in the same line.
        tokenizer: Makes the tokens.
        numbering: Numbers labels.
        on_error: What a malformed line does.
        counts: Grows.
        progress: Called with the number of sentences read since the last call.

    Raises:
        InputError: As ``read_sentences``; at the end, if no sentence was left.
    """
    sentences = read_sentences(trees, texts, on_error=on_error, counts=counts)
    num_left = 0
    while batch := list(islice(sentences, _BATCH_SENTENCES)):
        encoded = tokenizer.encode_batch_with_spans([sentence.text for sentence in batch])
        decoded = tokenizer.decode_batch([ids for ids, _ in encoded])
        for sentence, (ids, spans), text in zip(batch, encoded, decoded, strict=True):
            found = _over_tokens(sentence, ids, spans, text, numbering, counts)
            if isinstance(found, str):
                counts.num_kept -= 1
                counts.dropped[found] += 1
            else:
                num_left += 1
                yield found
        if progress is not None:
            progress(len(batch))
    if not num_left:
        raise InputError(
            f"{trees}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; expected trees with the "
            "text of each in the same line of the text file"
        )


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
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    found = read_token_trees(
        trees, texts, tokenizer, LabelNumbers(labels).keep, on_error=on_error, counts=counts, progress=progress
    )
    return list(found), counts


def _over_tokens(
    sentence: Sentence, ids: list[int], spans: list[Span], decoded: str, numbering: Numbering, counts: Counts
) -> TokenSentence | str:
    """Return the sentence over its tokens, or the reason why it cannot be one."""
    if decoded != sentence.text:
        return "text not given back by the tokenizer"
    tree = align(sentence.tree.phrases, sentence.spans, spans)
    phrases = numbering(tree.phrases, counts)
    if phrases is None:
        return UNSEEN
    return TokenSentence(
        number=sentence.number,
        text=sentence.text,
        ids=ids,
        spans=spans,
        phrases=phrases,
        num_crossing=tree.num_crossing,
        num_lost=tree.num_lost,
    )
