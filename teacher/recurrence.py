"""Run LSTMs over levels. Each LSTM is one differentiable function with a hand-written backward pass.

A level is all pushes of one depth, or all constituents of one height. A round is one LSTM step for many rows at once:
for all pushes of one depth, or for the n-th children of all constituents of one height. Two kinds of matrix products
are computed for many rounds at once: the inputs times the input weights, and the gradients of the weights. Autograd
would compute these products round by round. docs/decisions/0007 compares this backward pass with autograd. Second
derivatives are not available.

Under autocast, products are bfloat16, and gates, hidden states and cell states are float32. Without autocast, all have
the type of the weights.

Shape letters: S pushes of the batch, H size of the LSTM, I size of its inputs; N tokens, K constituents, m constituents
of a level and c children of these, L labels, D size of the vectors of tokens and constituents. The order of gates is
input, forget, output, candidate.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.runtime.distributed import on_device
from pipeline.training.chunked_vocabulary import autocast_dtype
from teacher.levels import CompositionLevel, StackLevel


def state_dtype(weight: Tensor) -> torch.dtype:
    """Return the type of the states: that of the weight, but at least float32."""
    return torch.promote_types(weight.dtype, torch.float32)


def lstm_cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the hidden and the cell state after one LSTM step (Hochreiter and Schmidhuber 1997, with forget gates).

    Args:
        gates: ``[..., 4H]``: the input, forget, output and candidate gates before their non-linearities.
        cell: ``[..., H]``: the cell state before the step, or None for zeros.
    """
    size = gates.shape[-1] // 4
    in_gate, forget_gate, out_gate = gates[..., : 3 * size].sigmoid().chunk(3, dim=-1)
    new = in_gate * gates[..., 3 * size :].tanh()
    if cell is not None:
        new = torch.addcmul(new, forget_gate, cell)
    return out_gate * new.tanh(), new


