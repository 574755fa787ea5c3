"""Compute the statistics of a dump: kept mass, perplexity and entropy, from float64 sums and a histogram per shard.

The top tokens of a position are the most probable ones, which the dump keeps. Their summed probability is the kept
mass. A shard is a range of positions and has a row for each. The sums of the shards are added up in the order of the
shards, so the statistics do not depend on which process wrote which shard. A teacher that is given the tree is almost
certain of each ``<eos>``, because it sees that the tree is complete. So some statistics are also given without the
positions of ``<eos>``.

The entropy of a position is computed over its top tokens ``ids`` and one bucket for all other tokens, at T = 1 and in
nats. The log of the mass in this bucket is ``tail``:

    H = -Σ_j p(ids[j]) log p(ids[j]) - exp(tail) tail

H is a lower bound on the entropy over the vocabulary, because merging outcomes never increases entropy (Cover and
Thomas 2006, problem 2.5). The bound is exact if all tokens of the vocabulary are top tokens. Entropies are rounded to
whole numbers of a small unit, so that their sum is exact. Quantiles come from a histogram with bins of 1/64 nat, which
takes 1 to 3 kB per shard.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.fingerprints import Json
from storage.json_files import Count

ENTROPY_UNITS = 1 << 22
"""Units per nat. Rounding each term to a whole number of units moves an entropy by less than 1e-4 nats if k ≤ 800."""
ENTROPY_BINS = 1 << 6
"""Bins per nat."""
QUANTILES = (5, 25, 50, 75, 95)
"""Quantiles of the entropy, in percent."""
_BLOCK = 2_048
"""Rows per block of work. Their temporary arrays fit into the processor's cache, which halves the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpSummary:
    """Statistics of a complete dump. Probabilities are those of the dumped distributions at T = 1."""

    num_positions: int
    num_sentences: int
    size_bytes: int
    """Bytes of all files except ``manifest.json``, ``tokenizer.json`` and ``README.md``."""
    mean_kept_mass: float | None
    """Mean kept mass. 0 if the dump has only draws (tokens drawn at random from the distribution) and no top tokens;
    None if it has no positions."""
    mean_kept_mass_without_eos: float | None
    """``mean_kept_mass`` without the positions of ``<eos>``; None if there are no other positions."""
    kept_mass_by_k: dict[int, float]
    """For each k', the mean over positions of the summed probability of the first k' ids. With 100 top tokens, k' is 1,
    2, 4, 8, 16, 32, 64 and 100."""
    gold_nats: float
    """Sum of the negative log-probabilities of all gold tokens."""
    eos_nats: float
    """Sum of the negative log-probabilities at the positions of ``<eos>``."""
    perplexity: float | None
    """exp(gold_nats / num_positions); None without positions, or if it is too large for a float."""
    perplexity_without_eos: float | None
    """``perplexity`` without the positions of ``<eos>``; None if there are no other positions."""
    mean_entropy_nats: float | None
    """Mean of the entropy H. None without positions or without top tokens."""
    entropy_nats_quantiles: dict[int, float] | None
    """For each percentage in `QUANTILES`, the quantile of the positions' entropies, to within 1/64 nat; None if
    ``mean_entropy_nats`` is None."""
    mean_num_effective: float | None = None
    """With beam search: mean over the positions of the effective number of hypotheses, which is exp of the entropy of
    their weights. None if it is unknown for some shard, as it is without beam search."""

    def __post_init__(self) -> None:
        for name in ("kept_mass_by_k", "entropy_nats_quantiles"):  # JSON sorts the keys as text: 16 before 2
            if (figures := getattr(self, name)) is not None:
                object.__setattr__(self, name, dict(sorted(figures.items())))

    def to_json(self) -> dict[str, Json]:
        """Return the statistics as JSON values, without ``mean_num_effective`` if it is None."""
        quantiles, figures = self.entropy_nats_quantiles, asdict(self)
        if self.mean_num_effective is None:
            del figures["mean_num_effective"]
        return {
            **figures,
            "kept_mass_by_k": {str(k): mass for k, mass in self.kept_mass_by_k.items()},
            "entropy_nats_quantiles": {str(q): nats for q, nats in quantiles.items()} if quantiles else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFigures:
    """Sums and a histogram of one shard."""

    sums: dict[str, Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]]
    """Sums over the rows of the shard, by name, such as ``gold_nats``. ``num_effective`` is present only if known."""
    entropy_histogram: list[Count]
    """Number of rows in each bin of 1/64 nat, from 0 nats to the last bin that has a row. Empty without top tokens."""


