"""The rows of a dump in its mapped files: every array as one numpy array over all shards, checked chunk by chunk.

Shards follow one another at a fixed distance, chunks within a shard too, rows within a chunk too. So a position is an
address, a sentence mostly one slice an array, and any set of positions one gather an array. A shard is mapped, and its
size and index checked, when it is first needed; a chunk is checked in all arrays when one of its rows is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.addresses import AddressRange, pages
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder
from storage.positions import Positions
from storage.schema import ArraySpec, DumpSchema
from storage.shards import REMEDY, check_chunk, check_index, chunk_stride, row_strides, shard_bytes


class MappedRows:
    """All positions of a dump of profile ``exact``.

    Args:
        folder: Where the dump lies.
        schema: What it holds.
        digests: For each shard, array → digest of its file.
        verified: One byte a chunk of the dump, 1 where its checksums were found right; updated in place.
    """

    def __init__(
        self, folder: Folder, schema: DumpSchema, digests: Sequence[Mapping[str, FileDigest]], verified: bytearray
    ) -> None:
        self._chunk_rows = schema.chunk_positions
        self._chunks_per_shard = schema.layout.chunks_per_shard
        self._arrays = [_MappedArray(folder, spec, digests) for spec in schema.position_arrays]
        self._verified = verified
        self._is_mapped = bytearray(schema.layout.num_shards)
        self.open_bytes = 0
        """Of all files mapped so far."""

    def run(self, start: int, stop: int) -> Positions | None:
        """Return the positions ``start`` to ``stop`` if they lie in one chunk, else None.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        number, low = divmod(start, self._chunk_rows)
        high = low + stop - start
        if high > self._chunk_rows:
            return None
        shard, chunk = divmod(number, self._chunks_per_shard)
        if not (self._verified[number] and self._is_mapped[shard]):
            self._require([number])
        return Positions(*[array.rows[shard, chunk, low:high].copy() for array in self._arrays])

    def read(self, start: int, stop: int, num_ids: int | None) -> Positions:
        """Return positions, as `storage.profiles.Rows` says."""
        numbers = range(start // self._chunk_rows, -(-stop // self._chunk_rows) if stop > start else 0)
        self._require(numbers)
        arrays = [array.empty(stop - start, num_ids) for array in self._arrays]
        for number in numbers:
            shard, chunk = divmod(number, self._chunks_per_shard)
            begin = number * self._chunk_rows
            low, high = max(start, begin), min(stop, begin + self._chunk_rows)
            for array, out in zip(self._arrays, arrays, strict=True):
                rows = array.rows[shard, chunk, low - begin : high - begin]
                out[low - start : high - start] = rows if out.ndim == 1 else rows[:, : out.shape[1]]
        return Positions(*arrays)

    def gather(self, positions: NDArray[np.int64], num_ids: int | None) -> Positions:
        """Return positions, as `storage.profiles.Rows` says."""
        numbers = positions // self._chunk_rows
        shards = numbers // self._chunks_per_shard
        needed = np.bincount(numbers)
        self._require(np.flatnonzero(needed).tolist())
        inside = positions - numbers * self._chunk_rows
        chunks = numbers - shards * self._chunks_per_shard
        return Positions(*[array.gather(shards, chunks, inside, num_ids) for array in self._arrays])

    def release(self, start: int, stop: int) -> None:
        """Take the pages of the whole shards among the positions ``start`` to ``stop`` off this process's memory."""
        width = self._chunk_rows * self._chunks_per_shard
        for array in self._arrays:
            array.release(-(-start // width), stop // width)

    def _require(self, numbers: Sequence[int]) -> None:
        """Map and check these chunks of the dump."""
        for number in numbers:
            shard, chunk = divmod(number, self._chunks_per_shard)
            if not self._is_mapped[shard]:
                self.open_bytes += sum(array.map(shard) for array in self._arrays)
                self._is_mapped[shard] = 1
            if not self._verified[number]:
                for array in self._arrays:
                    array.check(shard, chunk)
                self._verified[number] = 1


class _MappedArray:
    """One array over all shards.

    Attributes:
        rows: ``[num_shards, chunks_per_shard, C, *row_shape]``, straight in the mapped bytes; what lies past the end of
            the last shard is no data.
    """

    def __init__(self, folder: Folder, spec: ArraySpec, digests: Sequence[Mapping[str, FileDigest]]) -> None:
        self._folder, self._spec, self._digests = folder, spec, digests
        layout, stride = spec.layout, chunk_stride(spec)
        self._pitch = pages(max(layout.chunks_per_shard * stride, shard_bytes(spec, 0))) if layout.num_shards else 0
        self._range = AddressRange(layout.num_shards * self._pitch)
        self.rows: NDArray[Any] = np.ndarray(
            (layout.num_shards, layout.chunks_per_shard, layout.chunk_rows, *spec.row_shape),
            spec.dtype,
            self._range.bytes.data,
            strides=(self._pitch, stride, *row_strides(spec)),
        )
        # A row may start at any multiple of `step`. Seen as one vector of overlapping items, rows are gathered by a
        # single index (52 µs for 10,240 rows of 128 bytes; numpy.take needs 36) instead of three (258 µs).
        step = math.gcd(self._pitch, stride, spec.row_bytes)
        self._step = step
        self._steps = (self._pitch // step, stride // step, spec.row_bytes // step) if step else (0, 0, 0)

    def map(self, shard: int) -> int:
        """Map a shard's file and check its size and index; return its size."""
        spec, name = self._spec, self._spec.file(shard)
        where = f"{self._folder}/{name}: array {spec.name}, shard {shard}"
        try:
            with self._folder.open(name, self._digests[shard][spec.name]) as file:
                size = self._range.map(file.fileno(), shard * self._pitch)
        except FileNotFoundError as error:
            raise CorruptStoreError(f"{where}: the file is missing. {REMEDY}") from error
        except OSError as error:
            raise StoreError(f"{where}: cannot be read: {error.strerror or error}. Mend that and run again") from error
        check_index(self._file(shard, size), spec, shard, where=where)
        return size

    def check(self, shard: int, chunk: int) -> None:
        """Compare a chunk with its checksum."""
        spec = self._spec
        where = f"{self._folder}/{spec.file(shard)}: array {spec.name}, shard {shard}, chunk {chunk}"
        check_chunk(self._file(shard, shard_bytes(spec, shard)), spec, chunk, where=where)

    def gather(
        self,
        shards: NDArray[np.int64],
        chunks: NDArray[np.int64],
        inside: NDArray[np.int64],
        num_ids: int | None,
    ) -> NDArray[Any]:
        """Return a copy of the rows at these shards, chunks and places, ``[R]`` each."""
        dtype, row_shape = self.rows.dtype, self._row_shape(num_ids)
        item = np.dtype((np.void, dtype.itemsize * math.prod(row_shape)))
        num_items = (len(self._range.bytes) - item.itemsize) // self._step + 1
        items = np.ndarray((num_items,), item, self._range.bytes.data, 0, (self._step,))
        by_shard, by_chunk, by_row = self._steps
        index = shards * by_shard
        index += chunks * by_chunk
        index += inside * by_row
        gathered: NDArray[Any] = items[index].view(dtype).reshape(len(index), *row_shape)
        return gathered

    def empty(self, num_rows: int, num_ids: int | None) -> NDArray[Any]:
        """Return room for rows; of the ids, for the first ``num_ids`` only."""
        return np.empty((num_rows, *self._row_shape(num_ids)), self.rows.dtype)

    def _row_shape(self, num_ids: int | None) -> tuple[int, ...]:
        return (num_ids,) if num_ids is not None and self._spec.name == "ids" else self._spec.row_shape

    def release(self, first: int, stop: int) -> None:
        """Give the pages of these shards back to the page cache."""
        self._range.release(first * self._pitch, stop * self._pitch)

    def _file(self, shard: int, size: int) -> NDArray[np.uint8]:
        start = shard * self._pitch
        return self._range.bytes[start : start + size]
