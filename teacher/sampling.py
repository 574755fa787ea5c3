"""Draw sentences with their trees from a teacher, action by action (ancestral sampling).

A sentence starts with NT(TOP). Then each action is drawn from p(a | u) over the valid actions, where u is the state of
the stack. At each SHIFT a token is drawn from p(w | u) over the whole vocabulary. In the top-down strategy, a drawn
``<eos>`` ends the sentence if only TOP is open. In the binary strategy, it ends the sentence if the stack has at most
one element above ``<bos>``. In all other states, ``<eos>`` is a token like any other. A temperature T replaces each of
these distributions by p^(1/T), renormalised. So T applies to every single choice, and not to the probability of the
sentence as a whole.

Each sentence reads its own stream of random numbers, which depends only on the seed and the number of the sentence.
Each draw compares one of these random numbers with the cumulative sums of the probabilities. Rounding depends on the
batch and moves these sums. In float64 the sums move by about 1e-16, so the batch practically never changes a draw.

Shape letters: n sentences, V vocabulary, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.reduction import DRAW_ROWS, draw_by_inversion
from pipeline.runtime.distributed import on_device
from teacher.rnng import Rnng
from teacher.stack_pool import BOTTOM, StackPool

MAX_NODES = 8192
"""The ``StackPool`` holds the stacks of all sentences. Each push onto a stack makes a node in it. If there are more
nodes than this, the nodes that no unfinished sentence needs are removed. If many nodes remain, the next removal comes
when their number has doubled. In float64, with two layers of size 256, a node takes 34 KB at most."""
_FORCED = 2
"""Number of actions of a sentence that are not drawn: the NT(TOP) at the start, and the REDUCE after ``<eos>``."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sentence that was drawn, with its tree."""

    ids: list[int]
    """Its tokens, without ``<eos>``."""
    actions: list[int]
    """Its oracle actions, from NT(TOP) to the last REDUCE."""


class Sampler:
    """Draw sentences from one model."""

    def __init__(
        self,
        model: Rnng,
        *,
        seed: int,
        max_actions: int,
        temperature: float = 1.0,
        max_nodes: int = MAX_NODES,
    ) -> None:
        """Draw from ``model``, which must be in evaluation mode and should be in float64."""
        self._model = model
        self._seed = seed
        self._num_draws = max_actions - _FORCED
        self._temperature = temperature
        self._max_nodes = max_nodes
        with torch.no_grad():
            self._pool = StackPool(model, np.arange(model.vocab_size))

    @torch.no_grad()
    def draw(self, numbers: Sequence[int]) -> list[Drawn | None]:
        """Draw the sentences with the given numbers. A sentence with more than ``max_actions`` actions gives None.

        A sentence depends only on the model, the options and its own number.
        """
        pool = self._pool
        pool.compact(np.full(1, BOTTOM))
        compact_above = self._max_nodes
        # A row has the random numbers of one sentence: two for each step, one for the action and one for a token.
        uniform = np.stack([np.random.default_rng([self._seed, n]).random((self._num_draws, 2)) for n in numbers])
        actions, tokens = (np.full(uniform.shape[:2], -1) for _ in range(2))
        num_steps = np.zeros(len(numbers), np.int64)
        live, nodes = np.arange(len(numbers)), np.full(len(numbers), BOTTOM)
        for step in range(self._num_draws):
            columns = self._draw_actions(nodes, uniform[live, step, 0])
            actions[live, step] = np.where(columns < FIRST_NT, columns, columns + 1)  # no column for NT(TOP)
            shifts, others = np.flatnonzero(columns == SHIFT), np.flatnonzero(columns != SHIFT)
            is_going_on = np.ones(len(live), bool)
            if len(shifts):
                drawn = self._draw_tokens(nodes[shifts], uniform[live[shifts], step, 1])
                tokens[live[shifts], step] = drawn
                is_end = (drawn == self._model.eos_id) & pool.is_complete(nodes[shifts])
                is_going_on[shifts[is_end]] = False
                num_steps[live[shifts[is_end]]] = step + 1
                shifts = shifts[~is_end]
                nodes[shifts] = pool.shift(nodes[shifts], drawn[~is_end])
            if len(others):
                nodes[others] = pool.act(nodes[others], columns[others])
            live, nodes = live[is_going_on], nodes[is_going_on]
            if not len(live):
                break
            if len(pool) > compact_above:
                nodes = pool.compact(nodes)
                compact_above = max(self._max_nodes, 2 * len(pool))
        return [
            _sentence(actions[i, :size], tokens[i, :size]) if size else None
            for i, size in enumerate(num_steps.tolist())
        ]

    def _draw_actions(self, nodes: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Draw an action for each node. Return its column in ``StackPool.action_log_probs``, int64 ``[n]``."""
        log_probs = torch.from_numpy(self._pool.action_log_probs(nodes))
        return self._drawn(log_probs, torch.from_numpy(uniform)).numpy()

    def _draw_tokens(self, nodes: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Draw the next token of each node. Return int64 ``[n]``."""
        states = self._pool.token_states(nodes)
        parts = zip(states.split(DRAW_ROWS), on_device(uniform, states.device).split(DRAW_ROWS), strict=True)
        return torch.cat([self._drawn(self._model.logits(rows), part) for rows, part in parts]).cpu().numpy()

    def _drawn(self, log_weights: Tensor, uniform: Tensor) -> Tensor:
        return draw_by_inversion(log_weights / self._temperature, uniform[:, None])[:, 0]


def _sentence(actions: np.ndarray, tokens: np.ndarray) -> Drawn:
    """Return a sentence, given its drawn actions, and the drawn token of each SHIFT. The last token is ``<eos>``."""
    return Drawn(tokens[actions == SHIFT][:-1].tolist(), [FIRST_NT, *actions.tolist(), REDUCE])
