"""Losses over the vocabulary in chunks of rows, so that ``[P, V]`` logits never exist at once.

Within the forward pass each chunk's logits are made, reduced to the loss, differentiated and dropped; what is kept
is the gradient with respect to the states and the output weights, as large as those. The price is that a second
derivative is not available. The idea of taking the gradient inside the forward pass is that of fused
cross-entropies (Hsu et al. 2024, Liger Kernel); here the loss of a chunk is any differentiable function.

Under autocast the products are taken in its type; logits and losses are float32, and so are sums of gradients.

Shape letters: P positions, D state size, V vocabulary, R rows of a chunk.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.autocast import autocast_dtype, without_autocast

CHUNK_ROWS = 256
"""Rows at a time on a CPU: 256 x 12,000 float32 logits are 12 MB. Fewer slow the products down, more leave the cache:
of 128, 256, 512 and 1,024, it is the fastest at D = 256 and as fast as 512 at D = 650."""
CHUNK_ROWS_GPU = 4096
"""Rows at a time elsewhere: 200 MB of logits, a few launches a batch."""

RowLoss = Callable[[Tensor, slice], Tensor]
"""From logits ``[R, V]`` and the rows of P that they are, to ``[num_parts]`` sums over those rows, in nats."""


def vocabulary_loss(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_loss: RowLoss,
    *,
    num_parts: int = 1,
    chunk_rows: int = 0,
) -> Tensor:
    """Return ``[num_parts]`` sums of ``row_loss`` over all rows of ``states @ weight.T + bias``.

    Only part 0, the objective, can be differentiated; the others are figures to report.

    Args:
        states: ``[P, D]``; P may be 0.
        weight: ``[V, D]``.
        bias: ``[V]``, or None.
        row_loss: See ``RowLoss``; called once a chunk, in order.
        num_parts: How many sums ``row_loss`` returns.
        chunk_rows: R; 0: what suits the device.
    """
    chunk_rows = chunk_rows or (CHUNK_ROWS if states.device.type == "cpu" else CHUNK_ROWS_GPU)
    sums: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, row_loss, num_parts, chunk_rows, torch.is_grad_enabled()
    )
    return sums


class DifferentiatedRowLoss(ABC):
    """A ``RowLoss`` that knows its own gradient."""

    @abstractmethod
    def __call__(self, logits: Tensor, rows: slice) -> Tensor:
        """See ``RowLoss``."""

    @abstractmethod
    def differentiated(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the sums ``[num_parts]``, and the gradient of the first ``[R, V]``, without autograd."""


class CrossEntropyRows(DifferentiatedRowLoss):
    """The row loss whose one part is the summed cross-entropy with ``gold``, int64 ``[P]``."""

    def __init__(self, gold: Tensor) -> None:
        self._gold = gold

    def __call__(self, logits: Tensor, rows: slice) -> Tensor:
        """See ``RowLoss``."""
        return F.cross_entropy(logits, self._gold[rows], reduction="sum").reshape(1)

    def differentiated(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See ``DifferentiatedRowLoss``: softmax less one at the gold token, in one buffer."""
        gold = self._gold[rows, None]
        log_probs = logits.log_softmax(1)
        loss = -log_probs.gather(1, gold).sum().reshape(1)
        return loss, log_probs.exp_().scatter_add_(1, gold, -torch.ones_like(gold, dtype=logits.dtype))


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
        # States that autocast made are of the narrow type already, and come back as such.
        exact = torch.promote_types(states.dtype, torch.float32)
        autocast = autocast_dtype(states.device)
        dtype = autocast or exact
        product_states, product_weight = states.to(dtype), weight.to(dtype)
        sums = states.new_zeros(num_parts, dtype=exact)
        buffer = states.new_empty(min(chunk_rows, len(states)), len(weight), dtype=exact)
        if with_gradient:
            grad_states, grad_weight = torch.zeros_like(states), torch.zeros_like(weight)
            grad_bias = torch.zeros_like(bias) if bias is not None else None
        with without_autocast(states.device):
            for start in range(0, len(states), chunk_rows):
                rows = slice(start, min(start + chunk_rows, len(states)))
                chunk = product_states[rows]
                logits = _logits(chunk, product_weight, bias, out=buffer[: len(chunk)])
                if not with_gradient:
                    sums += row_loss(logits, rows)
                    continue
                parts, grad_logits = _differentiated(row_loss, logits, rows)
                sums += parts
                product_grad = grad_logits.to(dtype)
                if autocast is not None:
                    grad_states[rows] = product_grad @ product_weight
                    grad_weight += product_grad.T @ chunk
                else:
                    torch.mm(product_grad, product_weight, out=grad_states[rows])
                    grad_weight.addmm_(product_grad.T, chunk)
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


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> Tensor:
    """Return ``states @ weight.T + bias`` in ``out``; written over and over, since fresh pages cost as much again."""
    if states.dtype != out.dtype:
        out.copy_(states @ weight.T)
        return out if bias is None else out.add_(bias)
    return torch.mm(states, weight.T, out=out) if bias is None else torch.addmm(bias, states, weight.T, out=out)


def _differentiated(row_loss: RowLoss, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return the sums of a chunk and the gradient of the first."""
    if isinstance(row_loss, DifferentiatedRowLoss):
        return row_loss.differentiated(logits, rows)
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        parts = row_loss(logits, rows)
        (grad_logits,) = torch.autograd.grad(parts[0], logits)
    return parts.detach(), grad_logits
