"""The rows of a dump in its mapped files: every array as one numpy array over all shards, checked chunk by chunk.

Shards follow one another at a fixed distance, chunks within a shard too, rows within a chunk too. So a position is an
address, a sentence mostly one slice an array, and any set of positions one gather an array. A shard is mapped, and its
size and index checked, when it is first needed; a chunk is checked in all arrays when one of its rows is.
"""

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.dump.addresses import AddressRange, pages
from storage.dump.positions import Positions
from storage.dump.schema import ArraySpec, DumpSchema
from storage.dump.shards import REMEDY, check_chunk, check_index, chunk_stride, row_strides, shard_bytes
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder

Runs: TypeAlias = Sequence[tuple[int, int]]
"""Runs of positions, (start, stop) each."""
_Piece: TypeAlias = tuple[slice, tuple[int | slice, ...]]


def cannot_map(where: str, error: OSError) -> StoreError:
    """Return the error that says why a file cannot be mapped."""
    remedy = "Mend that and run again"
    if error.errno == errno.ENOMEM:
        remedy = (
            "The system allows only so many maps (vm.max_map_count): raise that, or dump with more --shard-positions"
        )
    return StoreError(f"{where}: cannot be read: {error.strerror or error}. {remedy}")


class MappedRows:
    """All positions of a dump of profile ``exact``.

    Args:
        folder: Where the dump lies.
        schema: What it holds.
        digests: For each shard, array → digest of its file.
        verified: One byte a chunk of the dump, 1 where its checksums were found right; updated in place.
        check_store: Called when a shard was mapped; raises if the store is another by now.
    """

    def __init__(
        self,
        folder: Folder,
        schema: DumpSchema,
        digests: Sequence[Mapping[str, FileDigest]],
        verified: bytearray,
        check_store: Callable[[], None],
    ) -> None:
        self._check_store = check_store
        self._chunk_rows = schema.chunk_positions
        self._chunks_per_shard = schema.layout.chunks_per_shard
        self._arrays = [_MappedArray(folder, spec, digests) for spec in schema.position_arrays]
        self._verified = verified
        self._is_mapped = bytearray(schema.layout.num_shards)
        self._ready = bytearray(len(verified))
        """One byte a chunk, 1 where it is mapped and verified."""
        self.open_bytes = 0

    def run(self, start: int, stop: int) -> Positions | None:
        """Return the positions ``start`` to ``stop`` if they are one slice of each array, else None.

        Those are a sentence that lies in one chunk, and whole chunks of one shard, as in a scan.

        Raises:
            CorruptStoreError: If a checksum is wrong.
        """
        number, low = divmod(start, self._chunk_rows)
        high = low + stop - start
        shard, chunk = divmod(number, self._chunks_per_shard)
        if high <= self._chunk_rows:
            if not self._ready[number]:
                self._make_ready(number)
            return Positions(*[array.rows[shard, chunk, low:high].copy() for array in self._arrays])
        num_chunks, rest = divmod(high, self._chunk_rows)
        if low or rest or chunk + num_chunks > self._chunks_per_shard:
            return None
        if 0 in self._ready[number : number + num_chunks]:
            for each in range(number, number + num_chunks):
                self._make_ready(each)
        return Positions(*[array.chunks(shard, chunk, chunk + num_chunks) for array in self._arrays])

    def read(self, start: int, stop: int, num_ids: int | None) -> Positions:
        """Return positions, as `storage.dump.profiles.Rows` says."""
        pieces = self._ready_pieces(start, stop, 0)
        return Positions(*[array.read(pieces, stop - start, num_ids) for array in self._arrays])

    def windows(self, parts: Iterable[tuple[Runs, NDArray[np.int64]]]) -> Iterator[Positions]:
        """Yield positions, as `storage.dump.profiles.Rows` says."""
        # Rows are read into the same room again and again: pages of fresh memory cost more than the copies.
        room = np.empty(0, np.uint8)
        for runs, order in parts:
            pieces: list[_Piece] = []
            num_rows = 0
            for start, stop in runs:
                pieces += self._ready_pieces(start, stop, num_rows)
                num_rows += stop - start
            size = num_rows * max(array.row_bytes for array in self._arrays)
            if len(room) < size:
                room = np.empty(size, np.uint8)
            yield Positions(*[array.reordered(pieces, num_rows, order, room) for array in self._arrays])

    def gather(self, positions: NDArray[np.int64], num_ids: int | None) -> Positions:
        """Return positions, as `storage.dump.profiles.Rows` says."""
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
            self._check_store()
            self._is_mapped[shard] = 1
        if not self._verified[number]:
            for array in self._arrays:
                array.check(shard, chunk)
            self._verified[number] = 1
        self._ready[number] = 1

    def _ready_pieces(self, start: int, stop: int, at: int) -> list[_Piece]:
        """Cut a run into pieces, each one copy: where it goes, the run at row ``at``, and where it is in ``rows``.

        Whole chunks of a shard that follow one another are one piece. All are mapped and checked.
        """
        pieces: list[_Piece] = []
        for number in range(start // self._chunk_rows, -(-stop // self._chunk_rows) if stop > start else 0):
            if not self._ready[number]:
                self._make_ready(number)
        position, start = start, start - at
        while position < stop:
            number, inside = divmod(position, self._chunk_rows)
            shard, chunk = divmod(number, self._chunks_per_shard)
            num_whole = min((stop - position) // self._chunk_rows, self._chunks_per_shard - chunk)
            if inside == 0 and num_whole:
                end = position + num_whole * self._chunk_rows
                pieces.append((slice(position - start, end - start), (shard, slice(chunk, chunk + num_whole))))
            else:
                end = min(stop, position + self._chunk_rows - inside)
                rows = slice(inside, inside + end - position)
                pieces.append((slice(position - start, end - start), (shard, chunk, rows)))
            position = end
        return pieces


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
        self.row_bytes = spec.row_bytes
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
        # single index (52 µs for 10,240 rows of 128 bytes; numpy.take needs 36) instead of several (two: 258 µs).
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
            raise cannot_map(where, error) from error
        check_index(self._file(shard, size), spec, shard, where=where)
        return size

    def check(self, shard: int, chunk: int) -> None:
        """Compare a chunk with its checksum."""
        spec = self._spec
        where = f"{self._folder}/{spec.file(shard)}: array {spec.name}, shard {shard}, chunk {chunk}"
        check_chunk(self._file(shard, shard_bytes(spec, shard)), spec, chunk, where=where)

    def chunks(self, shard: int, first: int, stop: int) -> NDArray[Any]:
        """Return a copy of the rows of whole chunks of a shard."""
        return self.rows[shard, first:stop].copy().reshape(-1, *self._spec.row_shape)

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

    def read(self, pieces: Sequence[_Piece], num_rows: int, num_ids: int | None) -> NDArray[Any]:
        """Return a copy of rows that lie in these pieces, as `MappedRows` cuts them."""
        out = np.empty((num_rows, *self._row_shape(num_ids)), self.rows.dtype)
        self._fill(out, pieces)
        return out

    def reordered(
        self, pieces: Sequence[_Piece], num_rows: int, order: NDArray[np.int64], room: NDArray[np.uint8]
    ) -> NDArray[Any]:
        """Return rows that lie in these pieces in another order; ``room`` is for the rows as they lie."""
        rows = room[: num_rows * self.row_bytes].view(self.rows.dtype).reshape(num_rows, *self._spec.row_shape)
        self._fill(rows, pieces)
        return np.take(rows, order, axis=0)

    def _fill(self, out: NDArray[Any], pieces: Sequence[_Piece]) -> None:
        for target, place in pieces:
            rows = self.rows[place]
            if out.ndim > 1:
                rows = rows[..., : out.shape[1]]
            out[target].reshape(rows.shape)[...] = rows

    def _row_shape(self, num_ids: int | None) -> tuple[int, ...]:
        return (num_ids,) if num_ids is not None and self._spec.name == "ids" else self._spec.row_shape

    def release(self, first: int, stop: int) -> None:
        """Give the pages of these shards back to the page cache."""
        self._range.release(first * self._pitch, stop * self._pitch)

    def _file(self, shard: int, size: int) -> NDArray[np.uint8]:
        start = shard * self._pitch
        return self._range.bytes[start : start + size]
