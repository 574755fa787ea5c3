"""Score sentences: compute the log-probability of every token, with any model that needs no tree.

Minimal pairs and SyntaxGym need a ``Scorer``. Surprisals need a ``DistributionScorer``. It also summarises the
distribution over the next token at each position, and each sentence may have a context: text that the model reads
before the sentence, and that is not scored. A ``NextTokenScorer`` scores in one process, with any model that is a
``NextTokenModel`` (a protocol in ``pipeline.dumping.next_token``). A ``BlockScorer`` divides the sentences among
several processes, each with a scorer of its own, and continues after an interruption.

Shape letters: n tokens of a sentence, c tokens before the sentence, R scored positions of a batch, V vocabulary.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dumping.next_token import LOGIT_ROWS, NextTokenModel, append_eos, gold_log_probs
from pipeline.evaluation.shared_blocks import NO_LIMIT, Job, Rows, SharedBlocks
from pipeline.runtime.distributed import on_device
from pipeline.training.batching import consecutive_batches
from storage.ragged import Ragged, concatenated_ranges

log = logging.getLogger(__name__)

BLOCK_SENTENCES: Final = 2_000
"""Number of sentences to score at a time: enough to batch them by length, and few enough to need little memory and to
keep the progress line moving."""

Sentences: TypeAlias = Sequence[Sequence[int]] | Sequence[NDArray[np.int64]]
"""The token ids of each sentence."""


class Scorer(Protocol):
    """Computes the log-probability of every token of a sentence."""

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        """Return, in order, an array ``[n + 1]`` float32 for each sentence. The last value is for ``<eos>``.

        A value is the natural log-probability of a token given ``<bos>`` and all tokens before it. Sentences have
        neither ``<bos>`` nor ``<eos>``, and may be empty.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """What a model predicts at each position of a sentence of n tokens. All arrays are ``[n + 1]`` float32, in nats."""

    log_probs: NDArray[np.float32]
    """Log-probability of each token and of ``<eos>``, as ``Scorer.log_probs`` returns it."""
    boundary_log_probs: NDArray[np.float32]
    """log of the probability that the next token begins a word or is ``<eos>``. At most 0."""
    entropies: NDArray[np.float32]
    """Entropy of the distribution over the next token: -sum over the vocabulary of p log p. At least 0."""


class DistributionScorer(Scorer, Protocol):
    """A scorer that also summarises the distribution over the next token at every position."""

    def distributions(
        self, sentences: Sentences, before: Sentences, boundary_ids: NDArray[np.int64]
    ) -> Iterable[TokenScores]:
        """Return the scores of each sentence, in order. The text before a sentence is read but not scored.

        Args:
            sentences: Token ids without ``<bos>`` and ``<eos>``, as for ``Scorer.log_probs``.
            before: For each sentence, the c token ids of the text before the sentence; empty if there is no such text.
                The ids of a text must end with a ``<bos>`` of their own. So the model reads ``<bos>``, text, ``<bos>``,
                sentence. Without a text it reads ``<bos>``, sentence.
            boundary_ids: The ids of all tokens that begin a word, and the id of ``<eos>``.
        """


