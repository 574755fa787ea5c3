"""Hold the distributions of positions in memory, and check them before they are written.

Writers of a dump take `Positions`, and readers return them. At each position a dump keeps the most probable tokens (top
tokens), or tokens drawn at random from the distribution (draws), or both.

Legend: n positions, k columns (the largest number of ids that a position can keep), nT declared temperatures (those of
the schema).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.schema import DumpSchema
from storage.dump.values import impossible_values, unordered_rows
from storage.errors import StoreError


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The distributions of n positions, reduced to the tokens that a dump keeps."""

    tokens: NDArray[Any]
    """``[n]`` uint16 or uint32: the gold tokens."""
    ids: NDArray[Any]
    """``[n, k]`` uint16 or uint32: the top tokens, then the distinct ids of the draws. Each group is ordered from
    most to least probable, ties by id. If draws repeat an id, the last columns are unused and hold the dtype's highest
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
    """``[n, k]`` uint8: number of draws of each id; 0 for top tokens and unused columns. None without draws."""

    def __len__(self) -> int:
        return len(self.tokens)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in the order of ``DumpSchema.position_arrays``; no ``counts`` if it is None."""
        return {name: array for name in self.__slots__ if (array := getattr(self, name)) is not None}

    def slice(self, start: int, stop: int) -> "Positions":
        """Return views of positions ``start`` to ``stop``."""
        return Positions(**{name: array[start:stop] for name, array in self.arrays().items()})


def joined_positions(parts: Sequence[Positions]) -> Positions:
    """Return copies of all positions of the parts, part after part."""
    arrays = [part.arrays() for part in parts]
    return Positions(**{name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})


def check_positions(positions: Positions, schema: DumpSchema, *, num_positions: int, where: str) -> None:
    """Check that rows have the dtypes, shapes and values of a dump with this schema, before they are written.

    Raises:
        StoreError: If a dtype, shape or value is wrong. The message names ``where`` and every array that is wrong.
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
        found = [*impossible_values(arrays, schema), unordered_rows(positions.logp, positions.counts, schema.num_top)]
        problems = [f"{each.problem}, first in row {each.row}" for each in found if each is not None]
    if problems:
        named = "; ".join(problems)
        raise StoreError(f"{where}: {named}. Nothing was written: check the program that computed these rows")
