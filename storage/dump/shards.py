"""Encode one uncompressed Zarr v3 shard file, and check it without decoding.

A shard file holds a range of an array's rows, cut into chunks. The codec is ``sharding_indexed`` with inner codecs
``[bytes, crc32c]`` and the index at the end:

    chunk 0 | crc32c | chunk 1 | crc32c | … | index: (offset, length) uint64 of every chunk of a full shard | crc32c

A short last chunk is padded with the fill value. Chunks past the end of the array are not stored, and all bits of their
index entries are ones. Nothing is compressed, so this module compares the index with the expected one instead of
parsing it, and rows are read from the mapped file at a fixed stride. The encoder writes the same bytes as zarr-python
(tested), about five times as fast.
"""

from mmap import mmap
from typing import Any, cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from storage.dump.layout import ArraySpec
from storage.errors import CorruptStoreError
from storage.fingerprints import FileDigest, sha256_bytes

REMEDY = "Run dump-teacher again with the same options: it rewrites only the missing and damaged files"

CRC_BYTES = 4
ABSENT = np.iinfo(np.uint64).max


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the CRC-32C of contiguous bytes."""
    return cast("int", google_crc32c.value(data))


def shard_bytes(spec: ArraySpec, shard: int) -> int:
    """Return the size of a shard's file in bytes."""
    return spec.layout.num_chunks(shard) * chunk_stride(spec) + index_bytes(spec)


def index_bytes(spec: ArraySpec) -> int:
    """Return the size in bytes of the index at the end of every shard's file, including its checksum."""
    return spec.layout.chunks_per_shard * 16 + CRC_BYTES