def lstm_step_(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden state, the cell state and the tanh of the cell state after one LSTM step, without a gradient.

    The gates after their non-linearities overwrite ``gates``. To allocate a new tensor for them would take a third of a
    step's time.
    """
    size = cell.shape[-1]
    gates[..., : 3 * size].sigmoid_()
    gates[..., 3 * size :].tanh_()
    new = (gates[..., :size] * gates[..., 3 * size :]).addcmul_(gates[..., size : 2 * size], cell)
    squashed = new.tanh()
    return gates[..., 2 * size : 3 * size] * squashed, new, squashed


def product_weights(*weights: Tensor) -> list[Tensor]:
    """Return the weights in the type of autocast, if autocast is on."""
    dtype = autocast_dtype(weights[0].device)
    return [weight if dtype is None else weight.to(dtype) for weight in weights]


def stack_lstm(inputs: Tensor, weights: Sequence[Tensor], levels: Sequence[StackLevel]) -> Tensor:
    """Return the hidden states ``[S, H]`` of one layer after each push, in the order of the levels.

    The parent of a pushed element is the element below it on the stack. The LSTM step of a push starts from the states
    of the parent. At depth 1 it starts from zeros.

    Args:
        inputs: ``[S, I]``: the inputs of the pushes.
        weights: The input weight ``[I, 4H]``, its bias ``[4H]``, the recurrent weight ``[H, 4H]``.
        levels: Depth 1 first.
    """
    hidden: Tensor = _StackLstm.apply(inputs, *weights, levels)  # type: ignore[no-untyped-call]
    return hidden


def stack_lstm_from_gates(gates: Tensor, recurrent_weight: Tensor, levels: Sequence[StackLevel]) -> Tensor:
    """Return the result of ``stack_lstm`` without a gradient.

    ``gates`` ``[S, 4H]`` are the products of all inputs with the input weight, plus the bias. They are overwritten.
    """
    parents = _parents(levels, gates.device)
    hidden, _, _ = _run_stack(gates, recurrent_weight, levels, parents)
    return hidden


def _parents(levels: Sequence[StackLevel], device: torch.device) -> list[Tensor]:
    """Copy the parents of all levels to the device at once; return one tensor per level."""
    sizes = [len(level.parents) for level in levels]
    return list(on_device(np.concatenate([level.parents for level in levels]), device).split(sizes))


def _run_stack(
    gates: Tensor, recurrent_weight: Tensor, levels: Sequence[StackLevel], parents: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, cell states and the tanh of the cell states, all ``[S, H]``.

    The gates after their non-linearities overwrite ``gates``.
    """
    size = gates.shape[1] // 4
    hidden, cell, squashed = (gates.new_empty(len(gates), size) for _ in range(3))
    first = 0
    for level, onto in zip(levels, parents, strict=True):
        at = slice(first, first + level.size)
        first += level.size
        here = gates[at]
        if level.group_sizes:
            recurrent = hidden.index_select(0, onto).to(recurrent_weight.dtype) @ recurrent_weight
            below = cell.index_select(0, onto)
            start = 0
            for number in level.group_sizes:
                here[start : start + number] += recurrent[:number]
                start += number
        here[:, : 3 * size].sigmoid_()
        here[:, 3 * size :].tanh_()
        new = torch.mul(here[:, :size], here[:, 3 * size :], out=cell[at])
        if level.group_sizes:
            start = 0
            for number in level.group_sizes:
                new[start : start + number].addcmul_(here[start : start + number, size : 2 * size], below[:number])
                start += number
        torch.tanh(new, out=squashed[at])
        torch.mul(here[:, 2 * size : 3 * size], squashed[at], out=hidden[at])
    return hidden, cell, squashed


def _cell_backward(
    gates: Tensor, squashed: Tensor, below: Tensor | None, grad_hidden: Tensor, grad_cell: Tensor, out: Tensor
) -> Tensor:
    """Write the gradient of the gates before their non-linearities to ``out``.

    Args:
        gates: ``[..., 4H]``: the gates after their non-linearities.
        squashed: ``[..., H]``: tanh of the new cell state.
        below: ``[..., H]``: the cell state before the step, or None for zeros.
        grad_hidden: ``[..., H]``.
        grad_cell: ``[..., H]``: the gradient from later rounds. The gradient through ``grad_hidden`` is added in place.
        out: ``[..., 4H]``.

    Returns:
        ``[..., H]``: the gradient of the cell state before the step.
    """
    size = squashed.shape[-1]
    in_gate, forget_gate, out_gate, candidate = gates.split(size, dim=-1)
    through_tanh = torch.ops.aten.tanh_backward(grad_hidden * out_gate, squashed)
    grad_cell += through_tanh
    grad_in, grad_forget, grad_out, grad_candidate = out.split(size, dim=-1)
    torch.mul(grad_cell, candidate, out=grad_in)
    if below is None:
        grad_forget.zero_()
    else:
        torch.mul(grad_cell, below, out=grad_forget)
    torch.mul(grad_hidden, squashed, out=grad_out)
    three, three_gates = out[..., : 3 * size], gates[..., : 3 * size]
    three.mul_(three_gates).addcmul_(three, three_gates, value=-1)
    torch.mul(grad_cell, in_gate, out=grad_candidate)
    grad_candidate.addcmul_(grad_candidate * candidate, candidate, value=-1)
    grad_below: Tensor = grad_cell * forget_gate
    return grad_below


class _StackLstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch gives its context no public type
        inputs: Tensor,
        input_weight: Tensor,
        bias: Tensor,
        recurrent_weight: Tensor,
        levels: Sequence[StackLevel],
    ) -> Tensor:
        gates = torch.addmm(bias, inputs.to(bias.dtype), input_weight).to(state_dtype(input_weight))
        ctx.levels, ctx.parents = levels, _parents(levels, inputs.device)
        hidden, cell, squashed = _run_stack(gates, recurrent_weight, levels, ctx.parents)
        ctx.save_for_backward(inputs, input_weight, recurrent_weight, gates, hidden, cell, squashed)
        return hidden

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, input_weight, recurrent_weight, gates, hidden, cell, squashed = ctx.saved_tensors
        grad_hidden = grad_output.clone(memory_format=torch.contiguous_format)
        grad_cell = torch.zeros_like(cell)
        grad_recurrent = _WeightGradient(recurrent_weight)
        first = len(gates)
        for level, onto in zip(reversed(ctx.levels), reversed(ctx.parents), strict=True):
            at = slice(first - level.size, first)
            first -= level.size
            below = None
            if level.group_sizes:
                # Each push needs the cell state of its parent.
                distinct = cell.index_select(0, onto)
                below = torch.cat([distinct[:number] for number in level.group_sizes])
            grad_gates = torch.empty_like(gates[at])
            grad_below = _cell_backward(gates[at], squashed[at], below, grad_hidden[at], grad_cell[at], grad_gates)
            gates[at] = grad_gates  # these gates are not needed again
            if not level.group_sizes:
                continue
            summed = _sum_groups(grad_gates, level.group_sizes)
            grad_recurrent.add(hidden.index_select(0, onto), summed)
            grad_cell.index_add_(0, onto, _sum_groups(grad_below, level.group_sizes))
            to_hidden = summed.to(recurrent_weight.dtype) @ recurrent_weight.T
            grad_hidden.index_add_(0, onto, to_hidden.to(grad_hidden.dtype))
        dtype = input_weight.dtype
        all_gates = gates.to(dtype)
        return (
            (all_gates @ input_weight.T).to(inputs.dtype),
            inputs.to(dtype).T @ all_gates,
            all_gates.sum(0),
            grad_recurrent.total(),
            None,
        )


