"""Every row belongs to one shard, and the files and sentences of a shard follow from arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dump.layout import Layout, sentences_of_range
from tests.storage.dumps import make_schema


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    chunk_rows = draw(st.integers(1, 20))
    return Layout(
        num_rows=draw(st.integers(1, 2_000)), chunk_rows=chunk_rows, shard_rows=chunk_rows * draw(st.integers(1, 9))
    )


@given(layouts())
def test_shards_partition_the_rows(layout: Layout) -> None:
    rows = [row for shard in range(layout.num_shards) for row in layout.rows_of(shard)]
    assert rows == list(range(layout.num_rows))
    for shard in range(layout.num_shards):
        assert {row // layout.shard_rows for row in layout.rows_of(shard)} == {shard}


@given(layouts())
def test_stored_chunks_are_those_with_a_row(layout: Layout) -> None:
    for shard in range(layout.num_shards):
        chunks = {(row - shard * layout.shard_rows) // layout.chunk_rows for row in layout.rows_of(shard)}
        assert chunks == set(range(layout.num_chunks(shard)))
        assert layout.num_chunks(shard) <= layout.chunks_per_shard


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.data())
def test_sentences_of_a_range_share_a_position_with_it(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    start = data.draw(st.integers(0, sum(lengths) - 1))
    stop = data.draw(st.integers(start + 1, sum(lengths)))
    expected = [m for m in range(len(lengths)) if offsets[m] < stop and offsets[m + 1] > start]
    assert list(sentences_of_range(offsets, range(start, stop))) == expected


def test_shard_files_have_zarrs_default_names() -> None:
    files = {spec.name: spec.file(3) for spec in make_schema([200]).position_arrays}
    assert files["tokens"] == "tokens/c/3"
    assert files["ids"] == "ids/c/3/0"


def test_a_shard_past_the_last_raises() -> None:
    with pytest.raises(IndexError):
        Layout(num_rows=64, shard_rows=32, chunk_rows=8).rows_of(2)
