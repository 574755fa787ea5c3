"""Shards have the bytes of zarr-python, and damage is found chunk by chunk."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from storage.dump.layout import ArraySpec, Layout
from storage.dump.shards import check_chunk, check_index, chunk_stride, encode_shard, shard_bytes
from storage.errors import CorruptStoreError
from tests.storage.dump.compact_dumps import create_with_zarr


@st.composite
def arrays(draw: st.DrawFn) -> tuple[ArraySpec, np.ndarray]:
    chunk_rows = draw(st.integers(1, 9))
    layout = Layout(
        num_rows=draw(st.integers(1, 80)), chunk_rows=chunk_rows, shard_rows=chunk_rows * draw(st.integers(1, 5))
    )
    columns = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    dtype = np.dtype(draw(st.sampled_from(["u1", "<u2", "<u4", "<f2", "<f4", "<i8"])))
    spec = ArraySpec(
        name="a", dtype=dtype, row_shape=columns, layout=layout, dimensions=("position", "rank")[: 1 + len(columns)]
    )
    raw = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 60_000, spec.shape)
    return spec, raw.astype(dtype) if dtype.kind != "f" else (-raw / 1_000).astype(dtype)


def encoded_by_zarr(spec: ArraySpec, values: np.ndarray) -> dict[str, bytes]:
    store = MemoryStore()
    create_with_zarr(spec, store, compressed=False)[...] = values
    return {name: value.to_bytes() for name, value in store._store_dict.items() if "/c/" in name}


@settings(max_examples=40, deadline=None)
@given(arrays())
def test_bytes_equal_those_of_zarr_python(case: tuple[ArraySpec, np.ndarray]) -> None:
    spec, values = case
    ours = {}
    for shard in range(spec.layout.num_shards):
        rows = spec.layout.rows_of(shard)
        ours[spec.file(shard)] = encode_shard(spec, shard, values[rows.start : rows.stop]).tobytes()
        assert len(ours[spec.file(shard)]) == shard_bytes(spec, shard)
    assert ours == encoded_by_zarr(spec, values)


@settings(max_examples=40, deadline=None)
@given(arrays(), st.data())
def test_a_flipped_byte_of_a_shard_is_found_in_its_chunk(
    case: tuple[ArraySpec, np.ndarray], data: st.DataObject
) -> None:
    spec, values = case
    rows = spec.layout.rows_of(0)
    file = encode_shard(spec, 0, values[rows.start : rows.stop])
    check_index(file, spec, 0, where="file")
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    num_chunks, stride = spec.layout.num_chunks(0), chunk_stride(spec)
    for chunk in range(num_chunks):
        if at // stride == chunk:
            with pytest.raises(CorruptStoreError, match=rf"file, chunk {chunk}: the checksum"):
                check_chunk(file, spec, chunk, where="file")
        else:
            check_chunk(file, spec, chunk, where="file")
    if at >= num_chunks * stride:
        with pytest.raises(CorruptStoreError, match="file: the index"):
            check_index(file, spec, 0, where="file")
    with pytest.raises(CorruptStoreError, match=f"file: {len(file) - 1} bytes, expected {len(file)}"):
        check_index(file[:-1], spec, 0, where="file")


def test_metadata_equals_that_of_zarr_python() -> None:
    layout = Layout(num_rows=70, shard_rows=32, chunk_rows=8)
    spec = ArraySpec(name="a", dtype=np.dtype("<f2"), row_shape=(4,), layout=layout, dimensions=("position", "rank"))
    store = MemoryStore()
    zarr.create_array(
        store,
        shape=spec.shape,
        dtype=spec.dtype,
        shards=(32, 4),
        chunks=(8, 4),
        fill_value=np.nan,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        filters=None,
        dimension_names=("position", "rank"),
    )
    assert spec.zarr_metadata() == json.loads(store._store_dict["zarr.json"].to_bytes())