class _WeightGradient:
    """Compute the gradient of a recurrent weight ``[..., H, 4H]``.

    Each round adds the product of its transposed states and its gradients. The rows of several rounds are collected
    first, so that one matrix product serves all of them.
    """

    ROWS = 2048
    """A matrix product with at least this many rows runs at full speed."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._sum = torch.zeros_like(weight, dtype=state_dtype(weight))
        self._states: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._num_rows = 0

    def add(self, states: Tensor, grads: Tensor) -> None:
        """Add states ``[..., n, H]``, and the gradients ``[..., n, 4H]`` of their products with the weight."""
        self._states.append(states)
        self._grads.append(grads)
        self._num_rows += states.shape[-2]
        if self._num_rows >= self.ROWS:
            self._multiply()

    def total(self) -> Tensor:
        """Return the gradient in the type of the weight."""
        if self._num_rows:
            self._multiply()
        return self._sum.to(self._weight.dtype)

    def _multiply(self) -> None:
        states, grads = (torch.cat(rows, dim=-2).to(self._weight.dtype) for rows in (self._states, self._grads))
        self._sum += states.mT @ grads
        self._states, self._grads, self._num_rows = [], [], 0


def _sum_groups(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return one row per parent: the sum of the rows of all pushes onto the parent."""
    total = rows[: sizes[0]].clone()
    start = sizes[0]
    for number in sizes[1:]:
        total[:number] += rows[start : start + number]
        start += number
    return total


def bilstm_composition(
    vectors: Tensor,
    gates: Tensor | None,
    label_states: Tensor,
    mask: Tensor | None,
    weights: Sequence[Tensor],
    levels: Sequence[CompositionLevel],
) -> Tensor:
    """Return ``[N + K, D]``: the vectors of the tokens, then those of all constituents.

    Args:
        vectors: ``[N, D]``.
        gates: ``[N, 8D]``: the tokens' products with the input weights, or None to compute them. Give them in
            evaluation only.
        label_states: ``[2, 2, L, D]``: hidden and cell states after each label, in both directions.
        mask: ``[K, D]``: factors (dropout) for the vectors of the constituents, or None.
        weights: The input weight ``[D, 8D]`` (forward, then backward direction) and its bias ``[8D]``, the recurrent
            weight ``[2, D, 4D]``, the output weight ``[2D, D]`` and its bias ``[D]``.
        levels: Height 1 first.
    """
    values: Tensor = _BiLstmComposition.apply(vectors, gates, label_states, mask, levels, *weights)  # type: ignore[no-untyped-call]
    return values


class _Steps:
    """Tensors that the rounds of one level keep for its backward pass."""

    def __init__(self) -> None:
        self.gates: list[Tensor] = []
        self.squashed: list[Tensor] = []
        self.hidden_before: list[Tensor] = []
        self.cell_before: list[Tensor] = []


