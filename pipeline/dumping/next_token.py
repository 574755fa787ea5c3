"""What a next-token model is, to everything that dumps or scores one, and the log-probabilities of gold tokens.

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
"""Rows of ``[R, V]`` logits made at a time where only a summary of each is kept: 12 MB at V = 12,000, of which the
passes after the product find much in the cache. With 1,024 rows all of it took 1.4 times as long on a CPU."""


class NextTokenModel(Protocol):
    """A model that gives, for each position, a distribution over the vocabulary.

    It comes in three parts: what can be made ready in another thread while the model computes; states; and logits, so
    that a caller decides how many rows of logits exist at once.
    """

    @property
    def vocab_size(self) -> int:
        """V."""

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Any:  # noqa: ANN401  the model's own
        """Return what ``states`` takes: integer work on the CPU, in any thread.

        Args:
            tokens: Token ids of M sentences, without ``<bos>`` and ``<eos>``.
            actions: Oracle actions of the same sentences, for models conditioned on a tree; others ignore them.
        """

    def states(self, inputs: Any) -> Tensor:  # noqa: ANN401  the model's own
        """Return ``[P, D]``: row by row, sentence by sentence, what each position's distribution is read from."""

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities for ``[R, D]`` states."""


@runtime_checkable
class MixtureModel(NextTokenModel, Protocol):
    """A model whose distributions are mixtures over hypotheses, and that says over how many of them in effect."""

    def num_effective(self, states: Tensor) -> Tensor:
        """Return ``[R]``, at least 1: exp of the entropy in nats of the mixture's weights, for ``[R, D]`` states."""


def append_eos(tokens: Ragged, eos_id: int) -> Ragged:
    """Return the gold tokens of all positions: each sentence's tokens, then ``<eos>``; int64."""
    values = np.insert(tokens.values.astype(np.int64), tokens.offsets[1:], eos_id)
    return Ragged(values, tokens.offsets + np.arange(len(tokens.offsets)))


@torch.no_grad()
def log_probs_of(model: NextTokenModel, states: Tensor, gold: np.ndarray) -> np.ndarray:
    """Return the natural log-probability of gold tokens, int64 ``[P]``, from states ``[P, D]``: float32 ``[P]``."""
    log_probs = np.empty(len(gold), np.float32)
    for start in range(0, len(states), LOGIT_ROWS):
        at = slice(start, start + LOGIT_ROWS)
        # One pass of a row at a time, twice as fast as a log-sum-exp, which goes over all rows four times.
        block = model.logits(states[at]).float().log_softmax(1)
        target = torch.from_numpy(gold[at]).to(block.device)
        log_probs[at] = block.gather(1, target[:, None])[:, 0].cpu().numpy()
    return log_probs


@torch.no_grad()
def gold_log_probs(
    model: NextTokenModel, tokens: Ragged, actions: Ragged | None, *, eos_id: int, batch_tokens: int
) -> Ragged:
    """Return the natural log-probability of each gold token: float32, n + 1 values for a sentence of n tokens.

    Sentences are batched in the order given, ``batch_tokens`` positions at a time: sort by length first
    where the model pads. The model should be in evaluation mode.
    """
    gold = append_eos(tokens, eos_id)
    log_probs = np.empty(len(gold.values), np.float32)
    for first, stop in consecutive_batches(gold.lengths, batch_tokens):
        rows = np.arange(first, stop)
        states = model.states(model.prepare(tokens.take(rows), actions.take(rows) if actions is not None else None))
        positions = slice(gold.offsets[first], gold.offsets[stop])
        log_probs[positions] = log_probs_of(model, states, gold.values[positions])
    return Ragged(log_probs, gold.offsets)