def encode_shard(spec: ArraySpec, shard: int, rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of a shard's file.

    ``rows`` has the shape ``[num_rows of the shard, *row_shape]`` and the array's dtype.
    """
    num_rows, chunk_rows, stride = len(rows), spec.layout.chunk_rows, chunk_stride(spec)
    num_chunks = spec.layout.num_chunks(shard)
    out = np.empty(shard_bytes(spec, shard), np.uint8)
    chunks = shard_rows(out, spec, shard)
    num_full, rest = divmod(num_rows, chunk_rows)
    chunks[:num_full] = rows[: num_full * chunk_rows].reshape(num_full, chunk_rows, *spec.row_shape)
    if rest:
        chunks[-1, :rest] = rows[num_full * chunk_rows :]
        chunks[-1, rest:] = spec.fill
    for start in range(0, num_chunks * stride, stride):
        end = start + stride - CRC_BYTES
        out[start + stride - CRC_BYTES : start + stride] = little_endian_crc(out[start:end])
    out[num_chunks * stride :] = _index(spec, shard)
    return out


def check_index(data: NDArray[np.uint8], spec: ArraySpec, shard: int, *, where: str) -> None:
    """Compare the size and the index of a shard's file with those that the layout determines.

    ``data`` is the whole file. ``where`` names file, array and shard in the message.

    Raises:
        CorruptStoreError: If the size or the index differs.
    """
    expected = shard_bytes(spec, shard)
    if len(data) != expected:
        raise CorruptStoreError(f"{where}: {len(data)} bytes, expected {expected}. {REMEDY}")
    if not np.array_equal(data[spec.layout.num_chunks(shard) * chunk_stride(spec) :], _index(spec, shard)):
        raise CorruptStoreError(f"{where}: the index or its checksum is damaged. {REMEDY}")


def shard_rows(data: NDArray[np.uint8], spec: ArraySpec, shard: int) -> NDArray[Any]:
    """Return ``[num_chunks, chunk_rows, *row_shape]``: a view of a shard's chunks, with the padding of the last one."""
    shape = (spec.layout.num_chunks(shard), spec.layout.chunk_rows, *spec.row_shape)
    return np.ndarray(shape, spec.dtype, data.data, 0, (chunk_stride(spec), *row_strides(spec)))


def check_chunk(data: NDArray[np.uint8], spec: ArraySpec, chunk: int, *, where: str) -> None:
    """Compare a chunk with its checksum. The caller must have checked the size of the file.

    Raises:
        CorruptStoreError: If the checksum differs. The message names the chunk.
    """
    start = chunk * chunk_stride(spec)
    end = start + chunk_stride(spec) - CRC_BYTES
    if int.from_bytes(data[end : end + CRC_BYTES].tobytes(), "little") != crc32c(data[start:end]):
        raise wrong_checksum(f"{where}, chunk {chunk}")


def chunk_checksums(data: NDArray[np.uint8], spec: ArraySpec, shard: int) -> bytes:
    """Return the stored checksums of a shard's chunks, in order. The caller must have checked the size of the file."""
    stride, num_chunks = chunk_stride(spec), spec.layout.num_chunks(shard)
    return data[: num_chunks * stride].reshape(num_chunks, stride)[:, -CRC_BYTES:].tobytes()


def check_belongs(
    data: NDArray[np.uint8], checksums: bytes, digest: FileDigest, expected: str | None, *, where: str
) -> None:
    """Check that a shard's file is the one that the manifest lists, and not one of another dump of the same layout.

    The checksums of all chunks, a few hundred bytes, identify the file. In dumps of older versions, the manifest lists
    only the sha256 of the whole file. Then the whole file is hashed, which takes 0.7 seconds per gigabyte.

    ``data`` is the whole file, and ``checksums`` are the stored checksums of its chunks, in order. ``expected`` is the
    sha256 of these checksums from the manifest; None in dumps of older versions.

    Raises:
        CorruptStoreError: If the file is not the one that the manifest lists.
    """
    found, expected = (sha256_bytes(checksums), expected) if expected else (sha256_bytes(data.data), digest.sha256)
    if found != expected:
        raise CorruptStoreError(
            f"{where}: not the file that was written for this dump: sha256 is {found[:12]}, expected {expected[:12]}. "
            f"{REMEDY}"
        )


def wrong_checksum(where: str) -> CorruptStoreError:
    """Return the error for a chunk whose bytes do not match its checksum."""
    return CorruptStoreError(f"{where}: the checksum does not match. {REMEDY}")


def decode_one_chunk(data: mmap, spec: ArraySpec, *, where: str) -> NDArray[Any]:
    """Check an array that consists of one shard with one chunk, and return its rows as a view of the file's bytes.

    Raises:
        CorruptStoreError: If the size, the index or the checksum is wrong.
    """
    file = np.frombuffer(data, np.uint8)
    check_index(file, spec, 0, where=where)
    check_chunk(file, spec, 0, where=where)
    return np.ndarray(spec.shape, spec.dtype, file.data)


def chunk_stride(spec: ArraySpec) -> int:
    """Return the distance in bytes from one chunk to the next."""
    return spec.layout.chunk_rows * spec.row_bytes + CRC_BYTES


def row_strides(spec: ArraySpec) -> tuple[int, ...]:
    """Return the distance in bytes from one row of a chunk to the next, and from one column to the next."""
    return (spec.row_bytes, spec.dtype.itemsize) if spec.row_shape else (spec.row_bytes,)


def _index(spec: ArraySpec, shard: int) -> NDArray[np.uint8]:
    stride, num_chunks = chunk_stride(spec), spec.layout.num_chunks(shard)
    entries = np.full((spec.layout.chunks_per_shard, 2), ABSENT, "<u8")
    entries[:num_chunks, 0] = np.arange(num_chunks, dtype=np.uint64) * np.uint64(stride)
    entries[:num_chunks, 1] = stride
    raw = entries.reshape(-1).view(np.uint8)
    return np.concatenate([raw, little_endian_crc(raw)])


def little_endian_crc(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the CRC-32C of contiguous bytes as the four bytes that follow them in a file."""
    return np.array([crc32c(np.frombuffer(data, np.uint8))], "<u4").view(np.uint8)
