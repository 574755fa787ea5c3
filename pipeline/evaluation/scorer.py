"""What a scorer of sentences is, the one over any ``NextTokenModel``, and scoring many with signs of progress.

Evaluation that needs a probability of a whole sentence (minimal pairs, SyntaxGym, surprisals) asks a ``Scorer`` and
knows no model. Models conditioned on a tree are no scorers by themselves: raw sentences have none.
"""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.dumping.next_token import NextTokenModel, gold_log_probs
from pipeline.runtime.progress import Progress
from storage.ragged import Ragged

log = logging.getLogger(__name__)

BLOCK_SENTENCES: Final = 2_000
"""Sentences scored at a time: enough to batch by length, few enough to see how far it is."""


class Scorer(Protocol):
    """Gives the log-probability of every token of a sentence."""

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return ``[n + 1]`` float32 for each sentence of n token ids: its tokens' log-probabilities, then ``<eos>``'s.

        Natural logarithms, each given ``<bos>`` and all tokens before it; results stand in the order asked.
        Sentences come without ``<bos>`` and ``<eos>``, and may be empty.
        """


class NextTokenScorer:
    """Scores sentences with an unconditional ``NextTokenModel``, batched by length.

    Longest sentences go first: little is padded, and a batch budget too large for memory fails at once.
    """

    def __init__(
        self, model: NextTokenModel, *, eos_id: int, batch_tokens: int = 8192, num_trained_positions: int | None = None
    ) -> None:
        """Wrap a model, which should be in evaluation mode.

        Args:
            model: Reads no actions.
            eos_id: Id of ``<eos>``, scored at the end of every sentence.
            batch_tokens: Most positions a batch; a longer sentence is a batch of its own.
            num_trained_positions: As of ``warn_beyond``.
        """
        self._model = model
        self._eos_id = eos_id
        self._batch_tokens = batch_tokens
        self._num_trained_positions = num_trained_positions

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        warn_beyond([len(sentence) for sentence in sentences], self._num_trained_positions)
        order = _longest_first(sentences)
        tokens = Ragged.from_lists([sentences[i] for i in order], np.int64)
        sorted_log_probs = gold_log_probs(
            self._model, tokens, None, eos_id=self._eos_id, batch_tokens=self._batch_tokens
        )
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return [sorted_log_probs[int(i)] for i in place]


def score_all(
    scorer: Scorer, sentences: Sequence[Sequence[int]], *, block_sentences: int = BLOCK_SENTENCES
) -> list[np.ndarray]:
    """Return what ``Scorer.log_probs`` does of all sentences, block by block, longest first, and show how far it is."""
    found: list[np.ndarray] = [np.empty(0)] * len(sentences)
    order = _longest_first(sentences)
    with Progress("score", total=sum(map(len, sentences)), unit="tokens") as progress:
        for first in range(0, len(order), block_sentences):
            block = order[first : first + block_sentences]
            rows = scorer.log_probs([np.asarray(sentences[i], np.int64) for i in block])
            for i, row in zip(block, rows, strict=True):
                found[i] = row
            progress.update(sum(len(sentences[i]) for i in block))
    return found


def warn_beyond(lengths: Sequence[int] | NDArray[np.int64], num_trained_positions: int | None) -> None:
    """Warn of sentences with more positions than training has ever had, whose embeddings are as they began.

    Args:
        lengths: Tokens of each sentence, which has one position more.
        num_trained_positions: None where it is not known: no warning.
    """
    if num_trained_positions is None or not len(lengths):
        return
    if num_beyond := int((np.asarray(lengths) + 1 > num_trained_positions).sum()):
        log.warning(
            "%d of %d sentences have more than the %d positions that training has ever had: what the model says of the "
            "tokens beyond is without meaning; leave them out, or train with longer sentences",
            num_beyond,
            len(lengths),
            num_trained_positions,
        )


def _longest_first(sentences: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> NDArray[np.int64]:
    return np.argsort([-len(sentence) for sentence in sentences], kind="stable")