@dataclass(frozen=True, slots=True)
class NextTokenScorer:
    """Scores sentences with an unconditional ``NextTokenModel``, batched by length.

    The longest sentences go first, so a ``batch_tokens`` that is too large for the memory fails at the first batch.
    """

    model: NextTokenModel
    """A model that reads no actions. It must be in evaluation mode."""
    _: KW_ONLY
    eos_id: int
    """Id of ``<eos>``, which is scored at the end of every sentence."""
    batch_tokens: int = 8192
    """Largest number of positions per batch. A longer sentence is a batch by itself."""
    num_trained_positions: int | None = None
    """Number of positions whose embeddings were trained; None if unknown. Longer sentences give a warning."""

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        warn_beyond([len(sentence) for sentence in sentences], self.num_trained_positions)
        order = _longest_first(sentences)
        tokens = Ragged.from_lists([sentences[i] for i in order], np.int64)
        sorted_log_probs = gold_log_probs(self.model, tokens, None, eos_id=self.eos_id, batch_tokens=self.batch_tokens)
        return [sorted_log_probs[int(i)] for i in np.argsort(order)]

    def distributions(
        self, sentences: Sentences, before: Sentences, boundary_ids: NDArray[np.int64]
    ) -> list[TokenScores]:
        """See ``DistributionScorer.distributions``."""
        pairs = zip(before, sentences, strict=True)
        rows = [np.concatenate([np.asarray(tokens, np.int64) for tokens in pair]) for pair in pairs]
        warn_beyond([len(row) for row in rows], self.num_trained_positions)
        order = _longest_first(rows)
        tokens = Ragged.from_lists([rows[i] for i in order], np.int64)
        gold = append_eos(tokens, self.eos_id)
        num_scored = np.array([len(sentences[i]) + 1 for i in order], np.int64)
        found: list[TokenScores] = []
        for first, stop in consecutive_batches(gold.lengths, self.batch_tokens):
            batch = slice(first, stop)
            # A row is the text before a sentence, then the sentence. Only the sentence's positions are scored.
            places = concatenated_ranges(gold.offsets[1:][batch] - num_scored[batch], num_scored[batch])
            ends = np.cumsum(num_scored[batch])[:-1]
            scores = self._summaries(
                tokens.take(np.arange(first, stop)), places - gold.offsets[first], gold.values[places], boundary_ids
            )
            found += [
                TokenScores(log_probs=log_probs, boundary_log_probs=boundary, entropies=entropies)
                for log_probs, boundary, entropies in zip(*(np.split(each, ends) for each in scores), strict=True)
            ]
        return [found[int(i)] for i in np.argsort(order)]

    @torch.no_grad()
    def _summaries(
        self, tokens: Ragged, places: NDArray[np.int64], gold: NDArray[np.int64], boundary_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return ``[3, R]``: the fields of ``TokenScores`` at the R positions ``places`` of the batch ``tokens``."""
        states = self.model.states(self.model.prepare(tokens, None))
        states = states.index_select(0, on_device(places, states.device))
        boundary, targets = on_device(boundary_ids, states.device), on_device(gold, states.device)
        found = torch.empty((3, len(states)))
        for start in range(0, len(states), LOGIT_ROWS):
            at = slice(start, start + LOGIT_ROWS)
            log_probs: Tensor = self.model.logits(states[at]).float().log_softmax(1)
            found[0, at] = log_probs.gather(1, targets[at, None])[:, 0]
            found[1, at] = log_probs.index_select(1, boundary).logsumexp(1)
            found[2, at] = torch.special.entr(log_probs.exp()).sum(1)
        return found.numpy()


class BlockScorer:
    """A ``DistributionScorer`` that works block by block, together with the other processes (``shared_blocks``).

    ``blocks`` must have the jobs that ``scoring_jobs`` returns.
    """

    def __init__(self, blocks: SharedBlocks) -> None:
        self._blocks = blocks

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        rows = self._blocks.rows("score", {"tokens": Ragged.from_lists(sentences, np.int64)})
        return [row["log_probs"] for row in rows]

    def distributions(
        self, sentences: Sentences, before: Sentences, boundary_ids: NDArray[np.int64]
    ) -> Iterator[TokenScores]:
        """See ``DistributionScorer.distributions``."""
        inputs = {name: Ragged.from_lists(each, np.int64) for name, each in (("tokens", sentences), ("before", before))}
        return (TokenScores(**row) for row in self._blocks.rows("surprisal", inputs, boundary_ids))


def scoring_jobs(
    scorer: DistributionScorer, *, max_sentences: int = BLOCK_SENTENCES, max_positions: int = NO_LIMIT
) -> dict[str, Job]:
    """Return the jobs that a ``BlockScorer`` needs.

    ``scorer`` does the work, in this process. A block has at most ``max_sentences`` sentences and ``max_positions``
    positions. A longer sentence is a block by itself.
    """

    def log_probs(inputs: Rows, _: NDArray[np.int64]) -> Rows:
        return {"log_probs": Ragged.from_lists(scorer.log_probs(list(inputs["tokens"])), np.float32)}

    def distributions(inputs: Rows, boundary_ids: NDArray[np.int64]) -> Rows:
        found = list(scorer.distributions(list(inputs["tokens"]), list(inputs["before"]), boundary_ids))
        return {name: Ragged.from_lists([getattr(each, name) for each in found], np.float32) for name in of_tokens}

    of_tokens = tuple(field.name for field in fields(TokenScores))
    score = Job(log_probs, per_position=("log_probs",), max_sentences=max_sentences, max_positions=max_positions)
    surprisal = replace(score, compute=distributions, per_position=of_tokens, window=BLOCK_SENTENCES)
    return {"score": score, "surprisal": surprisal}


def warn_beyond(lengths: Sequence[int] | NDArray[np.int64], num_trained_positions: int | None) -> None:
    """Warn about sentences with more positions than training had: the embeddings of their last positions are untrained.

    ``lengths`` has the number of tokens of each sentence. The number of positions is larger by one. If
    ``num_trained_positions`` is None (unknown), there is no warning.
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


def _longest_first(sentences: Sentences) -> NDArray[np.int64]:
    return np.argsort([-len(sentence) for sentence in sentences], kind="stable")
