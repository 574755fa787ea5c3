"""The compact profile's values: rows of falling log-probabilities as one byte a token, and back.

A row falls from its most probable token on. What is kept of it is how far it falls from each token to the next, as the
code of a gap: code d means d/16 + (d/64)³ nats, 255 a fall to probability 0. So no step is ever above 0, the row keeps
its order, and most codes are 0 or 1, which compresses well. A gap is chosen from what the codes before it add up to,
so errors do not add up: a log-probability is off by half a step at most, 1/32 of a nat where the row is dense.

Neither the first log-prob nor the normaliser is kept: both follow from the codes and the tail, since a distribution
adds up to 1 at every temperature,

    p_T(ids[j]) = (1 - exp(tail_T)) exp(-fall[j] / T) / Σ_i exp(-fall[i] / T)        fall[j] = Σ_{i <= j} gap(gaps[i])

The tail, the tokens, the ids and the gold token's log-probability are those of the exact profile, bit for bit; so are
all sums that follow from them. How the bytes are compressed is not told here but in `storage.dump.compressed_shards`.

Legend: n positions, k ids kept, nT declared temperatures.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.positions import Positions
from storage.dump.schema import GAPS
from storage.errors import StoreError

TO_ZERO = 255
"""Code of the fall to probability 0, and the fill value: a row that begins with it was not read."""

_UNITS = 1 << 18
"""Units of a nat in which every gap is a whole number, so that encoding is the same on every machine."""
_LUT_UNITS = 1 << 8
_DEEPEST = 1 << 30
"""4,096 nats; what is less probable is taken for that, and every int32 sum below stays in range."""
_BLOCK = 2_048
"""Rows worked on at a time: their temporaries stay in the cache."""
_TOLERANCE = 0.01
"""By how much a row and its tail may miss 1: float16 rounds a log-probability above -16 by at most 2⁻⁸."""


def encode_rows(positions: Positions, temperatures: Sequence[float], *, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of `storage.dump.schema.DumpSchema.stored_arrays` for some positions.

    Args:
        positions: Rows that passed `storage.dump.positions.check_positions`.
        temperatures: The declared ones, the first 1.
        where: For messages.

    Returns:
        ``tokens``, ``ids``, ``gold_logp`` and ``tail`` as they are; ``gaps`` ``[n, k]`` uint8, its first column 0.

    Raises:
        StoreError: If a row and its tail do not add up to 1 at a declared temperature: they could not be rebuilt.
    """
    gaps = np.empty(positions.logp.shape, np.uint8)
    for start in range(0, len(positions), _BLOCK):
        block = positions.slice(start, start + _BLOCK)
        _check_mass(block, temperatures, where, start)
        gaps[start : start + _BLOCK] = _gaps(block.logp)
    return {
        "tokens": positions.tokens,
        "ids": positions.ids,
        GAPS: gaps,
        "gold_logp": positions.gold_logp,
        "tail": positions.tail,
    }


