"""What a dump says about itself: kept mass, perplexity and entropy, from float64 sums and a histogram a shard.

The figures of a shard follow from its rows alone, and shards are added up in their order, so those of a dump do not
depend on who wrote which shard. Before ``<eos>`` the teacher all but knows it, so figures are also given without it.

The entropy is that of what is kept of a position at T = 1, the exact ids and one bucket for all others:

    H = -Σ_j p(ids[j]) log p(ids[j]) - exp(tail) tail        in nats; a lower bound on the entropy over the vocabulary

Merging outcomes never increases entropy (Cover and Thomas 2006, problem 2.5): it is tight where k = V. Entropies are
whole numbers of `ENTROPY_UNITS`, so that they add up exactly. Quantiles are those of a histogram: to within a bin,
1/64 nat, at 1 to 3 kB a shard, where exact ones would need all entropies again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.fingerprints import Json

ENTROPY_UNITS = 1 << 22
"""Units of a nat: rounding a term to one of them moves an entropy by less than 1e-4 nats at any k up to 800."""
ENTROPY_BINS = 1 << 6
"""Bins of a nat, a power of two, so that the bin of a whole number is a shift of it."""
QUANTILES = (5, 25, 50, 75, 95)
"""Percent."""
_BLOCK = 2_048
"""Rows worked on at a time: their temporaries stay in the cache, which halves the time of an entropy."""


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
    mean_entropy_nats: float | None
    """Mean entropy of a position's exact ids and one bucket for all others; None if there are no positions, or no exact
    ids."""
    entropy_nats_quantiles: dict[int, float] | None
    """Percent → that quantile of these entropies, to within 1/64 nat; None as the mean."""
    mean_num_effective: float | None = None
    """Mean effective number of the hypotheses whose mixture a distribution is; None where that is not known of all."""

    def to_json(self) -> dict[str, Json]:
        """Return the figures as JSON values, without ``mean_num_effective`` where it is None."""
        quantiles, figures = self.entropy_nats_quantiles, asdict(self)
        if self.mean_num_effective is None:
            del figures["mean_num_effective"]
        return {
            **figures,
            "kept_mass_by_k": {str(k): mass for k, mass in self.kept_mass_by_k.items()},
            "entropy_nats_quantiles": {str(q): nats for q, nats in quantiles.items()} if quantiles else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DumpSummary":
        """Return what `to_json` wrote."""
        kept, quantiles = value["kept_mass_by_k"], value["entropy_nats_quantiles"]
        return cls(
            **{
                **value,
                "kept_mass_by_k": _by_number(kept),
                "entropy_nats_quantiles": _by_number(quantiles) if quantiles is not None else None,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFigures:
    """What `summarise` makes a dump's figures from: one of these a shard."""

    sums: dict[str, float]
    """Float64 sums over the rows; ``num_effective`` only where it is known of them."""
    entropy_histogram: list[int]
    """How many rows have an entropy in each bin of 1/64 nat from 0 on, without zeros at the end; empty if no id is
    exact."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShardFigures":
        """Return what ``asdict`` gave.

        Raises:
            ValueError: If the histogram does not count anything.
        """
        figures = cls(sums=dict(value["sums"]), entropy_histogram=list(value["entropy_histogram"]))
        if any(type(count) is not int or count < 0 for count in figures.entropy_histogram):
            raise ValueError("an entropy_histogram holds something else than counts")
        return figures


def shard_figures(
    positions: Positions, is_eos: NDArray[np.bool_], num_top: int, num_effective: NDArray[np.float32] | None = None
) -> ShardFigures:
    """Return the figures of one shard.

    Args:
        positions: The rows of the shard.
        is_eos: ``[n]`` bool: the last position of each sentence.
        num_top: How many ids of a row are exact: those before the drawn ones.
        num_effective: ``[n]`` float32: effective number of hypotheses in each row's mixture, if rows are mixtures.
    """
    kept = -np.expm1(positions.tail[:, 0].astype(np.float64))
    gold = positions.gold_logp.astype(np.float64)
    bits = positions.logp[:, :num_top].view(np.uint16)
    columns = np.cumsum(np.take(_half_exponentials(), bits).sum(axis=0, dtype=np.float64))
    sums = {
        "kept_mass": float(kept.sum()),
        "eos_kept_mass": float(kept[is_eos].sum()),
        "gold_nats": -float(gold.sum()),
        "eos_nats": -float(gold[is_eos].sum()),
        **{f"kept_mass_of_{k}": float(columns[k - 1]) for k in powers_of_two_below(num_top)},
    }
    if num_effective is not None:
        sums["num_effective"] = float(num_effective.sum(dtype=np.float64))
    if not num_top:
        return ShardFigures(sums=sums, entropy_histogram=[])
    entropies = _entropies(bits, positions.tail[:, 0])
    sums["entropy_nats"] = int(entropies.sum(dtype=np.int64)) / ENTROPY_UNITS
    histogram = np.bincount(entropies // (ENTROPY_UNITS // ENTROPY_BINS))
    return ShardFigures(sums=sums, entropy_histogram=histogram.tolist())


def summarise(schema: DumpSchema, shards: Sequence[ShardFigures], size_bytes: int) -> DumpSummary:
    """Return the figures of a dump from those of all its shards, in their order."""
    kept_by_k = {k: f"kept_mass_of_{k}" for k in powers_of_two_below(schema.num_top)}
    if schema.num_top:
        kept_by_k[schema.num_top] = "kept_mass"
    names = {"kept_mass", "eos_kept_mass", "gold_nats", "eos_nats", *kept_by_k.values()}
    if schema.num_top:
        names.add("entropy_nats")
    # Shards that an older program wrote lack it, and a part would not be the mean of the dump.
    if shards and all("num_effective" in shard.sums for shard in shards):
        names.add("num_effective")
    total = {name: math.fsum(shard.sums[name] for shard in shards) for name in names}
    histogram = [sum(counts) for counts in zip_longest(*(shard.entropy_histogram for shard in shards), fillvalue=0)]
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
        mean_entropy_nats=_mean(total["entropy_nats"], num_positions) if schema.num_top else None,
        entropy_nats_quantiles=entropy_quantiles(histogram),
        mean_num_effective=_mean(total["num_effective"], num_positions) if "num_effective" in names else None,
    )


def entropy_quantiles(histogram: Sequence[int]) -> dict[int, float] | None:
    """Return percent → quantile in nats of the entropies that were counted; None if there are none.

    As ``numpy.quantile`` does, between the two entropies nearest in rank; of each only its bin is known, in which
    entropies are taken to be spread evenly. So a quantile is off by less than a bin, 1/64 nat.
    """
    counts = np.array(histogram, np.int64)
    ends = np.cumsum(counts)
    if not ends.size or not ends[-1]:
        return None

    def of_rank(rank: int) -> float:
        at = int(np.searchsorted(ends, rank, side="right"))
        inside = rank - int(ends[at] - counts[at])
        return (at + (inside + 0.5) / int(counts[at])) / ENTROPY_BINS

    quantiles = {}
    for percent in QUANTILES:
        lower, rest = divmod(percent * (int(ends[-1]) - 1), 100)
        low, high = of_rank(lower), of_rank(lower + (rest > 0))
        quantiles[percent] = low + (high - low) * rest / 100
    return quantiles


def powers_of_two_below(k: int) -> list[int]:
    """Return 1, 2, 4, … while below ``k``."""
    return [1 << bit for bit in range((k - 1).bit_length())] if k else []


def _by_number(value: Mapping[str, float]) -> dict[int, float]:
    return dict(sorted((int(key), figure) for key, figure in value.items()))


def _entropies(bits: NDArray[np.uint16], tail: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the entropy of each row in `ENTROPY_UNITS`, from float16 log-probabilities ``[n, m]`` by their bits."""
    entropies = np.empty(len(bits), np.int32)
    for start in range(0, len(bits), _BLOCK):
        rows = slice(start, start + _BLOCK)
        np.take(_half_entropies(), bits[rows]).sum(axis=1, dtype=np.int32, out=entropies[rows])
    log_rest = np.clip(tail.astype(np.float64), -1e3, 0)  # -inf times 0 is none
    entropies += np.rint(-log_rest * np.exp(log_rest) * ENTROPY_UNITS).astype(np.int32)
    np.maximum(entropies, 0, out=entropies)  # a log-probability may exceed 0 by rounding
    return entropies


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


@cache
def _half_entropies() -> NDArray[np.int32]:
    """Return -p log p in `ENTROPY_UNITS` of every float16 log p, by its bits; 0 for what is none."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    logs = np.where((halves > -1e3) & (halves < 1), halves, -1e3)
    terms: NDArray[np.int32] = np.rint(-logs * np.exp(logs) * ENTROPY_UNITS).astype(np.int32)
    return terms
