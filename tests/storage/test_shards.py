"""A shard's bytes are zarr-python's own, and rows read from them are the rows that went in."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from storage.errors import CorruptStoreError
from storage.layout import Layout
from storage.schema import ArraySpec
from storage.shards import ShardView, encode_shard, shard_bytes


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
    zarr.create_array(
        store,
        name=spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        shards=(spec.layout.shard_rows, *spec.row_shape),
        chunks=(spec.layout.chunk_rows, *spec.row_shape),
        fill_value=spec.fill,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        filters=None,
        config={"write_empty_chunks": True},
    )[...] = values
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


@given(arrays(), st.data())
@settings(deadline=None)
def test_rows_come_back_gathered_and_in_runs(case: tuple[ArraySpec, np.ndarray], data: st.DataObject) -> None:
    spec, values = case
    shard = data.draw(st.integers(0, spec.layout.num_shards - 1))
    inside = spec.layout.rows_of(shard)
    part = values[inside.start : inside.stop]
    view = ShardView(encode_shard(spec, shard, part).tobytes(), spec, shard, where="file")
    rows = np.array(data.draw(st.lists(st.integers(0, len(part) - 1), min_size=1)), np.int64)
    columns = data.draw(st.integers(1, spec.row_shape[0])) if spec.row_shape else None
    assert np.array_equal(view.gather(rows, columns), part[rows] if columns is None else part[rows, :columns])
    start = data.draw(st.integers(0, len(part) - 1))
    stop = data.draw(st.integers(start + 1, len(part)))
    expected = part[start:stop] if columns is None else part[start:stop, :columns]
    out = np.empty_like(expected)
    view.read(start, stop, out)
    assert np.array_equal(out, expected)


def test_a_damaged_chunk_does_not_hide_the_others() -> None:
    layout = Layout(num_rows=32, shard_rows=32, chunk_rows=8)
    spec = ArraySpec(name="a", dtype=np.dtype("<f4"), row_shape=(), layout=layout, dimensions=("position",))
    values = np.arange(32, dtype="<f4")
    data = bytearray(encode_shard(spec, 0, values).tobytes())
    data[40] ^= 1  # chunk 1 begins at 8 · 4 + 4
    view = ShardView(bytes(data), spec, 0, where="file")
    assert np.array_equal(view.gather(np.array([0, 7, 31])), values[[0, 7, 31]])
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match="array a, shard 0, chunk 1"):
            view.gather(np.array([7, 8]))


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
