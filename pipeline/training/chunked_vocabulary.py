"""Losses over the vocabulary in chunks of rows, so that ``[P, V]`` logits never exist at once.

Within the forward pass each chunk's logits are made, reduced to the loss, differentiated and dropped; what is kept
is the gradient with respect to the states and the output weights, as large as those. The price is that a second
derivative is not available. The idea of taking the gradient inside the forward pass is that of fused
cross-entropies (Hsu et al. 2024, Liger Kernel); here the loss of a chunk is anything that knows its own gradient.

Under autocast the products are taken in its type; logits and losses are float32, and so are sums of gradients.

Shape letters: P positions, D state size, V vocabulary, R rows of a chunk.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.training.autocast import autocast_dtype, without_autocast

CHUNK_ROWS = 256
"""Rows at a time on a CPU: 256 x 12,000 float32 logits are 12 MB. Fewer slow the products down, more leave the cache:
of 128, 256, 512 and 1,024, it is the fastest at D = 256 and as fast as 512 at D = 650."""
CHUNK_ROWS_GPU = 4096
"""Rows at a time elsewhere: 200 MB of logits, a few launches a batch."""


class RowLoss(Protocol):
    """A loss that knows its own gradient."""

    def __call__(self, logits: Tensor, rows: slice, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sums ``[num_parts]`` over some rows, in nats, and the gradient of the first, ``[R, V]``.

        Without autograd. The gradient is None where none is asked for, and may lie in the memory of ``logits``.

        Args:
            logits: ``[R, V]``, float32 or float64; may be overwritten.
            rows: Which of the P positions they are of.
            with_gradient: Whether the gradient is wanted.
        """


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
        row_loss: Called once a chunk, in order.
        num_parts: How many sums ``row_loss`` returns.
        chunk_rows: R; 0: what suits the device.
    """
    chunk_rows = chunk_rows or (CHUNK_ROWS if states.device.type == "cpu" else CHUNK_ROWS_GPU)
    sums: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, row_loss, num_parts, chunk_rows, torch.is_grad_enabled()
    )
    return sums


class CrossEntropyRows:
    """The row loss whose one part is the summed cross-entropy with ``gold``, int64 ``[P]``."""

    def __init__(self, gold: Tensor) -> None:
        self._gold = gold

    def __call__(self, logits: Tensor, rows: slice, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See ``RowLoss``."""
        cross_entropy, gradient = cross_entropy_terms(logits, self._gold[rows, None], with_gradient=with_gradient)
        return cross_entropy.sum().reshape(1), gradient


def cross_entropy_terms(logits: Tensor, gold: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return the cross-entropy of each row, ``[R]`` in nats, and its gradient, ``[R, V]``, if it is asked for.

    Args:
        logits: ``[R, V]``.
        gold: int64 ``[R, 1]``.
        with_gradient: Whether the gradient is wanted.
    """
    of_gold = logits.gather(1, gold)[:, 0]
    probs, largest, excess = softmax_and_log_sum(logits)
    cross_entropy = largest - of_gold + excess
    if not with_gradient:
        return cross_entropy, None
    return cross_entropy, probs.scatter_add_(1, gold, -torch.ones_like(gold, dtype=probs.dtype))


def softmax_and_log_sum(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmax of each row, ``[R, V]``, its largest logit, ``[R]``, and by how much its log-sum-exp is above.

    That is read off the largest probability, exp(largest logit - log-sum-exp): two quick passes in place of one more
    of exponentials, which takes ten times as long on a CPU. In two numbers, so that float32 keeps the digits of a
    difference to logits that are all large.
    """
    probs = logits.softmax(1)
    return probs, logits.amax(1), -probs.amax(1).log()


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
                parts, grad_logits = row_loss(logits, rows, with_gradient=with_gradient)
                sums += parts
                if grad_logits is None:
                    continue
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
