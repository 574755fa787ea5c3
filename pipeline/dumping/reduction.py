"""Reduce a next-token distribution to what a dump keeps: its most probable tokens, draws, or both.

A position has probabilities p over the vocabulary. The *top tokens* are the m most probable tokens. The *draws* are n
random draws, with replacement, from p at T = 1 without the top tokens. A dump keeps these values for the position, with
one logz and one tail for each temperature T:

    logp       = natural log of p(id) at T = 1, not renormalised over the kept ids
    logz(T)    = log sum over w of p(w)^(1/T)                  so p_T(w) = p(w)^(1/T) / exp(logz(T)), and logz(1) = 0
    tail(T)    = log sum over w of p_T(w)                      for w outside the top tokens; log 1 = 0 if m = 0
    gold_logp  = log p(gold token)
    counts     = how often each id was drawn

There are k = m + n columns: first the m top tokens, then the distinct drawn ids. Both parts are sorted most probable
first, with ties by id. If an id is drawn more than once, the last columns are unused. Draws are made in float64.

Shape letters: R rows of logits, V vocabulary, k columns, m top tokens, n draws, nT temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNUSED = -1
"""Id of an unused column. In a dump, whose ids are unsigned, it becomes the highest value of the type."""

DRAW_ROWS = 256
"""Number of rows to draw for at a time. Drawing for 1,024 rows at once takes three times as long per row at V = 12,000
(150 instead of 50 us), mostly in page faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduced:
    """The reduced form of R distributions, on the device that computed them."""

    ids: Tensor
    """int64 ``[R, k]``; ``UNUSED`` in unused columns."""
    logp: Tensor
    """``[R, k]``, in the model's precision; NaN in unused columns."""
    gold_logp: Tensor
    """``[R]``."""
    tail: Tensor
    """``[R, nT]``; -inf if no mass is outside the top tokens."""
    logz: Tensor
    """``[R, nT]``."""
    counts: Tensor | None
    """uint8 ``[R, k]``: 0 for top tokens and unused columns; None if nothing is drawn."""


def reduce_logits(
    logits: Tensor,
    gold: Tensor,
    *,
    k: int,
    num_top: int,
    temperatures: Sequence[float],
    generator: torch.Generator,
) -> Reduced:
    """Reduce logits to what a dump keeps of them, by the equations of this module.

    Args:
        logits: ``[R, V]`` float32 or float64, unnormalised.
        gold: int64 ``[R]``: the gold token of each row.
        k: Number of columns, in 1 .. V.
        num_top: m, in 0 .. k; if it is k, nothing is drawn.
        temperatures: The temperatures of the dump; the first is 1.
        generator: Random generator for the draws, on the logits' device.
    """
    log_probs = logits.log_softmax(1)
    ids, largest, largest_outside = _top_ids(log_probs, num_top)
    logz = [_log_sum(log_probs, t, largest) if t != 1 else torch.zeros_like(log_probs[:, 0]) for t in temperatures]
    logp, gold_logp, counts = log_probs.gather(1, ids), log_probs.gather(1, gold[:, None])[:, 0], None
    outside = log_probs.scatter_(1, ids, -torch.inf)
    tail = [_tail(outside, t, z, num_top, largest_outside) for t, z in zip(temperatures, logz, strict=True)]
    if num_top < k:
        drawn, drawn_counts = _draw(outside, k - num_top, generator)
        drawn_logp = outside.gather(1, drawn.clamp(min=0)).masked_fill(drawn == UNUSED, torch.nan)
        counts = torch.cat([torch.zeros_like(ids), drawn_counts], 1).to(torch.uint8)
        ids, logp = torch.cat([ids, drawn], 1), torch.cat([logp, drawn_logp], 1)
    return Reduced(
        ids=ids,
        logp=logp,
        gold_logp=gold_logp,
        tail=torch.stack(tail, dim=1),
        logz=torch.stack(logz, dim=1),
        counts=counts,
    )


def draw_generator(draw_seed: int, shard: int, device: torch.device) -> torch.Generator:
    """Return the generator of a shard's draws. Its seed depends only on (draw_seed, shard)."""
    (seed,) = np.random.SeedSequence([draw_seed, shard]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed))


def _log_sum(log_probs: Tensor, temperature: float, largest: Tensor) -> Tensor:
    """Return the log of the sum of ``p^(1/T)`` over each row. ``largest``, ``[R, 1]``, must be finite."""
    scaled = (log_probs - largest).div_(temperature) if temperature != 1 else log_probs - largest
    return scaled.exp_().sum(1).log_() + largest[:, 0] / temperature


