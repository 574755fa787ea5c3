"""A run of positions in memory: what a writer is given and a reader returns.

Legend: n positions, k ids kept, nT declared temperatures, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import StoreError
from storage.schema import DumpSchema

_HALF_POSITIVE_TINY = 0x1400
"""Bits of the float16 2⁻¹⁰: log-probabilities may exceed 0 by rounding, not by more."""
_HALF_NEGATIVE_ZERO = 0x8000
_HALF_NEGATIVE_INFINITY = 0xFC00


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The distributions of n positions, truncated to their k most probable tokens."""

    tokens: NDArray[Any]
    """``[n]`` uint16 or uint32: the gold tokens."""
    ids: NDArray[Any]
    """``[n, k]`` uint16 or uint32: the k most probable tokens, most probable first, ties by id."""
    logp: NDArray[np.float16]
    """``[n, k]`` float16: their natural log-probabilities over the whole vocabulary at T = 1."""
    gold_logp: NDArray[np.float32]
    """``[n]`` float32: natural log-probability of the gold token at T = 1."""
    tail: NDArray[np.float32]
    """``[n, nT]`` float32: natural log of the mass outside ``ids`` at each declared temperature; -inf if none."""
    logz: NDArray[np.float32]
    """``[n, nT]`` float32: log Σ_w p(w)^(1/T) over the whole vocabulary."""

    def __len__(self) -> int:
        return len(self.tokens)

    def slice(self, start: int, stop: int) -> "Positions":
        """Return views of positions ``start`` to ``stop``."""
        return Positions(*(getattr(self, name)[start:stop] for name in self.__slots__))

    def with_fewer(self, k: int, temperatures: tuple[float, ...]) -> "Positions":
        """Return the same distributions truncated to ``k`` tokens: the mass of the others moves into the tail.

        A log-probability moved into a tail carries the rounding of its float16 (a relative 2⁻¹¹).
        """
        dropped = self.logp[:, k:].astype(np.float32)
        tail = self.tail.copy()
        for index, temperature in enumerate(temperatures):
            mass = np.logaddexp.reduce(dropped / np.float32(temperature), axis=1) - self.logz[:, index]
            tail[:, index] = np.logaddexp(tail[:, index], mass)
        return Positions(self.tokens, self.ids[:, :k], self.logp[:, :k], self.gold_logp, tail, self.logz)


def check_positions(positions: Positions, schema: DumpSchema, *, num_positions: int, where: str) -> None:
    """Refuse rows that cannot be a truncated distribution over the schema's vocabulary, before they reach the disk.

    Raises:
        StoreError: Naming ``where`` and every array that is wrong.
    """
    problems = []
    for spec in schema.position_arrays:
        array, shape = getattr(positions, spec.name), (num_positions, *spec.row_shape)
        if array.dtype != spec.dtype or array.shape != shape:
            problems.append(
                f"{spec.name} is {array.dtype} {list(array.shape)}, expected {spec.dtype.name} {list(shape)}"
            )
    if not problems:
        problems = _impossible_values(positions, schema.vocab_size)
    if problems:
        raise StoreError(f"{where}: {'; '.join(problems)}. Nothing was written: check what computed these rows")


def _impossible_values(positions: Positions, vocab_size: int) -> list[str]:
    problems = [
        f"{name} holds the id {int(array.max())}, vocab_size is {vocab_size}"
        for name, array in (("tokens", positions.tokens), ("ids", positions.ids))
        if array.max() >= vocab_size
    ]
    # float16 comparisons are emulated and slow; for numbers below zero the bit patterns order the other way round.
    bits = positions.logp.view(np.uint16)
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
