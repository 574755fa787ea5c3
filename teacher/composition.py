"""Compose the value of a constituent from its label and its children. Each way of composing is one class.

A composition reads nothing outside the constituent, so all constituents of one height are composed at once.

The value of a token or a constituent is a row of C numbers. The first D numbers are the vector that is pushed onto the
stack. In the Tree-LSTM, C is 2D: the other numbers are the cell state, which only the composition of the parent reads.
In the other compositions, C is D.

Shape letters: N tokens, V vocabulary, K constituents, D embedding size, C size of a value, m constituents of one
height, c their children, L labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.runtime.distributed import on_device
from teacher.levels import CompositionLevel
from teacher.recurrence import (
    bilstm_composition,
    level_indices,
    lstm_cell,
    product_weights,
    run_both_directions,
    state_dtype,
)

OUTPUT_GAIN = 5.0
"""Factor on the usual initial weights of the BiLSTM's output layer. Without this factor, a constituent's vector starts
more than ten times smaller than a token's, and subject-verb agreement is learnt many epochs later
(docs/decisions/0013)."""


class Composition(nn.Module, ABC):
    """A way of composing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.value_dim = dim

    @abstractmethod
    def compose(self, values: Tensor, level: CompositionLevel) -> Tensor:
        """Return the values ``[m, C]`` of the constituents of one level. A level is all constituents of one height.

        Args:
            values: ``[*, C]``: the values to which the indices in ``level.children`` refer.
            level: The labels and the children of the constituents.
        """

    def composer(self) -> Callable[[Tensor, CompositionLevel], Tensor]:
        """Return a function that does what ``compose`` does, for many calls with the same weights.

        The first argument of the function is the result of ``as_children``, not the values. In a beam search, several
        constituents can have the same child. ``as_children`` prepares this child once for all of them.
        """
        return self.compose

    def as_children(self, values: Tensor) -> Tensor:
        """Prepare the values ``[N, C]`` of children for the function that ``composer`` returns. Return ``[N, *]``."""
        return values

    def leaves(self, vectors: Tensor) -> Tensor:
        """Return the values ``[N, C]`` of tokens with vectors ``[N, D]``."""
        return nn.functional.pad(vectors, (0, self.value_dim - self.dim))

    def vectors(self, values: Tensor) -> Tensor:
        """Return the vectors ``[..., D]`` of values ``[..., C]``."""
        return values[..., : self.dim]

    def input_products(self, vectors: Tensor) -> Tensor | None:
        """Return the products of all token vectors ``[V, D]`` with the composition's input weights, one row per token.

        The result is None if this composition has no such products.
        """
        del vectors
        return None

    def forward(
        self,
        vectors: Tensor,
        levels: Sequence[CompositionLevel],
        dropout: nn.Dropout,
        products: Tensor | None = None,
    ) -> Tensor:
        """Return ``[N + K, D]``: the vectors of the tokens, then those of the constituents.

        Args:
            vectors: ``[N, D]``: the vectors of the tokens.
            levels: Height 1 first.
            dropout: Applied to each new vector.
            products: For each of the N tokens, its row of the result of ``input_products``. None in training.
        """
        del products
        values = self.leaves(vectors)
        for level in levels:
            composed = self.compose(values, level)
            dropped = dropout(self.vectors(composed))
            values = torch.cat([values, torch.cat([dropped, composed[:, self.dim :]], dim=1)])
        return self.vectors(values)


