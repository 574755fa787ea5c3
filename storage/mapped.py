"""One shard of a dump, all arrays of it mapped together: a chunk is checked in every array when it is first read.

A sentence mostly lies in one chunk of one shard, so that case is a slice an array and nothing else.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.shards import ShardView


class MappedShard:
    """The rows of one shard.

    Args:
        views: The shard in each array.
        chunk_rows: C, the same for all.
        verified: One byte a chunk, 1 where its checksums were found right before; updated in place.
    """

    def __init__(self, views: Sequence[ShardView], chunk_rows: int, verified: bytearray) -> None:
        self._views = views
        self._chunks = [view.chunks for view in views]
        self._chunk_rows = chunk_rows
        self._verified = verified

    def rows(self, start: int, stop: int) -> list[NDArray[Any]] | None:
        """Return copies of rows ``start`` to ``stop`` if they lie in one chunk, else None.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        chunk, low = divmod(start, self._chunk_rows)
        high = low + stop - start
        if high > self._chunk_rows:
            return None
        if not self._verified[chunk]:
            self._verify(chunk)
        return [chunks[chunk, low:high].copy() for chunks in self._chunks]

    def read(self, start: int, stop: int, out: Sequence[NDArray[Any]]) -> None:
        """Copy rows ``start`` to ``stop``, at least one, into ``out``, an array of ``[stop - start, …]`` each.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        first, last = start // self._chunk_rows, (stop - 1) // self._chunk_rows
        for chunk in range(first, last + 1):
            if not self._verified[chunk]:
                self._verify(chunk)
        for view, target in zip(self._views, out, strict=True):
            view.read(start, stop, target)

    def gather(self, rows: NDArray[np.int64], columns: Sequence[int | None]) -> list[NDArray[Any]]:
        """Return copies of rows in any order; of the first ``columns`` of each array, None for all.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        chunks, inside = np.divmod(rows, self._chunk_rows)
        verified = np.frombuffer(self._verified, np.bool_)
        if not verified.all():
            for chunk in np.unique(chunks[~verified[chunks]]).tolist():
                self._verify(chunk)
        return [view.gather(chunks, inside, number) for view, number in zip(self._views, columns, strict=True)]

    def _verify(self, chunk: int) -> None:
        for view in self._views:
            view.check(chunk)
        self._verified[chunk] = 1
