"""Where a position lies: position → chunk → shard → file → owner. Integer arithmetic, no I/O.

One dimension is cut, the first: rows (positions; for the offsets, sentences) go into shards of equal size, the last
one short, and each shard into chunks. File names are computed here and nowhere read from a store.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How ``num_rows`` rows are cut."""

    num_rows: int
    shard_rows: int
    """Rows of a full shard; a multiple of ``chunk_rows``."""
    chunk_rows: int

    @property
    def num_shards(self) -> int:
        """Shards that hold at least one row."""
        return -(-self.num_rows // self.shard_rows)

    @property
    def chunks_per_shard(self) -> int:
        """Chunks a full shard has, and entries every shard's index has."""
        return self.shard_rows // self.chunk_rows

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard.

        Raises:
            IndexError: If there is no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} is outside [0, {self.num_shards})")
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_rows))

    def num_chunks(self, shard: int) -> int:
        """Return how many chunks of a shard are stored: those with at least one row."""
        return -(-len(self.rows_of(shard)) // self.chunk_rows)


def shard_file(array: str, shard: int, num_dimensions: int) -> str:
    """Return the path of a shard relative to the store: Zarr's default chunk key."""
    return f"{array}/c/{shard}" + "/0" * (num_dimensions - 1)


def sentences_of_range(offsets: NDArray[np.int64], positions: range) -> range:
    """Return the sentences that have at least one position in a non-empty ``positions``.

    Args:
        offsets: ``[M + 1]`` int64, strictly rising.
        positions: A contiguous run inside ``[0, offsets[M])``.
    """
    first = int(np.searchsorted(offsets, positions.start, side="right")) - 1
    return range(first, int(np.searchsorted(offsets, positions.stop, side="left")))


def sentence_blocks(offsets: NDArray[np.int64], block_positions: int) -> NDArray[np.int64]:
    """Return ``[B + 1]`` int64 edges: sentences ``edges[b]:edges[b + 1]`` begin in one run of positions.

    Args:
        offsets: ``[M + 1]`` int64, strictly rising.
        block_positions: Positions of a run.
    """
    block = offsets[:-1] // block_positions
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    return np.append(begins, len(block))
