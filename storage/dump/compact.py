"""Encode, decode and read the rows of a compact dump, which stores a log-probability as one byte.

A row is one position: its k most probable tokens, the most probable one first. A token's *gap* is the log-probability
of the token before it in the row, minus its own. A token's *fall* is the log-probability of the first token of the row,
minus its own. So the fall is the sum of all gaps up to the token.

For each token, the dump stores one byte, its *code*. Code d stands for a gap of d/16 + (d/64)³ nats. Code 255 means
that this token and all after it have probability 0. The encoder chooses each code so that the sum of the decoded gaps
so far is as near as possible to the fall. So rounding errors do not accumulate. The decoded fall of a token is wrong by
at most about 1/32 nat if its code is small, and by at most about 0.4 nat if its code is large.

The first log-probability and ``logz`` (log Σ_w p(w)^(1/T), one for each temperature T) are not stored. They follow from
the codes and the tail (the log of the mass of all other tokens), because a distribution sums to 1 at every temperature.
Let ``ids`` be the tokens of a row, ``gaps`` their codes, and gap(d) the gap of code d. Let p_T be the distribution at
temperature T, and tail_T its tail. Then:

    p_T(ids[j]) = (1 - exp(tail_T)) exp(-fall[j] / T) / Σ_i exp(-fall[i] / T)        fall[j] = Σ_{i <= j} gap(gaps[i])

The other profile of dumps, ``exact``, stores log-probabilities as float16. A compact dump and an exact dump of the same
distributions have the same tails, gold tokens, ids and log-probabilities of gold tokens, bit for bit. So the kept mass
(the summed probability of the kept tokens) and the perplexity are equal, too.

To read a row, its whole chunk (1,024 rows by default) is checked and decompressed. So reading ranges is cheap, and
reading single sentences at random is expensive. In return a compact dump has less than half as many bytes as an exact
one.

Legend: n positions, k kept ids per position, nT temperatures of the schema.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.dump.compressed_shards import ChunkCache, CompressedShardView
from storage.dump.layout import ArraySpec
from storage.dump.manifest import ShardEntry
from storage.dump.mapped import mapped_file, opened_shard
from storage.dump.positions import Positions
from storage.dump.schema import GAPS, DumpSchema
from storage.dump.shards import check_belongs
from storage.dump.values import ImpossibleValue, wrong_mass
from storage.errors import CorruptStoreError, StoreError
from storage.folder import Folder

_Found = TypeVar("_Found")

TO_ZERO = 255
"""Code of a token with probability 0, and fill value of the Zarr array. The first code of a stored row is always 0, so
a missing file, for which zarr returns fill values, never looks like stored rows."""

_UNCHANGED = ("tokens", "ids", "gold_logp", "tail")
"""Arrays that equal those of a dump of profile ``exact``."""
_UNITS = 1 << 18
"""Units per nat. Every gap is a whole number of units, so that encoding gives the same codes on every machine."""
_LUT_UNITS = 1 << 8
_DEEPEST = 1 << 30
"""4,096 nats, in units. Log-probabilities below -4,096 are clipped, so that every int32 sum stays in range."""
_BLOCK = 2_048
"""Rows per block of work: the temporary arrays of a block fit into the processor's cache."""