def run_both_directions(
    gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    recurrent_weight: Tensor,
    step_sizes: Sequence[int],
    keep: _Steps | None = None,
) -> Tensor:
    """Return ``[m, 2D]``: the last hidden states of both LSTMs, forward first, for each constituent of one level.

    Args:
        gates: ``[2, c, 4D]``: the children's products with the input weights. All first children come first, then all
            second children, and so on.
        hidden: ``[2, m, D]``: the hidden states after the label.
        cell: ``[2, m, D]``: the cell states after the label.
        recurrent_weight: ``[2, D, 4D]``.
        step_sizes: The number of constituents that have a first child, a second child, and so on.
        keep: Collects the tensors for a backward pass.
    """
    size = cell.shape[2]
    ends = cell.new_empty(cell.shape[1], 2 * size)
    first = 0
    for number, after in zip(step_sizes, [*step_sizes[1:], 0], strict=True):
        hidden, cell = hidden[:, :number], cell[:, :number]
        recurrent = torch.bmm(hidden.to(recurrent_weight.dtype), recurrent_weight)
        here = gates[:, first : first + number] + recurrent
        first += number
        if keep is not None:
            keep.gates.append(here)
            keep.hidden_before.append(hidden)
            keep.cell_before.append(cell)
        hidden, cell, squashed = lstm_step_(here, cell)
        if keep is not None:
            keep.squashed.append(squashed)
        ends[after:number, :size] = hidden[0, after:]
        ends[after:number, size:] = hidden[1, after:]
    return ends


