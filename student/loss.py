"""The loss that distils a dump into a student, for a block of rows of logits.

With logits z of the student, gold token g, the teacher's distribution p and temperature T:

    p_T(w) = p(w)^(1/T) / sum over v of p(v)^(1/T)              q_T = softmax(z / T)
    CE   = -log q_1(g)
    KL   = sum over w in K of p_T(w) log(p_T(w) / q_T(w))  +  p_T(rest) log(p_T(rest) / q_T(rest))
    loss = alpha CE + (1 - alpha) T^2 KL                        (Hinton et al. 2015), in nats a position

K are the k tokens that the dump keeps, "rest" all others as one outcome. Merging outcomes never increases a divergence
(log-sum inequality, Cover and Thomas 2006, Theorem 2.7.1): KL is a lower bound on the one over the whole vocabulary,
and equals it when k = V. At q = p both KL and its gradient are 0 at every temperature, because the dump holds
log p_T(rest) and the normaliser of p_T for each temperature; neither follows from the top k.

log q_T(rest) is a log-sum-exp over what was not selected, never log(1 - sum): in float32 that has no digits left where
the rest is 1e-8. Two other treatments of the rest are there for comparison, and are wrong at q = p: ``renormalise``
(the teacher rescaled to sum to 1 over K: the loss is not 0) and ``drop`` (the rest is left out: the gradient is not 0).

A dump with draws gives no KL, but an estimate of its part that depends on the student, the soft cross-entropy:

    p^_T(w) = p_T(w) for exact ids,  (c_w / n) (p(rest) / p(w)) p_T(w) for an id that c_w of n draws from the rest gave
    SCE  = -sum over w of p^_T(w) log q_T(w)                    loss = alpha CE + (1 - alpha) T^2 SCE

The expectation of c_w / n is p(w) / p(rest), so that of p^_T is p_T, and SCE, linear in it, and its gradient are
unbiased over independent dumps: importance sampling with p at T = 1 as the proposal (for T = 1 see Anshumann et al.
2025, Sparse Logit Sampling). So p^_T is taken as it is: it does not sum to 1, and must not be made to. SCE is no
divergence: it is not 0 at q = p, and the entropy that would have to be subtracted is not in the dump.

Nothing is averaged here: sums over rows go out, and the caller divides by the global number of positions.

Shape letters: P positions of a batch, R rows, V vocabulary, k tokens kept or columns of draws.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.chunked_vocabulary import RowLoss
from storage.positions import Positions
from storage.schema import DumpSchema

Tail = Literal["bucket", "renormalise", "drop"]

PARTS = ("loss", "cross_entropy", "kl")
"""What ``distillation_rows`` sums, in nats; ``kl`` is at temperature T, without the factor T^2."""
DRAWN_PARTS = ("loss", "cross_entropy", "soft_cross_entropy")
"""The same for targets with draws; ``soft_cross_entropy`` is at temperature T, without the factor T^2."""

NUM_GOLD_PARTS = 2
"""How many of either, the first, there are without targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftTargets:
    """The teacher's distributions for R rows, at one temperature T."""

    ids: Tensor
    """int64 ``[R, k]``, distinct in each row, in any order."""
    log_probs: Tensor
    """float ``[R, k]``: log p(w) at T = 1, over the whole vocabulary."""
    tail: Tensor
    """float ``[R]``: log p_T(rest); -inf where nothing is left. Not read when k = V."""
    logz: Tensor
    """float ``[R]``: log of the sum over w of p(w)^(1/T); 0 at T = 1."""

    def __getitem__(self, rows: slice) -> Self:
        """Return these rows alone."""
        return type(self)(**{name: getattr(self, name)[rows] for name in self.__slots__})

    @classmethod
    def from_positions(cls, positions: Positions, temperature_index: int, device: torch.device | None = None) -> Self:
        """Return what a dump holds for these positions, at the temperature of that index, on ``device`` (None: CPU)."""
        arrays = {
            "ids": positions.ids.astype(np.int64),
            "log_probs": positions.logp,
            "tail": positions.tail[:, temperature_index].copy(),
            "logz": positions.logz[:, temperature_index].copy(),
        }
        return cls(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnTargets:
    """Estimates of the teacher's distributions for R rows, at one temperature T."""

    ids: Tensor
    """int64 ``[R, k]``: any id of the vocabulary where a column is unused."""
    weights: Tensor
    """float ``[R, k]``: p^_T(w); 0 where unused. A row need not sum to 1."""

    def __getitem__(self, rows: slice) -> Self:
        """Return these rows alone."""
        return type(self)(ids=self.ids[rows], weights=self.weights[rows])

    @classmethod
    def from_positions(
        cls, positions: Positions, schema: DumpSchema, temperature_index: int, device: torch.device | None = None
    ) -> Self:
        """Return what a dump of ``schema``, one with draws, holds for these positions; as in ``SoftTargets``."""
        assert positions.counts is not None, "a dump without draws has SoftTargets"
        arrays = (
            positions.ids.astype(np.int64),
            positions.logp,
            positions.counts,
            positions.tail[:, 0].copy(),
            positions.logz[:, temperature_index].copy(),
        )
        ids, logp, counts, tail, logz = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(
            ids=ids.masked_fill(logp.isnan(), 0),
            weights=estimated_probabilities(
                logp.float(),
                counts,
                tail,
                logz,
                num_top=schema.num_top,
                temperature=schema.temperatures[temperature_index],
            ),
        )


def estimated_probabilities(
    log_probs: Tensor, counts: Tensor, tail: Tensor, logz: Tensor, *, num_top: int, temperature: float
) -> Tensor:
    """Return p^_T, ``[R, k]`` of the dtype of ``log_probs``; 0 in unused columns.

    Args:
        log_probs: float ``[R, k]``: log p(w) at T = 1; NaN in unused columns.
        counts: ``[R, k]``: draws of each id; 0 for the first ``num_top``, which are exact, and in unused columns.
        tail: float ``[R]``: log of the mass outside the exact ids at T = 1.
        logz: float ``[R]``: log of the sum over w of p(w)^(1/T).
        num_top: How many ids are exact; the other k - ``num_top`` columns are for as many draws.
        temperature: T.
    """
    # float16 has no -65,505: as -inf it would meet itself in a difference, where the rest is as improbable.
    log_probs = log_probs.clamp(min=torch.finfo(torch.float16).min)
    log_weights = log_probs / temperature - logz.to(log_probs.dtype)[:, None]
    drawn = log_probs[:, num_top:]
    share = counts[:, num_top:].to(log_probs.dtype) / drawn.shape[1]
    # In logarithms, since mass of the rest and probability may both be too small for float32 where their ratio is not.
    log_weights[:, num_top:] += share.log() + (tail.to(log_probs.dtype)[:, None] - drawn)
    weights = log_weights.exp()
    weights[:, num_top:].masked_fill_(share == 0, 0.0)
    return weights


Targets = SoftTargets | DrawnTargets


def distillation_terms(
    logits: Tensor, gold: Tensor, targets: Targets | None, *, temperature: float = 1.0, tail: Tail = "bucket"
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy with the gold tokens and KL(teacher_T || student_T), row by row.

    For targets with draws the second is the soft cross-entropy, which is no divergence.

    Args:
        logits: ``[R, V]``, unnormalised; computed in float32, or in float64 if given so.
        gold: int64 ``[R]`` in ``[0, V)``.
        targets: The teacher's distributions, or None: KL is then 0.
        temperature: T, above 0, the one that ``targets`` are for.
        tail: What becomes of the tokens outside the top k; see the module. Not used where there are draws.

    Returns:
        ``[R]`` and ``[R]`` in nats; the second without the factor T^2.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    if targets is None:
        cross_entropy = F.cross_entropy(logits, gold, reduction="none")
        return cross_entropy, torch.zeros_like(cross_entropy)

    k = targets.ids.shape[1]
    temperatures = (temperature,) if temperature == 1 else (temperature, 1.0)
    index = torch.cat([targets.ids, gold[:, None]], 1)
    if isinstance(targets, DrawnTargets):
        # Nothing is selected, so that the rest is the whole vocabulary: unused columns hold an id that others may hold.
        chosen, totals = _Summary.apply(logits, index, 0, temperatures)  # type: ignore[no-untyped-call]
        log_q = chosen[:, :k] / temperature - totals[0][:, None]
        return totals[-1] - chosen[:, k], -(targets.weights.to(logits.dtype) * log_q).sum(1)
    chosen, rests = _Summary.apply(logits, index, k, temperatures)  # type: ignore[no-untyped-call]
    selected = chosen[:, :k] / temperature
    has_rest = k < logits.shape[1]
    log_normaliser = log_total = _log_total(selected, rests[0] if has_rest else None)
    if temperature != 1:
        log_normaliser = _log_total(chosen[:, :k], rests[1] if has_rest else None)

    log_p = targets.log_probs.to(logits.dtype) / temperature - targets.logz.to(logits.dtype)[:, None]
    if tail == "renormalise":
        log_p = log_p - log_p.logsumexp(1, keepdim=True)
    kl = _divergence(log_p, selected - log_total[:, None]).sum(1)
    if tail == "bucket" and has_rest:
        kl = kl + _divergence(targets.tail.to(logits.dtype), rests[0] - log_total)
    return log_normaliser - chosen[:, k], kl


def distillation_rows(
    gold: Tensor,
    targets: Targets | None,
    *,
    alpha: float,
    temperature: float = 1.0,
    tail: Tail = "bucket",
) -> RowLoss:
    """Return the row loss for ``pipeline.chunked_vocabulary.vocabulary_loss``, with three parts.

    They are named by ``DRAWN_PARTS`` for targets with draws, else by ``PARTS``.

    Args:
        gold: int64 ``[P]``.
        targets: For the same P positions; None: the loss is the cross-entropy alone, whatever ``alpha``.
        alpha: Weight of the cross-entropy, in [0, 1].
        temperature: T.
        tail: See ``distillation_terms``.
    """
    soft_weight = (1 - alpha) * temperature**2

    def row_loss(logits: Tensor, rows: slice) -> Tensor:
        block = targets[rows] if targets is not None else None
        cross_entropy, soft = (
            term.sum() for term in distillation_terms(logits, gold[rows], block, temperature=temperature, tail=tail)
        )
        loss = alpha * cross_entropy + soft_weight * soft if targets is not None else cross_entropy
        return torch.stack([loss, cross_entropy, soft])

    return row_loss


class _Summary(torch.autograd.Function):
    """All that the loss needs of logits ``[R, V]``: those at some ids, and log-sum-exps of those not selected.

    Both are less the row's largest selected logit (of all, if none is selected), so that float32 keeps its digits when
    all logits are large; that is taken as a constant, which what depends on differences alone cannot tell. The
    exponentials are kept for the gradient: one pass of them a temperature, where a composition of torch's own functions
    takes two and more copies.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch gives its context no public type
        logits: Tensor,
        index: Tensor,
        k: int,
        temperatures: tuple[float, ...],
    ) -> tuple[Tensor, Tensor]:
        """Return the logits at ``index`` (the first k are selected), and ``[nT, R]``; the last T is 1."""
        chosen = logits.gather(1, index)
        ctx.num_ids, ctx.temperatures = logits.shape[1], temperatures
        if k == logits.shape[1]:
            ctx.save_for_backward(index)
            return chosen - chosen[:, :k].amax(1, keepdim=True), logits.new_empty(len(temperatures), 0)
        rest = logits.scatter(1, index[:, :k], -torch.inf)
        shift = rest.amax(1)
        base = chosen[:, :k].amax(1) if k else shift
        rest -= shift[:, None]
        exponentials = [(rest / temperature).exp_() for temperature in temperatures[:-1]]
        exponentials.append(rest.exp_())
        sums = torch.stack([each.sum(1) for each in exponentials])
        ctx.save_for_backward(index, sums, *exponentials)
        scale = 1 / sums.new_tensor(temperatures)[:, None]
        return chosen - base[:, None], sums.log() + scale * (shift - base)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_chosen: Tensor, grad_rests: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        index, *kept = ctx.saved_tensors
        if kept:
            sums, first, *others = kept
            scales = grad_rests / (sums * sums.new_tensor(ctx.temperatures)[:, None])
            grad = first * scales[0, :, None]
            for each, scale in zip(others, scales[1:], strict=True):
                grad.addcmul_(each, scale[:, None])
        else:
            grad = grad_chosen.new_zeros(len(index), ctx.num_ids)
        return grad.scatter_add_(1, index, grad_chosen), None, None, None


def _log_total(selected: Tensor, log_rest: Tensor | None) -> Tensor:
    """Return ``[R]``: the log-sum-exp of the selected logits and of the rest, if there is a rest."""
    log_selected = selected.logsumexp(1)
    return log_selected if log_rest is None else torch.logaddexp(log_selected, log_rest)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return p log(p / q) elementwise; 0 where p is 0."""
    p = log_p.exp()
    return p * (torch.where(p > 0, log_p, 0.0) - log_q)
