"""Read the rows of a dump of profile ``exact`` from its mapped files, without copying them through Zarr.

A row is what an array holds for one position. A shard is a range of positions. It has one uncompressed file per array,
and each file is cut into chunks of equal size. For each array, the files of all shards are mapped one after another
into one address range. The distances between shards, between chunks and between rows are fixed, so arithmetic turns a
position into an address. Reading a sentence usually takes one slice per array. Reading any set of positions takes one
gather per array. Without the common address range, a gather would take three times as long for 512 sentences
(docs/decisions/0006).

A shard is mapped when it is first needed. Then this module checks the sizes of the shard's files, their indexes of
chunks, and that the files belong to the dump. When a row of a chunk is first read, the checksums and values of the
chunk are checked in all arrays. A damaged copy of a remote file is fetched again once.
"""

import ctypes
import errno
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.dump.layout import ArraySpec
from storage.dump.manifest import ShardEntry
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.dump.shards import (
    CRC_BYTES,
    REMEDY,
    check_belongs,
    check_index,
    chunk_stride,
    crc32c,
    row_strides,
    shard_bytes,
    wrong_checksum,
)
from storage.dump.values import impossible_value, impossible_values
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder

_Piece: TypeAlias = tuple[slice, tuple[int | slice, ...]]
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value

# Python's own mmap cannot map a file at a given address, so the C library is called.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)


