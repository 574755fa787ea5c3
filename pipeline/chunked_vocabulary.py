"""Losses over the vocabulary in chunks of rows, so that ``[P, V]`` logits never exist at once.

Within the forward pass each chunk's logits are made, reduced to the loss, differentiated and dropped; what is kept
is the gradient with respect to the states and the output weights, as large as those. The price is that a second
derivative is not available. The idea of taking the gradient inside the forward pass is that of fused
cross-entropies (Hsu et al. 2024, Liger Kernel); here the loss of a chunk is any differentiable function.

Shape letters: P positions, D state size, V vocabulary, R rows of a chunk.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 512
"""Rows at a time: 512 x 12,000 float32 logits are 25 MB, which still gives a full-speed matrix product."""

RowLoss = Callable[[Tensor, slice], Tensor]
"""From logits ``[R, V]`` and the rows of P that they are, to ``[num_parts]`` sums over those rows, in nats."""


def vocabulary_loss(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_loss: RowLoss,
    *,
    num_parts: int = 1,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:
    """Return ``[num_parts]`` sums of ``row_loss`` over all rows of ``states @ weight.T + bias``.

    Only part 0, the objective, can be differentiated; the others are figures to report.

    Args:
        states: ``[P, D]``; P may be 0.
        weight: ``[V, D]``.
        bias: ``[V]``, or None.
        row_loss: See ``RowLoss``; called once a chunk, in order.
        num_parts: How many sums ``row_loss`` returns.
        chunk_rows: R.
    """
    sums: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, row_loss, num_parts, chunk_rows, torch.is_grad_enabled()
    )
    return sums


def cross_entropy_rows(gold: Tensor) -> RowLoss:
    """Return the row loss whose one part is the summed cross-entropy with ``gold``, int64 ``[P]``."""

    def row_loss(logits: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(logits, gold[rows], reduction="sum").reshape(1)

    return row_loss


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch gives its context no public type
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_loss: RowLoss,
        num_parts: int,
        chunk_rows: int,
        with_gradient: bool,
    ) -> Tensor:
        sums = states.new_zeros(num_parts)
        if with_gradient:
            grad_states, grad_weight = torch.zeros_like(states), torch.zeros_like(weight)
            grad_bias = torch.zeros_like(bias) if bias is not None else None
        for start in range(0, len(states), chunk_rows):
            rows = slice(start, min(start + chunk_rows, len(states)))
            logits = F.linear(states[rows], weight, bias)
            if not with_gradient:
                sums += row_loss(logits, rows)
                continue
            with torch.enable_grad():
                logits.requires_grad_()
                parts = row_loss(logits, rows)
                (grad_logits,) = torch.autograd.grad(parts[0], logits)
            sums += parts.detach()
            torch.mm(grad_logits, weight, out=grad_states[rows])
            grad_weight.addmm_(grad_logits.T, states[rows])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        if with_gradient:
            ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        return sums

    @staticmethod
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        grad_states, grad_weight, grad_bias = ctx.saved_tensors
        scale = grad_sums[0]
        return (
            grad_states * scale,
            grad_weight * scale,
            grad_bias * scale if grad_bias is not None else None,
            None,
            None,
            None,
            None,
        )
