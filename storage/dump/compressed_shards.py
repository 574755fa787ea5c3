"""Encode one compressed Zarr v3 shard file, and read its rows chunk by chunk.

A shard file holds a range of an array's rows, cut into chunks. The codec is ``sharding_indexed`` with inner codecs
``[bytes, blosc, crc32c]`` and the index at the end:

    chunk 0 | crc32c | chunk 1 | crc32c | … | index: (offset, length) uint64 of every chunk of a full shard | crc32c

Each chunk is a Blosc buffer (bits transposed, then zstd). The buffers differ in length, so the index is needed to find
them. According to the index, the chunks must follow one another in order, without gaps, and fill the file. A chunk is
decoded only if its checksum is correct and its header states the decoded size that `storage.dump.layout` determines. So
a wrong size in a header cannot make Blosc write past the end of the output. The encoded bytes equal those that
zarr-python writes with the same versions of Blosc and zstd (tested).
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from storage.dump.layout import BLOSC_LEVEL, ArraySpec
from storage.dump.schema import MAX_CHUNK_BYTES, DumpSchema
from storage.dump.shards import (
    ABSENT,
    CRC_BYTES,
    REMEDY,
    crc32c,
    little_endian_crc,
    wrong_checksum,
)
from storage.dump.values import impossible_value, impossible_values
from storage.errors import CorruptStoreError, StoreError

# If Blosc used threads, the order of its blocks would depend on timing. zarr-python switches them off, too.
blosc.use_threads = False

_ENTRY_BYTES = 16
_HEADER = struct.Struct("<BBBBIII")
_FLAGS = 0x84
"""Flags in Blosc's header: compressed by zstd (4 << 5), bits transposed (4)."""
_FREE_FLAGS = 0x12
"""Flags that Blosc sets only for some data: copied uncompressed (2), blocks not split (16)."""


