"""Hold rows of different lengths (sentences) as one flat array and offsets.

There is no padding, and rows are gathered without a Python loop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def concatenated_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integers ``start, start + 1, …`` of each range, one range after the other.

    Args:
        starts: ``[M]`` int64.
        lengths: ``[M]`` int64, 0 or more.

    Returns:
        ``[sum(lengths)]`` int64.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """M rows of different lengths: row m is ``values[offsets[m]:offsets[m + 1]]``."""

    values: NDArray[Any]
    """``[sum(lengths), ...]``, any dtype."""
    offsets: NDArray[np.int64]
    """``[M + 1]`` int64, from 0 to ``len(values)``, never falling."""

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) == 0:
            raise ValueError(f"offsets must be a non-empty int64 vector, not {offsets.dtype} {offsets.shape}")
        if offsets[0] != 0 or offsets[-1] != len(self.values) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"offsets must rise from 0 to {len(self.values)}, the number of values")

    @classmethod
    def from_lengths(cls, values: NDArray[Any], lengths: ArrayLike) -> "Ragged":
        """Return rows of the given lengths over ``values``, which is not copied."""
        sizes = np.asarray(lengths, dtype=np.int64)
        return cls(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    @classmethod
    def from_lists(cls, lists: Sequence[ArrayLike], dtype: DTypeLike) -> "Ragged":
        """Return one row for each list."""
        rows = [np.asarray(row, dtype=dtype) for row in lists]
        values = np.concatenate(rows) if rows else np.empty(0, dtype)
        return cls.from_lengths(values, [len(row) for row in rows])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row: ``[M]`` int64."""
        return np.diff(self.offsets)

    def take(self, indices: ArrayLike) -> "Ragged":
        """Return copies of rows, in the order of ``indices`` (``[R]``). Repeats are allowed, negative indices are not.

        Raises:
            IndexError: If an index is outside ``[0, M)``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.min()} or {rows.max()} is outside [0, {len(self)})")
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        return Ragged.from_lengths(self.values[concatenated_ranges(starts, lengths)], lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return a view of one row.

        Raises:
            IndexError: If there is no such row. Negative numbers do not count from the end.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside [0, {len(self)})")
        view: NDArray[Any] = self.values[self.offsets[row] : self.offsets[row + 1]]
        return view

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))
