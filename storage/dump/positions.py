"""Hold positions in memory, as writers take and readers return them, and check them before they are written.

Legend: n positions, k columns (kept ids, or the largest number of distinct draws), nT declared temperatures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.schema import DumpSchema
from storage.errors import StoreError

_HALF_POSITIVE_TINY = 0x1400
"""Bits of the float16 2⁻¹⁰. Rounding may lift a log-probability above 0 by at most this."""
_HALF_NEGATIVE_ZERO = 0x8000
_HALF_NEGATIVE_INFINITY = 0xFC00
_HALF_POSITIVE_INFINITY = 0x7C00


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The distributions of n positions, reduced to the tokens that a dump keeps."""

    tokens: NDArray[Any]
    """``[n]`` uint16 or uint32: the gold tokens."""
    ids: NDArray[Any]
    """``[n, k]`` uint16 or uint32: the top tokens, then the distinct ids of the draws. Each part is ordered most
    probable first, ties by id. If draws repeat an id, the last columns are unused and hold the dtype's highest
    value."""
    logp: NDArray[np.float16]
    """``[n, k]`` float16: natural log-probability of each id over the whole vocabulary at T = 1; NaN if unused."""
    gold_logp: NDArray[np.float32]
    """``[n]`` float32: natural log-probability of the gold token at T = 1."""
    tail: NDArray[np.float32]
    """``[n, nT]`` float32: natural log of the mass outside the top tokens at each declared T; -inf if it is 0."""
    logz: NDArray[np.float32]
    """``[n, nT]`` float32: log Σ_w p(w)^(1/T) over the whole vocabulary."""
    counts: NDArray[np.uint8] | None = None
    """``[n, k]`` uint8: number of draws of each id; 0 for top tokens and unused columns. None for ``topk``."""

    def __len__(self) -> int:
        return len(self.tokens)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return name → array, without ``counts`` if it is None, in the order of ``DumpSchema.position_arrays``."""
        return {name: array for name in self.__slots__ if (array := getattr(self, name)) is not None}

    def slice(self, start: int, stop: int) -> "Positions":
        """Return views of positions ``start`` to ``stop``."""
        return Positions(**{name: array[start:stop] for name, array in self.arrays().items()})


def check_positions(positions: Positions, schema: DumpSchema, *, num_positions: int, where: str) -> None:
    """Check that rows have the dtypes, shapes and values of a dump with this schema, before they are written.

    Raises:
        StoreError: If they do not. The message names ``where`` and every array that is wrong.
    """
    specs, arrays = schema.position_arrays, positions.arrays()
    names = [spec.name for spec in specs]
    problems = [f"{name} is missing" for name in names if name not in arrays]
    problems += [f"{name} does not belong in a {schema.selection} dump" for name in arrays if name not in names]
    for spec in (spec for spec in specs if spec.name in arrays):
        array, shape = arrays[spec.name], (num_positions, *spec.row_shape)
        if array.dtype != spec.dtype or array.shape != shape:
            problems.append(
                f"{spec.name} is {array.dtype} {list(array.shape)}, expected {spec.dtype.name} {list(shape)}"
            )
    if not problems:
        problems = _impossible_values(positions, schema)
    if problems:
        raise StoreError(f"{where}: {'; '.join(problems)}. Nothing was written: check the program that computed them")


def _impossible_values(positions: Positions, schema: DumpSchema) -> list[str]:
    ids = positions.ids
    # numpy emulates float16 comparisons, which is slow, so bit patterns are compared. Below 0 their order is reversed.
    bits = positions.logp.view(np.uint16)
    problems = []
    if positions.counts is not None:
        problems = _impossible_draws(positions, positions.counts, schema)
        is_unused = _is_unused(positions.counts, schema.num_top)
        ids, bits = np.where(is_unused, 0, ids), np.where(is_unused, np.uint16(_HALF_NEGATIVE_INFINITY), bits)
    problems += [
        f"{name} holds the id {int(array.max())}, vocab_size is {schema.vocab_size}"
        for name, array in (("tokens", positions.tokens), ("ids", ids))
        if array.max() >= schema.vocab_size
    ]
    if (bits > _HALF_NEGATIVE_INFINITY).any() or ((bits > _HALF_POSITIVE_TINY) & (bits < _HALF_NEGATIVE_ZERO)).any():
        problems.append("logp holds a NaN or a value above 0")
    magnitudes = np.maximum(bits, _HALF_NEGATIVE_ZERO)
    if (magnitudes[:, 1:] < magnitudes[:, :-1]).any():
        problems.append("logp rises along a row (the most probable token comes first)")
    if not np.isfinite(positions.gold_logp).all():
        problems.append("gold_logp is not finite")
    if not np.isfinite(positions.logz).all():
        problems.append("logz is not finite")
    if np.isnan(positions.tail).any() or np.isposinf(positions.tail).any():
        problems.append("tail holds a NaN or +inf")
    return problems


def _impossible_draws(positions: Positions, counts: NDArray[np.uint8], schema: DumpSchema) -> list[str]:
    is_unused = _is_unused(counts, schema.num_top)
    is_nan = (positions.logp.view(np.uint16) & np.uint16(~_HALF_NEGATIVE_ZERO & 0xFFFF)) > _HALF_POSITIVE_INFINITY
    is_fill = positions.ids == np.iinfo(positions.ids.dtype).max
    num_draws = np.where(np.isneginf(positions.tail[:, 0]), 0, schema.num_draws)
    problems = []
    if counts[:, : schema.num_top].any():
        problems.append(f"counts of the {schema.num_top} top tokens are not 0")
    if (counts.sum(axis=1, dtype=np.int64) != num_draws).any():
        problems.append(f"counts do not add up to {schema.num_draws} draws, or to 0 if no mass is left to draw from")
    if (is_unused[:, :-1] & ~is_unused[:, 1:]).any():
        problems.append("counts have an unused column before a used one")
    if (is_unused != is_nan).any() or (is_unused != is_fill).any():
        problems.append("a used column has NaN in logp or the fill value in ids, or an unused column lacks one")
    if schema.selection == "sampled" and positions.tail.any():
        problems.append("tail is not 0, the log of all mass, though there are no top tokens")
    return problems


def _is_unused(counts: NDArray[np.uint8], num_top: int) -> NDArray[np.bool_]:
    is_unused: NDArray[np.bool_] = counts == 0
    is_unused[:, :num_top] = False
    return is_unused