class ChunkCache(threading.local):
    """Decoded chunks of one store, shared by all shards of a reader. The least recently used chunk is dropped first.

    Each thread has chunks of its own, so that no thread waits for another.
    """

    def __init__(self, max_bytes: int = MAX_CHUNK_BYTES) -> None:
        """Create a cache of at most ``max_bytes``. The newest chunk is kept even if it alone is larger."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._chunks: OrderedDict[tuple[str, int, int], NDArray[Any]] = OrderedDict()

    def get(self, key: tuple[str, int, int]) -> NDArray[Any] | None:
        """Return the chunk with a key (array name, shard number, chunk number), or None if it is not in the cache."""
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
        return chunk

    def put(self, key: tuple[str, int, int], chunk: NDArray[Any]) -> None:
        """Add a chunk that is not in the cache."""
        self._chunks[key] = chunk
        self._num_bytes += chunk.nbytes
        while self._num_bytes > self._max_bytes and len(self._chunks) > 1:
            self._num_bytes -= self._chunks.popitem(last=False)[1].nbytes


def encode_compressed_shard(spec: ArraySpec, shard: int, rows: NDArray[Any]) -> bytes:
    """Return the bytes of a shard's file.

    ``rows`` has the shape ``[num_rows of the shard, *row_shape]`` and the array's dtype.

    Raises:
        StoreError: If a chunk of the array is larger than `MAX_CHUNK_BYTES`, the most that readers accept.
    """
    _check_chunk_bytes(spec, f"array {spec.name}")
    chunk_rows = spec.layout.chunk_rows
    entries = np.full((spec.layout.chunks_per_shard, 2), ABSENT, "<u8")
    parts: list[bytes] = []
    offset = 0
    for chunk in range(spec.layout.num_chunks(shard)):
        values = np.ascontiguousarray(rows[chunk * chunk_rows : (chunk + 1) * chunk_rows])
        if len(values) < chunk_rows:
            padding = np.full((chunk_rows - len(values), *spec.row_shape), spec.fill, spec.dtype)
            values = np.concatenate([values, padding])
        data = compress(values.reshape(-1).view(np.uint8), spec)
        parts += [data, little_endian_crc(data).tobytes()]
        entries[chunk] = (offset, len(data) + CRC_BYTES)
        offset += len(data) + CRC_BYTES
    index = entries.tobytes()
    return b"".join([*parts, index, little_endian_crc(index).tobytes()])


class CompressedShardView:
    """The rows of a compressed shard's file. The index is checked at once; a chunk is checked when it is decoded."""

    def __init__(
        self,
        data: NDArray[np.uint8],
        spec: ArraySpec,
        shard: int,
        *,
        where: str,
        cache: ChunkCache,
        schema: DumpSchema | None = None,
    ) -> None:
        """Check the index of ``data``, the whole file.

        ``where`` names file, array and shard in messages. If ``schema`` is given, the values of decoded chunks are
        checked, too.

        Raises:
            CorruptStoreError: If the index is damaged, or does not account for every byte of the file.
            StoreError: If a chunk of the array would be larger than `MAX_CHUNK_BYTES`.
        """
        _check_chunk_bytes(spec, where)
        self._bytes, self._spec, self._shard, self._where, self._cache = data, spec, shard, where, cache
        self._schema = schema
        self._ends = self._parse_index(spec.layout.num_chunks(shard))

    def checksums(self) -> bytes:
        """Return the stored checksums of the chunks, in order."""
        stored: NDArray[np.uint8] = self._bytes[self._ends[:, None] + np.arange(-CRC_BYTES, 0)]
        return stored.tobytes()

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of some rows.

        Args:
            rows: ``[R]`` int64 within the shard, in any order.

        Returns:
            ``[R, *row_shape]`` of the array's dtype.

        Raises:
            CorruptStoreError: If a chunk that holds one of the rows is damaged.
        """
        out = np.empty((len(rows), *self._spec.row_shape), self._spec.dtype)
        chunks, inside = np.divmod(rows, self._spec.layout.chunk_rows)
        # Each chunk is decoded once, whatever the order of the rows.
        order = np.argsort(chunks, kind="stable")
        for chunk, low, high in _runs(chunks[order]):
            target = order[low:high]
            out[target] = self.chunk(chunk)[inside[target]]
        return out

    def read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Copy rows ``start`` to ``stop`` of the shard into ``out`` ``[stop - start, *row_shape]``.

        Raises:
            CorruptStoreError: If a chunk that holds one of the rows is damaged.
        """
        chunk_rows = self._spec.layout.chunk_rows
        for chunk in range(start // chunk_rows, -(-stop // chunk_rows)):
            first = chunk * chunk_rows
            low, high = max(start, first), min(stop, first + chunk_rows)
            out[low - start : high - start] = self.chunk(chunk)[low - first : high - first]

    def _parse_index(self, num_chunks: int) -> NDArray[np.int64]:
        """Return, for each chunk, the offset in the file at which the chunk's checksum ends."""
        index_bytes = self._spec.layout.chunks_per_shard * _ENTRY_BYTES
        num_data = len(self._bytes) - index_bytes - CRC_BYTES
        if num_data < 0:
            raise CorruptStoreError(
                f"{self._where}: {len(self._bytes)} bytes, but the index takes {index_bytes + CRC_BYTES}. {REMEDY}"
            )
        index = self._bytes[num_data:-CRC_BYTES]
        if not np.array_equal(self._bytes[-CRC_BYTES:], little_endian_crc(index)):
            raise CorruptStoreError(f"{self._where}: the index or its checksum is damaged. {REMEDY}")
        entries = np.frombuffer(index, "<u8").reshape(-1, 2)
        offsets, lengths = entries[:num_chunks].T
        # If no length exceeds the file, the sum of the lengths cannot overflow.
        fits = bool((lengths <= num_data).all())
        ends = np.cumsum(lengths.astype(np.int64)) if fits else np.zeros(0, np.int64)
        if (
            not fits
            or ends[-1] != num_data
            or not np.array_equal(offsets[1:], ends[:-1])
            or offsets[0] != 0
            or not (entries[num_chunks:] == ABSENT).all()
        ):
            raise CorruptStoreError(
                f"{self._where}: the index does not cut the file's {num_data} bytes into {num_chunks} chunks. {REMEDY}"
            )
        return ends

    def chunk(self, chunk: int) -> NDArray[Any]:
        """Return the rows of a chunk. A short chunk is padded to the full number of rows.

        The result is in the cache, so do not change it.

        Raises:
            CorruptStoreError: If the chunk is damaged, or holds a value that no dump can have.
        """
        key = (self._spec.name, self._shard, chunk)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        stored = self._bytes[self._ends[chunk - 1] if chunk else 0 : self._ends[chunk]]
        data = stored[:-CRC_BYTES]
        if int.from_bytes(stored[-CRC_BYTES:].tobytes(), "little") != crc32c(data):
            raise wrong_checksum(f"{self._where}, chunk {chunk}")
        values = np.empty((self._spec.layout.chunk_rows, *self._spec.row_shape), self._spec.dtype)
        try:
            decompress(data, values.reshape(-1).view(np.uint8), self._spec)
        except ValueError as error:
            raise CorruptStoreError(f"{self._where}, chunk {chunk}: cannot be decoded: {error}. {REMEDY}") from error
        if self._schema is not None:
            layout = self._spec.layout
            num_rows = len(layout.rows_of(self._shard)) - chunk * layout.chunk_rows
            for found in impossible_values({self._spec.name: values[:num_rows]}, self._schema):
                raise impossible_value(found, self._where, self._schema, self._shard, chunk)
        self._cache.put(key, values)
        return values


def compress(data: NDArray[np.uint8], spec: ArraySpec) -> bytes:
    """Compress contiguous bytes of an array by Blosc: it transposes the bits of the items, then applies zstd."""
    typesize = spec.dtype.itemsize
    compressed: bytes = blosc.compress(data, b"zstd", BLOSC_LEVEL, blosc.BITSHUFFLE, 0, typesize=typesize)
    return compressed


def decompress(data: NDArray[np.uint8], out: NDArray[np.uint8], spec: ArraySpec) -> None:
    """Fill ``out`` from a Blosc buffer that `compress` made.

    Raises:
        ValueError: If ``data`` is not such a buffer, or does not decompress to exactly ``len(out)`` bytes.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"it has {len(data)} bytes, but the header alone takes {_HEADER.size}")
    _, _, flags, typesize, num_bytes, _, num_compressed = _HEADER.unpack(data[: _HEADER.size].tobytes())
    if (num_bytes, num_compressed) != (len(out), len(data)):
        raise ValueError(
            f"its header claims {num_bytes} bytes, compressed to {num_compressed}; expected {len(out)}, compressed to "
            f"{len(data)}"
        )
    if (flags & ~_FREE_FLAGS, typesize) != (_FLAGS, spec.dtype.itemsize):
        raise ValueError(f"its header does not say: zstd, bits transposed, items of {spec.dtype.itemsize} bytes")
    try:
        blosc.decompress(data, out)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _check_chunk_bytes(spec: ArraySpec, where: str) -> None:
    num_bytes = spec.layout.chunk_rows * spec.row_bytes
    if num_bytes > MAX_CHUNK_BYTES:
        raise StoreError(
            f"{where}: a chunk has {num_bytes} bytes, expected at most {MAX_CHUNK_BYTES}. Use fewer positions per chunk"
        )


def _runs(sorted_values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield (value, start, stop) of each run of equal values."""
    bounds = [0, *(np.flatnonzero(np.diff(sorted_values)) + 1).tolist(), len(sorted_values)]
    for low, high in pairwise(bounds):
        if high > low:
            yield int(sorted_values[low]), low, high
