"""Mix the soft targets of several dumps, so that a student learns from several teachers at once.

With weights w_d that add up to 1, and the distribution p_d of dump d at the student's temperature T, the target is

    m(v) = sum over d of w_d p_d(v)

So each teacher is tempered first, and then the results are mixed.

A dump keeps k_d tokens and the mass r_d of all other tokens. For a token v that dump d does not keep, p_d(v) is not
known. It is at most c_d, the smaller of r_d and the smallest kept probability. Instead of p_d(v), this module uses
u_d = r_d / (V - k_d): the mass r_d is spread evenly over the tokens that the dump does not keep. This has three
consequences:

- For a token that all dumps keep, the target is exactly m(v), up to the rounding of the dumps.
- For any other token, the target differs from m(v) by at most the sum of w_d c_d over the dumps that do not keep it.
- The total variation distance between the target and m is at most the sum of w_d r_d.

The result keeps all tokens that at least one dump keeps. All rows have the same number W of columns. If several dumps
keep the same token in a row, columns are left over. They get other tokens of the vocabulary, with the probability that
the even spread gives them. The mass of the tokens outside the W columns is (V - W) times the sum of w_d u_d.

One could keep only the tokens that all dumps keep, because their m(v) is known exactly. But then the student's gradient
is less accurate. In all simulations of ``tests/student/test_mixed_targets.py``, its distance from the gradient that m
itself gives is larger than with the targets described above.

Dumps with draws (tokens drawn at random from p_d) hold unbiased estimates of p_d. Their weighted sum is an unbiased
estimate of m, but the bounds above do not hold for this sum.

Shape letters: R rows, k_d and W columns, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from storage.errors import ConfigError, StoreError
from student.targets import DrawnTargets, DumpTargets, SoftTargets, TargetOptions, Targets

if TYPE_CHECKING:
    from pipeline.corpus.dataset.dataset_store import Split
    from storage.dump.reader import DumpReader


class MixedTargets:
    """The mixture of the soft targets of several dumps. It has the methods of ``DumpTargets``.

    If targets are shuffled, all dumps are shuffled in the same order.

    Raises:
        FingerprintMismatchError: If a dump was made from another split or tokenizer, or has other sentences.
        StoreError: If a dump was not made for this temperature, if a dump has draws and the tail or the divergence is
            not the default, or if some dumps have draws and others have none.
    """

    def __init__(
        self, dumps: Sequence["DumpReader"], weights: Sequence[float], split: "Split", options: TargetOptions
    ) -> None:
        self._parts = [DumpTargets(dump, split, options) for dump in dumps]
        self._weights = weights
        self._temperature = options.temperature
        self._vocab_size = dumps[0].schema.vocab_size
        for dump, part in zip(dumps, self._parts, strict=True):
            if part.have_draws != self.have_draws:
                raise StoreError(
                    f"{dump.folder}: selection is {dump.schema.selection}, but {dumps[0].schema.selection} in "
                    f"{dumps[0].folder}. A mixture needs dumps that all have draws, or dumps of the top k only"
                )

    @property
    def have_draws(self) -> bool:
        """Whether the targets are estimates from draws."""
        return self._parts[0].have_draws

    def prefetch(self, sentences: np.ndarray) -> None:
        """See ``DumpTargets.prefetch``."""
        for part in self._parts:
            part.prefetch(sentences)

    def read(self, sentences: np.ndarray, num_positions: np.ndarray, device: torch.device) -> Targets:
        """Return mixed targets; see ``DumpTargets.read``."""
        found = [part.read(sentences, num_positions, device) for part in self._parts]
        drawn = [part for part in found if isinstance(part, DrawnTargets)]
        if drawn:
            weights = [weight * part.weights for weight, part in zip(self._weights, drawn, strict=True)]
            return DrawnTargets(ids=torch.cat([part.ids for part in drawn], 1), weights=torch.cat(weights, 1))
        kept = [part for part in found if isinstance(part, SoftTargets)]
        return mix(kept, self._weights, temperature=self._temperature, vocab_size=self._vocab_size)


AnyTargets = DumpTargets | MixedTargets


def open_targets(
    dumps: Sequence["DumpReader"], weights: Sequence[float], split: "Split", options: TargetOptions
) -> AnyTargets:
    """Return the targets of one dump, or of a mixture of several. The errors are those of ``MixedTargets``."""
    return DumpTargets(dumps[0], split, options) if len(dumps) == 1 else MixedTargets(dumps, weights, split, options)


def mixture_weights(given: Sequence[float], num_dumps: int) -> list[float]:
    """Return the weights of a mixture, which add up to 1. Without ``given`` weights all dumps have the same weight.

    Raises:
        ConfigError: If ``given`` is not empty and does not have one weight for each dump.
    """
    if given and len(given) != num_dumps:
        raise ConfigError(
            f"--dump-weights has {len(given)} values, but there are {num_dumps} dumps. Give one value for each --dump"
        )
    weights = given or [1.0] * num_dumps
    return [weight / sum(weights) for weight in weights]


def mix(parts: Sequence[SoftTargets], weights: Sequence[float], *, temperature: float, vocab_size: int) -> SoftTargets:
    """Return the mixture of targets of the same R rows, with W = min(V, the sum of all k_d) columns.

    The ``log_probs`` of the result are T log m(v), because the loss divides by T. Its ``logz`` is 0.

    Args:
        parts: The targets of each dump, all for the temperature T. Ids are distinct in each row.
        weights: w_d, above 0, adding up to 1.
        temperature: T.
        vocab_size: V.
    """
    dtype = torch.promote_types(parts[0].log_probs.dtype, torch.float32)
    above, estimates = [], []  # w_d p_d(v) - w_d u_d of the kept tokens, and log(w_d u_d)
    for part, weight in zip(parts, weights, strict=True):
        num_others = vocab_size - part.ids.shape[1]
        tail = part.tail.to(dtype) if num_others else torch.full_like(part.tail, -torch.inf, dtype=dtype)
        estimates.append(tail + math.log(weight / max(1, num_others)))
        p = (part.log_probs.to(dtype) / temperature - part.logz.to(dtype)[:, None]).exp()
        above.append(weight * p - estimates[-1].exp()[:, None])
    log_estimate = torch.stack(estimates).logsumexp(0)
    width = min(vocab_size, sum(part.ids.shape[1] for part in parts))
    ids, added = _summed([part.ids for part in parts], above, width)
    probabilities = (added + log_estimate.exp()[:, None]).clamp(min=0)  # rounding can give less than 0
    return SoftTargets(
        ids=ids,
        log_probs=temperature * probabilities.log(),
        tail=log_estimate + (math.log(vocab_size - width) if width < vocab_size else -math.inf),
        logz=torch.zeros_like(log_estimate),
    )


def _summed(ids: Sequence[Tensor], values: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Return ``width`` distinct ids for each row, and the sum of the values of each id.

    All given ids come first. Other ids have the sum 0.

    Args:
        ids: int64 ``[R, k_d]`` each. The ids of a row of one tensor are distinct.
        values: ``[R, k_d]`` each.
        width: At most V, and at least the number of distinct ids of any row.
    """
    # With the ids 0 to width - 1 as additional columns, each row has at least ``width`` distinct ids.
    others = torch.arange(width, device=ids[0].device).expand(len(ids[0]), width)
    all_ids, order = torch.cat([*ids, others], 1).sort(dim=1)
    is_given = (order < all_ids.shape[1] - width).to(torch.int64)
    all_values = torch.cat([*values, values[0].new_zeros(others.shape)], 1).gather(1, order)
    is_new = torch.ones_like(all_ids)
    is_new[:, 1:] = all_ids[:, 1:] != all_ids[:, :-1]
    column = is_new.cumsum(1) - 1  # equal ids, which are neighbours now, share a column
    distinct = torch.zeros_like(all_ids).scatter_(1, column, all_ids)
    sums = torch.zeros_like(all_values).scatter_add_(1, column, all_values)
    num_given = torch.zeros_like(all_ids).scatter_add_(1, column, is_given)
    first = (num_given > 0).to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :width]
    return distinct.gather(1, first), sums.gather(1, first)
