"""The rows of a dump in its mapped files: every array as one numpy array over all shards, checked chunk by chunk.

Shards follow one another at a fixed distance, chunks within a shard too, rows within a chunk too. So a position is an
address, a sentence mostly one slice an array, and any set of positions one gather an array. A shard is mapped, and its
size and index checked, when it is first needed; a chunk is checked in all arrays when one of its rows is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.addresses import AddressRange, pages
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder
from storage.positions import Positions
from storage.schema import ArraySpec, DumpSchema
from storage.shards import REMEDY, check_chunk, check_index, chunk_stride, row_strides, shard_bytes

_Piece: TypeAlias = tuple[slice, tuple[int | slice, ...]]


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
        self._ready = bytearray(len(verified))
        """One byte a chunk, 1 where it is mapped and verified."""
        self.open_bytes = 0

    def run(self, start: int, stop: int) -> Positions | None:
        """Return the positions ``start`` to ``stop`` if they lie in one chunk, else None.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        number, low = divmod(start, self._chunk_rows)
        high = low + stop - start
        if high > self._chunk_rows:
            return None
        if not self._ready[number]:
            self._make_ready(number)
        shard, chunk = divmod(number, self._chunks_per_shard)
        return Positions(*[array.rows[shard, chunk, low:high].copy() for array in self._arrays])

    def read(
        self, runs: Sequence[tuple[int, int]], num_ids: int | None, order: NDArray[np.int64] | None = None
    ) -> Positions:
        """Return positions, as `storage.profiles.Rows` says."""
        pieces: list[_Piece] = []
        num_rows = 0
        for start, stop in runs:
            for number in range(start // self._chunk_rows, -(-stop // self._chunk_rows) if stop > start else 0):
                if not self._ready[number]:
                    self._make_ready(number)
            pieces += self._pieces(start, stop, num_rows)
            num_rows += stop - start
        # One array after the other, so that the room for its rows before they are put in order is used again.
        return Positions(*[array.read(pieces, num_rows, num_ids, order) for array in self._arrays])

    def gather(self, positions: NDArray[np.int64], num_ids: int | None) -> Positions:
        """Return positions, as `storage.profiles.Rows` says."""
        numbers = positions // self._chunk_rows
        is_ready = np.frombuffer(self._ready, np.bool_)[numbers]
        if not is_ready.all():
            for number in np.unique(numbers[~is_ready]).tolist():
                self._make_ready(number)
        shards = numbers // self._chunks_per_shard
        index: dict[_Steps, NDArray[np.int64]] = {}
        for array in self._arrays:
            if array.steps not in index:
                index[array.steps] = array.steps.index(positions, numbers, shards)
        return Positions(*[array.gather(index[array.steps], num_ids) for array in self._arrays])

    def release(self, start: int, stop: int) -> None:
        """Take the pages of the whole shards among the positions ``start`` to ``stop`` off this process's memory."""
        width = self._chunk_rows * self._chunks_per_shard
        for array in self._arrays:
            array.release(-(-start // width), stop // width)

    def _make_ready(self, number: int) -> None:
        """Map and check a chunk of the dump."""
        shard, chunk = divmod(number, self._chunks_per_shard)
        if not self._is_mapped[shard]:
            self.open_bytes += sum(array.map(shard) for array in self._arrays)
            self._is_mapped[shard] = 1
        if not self._verified[number]:
            for array in self._arrays:
                array.check(shard, chunk)
            self._verified[number] = 1
        self._ready[number] = 1

    def _pieces(self, start: int, stop: int, at: int) -> Iterator[_Piece]:
        """Cut a run into pieces, each one copy: where it goes, the run at row ``at``, and where it is in ``rows``.

        Whole chunks of a shard that follow one another are one piece.
        """
        position, start = start, start - at
        while position < stop:
            number, inside = divmod(position, self._chunk_rows)
            shard, chunk = divmod(number, self._chunks_per_shard)
            num_whole = min((stop - position) // self._chunk_rows, self._chunks_per_shard - chunk)
            if inside == 0 and num_whole:
                end = position + num_whole * self._chunk_rows
                yield slice(position - start, end - start), (shard, slice(chunk, chunk + num_whole))
            else:
                end = min(stop, position + self._chunk_rows - inside)
                yield slice(position - start, end - start), (shard, chunk, slice(inside, inside + end - position))
            position = end


@dataclass(frozen=True, slots=True)
class _Steps:
    """How rows lie in an array, in units of the smallest step from which every row begins at a whole number."""

    row: int
    chunk_gap: int
    """What a chunk has more than its rows: its checksum."""
    shard_gap: int
    """What a shard has more than its chunks: index, and the rest of a page."""

    def index(
        self, positions: NDArray[np.int64], chunks: NDArray[np.int64], shards: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return where rows begin, from their position, and chunk and shard counted over the whole dump."""
        index = positions * self.row
        index += chunks if self.chunk_gap == 1 else chunks * self.chunk_gap
        index += shards * self.shard_gap
        return index


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
        self._step = math.gcd(self._pitch, stride, spec.row_bytes)
        self.steps = _Steps(
            spec.row_bytes // self._step,
            (stride - layout.chunk_rows * spec.row_bytes) // self._step,
            (self._pitch - layout.chunks_per_shard * stride) // self._step,
        )

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

    def gather(self, index: NDArray[np.int64], num_ids: int | None) -> NDArray[Any]:
        """Return a copy of the rows that begin at these ``steps``, int64 ``[R]``."""
        dtype, row_shape = self.rows.dtype, self._row_shape(num_ids)
        size = dtype.itemsize * math.prod(row_shape)
        num_items = (len(self._range.bytes) - size) // self._step + 1
        if size == self._step:  # a plain vector
            item = np.dtype(f"V{size}") if row_shape and row_shape != (1,) else dtype
            picked = np.take(np.ndarray((num_items,), item, self._range.bytes.data), index)
        else:
            item = np.dtype((np.void, size))
            picked = np.ndarray((num_items,), item, self._range.bytes.data, 0, (self._step,))[index]
        gathered: NDArray[Any] = picked.view(dtype).reshape(len(index), *row_shape)
        return gathered

    def read(
        self, pieces: Sequence[_Piece], num_rows: int, num_ids: int | None, order: NDArray[np.int64] | None
    ) -> NDArray[Any]:
        """Return a copy of rows that lie in these pieces, as `MappedRows` cuts them, in that order or another."""
        row_shape = self._row_shape(num_ids)
        out = np.empty((num_rows, *row_shape), self.rows.dtype)
        for target, place in pieces:
            rows = self.rows[place]
            if num_ids is not None and row_shape:
                rows = rows[..., : row_shape[0]]
            out[target].reshape(rows.shape)[...] = rows
        return out if order is None else np.take(out, order, axis=0)

    def _row_shape(self, num_ids: int | None) -> tuple[int, ...]:
        return (num_ids,) if num_ids is not None and self._spec.name == "ids" else self._spec.row_shape

    def release(self, first: int, stop: int) -> None:
        """Give the pages of these shards back to the page cache."""
        self._range.release(first * self._pitch, stop * self._pitch)

    def _file(self, shard: int, size: int) -> NDArray[np.uint8]:
        start = shard * self._pitch
        return self._range.bytes[start : start + size]
