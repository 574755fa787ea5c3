"""Rows of different lengths are read back from one flat array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.ragged import Ragged

rows = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=12)


@given(rows)
def test_rows_are_read_back(lists: list[list[int]]) -> None:
    ragged = Ragged.from_lists(lists, np.uint16)
    assert [row.tolist() for row in ragged] == lists
    assert ragged.lengths.tolist() == [len(row) for row in lists]
    assert ragged.values.dtype == np.uint16
    assert len(ragged) == len(lists)


@given(rows.filter(len), st.data())
def test_take_equals_indexing_row_by_row(lists: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=20))
    taken = Ragged.from_lists(lists, np.int64).take(indices)
    assert [row.tolist() for row in taken] == [lists[index] for index in indices]


def test_take_refuses_missing_rows() -> None:
    ragged = Ragged.from_lists([[1], [2, 3]], np.int64)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            ragged.take([index])
        with pytest.raises(IndexError):
            ragged[index]


@pytest.mark.parametrize("offsets", [[0, 3], [1, 2], [0, 2, 1, 2], []])
def test_offsets_that_do_not_cut_the_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Ragged(np.zeros(2), np.array(offsets, np.int64))


def test_a_row_is_a_view() -> None:
    ragged = Ragged.from_lists([[1], [2, 3]], np.int64)
    assert np.shares_memory(ragged[1], ragged.values)
