"""The teacher's distributions for the positions of a batch, as a dump holds them: exact, or estimated from draws.

Of a dump with draws, p^_T of the exact ids is p_T, and of an id w that c_w of n draws from the rest gave

    p^_T(w) = (c_w / n) (p(rest) / p(w)) p_T(w)

The expectation of c_w / n is p(w) / p(rest), so that of p^_T is p_T: importance sampling with p at T = 1 as the
proposal (for T = 1 see Anshumann et al. 2025, Sparse Logit Sampling). It does not sum to 1, and must not be made to.

Shape letters: R rows, k tokens kept or columns of draws.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pipeline.runtime.distributed import on_device
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema


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
    def from_positions(cls, positions: Positions, temperature_index: int, device: torch.device) -> Self:
        """Return what a dump holds for these positions, at the temperature of that index, on ``device``."""
        arrays: dict[str, np.ndarray] = {
            "ids": positions.ids.astype(np.int64),
            "log_probs": positions.logp,
            "tail": positions.tail[:, temperature_index].copy(),
            "logz": positions.logz[:, temperature_index].copy(),
        }
        return cls(**{name: on_device(array, device) for name, array in arrays.items()})


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
        cls, positions: Positions, schema: DumpSchema, temperature_index: int, device: torch.device
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
        ids, logp, counts, tail, logz = (on_device(array, device) for array in arrays)
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
