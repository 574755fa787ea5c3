"""Compute losses over the vocabulary in chunks of rows, so that the ``[P, V]`` logits never exist all at once.

A row is the logits of one position, computed from its hidden state. The forward pass makes the logits of one chunk,
computes the loss and its gradient from them, and drops them (Hsu et al. 2024, Liger Kernel). It keeps only the
gradients of the states, the output weights and the bias. The loss can be any loss that computes its own gradient.
Second derivatives are not available.

Under autocast, matrix products are computed in autocast's type. Logits, losses and the gradient of the output weights
are float32.

Shape letters: P positions, D state size, V vocabulary, R rows of a chunk.
"""

import contextlib
from typing import Any, Protocol

import torch
from torch import Tensor

CHUNK_ROWS = 256
"""Rows at a time on a CPU. Of 128, 256, 512 and 1,024 rows, 256 are the fastest at D = 256 and V = 12,000, and as fast
as 512 at D = 650."""
CHUNK_ROWS_GPU = 4096
"""Rows at a time on other devices. At V = 12,000 their logits take 200 MB."""


class RowLoss(Protocol):
    """A loss that computes its own gradient. It may also return metrics."""

    def __call__(self, logits: Tensor, rows: slice, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sums of the loss and of metrics over some rows, and the gradient of the loss.

        The sums are ``[num_parts]``, in nats. The first is the loss. The gradient is ``[R, V]``, with respect to the
        logits, and may overwrite them. It is None unless ``with_gradient`` is true.

        Args:
            logits: ``[R, V]``, float32 or float64. The function may overwrite them.
            rows: The slice of the P positions that the logits belong to.
            with_gradient: Whether to compute the gradient.
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

    Only the first sum, the loss, is differentiable.

    Args:
        states: ``[P, D]``; P may be 0.
        weight: ``[V, D]``.
        bias: ``[V]``, or None.
        row_loss: Called once per chunk, in order.
        num_parts: Number of sums that ``row_loss`` returns.
        chunk_rows: R. The default, 0, stands for a size that suits the device.
    """
    chunk_rows = chunk_rows or (CHUNK_ROWS if states.device.type == "cpu" else CHUNK_ROWS_GPU)
    sums: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, row_loss, num_parts, chunk_rows, torch.is_grad_enabled()
    )
    return sums


class CrossEntropyRows:
    """A ``RowLoss`` with one sum, the cross-entropy. ``gold`` is int64 ``[P]``: the right token of each position."""

    def __init__(self, gold: Tensor) -> None:
        self._gold = gold

    def __call__(self, logits: Tensor, rows: slice, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sum over some rows, and its gradient; see ``RowLoss``."""
        cross_entropy, gradient = cross_entropy_terms(logits, self._gold[rows, None], with_gradient=with_gradient)
        return cross_entropy.sum().reshape(1), gradient


def cross_entropy_terms(logits: Tensor, gold: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return the cross-entropy of each row, ``[R]`` in nats, and its gradient, ``[R, V]`` or None.

    ``logits`` are ``[R, V]``, and ``gold`` is int64 ``[R, 1]``.
    """
    gold_logit = logits.gather(1, gold)[:, 0]
    probs, largest, excess = softmax_and_log_sum(logits)
    cross_entropy = largest - gold_logit + excess
    if not with_gradient:
        return cross_entropy, None
    return cross_entropy, probs.scatter_add_(1, gold, -torch.ones_like(gold, dtype=probs.dtype))


def softmax_and_log_sum(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmax of each row, its largest logit, and its *excess*: its log-sum-exp minus its largest logit.

    The shapes are ``[R, V]``, ``[R]`` and ``[R]``. The excess is computed as minus the log of the largest probability,
    because a second pass of exponentials would be slow on a CPU. The cross-entropy of a token is
    ``largest - logit + excess``. In float32, this sum keeps the digits of a small loss, even if all logits are large.
    """
    probs = logits.softmax(1)
    return probs, logits.amax(1), -probs.amax(1).log()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the type of matrix products under autocast on a device; None if autocast is off or not supported."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context manager in which autocast is off."""
    if not torch.amp.is_autocast_available(device.type):  # such as ``meta``
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch has no public type for its context
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_loss: RowLoss,
        num_parts: int,
        chunk_rows: int,
        with_gradient: bool,
    ) -> Tensor:
        # Under autocast the states already have a narrow type. Logits and sums are float32.
        exact = torch.promote_types(states.dtype, torch.float32)
        autocast = autocast_dtype(states.device)
        dtype = autocast or exact
        product_states, product_weight = states.to(dtype), weight.to(dtype)
        sums = states.new_zeros(num_parts, dtype=exact)
        buffer = states.new_empty(min(chunk_rows, len(states)), len(weight), dtype=exact)
        if with_gradient:
            grad_states, grad_weight = torch.zeros_like(states), torch.zeros_like(weight)
            grad_bias = torch.zeros_like(bias) if bias is not None else None
        with _without_autocast(states.device):
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
        grad_bias = grad_bias * scale if grad_bias is not None else None
        return grad_states * scale, grad_weight * scale, grad_bias, None, None, None, None


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> Tensor:
    """Return ``states @ weight.T + bias`` in ``out``. Fresh memory for each chunk would double the time."""
    if states.dtype != out.dtype:
        out.copy_(states @ weight.T)
        return out if bias is None else out.add_(bias)
    return torch.mm(states, weight.T, out=out) if bias is None else torch.addmm(bias, states, weight.T, out=out)
