"""Score sentences: compute the log-probability of every token, with any model that needs no tree.

Minimal pairs, SyntaxGym and surprisals use the ``Scorer`` interface and no model directly. ``NextTokenScorer``
implements the interface for any ``NextTokenModel``. A model conditioned on a tree cannot score, because raw sentences
have no tree.
"""

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.dumping.next_token import NextTokenModel, gold_log_probs
from pipeline.runtime.progress import Progress
from storage.ragged import Ragged

log = logging.getLogger(__name__)

BLOCK_SENTENCES: Final = 2_000
"""Sentences scored at a time: enough to batch them by length, but so few that the progress line keeps moving and memory
does not grow with the length of the text."""


class Scorer(Protocol):
    """Computes the log-probability of every token of a sentence."""

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return an array for each sentence of n token ids: ``[n + 1]`` float32, the last value for ``<eos>``.

        A value is the natural log-probability of a token given ``<bos>`` and all tokens before it. Arrays come in the
        order of the sentences. Sentences have neither ``<bos>`` nor ``<eos>``, and may be empty.
        """


@dataclass(frozen=True, slots=True)
class NextTokenScorer:
    """Scores sentences with an unconditional ``NextTokenModel``, batched by length.

    The longest sentences go first, so a batch budget too large for memory fails at once. Sentences of similar length
    share a batch, so there is little padding.
    """

    model: NextTokenModel
    """A model that reads no actions, in evaluation mode."""
    _: KW_ONLY
    eos_id: int
    """Id of ``<eos>``, which is scored at the end of every sentence."""
    batch_tokens: int = 8192
    """Largest number of positions per batch. A longer sentence is a batch by itself."""
    num_trained_positions: int | None = None
    """As for ``warn_beyond``."""

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        warn_beyond([len(sentence) for sentence in sentences], self.num_trained_positions)
        order = _longest_first(sentences)
        tokens = Ragged.from_lists([sentences[i] for i in order], np.int64)
        sorted_log_probs = gold_log_probs(self.model, tokens, None, eos_id=self.eos_id, batch_tokens=self.batch_tokens)
        return [sorted_log_probs[int(i)] for i in np.argsort(order)]


def score_all(
    scorer: Scorer, sentences: Sequence[Sequence[int]], *, block_sentences: int = BLOCK_SENTENCES
) -> list[np.ndarray]:
    """Return the result of ``Scorer.log_probs`` for all sentences. Scores block by block and shows a progress line."""
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
    """Warn about sentences with more positions than training had: the further position embeddings were never trained.

    Args:
        lengths: Tokens of each sentence. A sentence has one position more.
        num_trained_positions: Positions that were trained; None if it is unknown, which gives no warning.
    """
    if num_trained_positions is None:
        return
    if num_beyond := int((np.asarray(lengths) + 1 > num_trained_positions).sum()):
        log.warning(
            "%d of %d sentences %s more than the %d positions that were trained: the probabilities of the tokens "
            "beyond that position are meaningless; leave such sentences out, or train with longer sentences",
            num_beyond,
            len(lengths),
            "has" if num_beyond == 1 else "have",
            num_trained_positions,
        )


def _longest_first(sentences: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> NDArray[np.int64]:
    return np.argsort([-len(sentence) for sentence in sentences], kind="stable")
