"""How a constituent's vector is made from its label and its children: one class a way.

A composition sees nothing but the constituent itself, so all constituents of one height are composed at once.
Another way of composing is another class with the same ``forward``.

Shape letters: N tokens, K constituents, D embedding size, C size of the LSTM in each direction (here D),
m constituents of a height, c their children, L labels.
"""

import torch
from torch import Tensor, nn

from teacher.levels import CompositionLevel


def lstm_cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the hidden and the cell state after one LSTM step (Hochreiter and Schmidhuber 1997; forget gates).

    Args:
        gates: ``[..., 4H]``: input, forget, candidate and output gates before their non-linearities.
        cell: ``[..., H]`` cell state before, or None for zeros.
    """
    in_gate, forget_gate, candidate, out_gate = gates.chunk(4, dim=-1)
    new = torch.sigmoid(in_gate) * torch.tanh(candidate)
    if cell is not None:
        new = torch.addcmul(new, torch.sigmoid(forget_gate), cell)
    return torch.sigmoid(out_gate) * torch.tanh(new), new


class BiLstmComposition(nn.Module):
    """Dyer et al. (2016), section 3.2: an LSTM reads label then children, another label then children from the right.

    ``value = tanh(W [forward; backward] + b)`` of their last hidden states. Both directions run as one batched
    product; the first step depends on the label alone, so it is taken once a label.
    """

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__()
        bound = dim**-0.5
        self.label_embedding = nn.Parameter(torch.empty(num_labels, dim).normal_())
        self.input_weight = nn.Parameter(torch.empty(2, dim, 4 * dim).uniform_(-bound, bound))
        self.recurrent_weight = nn.Parameter(torch.empty(2, dim, 4 * dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(2, 1, 4 * dim))
        self.output = nn.Linear(2 * dim, dim)

    @property
    def value_dim(self) -> int:
        """C."""
        return self.output.out_features

    def leaves(self, vectors: Tensor) -> Tensor:
        """Return the values ``[N, C]`` of token vectors ``[N, D]``."""
        return vectors

    def vectors(self, values: Tensor) -> Tensor:
        """Return what is pushed on the stack, ``[..., D]``, for values ``[..., C]``."""
        return values

    def forward(self, values: Tensor, levels: tuple[CompositionLevel, ...], dropout: nn.Dropout) -> Tensor:
        """Return ``[N + K, D]``: the token values and, after them, those of the constituents.

        Args:
            values: ``[N, D]`` token vectors.
            levels: Height 1 first.
            dropout: Applied to each new value.
        """
        for level in levels:
            values = torch.cat([values, dropout(self.compose(values, level))])
        return values

    def compose(self, values: Tensor, level: CompositionLevel) -> Tensor:
        """Return ``[m, C]``: the values of the constituents of a level, whose children index rows of ``values``."""
        label_gates = torch.baddbmm(self.bias, self.label_embedding.expand(2, -1, -1), self.input_weight)
        label_hidden, label_cell = lstm_cell(label_gates, None)
        labels = torch.from_numpy(level.labels).to(values.device, non_blocking=True)
        children = torch.from_numpy(level.children).to(values.device, non_blocking=True)
        inputs = values.index_select(0, children.reshape(-1)).view(2, -1, values.shape[1])
        gates = torch.baddbmm(self.bias, inputs, self.input_weight)
        hidden, cell = label_hidden.index_select(1, labels), label_cell.index_select(1, labels)
        finished = []
        for step_gates in gates.split(level.step_sizes, dim=1):
            going_on = step_gates.shape[1]
            if going_on < hidden.shape[1]:
                finished.append(hidden[:, going_on:])
                hidden, cell = hidden[:, :going_on], cell[:, :going_on]
            hidden, cell = lstm_cell(torch.baddbmm(step_gates, hidden, self.recurrent_weight), cell)
        finished.append(hidden)
        forward, backward = torch.cat(finished[::-1], dim=1)
        return torch.tanh(self.output(torch.cat([forward, backward], dim=1)))