def encode_rows(positions: Positions, temperatures: Sequence[float], *, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays that a compact dump stores for some positions, by name.

    Args:
        positions: Rows that passed `storage.dump.positions.check_positions`.
        temperatures: The temperatures of the schema; the first is 1.
        where: Prefix of error messages.

    Returns:
        ``tokens``, ``ids``, ``gold_logp`` and ``tail``, unchanged, and the codes as ``gaps``. ``gaps`` is ``[n, k]``
        uint8, and its first column is 0.

    Raises:
        StoreError: If the probabilities of a row's tokens and of its tail do not sum to 1 at one of the temperatures,
            or the tail has the whole probability. Such a row could not be rebuilt.
    """
    gaps = np.empty(positions.logp.shape, np.uint8)
    for start in range(0, len(positions), _BLOCK):
        block = positions.slice(start, start + _BLOCK)
        _check_mass(block, temperatures, where, start)
        gaps[start : start + _BLOCK] = _gaps(block.logp)
    return {**{name: getattr(positions, name) for name in _UNCHANGED}, GAPS: gaps}


def decode_rows(
    gaps: NDArray[np.uint8], tail: NDArray[np.float32], temperatures: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the log-probabilities that codes and tails encode.

    Args:
        gaps: ``[n, k]`` uint8, all k codes of each row: every probability depends on all of them.
        tail: ``[n, nT]`` float32: natural log of the mass outside the ids at each temperature.
        temperatures: The temperatures of the schema; the first is 1.

    Returns:
        ``logp`` and ``logz``. ``logp`` is ``[n, k]`` float32, natural log at T = 1, falling along a row, and -inf where
        the probability is 0. ``logz`` is ``[n, nT]`` float32. At the temperature T with index t, the tokens of a row
        have the probabilities ``exp(logp / T - logz[:, t])``. In every row, these and the mass of all other tokens,
        ``exp(tail[:, t])``, sum to 1.
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
    """Return the positions that a compact dump's arrays encode. ``logp`` is rounded to float16."""
    logp, logz = decode_rows(arrays[GAPS], arrays["tail"], temperatures)
    return Positions(**{name: arrays[name] for name in _UNCHANGED}, logp=logp.astype(np.float16), logz=logz)


class CompactRows:
    """All positions of a dump of profile ``compact``; implements `storage.dump.profiles.Rows`.

    The arguments are described in `storage.dump.profiles.open_rows`.
    """

    def __init__(
        self,
        folder: Folder,
        schema: DumpSchema,
        shards: Sequence[ShardEntry],
        check_store: Callable[[], None],
    ) -> None:
        self._check_store = check_store
        self._folder, self._schema, self._shards = folder, schema, shards
        self._chunks = ChunkCache()
        self._views: dict[tuple[str, int], CompressedShardView] = {}
        self.open_bytes = 0

    def read(self, start: int, stop: int) -> Positions:
        """Return a range of positions, as `Rows.read` describes."""
        width = self._schema.shard_positions
        arrays = {}
        for spec in self._schema.stored_arrays:
            out = arrays[spec.name] = np.empty((stop - start, *spec.row_shape), spec.dtype)
            for shard in range(start // width, -(-stop // width) if stop > start else 0):
                begin = shard * width
                low, high = max(start, begin), min(stop, begin + width)
                read = partial(
                    CompressedShardView.read, start=low - begin, stop=high - begin, out=out[low - start : high - start]
                )
                self._use(spec, shard, read)
        return decode_positions(arrays, self._schema.temperatures)

    def gather(self, positions: NDArray[np.int64]) -> Positions:
        """Return the rows of some positions, in the order of ``positions``. See `storage.dump.profiles.Rows.gather`."""
        shards, rows = np.divmod(positions, self._schema.shard_positions)
        arrays = {}
        for spec in self._schema.stored_arrays:
            out = arrays[spec.name] = np.empty((len(positions), *spec.row_shape), spec.dtype)
            for shard in np.unique(shards).tolist():
                inside = np.flatnonzero(shards == shard)
                out[inside] = self._use(spec, shard, partial(CompressedShardView.gather, rows=rows[inside]))
        return decode_positions(arrays, self._schema.temperatures)

    def _use(self, spec: ArraySpec, shard: int, read: Callable[[CompressedShardView], _Found]) -> _Found:
        """Return what ``read`` returns for the view of a file. A damaged copy of a remote file is fetched again."""
        try:
            return read(self._view(spec, shard))
        except CorruptStoreError:
            self._check_store()
            if not self._folder.renew(spec.file(shard), self._shards[shard].files[spec.name]):
                raise
            self._views.pop((spec.name, shard), None)
            return read(self._view(spec, shard))

    def _view(self, spec: ArraySpec, shard: int) -> CompressedShardView:
        view = self._views.get((spec.name, shard))
        if view is None:
            name = spec.file(shard)
            where = f"{self._folder}/{name}: array {spec.name}, shard {shard}"
            entry = self._shards[shard]
            with opened_shard(self._folder, name, entry.files[spec.name], where=where) as file:
                data = mapped_file(file.fileno())
            view = CompressedShardView(data, spec, shard, where=where, cache=self._chunks, schema=self._schema)
            check_belongs(data, view.checksums(), entry.files[spec.name], entry.checksums.get(spec.name), where=where)
            self._views[spec.name, shard] = view
            self.open_bytes += len(data)
        return view


def _gap_units() -> NDArray[np.int64]:
    """Return the gap, in units, of each code d below `TO_ZERO`: d/16 + (d/64)³ nats."""
    # The cube lets 255 codes reach 78 nats; with equal steps of 1/16 nat they would reach only 16. After a wide gap,
    # probabilities are small, so an error there costs little.
    codes = np.arange(TO_ZERO, dtype=np.int64)
    return codes * (_UNITS // 16) + codes**3


@cache
def _nearest_codes() -> NDArray[np.uint8]:
    """Return, for each interval of `_LUT_UNITS` units, the code whose gap is nearest to the middle of the interval."""
    units = _gap_units()
    middles = np.arange(0, units[-1] + _LUT_UNITS, _LUT_UNITS) + _LUT_UNITS // 2
    return np.searchsorted((units[1:] + units[:-1]) / 2, middles).astype(np.uint8)


@cache
def _half_units() -> NDArray[np.int32]:
    """Return a table with one entry for each float16: how far the number is below 0, in units.

    The 16 bits of the number, read as an integer, are the index. The entry of -inf is above `_DEEPEST`.
    """
    with np.errstate(invalid="ignore"):
        depths = -np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64) * _UNITS
    depths = np.nan_to_num(np.rint(depths), nan=0.0, posinf=np.inf, neginf=0.0)
    return np.where(np.isinf(depths), _DEEPEST + 1, np.clip(depths, -_DEEPEST, _DEEPEST)).astype(np.int32)


def _fall(gaps: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Integers add exactly, and five times as fast as float32 (42 ns per row of 64 instead of 217).
    units = np.append(_gap_units(), 0).astype(np.int32)
    fall = np.cumsum(np.take(units, gaps), axis=1, dtype=np.int32).astype(np.float32)
    fall *= np.float32(1 / _UNITS)
    to_zero = gaps == TO_ZERO
    if to_zero.any():
        fall[np.logical_or.accumulate(to_zero, axis=1)] = np.inf
    return fall


def _gaps(logp: NDArray[np.float16]) -> NDArray[np.uint8]:
    # A code depends on the codes before it, so the loop is over columns. Contiguous columns make it fast.
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
    wrong = wrong_mass(positions.logp, positions.tail, positions.logz, temperatures)
    if wrong is None and (positions.tail >= 0).any():
        row = int(np.argmax((positions.tail >= 0).any(axis=1)))
        wrong = ImpossibleValue("tail", row, f"the tail alone is {np.exp(positions.tail[row].max()):.3f}, not below 1")
    if wrong is not None:
        raise StoreError(
            f"{where}: row {start + wrong.row}: {wrong.problem}. Nothing was written: check the program that computed "
            "these rows, or use the exact profile"
        )