class _BiLstmComposition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        vectors: Tensor,
        gates: Tensor | None,
        label_states: Tensor,
        mask: Tensor | None,
        levels: Sequence[CompositionLevel],
        input_weight: Tensor,
        bias: Tensor,
        recurrent_weight: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
    ) -> Tensor:
        num_tokens, num_values = len(vectors), len(vectors) + sum(len(level.labels) for level in levels)
        dtype, dim = state_dtype(input_weight), vectors.shape[1]
        values = vectors.new_empty(num_values, dim, dtype=dtype)
        values[:num_tokens] = vectors
        node_gates = vectors.new_empty(num_values, 8 * dim, dtype=dtype)
        node_gates[:num_tokens] = torch.addmm(bias, vectors.to(bias.dtype), input_weight) if gates is None else gates
        labels, gathers = level_indices(levels, vectors.device)
        composed = values.new_empty(num_values - num_tokens, dim)
        ends = values.new_empty(num_values - num_tokens, 2 * dim)
        is_training = any(ctx.needs_input_grad)
        steps = [_Steps() if is_training else None for _ in levels]
        first = 0
        for level, label, gather, keep in zip(levels, labels, gathers, steps, strict=True):
            here = slice(first, first + len(label))
            at = slice(num_tokens + first, num_tokens + first + len(label))
            first += len(label)
            level_gates = node_gates.view(-1, 4 * dim).index_select(0, gather).view(2, -1, 4 * dim)
            hidden, cell = label_states.index_select(2, label)
            ends[here] = run_both_directions(level_gates, hidden, cell, recurrent_weight, level.step_sizes, keep)
            product = torch.addmm(output_bias, ends[here].to(output_weight.dtype), output_weight)
            torch.tanh(product.to(dtype), out=composed[here])
            if mask is None:
                values[at] = composed[here]
            else:
                torch.mul(composed[here], mask[here], out=values[at])
            node_gates[at] = torch.addmm(bias, values[at].to(bias.dtype), input_weight)
        ctx.save_for_backward(values, composed, ends, mask, input_weight, recurrent_weight, output_weight)
        ctx.levels, ctx.labels, ctx.gathers, ctx.steps = levels, labels, gathers, steps
        ctx.num_tokens, ctx.num_labels = num_tokens, label_states.shape[2]
        return values

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        values, composed, ends, mask, input_weight, recurrent_weight, output_weight = ctx.saved_tensors
        dim, dtype, num_tokens = values.shape[1], input_weight.dtype, ctx.num_tokens
        grad_values = grad_output.clone(memory_format=torch.contiguous_format)
        grad_node_gates = values.new_zeros(len(values), 8 * dim)
        grad_labels = values.new_zeros(2, 2, ctx.num_labels, dim)
        grad_before_tanh = torch.empty_like(composed)
        grad_recurrent = _WeightGradient(recurrent_weight)
        first = len(composed)
        for level, label, gather in reversed(list(zip(ctx.levels, ctx.labels, ctx.gathers, strict=True))):
            kept = ctx.steps.pop()  # removed here, so that its memory is freed after this level
            here = slice(first - len(label), first)
            at = slice(num_tokens + here.start, num_tokens + first)
            first -= len(label)
            # All parents of these constituents are done, so the gradient is complete.
            grad = grad_values[at]
            grad += (grad_node_gates[at].to(dtype) @ input_weight.T).to(grad.dtype)
            if mask is not None:
                grad = grad * mask[here]
            grad_before_tanh[here] = torch.ops.aten.tanh_backward(grad, composed[here])
            grad_ends = (grad_before_tanh[here].to(dtype) @ output_weight.T).to(values.dtype)
            grad_ends = torch.stack(grad_ends.split(dim, dim=1))
            grad_level = values.new_empty(2, sum(level.step_sizes), 4 * dim)
            grad_hidden, grad_cell = grad_ends[:, : level.step_sizes[-1]], None
            position = sum(level.step_sizes)
            for step in range(len(level.step_sizes) - 1, -1, -1):
                number = level.step_sizes[step]
                if grad_cell is None or grad_cell.shape[1] < number:
                    # ``fresh`` belongs to the constituents whose last child is read in this step. Their backward pass
                    # begins here.
                    done = grad_cell.shape[1] if grad_cell is not None else 0
                    fresh = grad_ends[:, done:number]
                    grad_hidden = torch.cat([grad_hidden, fresh], dim=1) if done else fresh
                    zeros = torch.zeros_like(fresh)
                    grad_cell = torch.cat([grad_cell, zeros], dim=1) if grad_cell is not None else zeros
                out = grad_level[:, position - number : position]
                position -= number
                grad_cell = _cell_backward(
                    kept.gates[step], kept.squashed[step], kept.cell_before[step], grad_hidden, grad_cell, out
                )
                grad_hidden = torch.bmm(out.to(dtype), recurrent_weight.mT).to(values.dtype)
            grad_recurrent.add(torch.cat(kept.hidden_before, dim=1), grad_level)
            grad_labels[0].index_add_(1, label, grad_hidden)
            grad_labels[1].index_add_(1, label, grad_cell)
            grad_node_gates.view(-1, 4 * dim).index_copy_(0, gather, grad_level.view(-1, 4 * dim))
        grad_node_gates = grad_node_gates.to(dtype)
        grad_tokens = grad_values[:num_tokens] + grad_node_gates[:num_tokens] @ input_weight.T
        return (
            grad_tokens,
            None,
            grad_labels,
            None,
            None,
            values.to(dtype).T @ grad_node_gates,
            grad_node_gates.sum(0),
            grad_recurrent.total(),
            ends.to(dtype).T @ grad_before_tanh.to(dtype),
            grad_before_tanh.sum(0).to(dtype),
        )


def level_indices(levels: Sequence[CompositionLevel], device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Copy the labels of all levels to the device in one transfer, and the numbers of their gate rows in another.

    Child ``i`` (a token or a constituent) has two rows of gates: row ``2 * i`` for the forward direction and row
    ``2 * i + 1`` for the backward direction.

    Returns:
        Two lists with one entry per level: the labels of the constituents, int64 ``[m]``, and the gate rows of their
        children, int64 ``[2c]``, all forward rows first.
    """
    if not levels:
        return [], []
    labels = on_device(np.concatenate([level.labels for level in levels]), device)
    rows = [(2 * level.children + np.array([[0], [1]])).reshape(-1) for level in levels]
    gathers = on_device(np.concatenate(rows), device)
    return (
        list(labels.split([len(level.labels) for level in levels])),
        list(gathers.split([len(row) for row in rows])),
    )