def _tail(outside: Tensor, temperature: float, logz: Tensor, num_top: int, largest: Tensor) -> Tensor:
    if not num_top:
        return torch.zeros_like(logz)  # exact, because all mass is outside
    if num_top == outside.shape[1]:
        return torch.full_like(logz, -torch.inf)
    # If no mass is outside, ``largest`` is -inf. Without the clamp, -inf - (-inf) would give NaN.
    return _log_sum(outside, temperature, largest.clamp(min=torch.finfo(outside.dtype).min)) - logz


def _draw(outside: Tensor, num_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw with replacement from softmax(``outside``); return distinct ids and how often each was drawn.

    ``outside``, ``[R, V]``, holds log-probabilities up to a constant per row; -inf for ids that must not be drawn.

    Returns:
        Ids, int64 ``[R, n]``: most probable first with ties by id, then ``UNUSED``. Counts, int64 ``[R, n]``: 0 in
        unused columns. A row without mass has no draws.
    """

    def uniform(block: Tensor) -> Tensor:
        return torch.rand(len(block), num_draws, dtype=torch.float64, device=block.device, generator=generator)

    draws = torch.cat([draw_by_inversion(block, uniform(block)) for block in outside.split(DRAW_ROWS)])
    # Sorting makes equal draws neighbours. Equal draws become one column.
    draws = draws.sort(dim=1).values
    is_first = torch.ones_like(draws, dtype=torch.bool)
    is_first[:, 1:] = draws[:, 1:] != draws[:, :-1]
    column = is_first.cumsum(1) - 1
    ids = torch.full_like(draws, UNUSED).scatter_(1, column, draws)
    counts = torch.zeros_like(draws).scatter_add_(1, column, torch.ones_like(draws))
    is_used = (ids != UNUSED) & (ids < outside.shape[1])
    ids, counts = ids.where(is_used, UNUSED), counts.where(is_used, 0)
    order = outside.gather(1, ids.clamp(min=0)).masked_fill(~is_used, -torch.inf)
    order = order.sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order), counts.gather(1, order)


def draw_by_inversion(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Return n draws per row by inversion of the cumulative sums: int64 ``[R, n]``.

    In a row without mass, every draw is V, which is not an id.

    The sums are float64. torch.multinomial keeps float32 sums, which near 1 are multiples of 6e-8. Of 12,000 tokens
    (normal logits, deviation 2.5), 194 could then never be drawn, and some tokens with a probability above 1e-7 were
    drawn up to 20 % too often or too rarely. In float64, torch.multinomial is slower on a CPU, and on a GPU its uniform
    numbers have only float32's digits.

    Args:
        log_weights: ``[R, V]``: log-probabilities up to a constant per row; -inf for what must not be drawn.
        uniform: float64 ``[R, n]``: numbers in [0, 1).
    """
    largest = log_weights.amax(1, keepdim=True)
    shifted = log_weights - largest.clamp(min=torch.finfo(log_weights.dtype).min)  # a row of -inf stays -inf
    sums = shifted.exp_().double()
    torch.cumsum(sums, 1, out=sums)
    # uniform < 1 keeps the product below the last sum. With right=True, tokens without mass are skipped.
    return torch.searchsorted(sums, uniform * sums[:, -1:], right=True)


def _top_ids(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ids of the k largest values of each row, the largest value, and the largest value outside the k.

    ``topk`` orders ties arbitrarily. A row whose k-th value equals the next value is sorted as a whole.

    Returns:
        The ids, int64 ``[R, k]``: the id of the largest value first, with ties by id. The largest value, ``[R, 1]``.
        The largest value outside the k, ``[R, 1]``; -inf if k is V.
    """
    vocab_size = log_probs.shape[1]
    values, ids = log_probs.topk(min(k + 1, vocab_size), dim=1)
    largest = values[:, :1]
    outside = values[:, k:] if k < vocab_size else torch.full_like(largest, -torch.inf)
    ids = ids[:, :k].sort(dim=1).values
    by_value = log_probs.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    ids = ids.gather(1, by_value)
    unclear = (values[:, :k][:, -1:] == outside).any(1).nonzero()[:, 0]
    if len(unclear):
        ids[unclear] = log_probs[unclear].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return ids, largest, outside