class MappedRows:
    """All positions of a dump of profile ``exact``; implements `storage.dump.profiles.Rows`.

    The arguments are described in `storage.dump.profiles.open_rows`.
    """

    def __init__(
        self,
        folder: Folder,
        schema: DumpSchema,
        shards: Sequence[ShardEntry],
        verified: bytearray,
        check_store: Callable[[], None],
    ) -> None:
        self._check_store = check_store
        self._schema = schema
        self._chunk_rows = schema.chunk_positions
        self._chunks_per_shard = schema.layout.chunks_per_shard
        self._arrays = [_MappedArray(folder, spec, shards) for spec in schema.position_arrays]
        self._verified = verified
        self._is_mapped = bytearray(schema.layout.num_shards)
        self._ready = bytearray(len(verified))
        """One byte per chunk: 1 if it is mapped and verified."""
        self.open_bytes = 0

    def read(self, start: int, stop: int) -> Positions:
        """Return a range of positions, as `Rows.read` describes."""
        number, low = divmod(start, self._chunk_rows)
        high = low + stop - start
        shard, chunk = divmod(number, self._chunks_per_shard)
        if low < high <= self._chunk_rows:  # one slice of each array, as for most sentences
            if not self._ready[number]:
                self._make_ready(number)
            return Positions(*[array.rows[shard, chunk, low:high].copy() for array in self._arrays])
        num_chunks, rest = divmod(high, self._chunk_rows)
        if num_chunks and not low and not rest and chunk + num_chunks <= self._chunks_per_shard:  # whole chunks
            if 0 in self._ready[number : number + num_chunks]:
                for each in range(number, number + num_chunks):
                    self._make_ready(each)
            return Positions(*[array.chunks(shard, chunk, chunk + num_chunks) for array in self._arrays])
        pieces = self._ready_pieces(start, stop)
        return Positions(*[array.read(pieces, stop - start) for array in self._arrays])

    def gather(self, positions: NDArray[np.int64]) -> Positions:
        """Return the rows of these positions, in their order. They may be in any order and repeat."""
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
        return Positions(*[array.gather(index[array.steps]) for array in self._arrays])

    def _make_ready(self, number: int) -> None:
        """Map and check the chunk with this number. Chunks are numbered over the whole dump."""
        shard, chunk = divmod(number, self._chunks_per_shard)
        try:
            if not self._is_mapped[shard]:
                self.open_bytes += sum(array.map(shard) for array in self._arrays)
                self._is_mapped[shard] = 1
            if not self._verified[number]:
                for array in self._arrays:
                    array.check(shard, chunk)
                self._check_values(shard, chunk)
                self._verified[number] = 1
        except CorruptStoreError:
            self._check_store()
            raise
        self._ready[number] = 1

    def _check_values(self, shard: int, chunk: int) -> None:
        num_rows = min(self._chunk_rows, len(self._schema.layout.rows_of(shard)) - chunk * self._chunk_rows)
        arrays = {array.spec.name: array.rows[shard, chunk, :num_rows] for array in self._arrays}
        for found in impossible_values(arrays, self._schema):
            where = next(array for array in self._arrays if array.spec.name == found.array).name(shard)
            raise impossible_value(found, where, self._schema, shard, chunk)

    def _ready_pieces(self, start: int, stop: int) -> list[_Piece]:
        """Map and check all chunks of a range, and cut the range into pieces that can each be copied in one operation.

        A piece says where its rows belong in the result (a slice) and where ``_MappedArray.rows`` has them (an index).
        """
        pieces: list[_Piece] = []
        for number in range(start // self._chunk_rows, -(-stop // self._chunk_rows) if stop > start else 0):
            if not self._ready[number]:
                self._make_ready(number)
        position = start
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
    """Distances within an array, in steps.

    A step is the largest number of bytes such that every row starts at a multiple of it.
    """

    row: int
    """Steps per row."""
    chunk_gap: int
    """Steps between the last row of a chunk and the next chunk. The checksum is stored there."""
    shard_gap: int
    """Steps between the last chunk of a shard and the next shard. The index and padding to whole pages are there."""

    def index(
        self, positions: NDArray[np.int64], chunks: NDArray[np.int64], shards: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the step at which each row starts. Chunks and shards are numbered over the whole dump."""
        index = positions * self.row
        index += chunks if self.chunk_gap == 1 else chunks * self.chunk_gap
        index += shards * self.shard_gap
        return index


class _MappedArray:
    """One array over all shards.

    Attributes:
        spec: The array.
        rows: ``[num_shards, chunks_per_shard, chunk_rows, *row_shape]``, a view of the mapped bytes. What comes after
            the last row of the last shard is not data.
    """

    def __init__(self, folder: Folder, spec: ArraySpec, shards: Sequence[ShardEntry]) -> None:
        self._folder, self.spec, self._shards = folder, spec, shards
        layout, stride = spec.layout, chunk_stride(spec)
        self._stride = stride
        self._pitch = pages(max(layout.chunks_per_shard * stride, shard_bytes(spec, 0))) if layout.num_shards else 0
        self._range = AddressRange(layout.num_shards * self._pitch)
        self.rows: NDArray[Any] = np.ndarray(
            (layout.num_shards, layout.chunks_per_shard, layout.chunk_rows, *spec.row_shape),
            spec.dtype,
            self._range.bytes.data,
            strides=(self._pitch, stride, *row_strides(spec)),
        )
        self._checksums: NDArray[np.uint32] = np.ndarray(
            (layout.num_shards, layout.chunks_per_shard),
            "<u4",
            self._range.bytes.data,
            min(stride - CRC_BYTES, self._pitch),
            strides=(self._pitch, stride),
        )
        # Every row starts at a multiple of `step`. So the range can be viewed as one vector with an item at each step;
        # an item is as long as a row, so items overlap. One index into this vector gathers 10,240 rows of 128 bytes in
        # 52 µs. With two indices, one of chunks and one of rows within the chunks, this would take 258 µs. numpy.take
        # takes 36 µs, but needs items that do not overlap.
        self._step = math.gcd(self._pitch, stride, spec.row_bytes)
        self.steps = _Steps(
            spec.row_bytes // self._step,
            (stride - layout.chunk_rows * spec.row_bytes) // self._step,
            (self._pitch - layout.chunks_per_shard * stride) // self._step,
        )

    def name(self, shard: int) -> str:
        """Return the name of a shard for messages: its file, array and number."""
        return f"{self._folder}/{self.spec.file(shard)}: array {self.spec.name}, shard {shard}"

    def map(self, shard: int) -> int:
        """Map a shard's file, check that it belongs to the dump, and return its size in bytes."""
        try:
            return self._map(shard)
        except CorruptStoreError:
            if not self._renew(shard):
                raise
            return self._map(shard)

    def check(self, shard: int, chunk: int) -> None:
        """Compare a chunk with its checksum."""
        try:
            self._check(shard, chunk)
        except CorruptStoreError:
            if not self._renew(shard):
                raise
            self._map(shard)
            self._check(shard, chunk)

    def chunks(self, shard: int, first: int, stop: int) -> NDArray[Any]:
        """Return a copy of the rows of whole chunks of a shard."""
        return self.rows[shard, first:stop].copy().reshape(-1, *self.spec.row_shape)

    def gather(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the rows that start at the steps ``index`` (int64 ``[R]``)."""
        dtype, row_shape, size = self.rows.dtype, self.spec.row_shape, self.spec.row_bytes
        num_items = (len(self._range.bytes) - size) // self._step + 1
        if size == self._step:  # items do not overlap
            item = np.dtype(f"V{size}") if row_shape and row_shape != (1,) else dtype
            picked = np.take(np.ndarray((num_items,), item, self._range.bytes.data), index)
        else:
            item = np.dtype((np.void, size))
            picked = np.ndarray((num_items,), item, self._range.bytes.data, 0, (self._step,))[index]
        gathered: NDArray[Any] = picked.view(dtype).reshape(len(index), *row_shape)
        return gathered

    def read(self, pieces: Sequence[_Piece], num_rows: int) -> NDArray[Any]:
        """Return a copy of the rows of ``pieces``. In all they have ``num_rows`` rows."""
        out = np.empty((num_rows, *self.spec.row_shape), self.rows.dtype)
        for target, place in pieces:
            rows = self.rows[place]
            out[target].reshape(rows.shape)[...] = rows
        return out

    def _map(self, shard: int) -> int:
        spec, entry, where = self.spec, self._shards[shard], self.name(shard)
        with opened_shard(self._folder, spec.file(shard), entry.files[spec.name], where=where) as file:
            size = self._range.map(file.fileno(), shard * self._pitch)
        data = self._file(shard, size)
        check_index(data, spec, shard, where=where)
        sums = self._checksums[shard, : spec.layout.num_chunks(shard)].tobytes()
        check_belongs(data, sums, entry.files[spec.name], entry.checksums.get(spec.name), where=where)
        return size

    def _check(self, shard: int, chunk: int) -> None:
        start = shard * self._pitch + chunk * self._stride
        if self._checksums[shard, chunk] != crc32c(self._range.bytes[start : start + self._stride - CRC_BYTES]):
            raise wrong_checksum(f"{self.name(shard)}, chunk {chunk}")

    def _renew(self, shard: int) -> bool:
        spec = self.spec
        return self._folder.renew(spec.file(shard), self._shards[shard].files[spec.name])

    def _file(self, shard: int, size: int) -> NDArray[np.uint8]:
        start = shard * self._pitch
        return self._range.bytes[start : start + size]


class AddressRange:
    """A range of addresses into which files are mapped. Where no file is mapped, all bytes are 0 and take no memory.

    Attributes:
        bytes: The whole range, uint8, read-only. The range is unmapped when no numpy array is a view of it any more.

    Raises:
        StoreError: If the system has no free range of this size.
    """

    def __init__(self, size_bytes: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            reserved = mmap.mmap(-1, max(1, size_bytes), flags=flags, prot=mmap.PROT_READ)
        except (OSError, OverflowError) as error:
            raise StoreError(
                f"{size_bytes} bytes cannot be mapped: {error}. Lift the limit on the address space (ulimit -v)"
            ) from error
        self.bytes: NDArray[np.uint8] = np.frombuffer(reserved, np.uint8)

    def map(self, descriptor: int, offset: int) -> int:
        """Map a whole file, and return its size in bytes.

        ``descriptor`` is a descriptor of the file, opened for reading. It may be closed afterwards. ``offset`` is where
        in the range the file begins, and must be a multiple of the page size. Mapping a file again at its offset
        changes nothing.

        Raises:
            OSError: If the system refuses, or the file does not fit.
        """
        size = os.fstat(descriptor).st_size
        if offset + size > len(self.bytes):
            raise OSError(f"{size} bytes do not fit at {offset} of {len(self.bytes)}")
        if size:
            address = self.bytes.ctypes.data + offset
            got = _libc.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
            if got == _MAP_FAILED:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        return size


def pages(size_bytes: int) -> int:
    """Return ``size_bytes`` rounded up to whole pages."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def mapped_file(descriptor: int) -> NDArray[np.uint8]:
    """Return the bytes of a whole file, mapped. Unlike Python's own mmap, this keeps no descriptor open.

    Raises:
        OSError: If the system refuses.
    """
    place = AddressRange(os.fstat(descriptor).st_size)
    return place.bytes[: place.map(descriptor, 0)]


@contextmanager
def opened_shard(folder: Folder, name: str, digest: FileDigest, *, where: str) -> Iterator[FileIO]:
    """Open a shard's file, so that the body of the ``with`` statement can map it.

    ``where`` names file, array and shard in messages.

    Raises:
        CorruptStoreError: If the file is missing.
        StoreError: If the file cannot be opened or mapped.
    """
    try:
        with folder.open(name, digest) as file:
            yield file
    except FileNotFoundError as error:
        raise CorruptStoreError(f"{where}: the file is missing. {REMEDY}") from error
    except OSError as error:
        remedy = "Fix that and run again"
        if error.errno == errno.ENOMEM:
            remedy = (
                "The system limits the number of maps (vm.max_map_count): raise that limit, or dump with more "
                "--shard-positions"
            )
        raise StoreError(f"{where}: cannot be read: {error.strerror or error}. {remedy}") from error
