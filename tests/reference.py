"""Compute the RNNG in the slow, obvious way: one action and one sentence at a time, with a Python list as the stack.

This reference uses only the weights and the configuration of ``teacher.rnng.Rnng``. The level-parallel model must give
the same values.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from teacher.rnng import Rnng

State = list[tuple[Tensor, Tensor]]
"""Hidden and cell state of each layer of the stack LSTM."""
Value = tuple[Tensor, Tensor | None]
"""The vector of a token or constituent, and its cell state. Only a TreeLSTM has cell states."""


@dataclass
class Element:
    """An element of the stack, and the stack LSTM's state after the push."""

    label: int | None
    """The label of an open nonterminal; None for a token or constituent."""
    value: Value
    state: State


@dataclass
class Parser:
    """A partial sentence with its stack."""

    model: Rnng
    stack: list[Element] = field(default_factory=list)

    @property
    def is_binary(self) -> bool:
        return self.model.config.strategy == "binary"

    @property
    def state(self) -> State:
        if self.stack:
            return self.stack[-1].state
        zeros = torch.zeros(self.model.config.hidden_dim, dtype=self.model.token_bias.dtype)
        return [(zeros, zeros) for _ in self.model.stack]

    @property
    def top(self) -> Tensor:
        """u: the hidden state of the topmost layer."""
        return self.state[-1][0]

    def valid_actions(self, *, ended: bool) -> list[int]:
        if not self.stack:
            return [FIRST_NT]
        if ended:
            return [REDUCE]
        if self.is_binary:
            return [SHIFT, REDUCE] if len(self.stack) > 2 else [SHIFT]
        valid = [SHIFT, *(FIRST_NT + label for label in range(1, self.model.num_labels))]
        num_open = sum(element.label is not None for element in self.stack)
        return [*valid, REDUCE] if self.stack[-1].label is None and num_open > 1 else valid

    def action_log_prob(self, action: int, *, ended: bool) -> Tensor:
        valid = self.valid_actions(ended=ended)
        assert action in valid
        if len(valid) == 1:
            return self.top.sum() * 0.0
        scores = self.model.action_head(self.top)
        columns = [a if a < FIRST_NT else a - 1 for a in valid]
        return scores[columns].log_softmax(0)[valid.index(action)]

    def token_log_probs(self) -> Tensor:
        logits = self.model.token_embedding @ self.model.projection(self.top) + self.model.token_bias
        return logits.log_softmax(0)

    def open(self, label: int) -> None:
        self._push(label, (self._scaled(self.model.nt_embedding[label]), None))

    def shift(self, token: int) -> None:
        vector = self._scaled(self.model.token_embedding[token])
        self._push(None, (vector, torch.zeros_like(vector)))

    def reduce(self) -> None:
        children: list[Value] = []
        label = 0
        if self.is_binary:
            children = [self.stack.pop().value, self.stack.pop().value]
        else:
            while self.stack[-1].label is None:
                children.append(self.stack.pop().value)
            label = self.stack.pop().label
        if self.stack:  # no action follows the last REDUCE, so its constituent is not needed
            self._push(None, compose(self.model, label, children[::-1]))

    def _scaled(self, vector: Tensor) -> Tensor:
        return self.model.config.embed_dim**0.5 * vector

    def _push(self, label: int | None, value: Value) -> None:
        pushed = []
        vector = value[0]
        for layer, (hidden, cell) in zip(self.model.stack, self.state, strict=True):
            gates = layer.input.weight @ vector + layer.input.bias + layer.recurrent.weight @ hidden
            pushed.append(_lstm(gates, cell))
            vector = pushed[-1][0]
        self.stack.append(Element(label, value, pushed))


def sentence_log_probs(model: Rnng, tokens: list[int], actions: list[int]) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of all actions ``[T]`` and of all tokens, ``<eos>`` included, ``[n + 1]``.

    ``actions`` are top-down actions. For a binary model they are first turned into binary actions.
    """
    words = [*tokens, model.eos_id]
    if model.config.strategy == "binary":
        actions = binarised(actions, model.config.branching)
    parser = Parser(model)
    action_log_probs, token_log_probs = [], []
    next_word = 0
    for action in actions:
        action_log_probs.append(parser.action_log_prob(action, ended=next_word == len(words)))
        if action == SHIFT:
            token_log_probs.append(parser.token_log_probs()[words[next_word]])
            parser.shift(words[next_word])
            next_word += 1
        elif action == REDUCE:
            parser.reduce()
        else:
            parser.open(action - FIRST_NT)
    return torch.stack(action_log_probs), torch.stack(token_log_probs)


def binarised(actions: list[int], branching: str) -> list[int]:
    """Return a sentence's binary actions: build the tree, pair up its children, and list the new tree's actions."""
    stack: list[list] = []
    for action in actions[:-2]:
        if action == SHIFT:
            stack[-1].append([SHIFT])
        elif action == REDUCE:
            children = stack.pop()
            stack[-1].append(_paired(children, branching))
        else:
            stack.append([])
    (top,) = stack
    tree = _paired(top, branching) if top else []
    return [FIRST_NT, *tree, SHIFT, REDUCE]


def _paired(children: list[list[int]], branching: str) -> list[int]:
    while len(children) > 1:
        at = 0 if branching == "left" else len(children) - 2
        children = [*children[:at], [*children[at], *children[at + 1], REDUCE], *children[at + 2 :]]
    return children[0]


def compose(model: Rnng, label: int, children: list[Value]) -> Value:
    """Return the vector (and cell state) of a constituent, computed from its label and children."""
    return {"bilstm": _compose_bilstm, "attention": _compose_attention, "treelstm": _compose_treelstm}[
        model.config.composition
    ](model.composition, label, children)


def _compose_bilstm(module: torch.nn.Module, label: int, children: list[Value]) -> Value:
    vectors = [vector for vector, _ in children]
    size = len(vectors[0])
    ends = []
    for direction, order in enumerate((vectors, vectors[::-1])):
        hidden = cell = torch.zeros_like(vectors[0])
        weight = module.input_weight[:, direction * 4 * size : (direction + 1) * 4 * size]
        bias = module.bias[direction * 4 * size : (direction + 1) * 4 * size]
        for vector in [module.label_embedding[label], *order]:
            gates = vector @ weight + bias + hidden @ module.recurrent_weight[direction]
            hidden, cell = _lstm(gates, cell)
        ends.append(hidden)
    return torch.tanh(module.output.weight @ torch.cat(ends) + module.output.bias), None


def _compose_attention(module: torch.nn.Module, label: int, children: list[Value]) -> Value:
    vectors = torch.stack([vector for vector, _ in children])
    embedded = module.label_embedding[label]
    weights = (vectors @ (module.query.weight @ embedded) / len(embedded) ** 0.5).softmax(0)
    mean = weights @ vectors
    gate = torch.sigmoid(module.gate.weight @ torch.cat([embedded, mean]) + module.gate.bias)
    return gate * embedded + (1 - gate) * mean, None


def _compose_treelstm(module: torch.nn.Module, label: int, children: list[Value]) -> Value:
    assert label == 0
    (left, left_cell), (right, right_cell) = children
    gates = module.gates.weight @ torch.cat([left, right]) + module.gates.bias
    i, f, g, o, u = gates.chunk(5)
    cell = torch.sigmoid(i) * torch.tanh(u) + torch.sigmoid(f) * left_cell + torch.sigmoid(g) * right_cell
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates.chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell
