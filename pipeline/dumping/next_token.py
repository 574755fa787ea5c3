"""Define the protocol of a next-token model, and compute the log-probabilities of gold tokens with any such model.

Shape letters: M sentences, P positions (sentence m with n tokens has n + 1: its tokens and ``<eos>``), D state size,
V vocabulary, R any number of rows.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pipeline.training.batching import consecutive_batches
from storage.ragged import Ragged

LOGIT_ROWS = 256
"""Number of rows R of logits ``[R, V]`` to make at a time. At V = 12,000 they take 12 MB, and many of them stay in the
cache. With 1,024 rows, the computation took 1.4 times as long on a CPU."""


class NextTokenModel(Protocol):
    """A model that gives a distribution over the vocabulary for each position.

    ``states`` is the main computation. ``logits`` is separate so that the caller decides how many rows of logits exist
    at once.
    """

    @property
    def vocab_size(self) -> int:
        """V, the size of the vocabulary."""

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Any:  # noqa: ANN401  the model's own
        """Return the input of ``states``. This is integer work on the CPU, and any thread may do it.

        Args:
            tokens: Token ids of M sentences, without ``<bos>`` and ``<eos>``.
            actions: Oracle actions of the same sentences. Only models that are conditioned on a tree need them.
        """

    def states(self, inputs: Any) -> Tensor:  # noqa: ANN401  the model's own
        """Return ``[P, D]``: what ``logits`` needs for each position, such as a hidden vector."""

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities for ``[R, D]`` states."""


@runtime_checkable
class MixtureModel(NextTokenModel, Protocol):
    """A model whose distributions are mixtures over the hypotheses of a beam search."""

    def num_effective(self, states: Tensor) -> Tensor:
        """Return ``[R]`` for ``[R, D]`` states: exp of the entropy, in nats, of the mixture's weights."""


def append_eos(tokens: Ragged, eos_id: int) -> Ragged:
    """Return the gold tokens of all positions: each sentence's tokens, then ``<eos>``; int64."""
    values = np.insert(tokens.values.astype(np.int64), tokens.offsets[1:], eos_id)
    return Ragged(values, tokens.offsets + np.arange(len(tokens.offsets)))


@torch.no_grad()
def log_probs_of(model: NextTokenModel, states: Tensor, gold: np.ndarray) -> np.ndarray:
    """Return the natural log-probabilities of gold tokens: float32 ``[P]``.

    ``states`` is ``[P, D]``, and ``gold`` is int64 ``[P]``.
    """
    log_probs = np.empty(len(gold), np.float32)
    for start in range(0, len(states), LOGIT_ROWS):
        at = slice(start, start + LOGIT_ROWS)
        # A log-sum-exp instead of log_softmax takes twice as long.
        block = model.logits(states[at]).float().log_softmax(1)
        target = torch.from_numpy(gold[at]).to(block.device)
        log_probs[at] = block.gather(1, target[:, None])[:, 0].cpu().numpy()
    return log_probs


@torch.no_grad()
def gold_log_probs(
    model: NextTokenModel, tokens: Ragged, actions: Ragged | None, *, eos_id: int, batch_tokens: int
) -> Ragged:
    """Return the natural log-probability of each gold token, as float32. A sentence of n tokens has n + 1 values.

    Sentences are batched in the given order, ``batch_tokens`` positions at a time. If the model pads, sort them by
    length first. The model must be in evaluation mode.
    """
    gold = append_eos(tokens, eos_id)
    log_probs = np.empty(len(gold.values), np.float32)
    for first, stop in consecutive_batches(gold.lengths, batch_tokens):
        rows = np.arange(first, stop)
        states = model.states(model.prepare(tokens.take(rows), actions.take(rows) if actions is not None else None))
        positions = slice(gold.offsets[first], gold.offsets[stop])
        log_probs[positions] = log_probs_of(model, states, gold.values[positions])
    return Ragged(log_probs, gold.offsets)
