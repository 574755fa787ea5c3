"""Compute the stack-only RNNG (Dyer et al. 2016; Kuncoro et al. 2017) level by level, for given trees.

A level is all constituents of one height, or all pushes of one stack depth. ``teacher.levels`` defines the strategies
top-down and binary. ``u_t`` is the top state of the stack LSTM before action ``t``.

    p(a_t | u_t)     = softmax of (A u_t + a) over the valid actions
    p(w | u_t)       = softmax of (E P u_t + b) over the whole vocabulary, at a SHIFT. E is the token embedding. P
                       projects u_t to the size of an embedding. If u_t has this size, P is the identity
    pushed           = the vector that an action pushes onto the stack. For a token w: sqrt(D) E_w (Vaswani et al. 2017,
                       section 3.4). For a nonterminal: sqrt(D) times its embedding. For a constituent: the composed
                       vector
    log p(x, y)      = sum over t of log p(a_t | u_t), plus log p(w | u_t) at each SHIFT

Valid actions: the first action is ``NT(TOP)``, which is never valid again. In the top-down strategy, REDUCE is valid if
the last open nonterminal has a child, but TOP can be closed only after ``<eos>``. In the binary strategy, REDUCE is
valid if the stack has two elements above ``<bos>``. If only one action is valid, its log-probability is 0.

Shape letters: see ``levels.py``. Also D embedding size, H size of the stack LSTM, V vocabulary, A actions (SHIFT,
REDUCE, and an NT for each label except TOP).
"""

import itertools
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE
from pipeline.runtime.distributed import on_device
from pipeline.training.chunked_vocabulary import CrossEntropyRows, vocabulary_loss
from storage.ragged import Ragged
from teacher.composition import make_composition
from teacher.levels import Schedule, StackLevel, TreeBatch, binarise, build_schedule, derive_binary, derive_top_down
from teacher.recurrence import product_weights, stack_lstm, stack_lstm_from_gates, state_dtype
from teacher.teacher_config import TeacherConfig

PARTS = ("loss", "token_loss", "action_loss")
"""The sums that ``Rnng.forward`` returns, in nats: -log p(x, y), then the part of it that comes from the tokens, then
the part that comes from the actions."""


class StackLayer(nn.Module):
    """One layer of the stack LSTM, run depth by depth."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(in_dim, 4 * dim)
        self.recurrent = nn.Linear(dim, 4 * dim, bias=False)
        with torch.no_grad():
            self.input.bias.zero_()
            self.input.bias[dim : 2 * dim] = 1.0  # forget gates start open (Jozefowicz et al. 2015)

    def forward(self, inputs: Tensor, levels: tuple[StackLevel, ...]) -> Tensor:
        """Return the hidden states ``[S, H]`` for inputs ``[S, D]``, both in the order of the schedule's rows."""
        weights = product_weights(self.input.weight.T, self.input.bias, self.recurrent.weight.T)
        return stack_lstm(inputs, weights, levels)

    def from_gates(self, gates: Tensor, levels: tuple[StackLevel, ...]) -> Tensor:
        """Return what ``forward`` returns, without a gradient.

        ``gates`` ``[S, 4H]``, the outputs of the layer ``self.input``, are overwritten.
        """
        return stack_lstm_from_gates(gates, self.recurrent.weight.T, levels)


@dataclass(frozen=True, slots=True)
class _InputCache:
    """Products of all V token vectors with the input weights of the composition and of the stack's first layer."""

    composition: Tensor | None
    """``[V, ...]``: the result of ``Composition.input_products``."""
    stack: Tensor
    """``[V, 4H]``: the products with the input weights of the stack's first layer."""


class Rnng(nn.Module):
    """The teacher. Satisfies ``pipeline.dumping.next_token.NextTokenModel``."""

    def __init__(self, config: TeacherConfig, *, vocab_size: int, num_labels: int, eos_id: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.num_labels = num_labels if config.strategy == "top-down" else 1
        self.eos_id = eos_id
        embed_dim, hidden_dim = config.embed_dim, config.hidden_dim
        self.input_scale = embed_dim**0.5
        self.token_embedding = nn.Parameter(torch.empty(vocab_size, embed_dim).normal_(std=embed_dim**-0.5))
        self.nt_embedding = nn.Parameter(torch.empty(self.num_labels, embed_dim).normal_(std=embed_dim**-0.5))
        self.composition = make_composition(config.composition, num_labels=self.num_labels, dim=embed_dim)
        sizes = [embed_dim] + [hidden_dim] * config.num_layers
        self.stack = nn.ModuleList(StackLayer(*pair) for pair in itertools.pairwise(sizes))
        self.action_head = nn.Linear(hidden_dim, FIRST_NT + self.num_labels - 1)
        self.projection = nn.Linear(hidden_dim, embed_dim) if hidden_dim != embed_dim else nn.Identity()
        self.token_bias = nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self._cache: _InputCache | None = None

    @property
    def layers(self) -> list[StackLayer]:
        """The layers of the stack LSTM, lowest first."""
        return cast("list[StackLayer]", [*self.stack])

    def forward(self, batch: TreeBatch) -> Tensor:
        """Return ``[3]``: the sums that ``PARTS`` names, over the batch's positions. Only the first has a gradient."""
        schedule = batch.schedule
        device = self.token_bias.device
        if not len(schedule.inputs):
            # A rank with an empty slice takes part in the reduction of the gradients, so the result needs a gradient.
            return torch.zeros(len(PARTS), device=device) + 0.0 * sum(p.sum() for p in self.parameters())
        stack_states = self._stack_states(schedule)
        action_loss = -self._action_log_probs(stack_states, schedule).sum()
        gold = on_device(schedule.gold, device)
        token_loss = vocabulary_loss(
            self._token_states(stack_states, schedule), self.token_embedding, self.token_bias, CrossEntropyRows(gold)
        )[0]
        # If a batch has nothing to compose, this term gives the weights of the composition a gradient of zero.
        touch = 0.0 * sum(p.sum() for p in self.composition.parameters())
        return torch.stack([token_loss + action_loss + touch, token_loss.detach(), action_loss.detach()])

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Schedule:
        """Return the schedule of sentences with their trees; see ``NextTokenModel``.

        Raises:
            ValueError: If ``actions`` is None, because this model needs trees.
        """
        if actions is None:
            raise ValueError("an RNNG needs the actions of each sentence's tree")
        if self.config.strategy == "binary":
            actions = binarise(actions, self.config.branching)
            return build_schedule(tokens, actions, derive_binary(actions), eos_id=self.eos_id)
        return build_schedule(tokens, actions, derive_top_down(actions), eos_id=self.eos_id)

    def states(self, inputs: Schedule) -> Tensor:
        """Return ``[P, D]``: the state that predicts each token. ``inputs`` is the result of ``prepare``."""
        return self._token_states(self._stack_states(inputs), inputs)

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities for ``[R, D]`` states."""
        return F.linear(states, self.token_embedding, self.token_bias)

    def states_and_action_log_probs(self, schedule: Schedule) -> tuple[Tensor, Ragged]:
        """Return the result of ``states``, and the log-probability of each action of each sentence."""
        stack_states = self._stack_states(schedule)
        chosen = self._action_log_probs(stack_states, schedule).detach().cpu().numpy()
        log_probs = np.zeros(len(schedule.actions.values), chosen.dtype)
        log_probs[schedule.action_index] = chosen
        return self._token_states(stack_states, schedule), Ragged(log_probs, schedule.actions.offsets)

    @torch.no_grad()
    def cache_inputs(self) -> None:
        """Cache the products of all token vectors with the input weights, to speed up inference.

        The cache holds at most ``V * 12`` vectors (147 MB at V = 12,000 and size 256). The methods ``train`` and
        ``eval`` drop the cache. Call one of them after any change of the weights or of their device.
        """
        vectors = self.input_scale * self.token_embedding
        self._cache = _InputCache(self.composition.input_products(vectors), self.layers[0].input(vectors))

    def train(self, mode: bool = True) -> Self:
        """Do what ``torch.nn.Module.train`` does, and drop the cache."""
        self._cache = None
        return super().train(mode)

    def _stack_states(self, schedule: Schedule) -> Tensor:
        if self._cache is not None and not torch.is_grad_enabled():
            return self._stack_states_from_cache(schedule, self._cache)
        device = self.token_bias.device
        tokens = on_device(schedule.tokens, device)
        nts = on_device(schedule.nt_labels, device)
        values = self.dropout(self.input_scale * F.embedding(tokens, self.token_embedding))
        values = self.composition(values, schedule.compositions, self.dropout)
        values = torch.cat([values, self.dropout(self.input_scale * F.embedding(nts, self.nt_embedding))])
        states = values.index_select(0, on_device(schedule.inputs, device))
        for layer in self.stack:
            states = self.dropout(layer(states, schedule.stack))
        return states

    def _stack_states_from_cache(self, schedule: Schedule, cache: "_InputCache") -> Tensor:
        device = self.token_bias.device
        tokens = on_device(schedule.tokens, device)
        nts = on_device(schedule.nt_labels, device)
        vectors = self.input_scale * F.embedding(tokens, self.token_embedding)
        products = F.embedding(tokens, cache.composition) if cache.composition is not None else None
        vectors = self.composition(vectors, schedule.compositions, self.dropout, products)
        first, *others = self.layers
        gates = torch.cat(
            [
                F.embedding(tokens, cache.stack),
                first.input(vectors[len(tokens) :]),
                F.embedding(nts, first.input(self.input_scale * self.nt_embedding)),
            ]
        )
        states = first.from_gates(gates.index_select(0, on_device(schedule.inputs, device)), schedule.stack)
        for layer in others:
            states = layer.from_gates(layer.input(states), schedule.stack)
        return states

    def _token_states(self, stack_states: Tensor, schedule: Schedule) -> Tensor:
        rows = on_device(schedule.position_rows, stack_states.device)
        projected: Tensor = self.projection(stack_states.index_select(0, rows))
        return projected

    def _action_log_probs(self, stack_states: Tensor, schedule: Schedule) -> Tensor:
        """Return ``[S]``: the log-probability of the action that is decided from each row."""
        device = stack_states.device
        scores = self.action_head(stack_states)
        scores = scores.to(state_dtype(scores))
        forbidden = torch.zeros_like(scores, dtype=torch.bool)
        forbidden[:, REDUCE] = on_device(~schedule.reduce_allowed, device)
        log_probs = scores.masked_fill(forbidden, -torch.inf).log_softmax(1)
        # NT(TOP) is never a choice, so it has no column.
        column = np.where(schedule.next_actions < FIRST_NT, schedule.next_actions, schedule.next_actions - 1)
        chosen: Tensor = log_probs.gather(1, on_device(column, device)[:, None])[:, 0]
        return chosen