class BiLstmComposition(Composition):
    """Two LSTMs (Dyer et al. 2016, section 3.2).

    One LSTM reads the label, then the children from the left. The other reads the label, then the children from the
    right. The vector is tanh(W [h1; h2] + b), where h1 and h2 are the last hidden states of the two LSTMs.
    """

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__(dim)
        bound = dim**-0.5
        self.label_embedding = nn.Parameter(torch.empty(num_labels, dim).normal_())
        self.input_weight = nn.Parameter(torch.empty(dim, 8 * dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(8 * dim))
        self.recurrent_weight = nn.Parameter(torch.empty(2, dim, 4 * dim).uniform_(-bound, bound))
        self.output = nn.Linear(2 * dim, dim)
        with torch.no_grad():
            self.bias.view(2, 4, dim)[:, 1] = 1.0  # forget gates start open (Jozefowicz et al. 2015)
            self.output.weight *= OUTPUT_GAIN

    def compose(self, values: Tensor, level: CompositionLevel) -> Tensor:
        """See ``Composition.compose``. For inference only: it keeps nothing for a backward pass."""
        return self.composer()(self.as_children(values), level)

    def composer(self) -> Callable[[Tensor, CompositionLevel], Tensor]:
        """See ``Composition.composer``.

        The two LSTMs read a label first. Their states after each label are computed here, once for all calls.
        """
        return partial(self._compose, self._label_states())

    def as_children(self, values: Tensor) -> Tensor:
        """See ``Composition.as_children``. Returns ``[N, 8D]``, the products with the input weights."""
        return self.input_products(values)

    def _compose(self, label_states: Tensor, gates: Tensor, level: CompositionLevel) -> Tensor:
        (labels,), (gather,) = level_indices([level], gates.device)
        rows = gates.view(-1, 4 * self.dim).index_select(0, gather).view(2, -1, 4 * self.dim)
        hidden, cell = label_states.index_select(2, labels)
        ends = run_both_directions(rows, hidden, cell, self.recurrent_weight, level.step_sizes)
        return torch.tanh(self.output(ends))

    def input_products(self, vectors: Tensor) -> Tensor:
        """Return ``[V, 8D]``: what each token adds to the gates of the two LSTMs, 4D columns for each LSTM."""
        return torch.addmm(self.bias, vectors, self.input_weight)

    def forward(
        self,
        vectors: Tensor,
        levels: Sequence[CompositionLevel],
        dropout: nn.Dropout,
        products: Tensor | None = None,
    ) -> Tensor:
        """See ``Composition.forward``."""
        mask = None
        if dropout.training and dropout.p:
            kept = vectors.new_empty(sum(len(level.labels) for level in levels), self.dim)
            mask = kept.bernoulli_(1 - dropout.p).div_(1 - dropout.p)
        weights = product_weights(
            self.input_weight, self.bias, self.recurrent_weight, self.output.weight.T, self.output.bias
        )
        return bilstm_composition(vectors, products, self._label_states(), mask, weights, levels)

    def _label_states(self) -> Tensor:
        """Return ``[2, 2, L, D]``: the states after each label. The axes are: hidden or cell, direction, label, D."""
        gates = self.input_products(self.label_embedding).view(-1, 2, 4 * self.dim).transpose(0, 1)
        return torch.stack(lstm_cell(gates.to(state_dtype(gates)), None))


class AttentionComposition(Composition):
    """Gated attention (Kuncoro et al. 2017, section 4.2), with a query that depends on the label alone.

    With label vector o and child vectors v_i:

        a = softmax over children of (v_i · W_q o / sqrt(D))        m = sum_i a_i v_i
        g = sigmoid(W_o o + W_m m + b)                              vector = g * o + (1 - g) * m

    In Kuncoro et al. the query also contains the state of the stack below the constituent. With that query, a
    constituent could not be composed before the stack state to its left is known.
    """

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__(dim)
        self.label_embedding = nn.Parameter(torch.empty(num_labels, dim).normal_())
        self.query = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(2 * dim, dim)

    def compose(self, values: Tensor, level: CompositionLevel) -> Tensor:
        """See ``Composition.compose``."""
        constituent = np.concatenate([np.arange(size) for size in level.step_sizes])
        owner, children, labels = (
            on_device(index, values.device) for index in (constituent, level.children[0], level.labels)
        )
        label_vectors = self.label_embedding.index_select(0, labels)
        child_vectors = values.index_select(0, children)
        scores = (child_vectors * self.query(label_vectors).index_select(0, owner)).sum(1)
        scores = scores.to(state_dtype(scores)) * self.dim**-0.5
        # Softmax within each constituent.
        largest = scores.detach().new_full((len(labels),), -torch.inf)
        largest = largest.scatter_reduce(0, owner, scores.detach(), "amax")
        weights = (scores - largest.index_select(0, owner)).exp()
        total = torch.zeros_like(largest).index_add(0, owner, weights)
        weighted = weights[:, None] * child_vectors
        mean = weighted.new_zeros(len(labels), self.dim).index_add(0, owner, weighted) / total[:, None]
        gate = torch.sigmoid(self.gate(torch.cat([label_vectors, mean], dim=1)))
        return torch.lerp(mean, label_vectors.to(mean.dtype), gate.to(mean.dtype))


class TreeLstmComposition(Composition):
    """The N-ary Tree-LSTM with N = 2 (Tai, Socher, Manning 2015, equations 9 to 14), for binary trees.

    A constituent has no input of its own. With the children's hidden states h and cells c (a token's cell is 0):

        i, f_l, f_r, o, u = W [h_l; h_r] + b              c = sigmoid(i) * tanh(u) + sigmoid(f_l) c_l + sigmoid(f_r) c_r
                                                          h = sigmoid(o) * tanh(c)

    The vector is h. The value is [h; c]. Labels are not used.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.value_dim = 2 * dim  # hidden and cell state
        self.gates = nn.Linear(2 * dim, 5 * dim)
        with torch.no_grad():
            self.gates.bias.zero_()
            self.gates.bias[dim : 3 * dim] = 1.0  # forget gates start open (Jozefowicz et al. 2015)

    def compose(self, values: Tensor, level: CompositionLevel) -> Tensor:
        """See ``Composition.compose``. Each constituent must have two children."""
        assert len(level.step_sizes) == 2
        children = on_device(level.children[0], values.device)
        left, right = values.index_select(0, children).chunk(2)
        hidden = torch.cat([self.vectors(left), self.vectors(right)], dim=1)
        gates = self.gates(hidden)
        gates = gates.to(state_dtype(gates))
        in_gate, forget_left, forget_right, out_gate = torch.sigmoid(gates[:, : 4 * self.dim]).chunk(4, dim=1)
        cell = in_gate * torch.tanh(gates[:, 4 * self.dim :])
        cell = cell + forget_left * left[:, self.dim :] + forget_right * right[:, self.dim :]
        return torch.cat([out_gate * torch.tanh(cell), cell], dim=1)


def make_composition(name: str, *, num_labels: int, dim: int) -> Composition:
    """Return a new composition, by its name in ``TeacherConfig.composition``."""
    if name == "treelstm":
        return TreeLstmComposition(dim)
    return {"bilstm": BiLstmComposition, "attention": AttentionComposition}[name](num_labels, dim)