def decode_rows(
    gaps: NDArray[np.uint8], tail: NDArray[np.float32], temperatures: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the log-probabilities that codes and tails stand for.

    Args:
        gaps: ``[n, k]`` uint8, all k of a row: each share depends on all of them.
        tail: ``[n, nT]`` float32: natural log of the mass outside the ids at each temperature.
        temperatures: The declared ones, the first 1.

    Returns:
        ``logp`` ``[n, k]`` float32, natural log at T = 1, falling along a row, -inf where the probability is 0;
        ``logz`` ``[n, nT]`` float32, such that ``exp(logp / T - logz[:, t])`` and ``exp(tail[:, t])`` add up to 1.
    """
    logp = np.empty(gaps.shape, np.float32)
    logz = np.zeros(tail.shape, np.float32)
    for start in range(0, len(gaps), _BLOCK):
        rows = slice(start, start + _BLOCK)
        fall = _fall(gaps[rows])
        log_kept = np.log(-np.expm1(tail[rows]))
        first = log_kept[:, 0] - np.log(np.exp(-fall).sum(axis=1))
        np.subtract(first[:, None], fall, out=logp[rows])
        for index, temperature in enumerate(temperatures[1:], start=1):
            share = np.log(np.exp(fall / np.float32(-temperature)).sum(axis=1))
            logz[rows, index] = first / np.float32(temperature) + share - log_kept[:, index]
    return logp, logz


def decode_positions(arrays: Mapping[str, NDArray[Any]], temperatures: Sequence[float]) -> Positions:
    """Return the positions that a compact dump's arrays stand for; ``logp`` is rounded to float16."""
    logp, logz = decode_rows(arrays[GAPS], arrays["tail"], temperatures)
    return Positions(
        tokens=arrays["tokens"],
        ids=arrays["ids"],
        logp=logp.astype(np.float16),
        gold_logp=arrays["gold_logp"],
        tail=arrays["tail"],
        logz=logz,
    )


def _gap_units() -> NDArray[np.int64]:
    # Of all codes but the last: d/16 + (d/64)³. Steps are 1/16 where most gaps are; the cube reaches 78 nats, which a
    # byte of equal steps cannot. Behind a wide gap probabilities are small, and so is what an error there costs.
    codes = np.arange(TO_ZERO, dtype=np.int64)
    return codes * (_UNITS // 16) + codes**3


@cache
def _nearest_codes() -> NDArray[np.uint8]:
    """Return the code of the gap that is nearest to the middle of each interval of `_LUT_UNITS`."""
    units = _gap_units()
    middles = np.arange(0, units[-1] + _LUT_UNITS, _LUT_UNITS) + _LUT_UNITS // 2
    return np.searchsorted((units[1:] + units[:-1]) / 2, middles).astype(np.uint8)


@cache
def _half_units() -> NDArray[np.int32]:
    """Return how far every float16, by its bits, lies below 0, in units; -inf lies below `_DEEPEST`."""
    with np.errstate(invalid="ignore"):
        depths = -np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64) * _UNITS
    depths = np.nan_to_num(np.rint(depths), nan=0.0, posinf=np.inf, neginf=0.0)
    return np.where(np.isinf(depths), _DEEPEST + 1, np.clip(depths, -_DEEPEST, _DEEPEST)).astype(np.int32)


def _fall(gaps: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Whole numbers add up exactly, and in a fifth of the time of float32 (42 ns a row of 64, not 217).
    units = np.append(_gap_units(), 0).astype(np.int32)
    fall = np.cumsum(np.take(units, gaps), axis=1, dtype=np.int32).astype(np.float32)
    fall *= np.float32(1 / _UNITS)
    to_zero = gaps == TO_ZERO
    if to_zero.any():
        fall[np.logical_or.accumulate(to_zero, axis=1)] = np.inf
    return fall


def _gaps(logp: NDArray[np.float16]) -> NDArray[np.uint8]:
    # Column by column, since a gap depends on the codes before it; so columns are made contiguous first.
    depths = np.take(_half_units(), np.ascontiguousarray(logp.T).view(np.uint16))
    units, nearest = _gap_units().astype(np.int32), _nearest_codes()
    gaps = np.zeros(depths.shape, np.uint8)
    reached = depths[0].copy()
    for column in range(1, len(depths)):
        codes = np.take(nearest, (depths[column] - reached) // _LUT_UNITS, mode="clip")
        reached += np.take(units, codes)
        gaps[column] = codes
    gaps[1:][depths[1:] > _DEEPEST] = TO_ZERO
    return gaps.T


def _check_mass(positions: Positions, temperatures: Sequence[float], where: str, start: int) -> None:
    logp = positions.logp.astype(np.float32)
    for index, temperature in enumerate(temperatures):
        shares = np.exp(logp / np.float32(temperature) - positions.logz[:, index : index + 1])
        tail = positions.tail[:, index]
        total = shares.sum(axis=1) + np.exp(tail)
        # What is rounded in logp is divided by T.
        good = (np.abs(total - 1) <= _TOLERANCE * max(1, 1 / temperature)) & (tail < 0)
        if not good.all():
            row = int(np.argmin(good))
            raise StoreError(
                f"{where}: row {start + row} and its tail add up to {total[row]:.3f} at temperature {temperature:g}, "
                f"the tail alone to {np.exp(tail[row]):.3f}, expected 1 and less. Nothing was written: check what "
                "computed these rows, or use the exact profile"
            )
