"""What a dump says about itself: kept mass and perplexity, from float64 sums a shard.

The sums of a shard follow from its rows alone, and shards are added up in their order, so the figures do not depend on
who wrote which shard. Before ``<eos>`` the teacher all but knows it, so figures are also given without it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.fingerprints import Json
from storage.positions import Positions
from storage.schema import DumpSchema


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpSummary:
    """Figures of a complete dump; all of the dumped distributions at T = 1."""

    num_positions: int
    num_sentences: int
    size_bytes: int
    """Bytes of all files but the manifest."""
    mean_kept_mass: float | None
    """Mean probability of a position's exact ids together; 0 where all are drawn, None if there are no positions."""
    mean_kept_mass_without_eos: float | None
    """The same without the positions of ``<eos>``; None if there are no others."""
    kept_mass_by_k: dict[int, float]
    """Mean probability of the first k' ids, for powers of two up to the number of exact ids, and that number."""
    gold_nats: float
    """Negative log-probability of all gold tokens."""
    eos_nats: float
    """That of ``<eos>`` alone."""
    perplexity: float | None
    """exp(gold_nats / num_positions); None above 1e308."""
    perplexity_without_eos: float | None
    """The same without the positions of ``<eos>``; None if there are no others."""

    def to_json(self) -> dict[str, Json]:
        """Return the figures as JSON values."""
        return {**asdict(self), "kept_mass_by_k": {str(k): mass for k, mass in self.kept_mass_by_k.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DumpSummary":
        """Return what `to_json` wrote."""
        kept = {int(k): mass for k, mass in value["kept_mass_by_k"].items()}
        return cls(**{**value, "kept_mass_by_k": dict(sorted(kept.items()))})


def shard_sums(positions: Positions, is_eos: NDArray[np.bool_], num_top: int) -> dict[str, float]:
    """Return the sums over one shard from which `summarise` makes the figures.

    Args:
        positions: The rows of the shard.
        is_eos: ``[n]`` bool: the last position of each sentence.
        num_top: How many ids of a row are exact: those before the drawn ones.
    """
    kept = -np.expm1(positions.tail[:, 0].astype(np.float64))
    gold = positions.gold_logp.astype(np.float64)
    bits = positions.logp[:, :num_top].view(np.uint16)
    columns = np.cumsum(np.take(_half_exponentials(), bits).sum(axis=0, dtype=np.float64))
    return {
        "kept_mass": float(kept.sum()),
        "eos_kept_mass": float(kept[is_eos].sum()),
        "gold_nats": -float(gold.sum()),
        "eos_nats": -float(gold[is_eos].sum()),
        **{f"kept_mass_of_{k}": float(columns[k - 1]) for k in powers_of_two_below(num_top)},
    }


def summarise(schema: DumpSchema, sums: Sequence[Mapping[str, float]], size_bytes: int) -> DumpSummary:
    """Return the figures of a dump from the sums of all its shards, in their order."""
    kept_by_k = {k: f"kept_mass_of_{k}" for k in powers_of_two_below(schema.num_top)}
    if schema.num_top:
        kept_by_k[schema.num_top] = "kept_mass"
    names = {"kept_mass", "eos_kept_mass", "gold_nats", "eos_nats", *kept_by_k.values()}
    total = {name: math.fsum(shard[name] for shard in sums) for name in names}
    num_positions = schema.num_positions
    num_words = num_positions - schema.num_sentences
    return DumpSummary(
        num_positions=num_positions,
        num_sentences=schema.num_sentences,
        size_bytes=size_bytes,
        mean_kept_mass=_mean(total["kept_mass"], num_positions),
        mean_kept_mass_without_eos=_mean(total["kept_mass"] - total["eos_kept_mass"], num_words),
        kept_mass_by_k={k: total[name] / num_positions for k, name in kept_by_k.items() if num_positions},
        gold_nats=total["gold_nats"],
        eos_nats=total["eos_nats"],
        perplexity=_exp(total["gold_nats"], num_positions),
        perplexity_without_eos=_exp(total["gold_nats"] - total["eos_nats"], num_words),
    )


def powers_of_two_below(k: int) -> list[int]:
    """Return 1, 2, 4, … while below ``k``."""
    return [1 << bit for bit in range((k - 1).bit_length())] if k else []


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _exp(nats: float, count: int) -> float | None:
    if not count or nats / count > 709:
        return None
    return math.exp(nats / count)


@cache
def _half_exponentials() -> NDArray[np.float32]:
    """Return exp of every float16, by its bits: quicker than exp, and the same on every machine."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        return np.exp(halves).astype(np.float32)
