"""Compute the loss that distils a dump into a student, and its gradient.

With the student's logits z, the gold token g, the teacher's distribution p and the temperature T:

    p_T(w) = p(w)^(1/T) / sum over v of p(v)^(1/T)              q_T = softmax(z / T)
    CE   = -log q_1(g)
    KL   = sum over w in K of p_T(w) log(p_T(w) / q_T(w))  +  p_T(rest) log(p_T(rest) / q_T(rest))
    loss = alpha CE + (1 - alpha) T^2 KL                        (Hinton et al. 2015), in nats per position

K are the k tokens that the dump keeps. "rest" is all other tokens as one outcome. Merging outcomes never increases a
divergence (log-sum inequality, Cover and Thomas 2006, Theorem 2.7.1). So KL is a lower bound on the KL over the whole
vocabulary, and equals it when k = V. At q = p both KL and its gradient are 0 at every temperature. The dump holds
log p_T(rest) and the normaliser of p_T for each temperature, because neither can be computed from the top k. Two other
divergences can replace KL: KL(q || p) (``reverse-kl``) and the Jensen-Shannon divergence (``js``).

log q_T(rest) is a log-sum-exp over the tokens outside K. It is never computed as log(1 - sum of q_T over K), which has
no correct digits in float32 if q_T(rest) is 1e-8. Two other treatments of the rest exist for comparison only. The
treatment ``renormalise`` rescales the teacher to sum to 1 over K. With it, the divergence at q = p is not 0. The
treatment ``drop`` leaves the rest out. With it, the gradient at q = p is not 0.

A dump with draws (tokens drawn at random) gives only an estimate p^_T of p_T (``student.targets``). The soft
cross-entropy then replaces the divergence:

    SCE  = -sum over w of p^_T(w) log q_T(w)                    loss = alpha CE + (1 - alpha) T^2 SCE

The expectation of p^_T over the draws is p_T. SCE and its gradient are linear in p^_T, so they are unbiased too. At
q = p the expectation of SCE is not 0: it is the entropy of p_T.

The gradient is computed by a formula, because autograd would take more passes over the logits. A divergence D is a
function of log q_T(i), with i in K or "rest". Let u_i be the derivative of D with respect to log q_T(i), U the sum of
all u_i, and s = q_T / q_T(rest) outside K. Then

    dD / dz(v) = (u_v - q_T(v) U) / T  for v in K,              s(v) (u_rest - q_T(rest) U) / T  for others

This module returns sums over positions. The caller divides by the global number of positions.

Shape letters: P positions of a batch, R some of these positions (rows of the logits), V vocabulary, k columns of the
targets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.training.chunked_vocabulary import cross_entropy_terms, softmax_and_log_sum
from student.student_config import Divergence, Tail
from student.targets import SoftTargets, Targets

NUM_PARTS = 3
"""The number of sums that ``DistillationRows`` returns."""


class DistillationRows:
    """A loss over rows of logits that computes its own gradient (a ``RowLoss``).

    ``RowLoss`` is defined in ``pipeline.training.chunked_vocabulary``. This loss returns three sums: the loss, CE, and
    the divergence or SCE. ``part_names`` returns their names.

    Args:
        gold: int64 ``[P]`` in ``[0, V)``.
        targets: The soft targets of the same P positions. None: the loss is the cross-entropy, whatever ``alpha`` is.
        alpha: Weight of the cross-entropy, in [0, 1].
        temperature: T, above 0. ``targets`` must be for this temperature.
        tail: Treatment of the tokens outside the top k. Not used with draws.
        divergence: D. Not used with draws.
    """

    def __init__(
        self,
        gold: Tensor,
        targets: Targets | None,
        *,
        alpha: float,
        temperature: float = 1.0,
        tail: Tail = "bucket",
        divergence: Divergence = "kl",
    ) -> None:
        self._gold = gold
        self._targets = targets
        self._alpha = alpha
        self._temperature = temperature
        self._tail = tail
        self._divergence = _DIVERGENCES[divergence]

    def __call__(self, logits: Tensor, rows: slice, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the three sums ``[3]`` over some rows, and the gradient ``[R, V]`` of the loss.

        The gradient is None if ``with_gradient`` is False. The logits may be overwritten.
        """
        terms, gradient = self.terms(logits, rows, with_gradient=with_gradient)
        return terms.sum(1), gradient

    def terms(self, logits: Tensor, rows: slice, *, with_gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the three terms of each row, ``[3, R]``, in nats, and the gradient of the summed loss, ``[R, V]``.

        The logits ``[R, V]`` are float32 or float64. They are overwritten.
        """
        gold = self._gold[rows, None]
        if self._targets is None:
            cross_entropy, gradient = cross_entropy_terms(logits, gold, with_gradient=with_gradient)
            return torch.stack([cross_entropy, cross_entropy, torch.zeros_like(cross_entropy)]), gradient
        temperature, targets = self._temperature, self._targets[rows]
        weight = (1 - self._alpha) * temperature**2
        num_selected = targets.ids.shape[1] if isinstance(targets, SoftTargets) else 0
        index = torch.cat([targets.ids, gold], 1)
        at_1, at_t = _student(logits, index, num_selected, temperature)
        if isinstance(targets, SoftTargets):
            soft, slopes, rest_slope = self._diverge(targets, at_t, has_rest=num_selected < logits.shape[1])
        else:
            slopes = -targets.weights.to(logits.dtype)
            soft, rest_slope = (slopes * at_t.log_probs).sum(1), 0.0
        terms = torch.stack([-self._alpha * at_1.log_gold + weight * soft, -at_1.log_gold, soft])
        if not with_gradient:
            return terms, None
        scale = weight / temperature
        slopes, rest_slope = scale * slopes, scale * rest_slope
        total = slopes.sum(1) + rest_slope
        gradient = at_t.within_rest
        of_rest, of_rest_1 = rest_slope - at_t.log_rest.exp() * total, self._alpha * at_1.log_rest.exp()
        if at_1 is at_t:
            gradient.mul_((of_rest + of_rest_1)[:, None])
        else:
            gradient.mul_(of_rest[:, None]).add_(at_1.within_rest.mul_(of_rest_1[:, None]))
        if num_selected:
            selected = slopes - at_t.log_probs.exp() * total[:, None] + self._alpha * at_1.log_probs.exp()
            gradient.scatter_(1, targets.ids, selected)
        else:
            # With draws the rest is the whole vocabulary, so the gradient already has a value for every token. The
            # slopes (derivatives with respect to log q_T) are added to these values. A column that is not used has
            # slope 0, so it changes nothing, whatever its id is.
            gradient.scatter_add_(1, targets.ids, slopes)
        return terms, gradient.scatter_add_(1, gold, gradient.new_full(gold.shape, -self._alpha))

    def _diverge(
        self, targets: SoftTargets, student: "_Student", *, has_rest: bool
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """Return the divergence D ``[R]``, and its derivatives with respect to log q_T.

        The derivatives for the ids are ``[R, k]``. The derivative for the rest is ``[R]``, or 0.0 if the loss has no
        term for the rest.
        """
        dtype, k = student.log_probs.dtype, targets.ids.shape[1]
        log_p = targets.log_probs.to(dtype) / self._temperature - targets.logz.to(dtype)[:, None]
        log_q = student.log_probs
        if self._tail == "renormalise":
            log_p = log_p - log_p.logsumexp(1, keepdim=True)
        if self._tail == "bucket" and has_rest:
            log_p = torch.cat([log_p, targets.tail.to(dtype)[:, None]], 1)
            log_q = torch.cat([log_q, student.log_rest[:, None]], 1)
        values, slopes = self._divergence(log_p, log_q)
        return values.sum(1), slopes[:, :k], slopes[:, k] if slopes.shape[1] > k else 0.0


def part_names(targets: Literal["none", "draws"] | Divergence) -> tuple[str, ...]:
    """Return the names of the sums of ``DistillationRows``.

    The third sum has no factor T^2. Without targets it is 0 and has no name.
    """
    third = {"kl": "kl", "reverse-kl": "reverse_kl", "js": "js_divergence", "draws": "soft_cross_entropy"}
    return ("loss", "cross_entropy", *([third[targets]] if targets != "none" else []))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Student:
    """What the loss needs from q_T, for R rows.

    The selected ids are the tokens in K. For a dump with draws no ids are selected, and the rest is the whole
    vocabulary.
    """

    log_probs: Tensor
    """``[R, k]``: log q_T of the targets' ids."""
    log_gold: Tensor
    """``[R]``: log q_T of the gold token."""
    log_rest: Tensor
    """``[R]``: log q_T(rest); -inf if there is no rest."""
    within_rest: Tensor
    """``[R, V]``: q_T / q_T(rest); 0 for selected ids."""


def _student(logits: Tensor, index: Tensor, num_selected: int, temperature: float) -> tuple[_Student, _Student]:
    """Return q_1 and q_T, which are the same object if T = 1. The logits are overwritten.

    The largest selected logit of a row is subtracted first, so that float32 loses no digits if the logits are large. If
    no ids are selected, the largest of all logits is subtracted.

    Args:
        logits: ``[R, V]``.
        index: int64 ``[R, k + 1]``: the targets' ids, then the gold token. Selected ids must be distinct.
        num_selected: k, or 0 if no ids are selected.
        temperature: T.
    """
    chosen = logits.gather(1, index)
    base = (chosen[:, :num_selected] if num_selected else logits).amax(1, keepdim=True)
    chosen = chosen - base
    if num_selected:
        logits.scatter_(1, index[:, :num_selected], -torch.inf)

    def at(temperature: float) -> _Student:
        if num_selected < logits.shape[1]:
            within, largest, excess = softmax_and_log_sum(logits if temperature == 1 else logits / temperature)
            log_rest = largest - base[:, 0] / temperature + excess
        else:
            within, log_rest = torch.zeros_like(logits), torch.full_like(base[:, 0], -torch.inf)
        log_probs = chosen / temperature
        log_total = log_rest
        if num_selected:
            log_total = torch.logaddexp(log_probs[:, :num_selected].logsumexp(1), log_rest)
        log_probs = log_probs - log_total[:, None]
        return _Student(
            log_probs=log_probs[:, :-1], log_gold=log_probs[:, -1], log_rest=log_rest - log_total, within_rest=within
        )

    at_1 = at(1.0)
    return at_1, at_1 if temperature == 1 else at(temperature)


def _kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return p log(p / q), which is 0 where p is 0, and its derivatives with respect to log q, elementwise."""
    p = log_p.exp()
    return p * (torch.where(p > 0, log_p, 0.0) - log_q), -p


def _reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return q log(q / p) and its derivatives with respect to log q, elementwise.

    If p is below the smallest normal number of its type, it counts as this number. With p = 0 the divergence would be
    infinite.
    """
    q, ratio = log_q.exp(), log_q - log_p.clamp(min=math.log(torch.finfo(log_p.dtype).tiny))
    return q * ratio, q * (ratio + 1)


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return (p log(p / m) + q log(q / m)) / 2 and its derivatives with respect to log q, elementwise.

    m is (p + q) / 2, and 0 log 0 is 0.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    p, half_q, ratio = log_p.exp(), 0.5 * log_q.exp(), log_q - log_m
    return 0.5 * p * (torch.where(p > 0, log_p, 0.0) - log_m) + half_q * ratio, half_q * ratio


_DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "kl": _kl,
    "reverse-kl": _reverse_kl,
    "js": _jensen_shannon,
}