def shard_figures(
    positions: Positions, is_eos: NDArray[np.bool_], num_top: int, num_effective: NDArray[np.float32] | None = None
) -> ShardFigures:
    """Return the sums and the histogram of one shard.

    Args:
        positions: The rows of the shard.
        is_eos: ``[n]`` bool: whether the position is the last of its sentence.
        num_top: Number of top tokens per row; the draws come after them.
        num_effective: ``[n]`` float32: effective number of hypotheses of each row, if beam search computed the rows.
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


def sum_names(schema: DumpSchema) -> set[str]:
    """Return the names of the sums that ``ShardFigures`` has for every shard."""
    names = {"kept_mass", "eos_kept_mass", "gold_nats", "eos_nats", *_kept_mass_by_k(schema).values()}
    return names | {"entropy_nats"} if schema.num_top else names


def _kept_mass_by_k(schema: DumpSchema) -> dict[int, str]:
    """Return, for each k', the name of the sum that holds the mass of the first k' ids."""
    names = {k: f"kept_mass_of_{k}" for k in powers_of_two_below(schema.num_top)}
    return {**names, schema.num_top: "kept_mass"} if schema.num_top else names


def summarise(schema: DumpSchema, shards: Sequence[ShardFigures], size_bytes: int) -> DumpSummary:
    """Return the statistics of a dump from the sums and histograms of all its shards, in the order of the shards."""
    names = sum_names(schema)
    # Shards that were computed without beam search, or written by an older version, have no sum ``num_effective``.
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
        kept_mass_by_k={k: total[name] / num_positions for k, name in _kept_mass_by_k(schema).items() if num_positions},
        gold_nats=total["gold_nats"],
        eos_nats=total["eos_nats"],
        perplexity=_exp(total["gold_nats"], num_positions),
        perplexity_without_eos=_exp(total["gold_nats"] - total["eos_nats"], num_words),
        mean_entropy_nats=_mean(total["entropy_nats"], num_positions) if schema.num_top else None,
        entropy_nats_quantiles=entropy_quantiles(histogram),
        mean_num_effective=_mean(total["num_effective"], num_positions) if "num_effective" in names else None,
    )


def entropy_quantiles(histogram: Sequence[int]) -> dict[int, float] | None:
    """For each of `QUANTILES`, return the quantile of a histogram's entropies in nats; None if the histogram is empty.

    Like ``numpy.quantile``, this interpolates between the two entropies nearest in rank. The entropies of a bin are
    assumed to be spread evenly over it, so the error is less than a bin, 1/64 nat.
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
    """Return the powers of two below ``k``, from 1."""
    return [1 << bit for bit in range((k - 1).bit_length())] if k else []


def _entropies(bits: NDArray[np.uint16], tail: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the entropy of each row in units, from the bits of float16 log-probabilities ``[n, m]``."""
    entropies = np.empty(len(bits), np.int32)
    for start in range(0, len(bits), _BLOCK):
        rows = slice(start, start + _BLOCK)
        np.take(_half_entropies(), bits[rows]).sum(axis=1, dtype=np.int32, out=entropies[rows])
    log_rest = np.clip(tail.astype(np.float64), -1e3, 0)  # avoids -inf times 0, which is NaN
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
    """Return exp of every float16, indexed by its bits. The table is faster than exp and the same on every machine."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        return np.exp(halves).astype(np.float32)


@cache
def _half_entropies() -> NDArray[np.int32]:
    """Return -p log p in units, indexed by the bits of the float16 log p; 0 if log p is not between -1,000 and 1."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    logs = np.where((halves > -1e3) & (halves < 1), halves, -1e3)
    terms: NDArray[np.int32] = np.rint(-logs * np.exp(logs) * ENTROPY_UNITS).astype(np.int32)
    return terms
