"""Compressed shards have the bytes of zarr-python, rows are read back, and no claim of a file is trusted."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from storage.dump.compressed_shards import (
    MAX_CHUNK_BYTES,
    ChunkCache,
    CompressedShardView,
    compress,
    encode_compressed_shard,
)
from storage.dump.layout import ArraySpec, Layout
from storage.dump.shards import crc32c
from storage.errors import CorruptStoreError, StoreError
from tests.storage.dump.compact_dumps import create_with_zarr


def make_spec(dtype: str, columns: tuple[int, ...], **layout: int) -> ArraySpec:
    return ArraySpec(
        name="a",
        dtype=np.dtype(dtype),
        row_shape=columns,
        layout=Layout(**layout),
        dimensions=("position", "rank")[: 1 + len(columns)],
    )


@st.composite
def arrays(draw: st.DrawFn) -> tuple[ArraySpec, np.ndarray]:
    chunk_rows = draw(st.integers(1, 40))
    spec = make_spec(
        draw(st.sampled_from(["u1", "<u2", "<u4", "<f4"])),
        draw(st.sampled_from([(), (1,), (3,), (64,)])),
        num_rows=draw(st.integers(1, 200)),
        chunk_rows=chunk_rows,
        shard_rows=chunk_rows * draw(st.integers(1, 5)),
    )
    # Few distinct values compress. Many do not, and Blosc then copies them.
    raw = np.random.default_rng(draw(st.integers(0, 9))).integers(
        0, draw(st.sampled_from([2, 250, 60_000])), spec.shape
    )
    return spec, (raw % 251 if spec.dtype.itemsize == 1 else raw).astype(spec.dtype)


def encoded(spec: ArraySpec, values: np.ndarray) -> dict[str, bytes]:
    shards = {}
    for shard in range(spec.layout.num_shards):
        rows = spec.layout.rows_of(shard)
        shards[spec.file(shard)] = encode_compressed_shard(spec, shard, values[rows.start : rows.stop])
    return shards


def view_of(data: bytes, spec: ArraySpec, cache: ChunkCache | None = None) -> CompressedShardView:
    where = f"file: array {spec.name}, shard 0"
    return CompressedShardView(np.frombuffer(data, np.uint8), spec, 0, where=where, cache=cache or ChunkCache())


def read_all(data: bytes, spec: ArraySpec) -> np.ndarray:
    out = np.empty(spec.shape, spec.dtype)
    view_of(data, spec).read(0, len(out), out)
    return out


@settings(max_examples=40, deadline=None)
@given(arrays())
def test_bytes_equal_those_of_zarr_python(case: tuple[ArraySpec, np.ndarray]) -> None:
    spec, values = case
    store = MemoryStore()
    create_with_zarr(spec, store)[...] = values
    assert encoded(spec, values) == {
        name: value.to_bytes() for name, value in store._store_dict.items() if "/c/" in name
    }


@settings(max_examples=60, deadline=None)
@given(arrays(), st.data())
def test_gathered_rows_and_ranges_equal_the_rows_written(
    case: tuple[ArraySpec, np.ndarray], data: st.DataObject
) -> None:
    spec, values = case
    shard = data.draw(st.integers(0, spec.layout.num_shards - 1))
    inside = spec.layout.rows_of(shard)
    part = values[inside.start : inside.stop]
    data_of_shard = np.frombuffer(encode_compressed_shard(spec, shard, part), np.uint8)
    view = CompressedShardView(data_of_shard, spec, shard, where="file", cache=ChunkCache(1))
    rows = np.array(data.draw(st.lists(st.integers(0, len(part) - 1))), np.int64)
    assert np.array_equal(view.gather(rows), part[rows])
    start = data.draw(st.integers(0, len(part)))
    stop = data.draw(st.integers(start, len(part)))
    out = np.empty_like(part[start:stop])
    view.read(start, stop, out)
    assert np.array_equal(out, part[start:stop])


@pytest.mark.parametrize(("dtype", "configuration"), [("u1", {}), ("<f4", {"configuration": {"endian": "little"}})])
def test_metadata_of_the_codecs_equal_those_of_zarr_python(dtype: str, configuration: dict[str, object]) -> None:
    spec = make_spec(dtype, (4,), num_rows=70, chunk_rows=8, shard_rows=32)
    store = MemoryStore()
    create_with_zarr(spec, store)
    metadata = json.loads(store._store_dict["a/zarr.json"].to_bytes())
    assert metadata["codecs"][0]["configuration"]["codecs"] == [
        {"name": "bytes", **configuration},
        spec.compression,
        {"name": "crc32c"},
    ]


SMALL = make_spec("<u2", (4,), num_rows=44, chunk_rows=16, shard_rows=64)
VALUES = np.random.default_rng(0).integers(0, 200, SMALL.shape).astype("<u2")


def test_a_flipped_byte_anywhere_is_refused() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    assert np.array_equal(read_all(data, SMALL), VALUES)
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << (offset % 8)
        with pytest.raises(CorruptStoreError, match=r"^file: array a, shard 0.*Run dump-teacher"):
            read_all(bytes(damaged), SMALL)


def test_a_damaged_chunk_is_named_and_does_not_hide_the_others() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    damaged = bytearray(data)
    damaged[30] ^= 1
    view = view_of(bytes(damaged), SMALL)
    assert np.array_equal(view.gather(np.array([40, 16])), VALUES[[40, 16]])
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match="array a, shard 0, chunk 0: the checksum does not match"):
            view.gather(np.array([40, 3]))


def test_a_truncated_or_longer_file_is_refused() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    for size in range(len(data)):
        with pytest.raises(CorruptStoreError, match="array a, shard 0"):
            view_of(data[:size], SMALL)
    with pytest.raises(CorruptStoreError, match="array a, shard 0"):
        view_of(data + b"\0", SMALL)


def with_index(data: bytes, entries: np.ndarray) -> bytes:
    """Return a shard with another index and a matching checksum."""
    index = entries.astype("<u8").tobytes()
    return data[: -len(index) - 4] + index + crc32c(np.frombuffer(index, np.uint8)).to_bytes(4, "little")


def index_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data[-4 * 16 - 4 : -4], "<u8").reshape(4, 2).copy()


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ((0, 0), 1),  # bytes before the first chunk
        ((1, 0), 0),  # two chunks of the same bytes
        ((1, 1), 4),  # a chunk that is only a checksum
        ((1, 1), 1 << 63),  # beyond the file, and negative as int64
        ((2, 1), (1 << 64) - 1),  # absent, though the layout has the chunk
        ((2, 0), (1 << 64) - 1),
        ((2, 1), 20),  # bytes after the last chunk
        ((3, 0), 0),  # a chunk that the layout does not have
        ((3, 1), 20),
    ],
)
def test_an_index_that_does_not_account_for_every_byte_is_refused(entry: tuple[int, int], found: int) -> None:
    (data,) = encoded(SMALL, VALUES).values()
    entries = index_of(data)
    assert view_of(with_index(data, entries), SMALL)
    entries[entry] = found
    with pytest.raises(CorruptStoreError, match=r"shard 0: the index does not cut the file's \d+ bytes into 3 chunks"):
        view_of(with_index(data, entries), SMALL)


def test_lengths_that_add_up_only_by_overflow_are_refused() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    entries = index_of(data)
    num_data, last = int(entries[2].sum()), int(entries[2, 1])
    entries[0, 1] = entries[1, 0] = num_data + 100
    entries[1, 1] = (1 << 64) - 100 - last
    with pytest.raises(CorruptStoreError, match="the index does not cut"):
        view_of(with_index(data, entries), SMALL)


def with_chunk(data: bytes, chunk: bytes) -> bytes:
    """Return a shard with another first chunk, and matching checksums and index."""
    entries = index_of(data)
    rest = data[int(entries[1, 0]) : int(entries[2].sum())]
    first = chunk + crc32c(np.frombuffer(chunk, np.uint8)).to_bytes(4, "little")
    entries[0, 1] = len(first)
    entries[1, 0] = len(first)
    entries[2, 0] = len(first) + entries[1, 1]
    return with_index(first + rest + bytes(4 * 16 + 4), entries)


def forged_headers() -> dict[str, bytes]:
    chunk = compress(VALUES[:16].reshape(-1).view(np.uint8), SMALL)
    field = {"flags": 2, "typesize": 3, "size": 4, "blocksize": 8, "compressed": 12}

    def forge(name: str, value: int) -> bytes:
        forged = bytearray(chunk)
        struct.pack_into("<B" if field[name] < 4 else "<I", forged, field[name], value)
        return bytes(forged)

    return {
        "claims 4 GiB": forge("size", (1 << 32) - 1),
        "claims fewer bytes": forge("size", 64),
        "has fewer rows": compress(VALUES[:8].reshape(-1).view(np.uint8), SMALL),
        "claims more compressed bytes": forge("compressed", 1 << 30),
        "claims fewer compressed bytes": forge("compressed", 17),
        "another compressor": forge("flags", 0x34),
        "bytes shuffled": forge("flags", 0x91),
        "another item": forge("typesize", 4),
        "a block of nothing": forge("blocksize", 0),
        "a block of gigabytes": forge("blocksize", (1 << 31) - 1),
        "half a header": chunk[:9],
        "a header alone": chunk[:16],
        "cut short": chunk[:-1],
        "content of noise": chunk[:16] + bytes(range(len(chunk) - 16)),
    }


@pytest.mark.parametrize("name", forged_headers())
def test_a_forged_chunk_with_right_checksums_is_refused(name: str) -> None:
    (data,) = encoded(SMALL, VALUES).values()
    view = view_of(with_chunk(data, forged_headers()[name]), SMALL)
    assert np.array_equal(view.gather(np.array([16, 43])), VALUES[[16, 43]])
    with pytest.raises(CorruptStoreError, match="array a, shard 0, chunk 0: cannot be decoded"):
        view.gather(np.array([0]))


def test_a_layout_with_huge_chunks_is_refused_before_memory_is_allocated() -> None:
    rows = MAX_CHUNK_BYTES // 8 + 1
    spec = make_spec("<u2", (4,), num_rows=1, chunk_rows=rows, shard_rows=rows)
    with pytest.raises(StoreError, match=r"file: array a, shard 0: a chunk has \d+ bytes, expected at most"):
        view_of(bytes(40), spec)
    with pytest.raises(StoreError, match="array a: a chunk has"):
        encode_compressed_shard(spec, 0, VALUES[:1])


def test_the_chunk_cache_drops_the_least_recently_used_chunk() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    cache = ChunkCache(2 * 16 * 8)
    view = view_of(data, SMALL, cache)
    first, second, third = np.array([0]), np.array([16]), np.array([32])
    view.gather(first)
    view.gather(second)
    kept = cache.get(("a", 0, 0))
    view.gather(third)
    assert cache.get(("a", 0, 1)) is None
    assert cache.get(("a", 0, 0)) is kept
    assert cache.get(("a", 0, 2)) is not None


def test_gather_returns_a_copy() -> None:
    (data,) = encoded(SMALL, VALUES).values()
    view = view_of(data, SMALL)
    rows = np.arange(16)
    view.gather(rows)[:] = 0
    assert np.array_equal(view.gather(rows), VALUES[:16])
