"""Compute in which shard, chunk and file each row of an array is stored, and the array's Zarr metadata.

Only the first dimension is cut: first into shards, then each shard into chunks. All shards have equally many rows,
except that the last may have fewer. Most arrays have one row per position. The array ``offsets`` has one row per
sentence boundary: sentence m is the positions ``offsets[m]:offsets[m + 1]``. File names are computed here and never
read from a store.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.fingerprints import Json

BLOSC_LEVEL = 3
"""Compression level on Blosc's scale, 0 to 9, which is not that of zstd."""

_CRC32C: Json = {"name": "crc32c"}
_LITTLE_ENDIAN: Json = {"name": "bytes", "configuration": {"endian": "little"}}
_SINGLE_BYTES: Json = {"name": "bytes"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How ``num_rows`` rows are cut into shards and chunks."""

    num_rows: int
    shard_rows: int
    """Rows per full shard; a multiple of ``chunk_rows``."""
    chunk_rows: int

    @property
    def num_shards(self) -> int:
        """Number of shards that hold at least one row."""
        return -(-self.num_rows // self.shard_rows)

    @property
    def chunks_per_shard(self) -> int:
        """Chunks per full shard. Every shard's index has this many entries."""
        return self.shard_rows // self.chunk_rows

    def rows_of(self, shard: int) -> range:
        """Return the numbers of the rows of a shard.

        Raises:
            IndexError: If there is no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} is outside [0, {self.num_shards})")
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_rows))

    def num_chunks(self, shard: int) -> int:
        """Return how many chunks of a shard hold at least one row. Only these are stored."""
        return -(-len(self.rows_of(shard)) // self.chunk_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array of a dump: its dtype, its shape and how it is cut."""

    name: str
    dtype: np.dtype[Any]
    """Little-endian."""
    row_shape: tuple[int, ...]
    """Shape of one row: ``()``, or one dimension, such as ``(k,)``."""
    layout: Layout
    dimensions: tuple[str, ...]
    compressed: bool = False
    """Whether Blosc compresses the array's chunks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return (self.layout.num_rows, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.row_shape)

    @property
    def fill(self) -> int | float:
        """The value that zarr returns for a missing shard: NaN for floats, -1 for signed integers, else the maximum.

        No valid row consists of this value alone, so a missing shard cannot look like data.
        """
        if self.dtype.kind == "f":
            return math.nan
        return int(np.iinfo(self.dtype).max) if self.dtype.kind == "u" else -1

    def file(self, shard: int) -> str:
        """Return the path of a shard relative to the store: Zarr's default chunk key."""
        return f"{self.name}/c/{shard}" + "/0" * len(self.row_shape)

    @property
    def compression(self) -> dict[str, Json]:
        """The codec of compressed chunks, as in ``zarr.json``."""
        return {
            "name": "blosc",
            "configuration": {
                "typesize": self.dtype.itemsize,
                "cname": "zstd",
                "clevel": BLOSC_LEVEL,
                "shuffle": "bitshuffle",
                "blocksize": 0,
            },
        }

    def zarr_metadata(self) -> dict[str, Json]:
        """Return the content of the array's ``zarr.json``."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.layout.shard_rows, *self.row_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if self.dtype.kind == "f" else self.fill,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [self.layout.chunk_rows, *self.row_shape],
                        "codecs": [
                            _LITTLE_ENDIAN if self.dtype.itemsize > 1 else _SINGLE_BYTES,
                            *([self.compression] if self.compressed else []),
                            _CRC32C,
                        ],
                        "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
                        "index_location": "end",
                    },
                }
            ],
            "dimension_names": list(self.dimensions),
            "storage_transformers": [],
            "attributes": {},
        }


def sentences_of_range(offsets: NDArray[np.int64], positions: range) -> range:
    """Return the sentences that have at least one position in ``positions``.

    Args:
        offsets: ``[M + 1]`` int64 for M sentences, as in the array ``offsets``; strictly rising.
        positions: A contiguous range inside ``[0, offsets[M])``, not empty.
    """
    first = int(np.searchsorted(offsets, positions.start, side="right")) - 1
    return range(first, int(np.searchsorted(offsets, positions.stop, side="left")))


def sentence_blocks(offsets: NDArray[np.int64], block_positions: int) -> NDArray[np.int64]:
    """Return ``[B + 1]`` int64 edges that divide the sentences into B groups.

    Group b is the sentences ``edges[b]:edges[b + 1]``, which all begin in the same block of ``block_positions``
    positions. A block in which no sentence begins has no group.

    Args:
        offsets: ``[M + 1]`` int64 for M sentences, as in the array ``offsets``; strictly rising.
        block_positions: Positions per block.
    """
    block = offsets[:-1] // block_positions
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    return np.append(begins, len(block))
