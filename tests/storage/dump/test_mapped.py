"""Rows read from mapped files equal the rows written, whichever shards and chunks hold them."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.dump.manifest import Manifest
from storage.dump.mapped import AddressRange, MappedRows, pages
from storage.errors import CorruptStoreError
from storage.folder import LocalFolder
from tests.storage.dumps import LENGTHS, assert_same, make_schema, pick, write_dump


def mapped(path: Path) -> MappedRows:
    folder = LocalFolder(path)
    manifest = Manifest.read(folder)
    layout = manifest.schema.layout
    verified = bytearray(layout.num_shards * layout.chunks_per_shard)
    return MappedRows(folder, manifest.schema, manifest.shards, verified, lambda: None)


@settings(max_examples=40, deadline=None)
@given(
    num_positions=st.integers(1, 120),
    cut=st.sampled_from([(8, 8), (32, 8), (35, 7), (96, 32), (65_536, 1_024)]),
    size=st.sampled_from([(50, 6), (50, 50), (7, 1), (70_000, 3)]),
    data=st.data(),
)
def test_gathered_positions_and_ranges_equal_the_positions_written(
    num_positions: int, cut: tuple[int, int], size: tuple[int, int], data: st.DataObject
) -> None:
    if size[0] > 50:
        num_positions = min(num_positions, 9)
    schema = make_schema([num_positions], shard_positions=cut[0], chunk_positions=cut[1], vocab_size=size[0], k=size[1])
    with TemporaryDirectory() as folder:
        expected = write_dump(Path(folder) / "dump", schema, [num_positions])
        rows = mapped(Path(folder) / "dump")
        picked = np.array(data.draw(st.lists(st.integers(0, num_positions - 1), min_size=1)), np.int64)
        assert_same(rows.gather(picked), pick(expected, picked))
        start = data.draw(st.integers(0, num_positions))
        stop = data.draw(st.integers(start, num_positions))
        assert_same(rows.read(start, stop), expected.slice(start, stop))


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (9, 9), (8, 16), (9, 15), (0, 32), (32, 48), (24, 40), (0, 94)])
def test_ranges_are_read_whether_they_are_one_slice_or_several(tmp_path: Path, start: int, stop: int) -> None:
    expected = write_dump(tmp_path / "dump", make_schema(LENGTHS), LENGTHS)
    assert_same(mapped(tmp_path / "dump").read(start, stop), expected.slice(start, stop))


def test_a_damaged_chunk_does_not_hide_the_others(tmp_path: Path) -> None:
    expected = write_dump(tmp_path / "dump", make_schema(LENGTHS), LENGTHS)
    file = tmp_path / "dump" / "tail/c/1/0"
    data = bytearray(file.read_bytes())
    data[8 * 8 + 4 + 1] ^= 1  # a chunk has 8 rows of 2 float32, and a checksum
    file.write_bytes(data)
    rows = mapped(tmp_path / "dump")
    for first, last in ((32, 39), (48, 55)):
        assert rows.read(first, last + 1).ids.tolist() == expected.ids[first : last + 1].tolist()
    for _ in range(2):
        for read in (
            lambda: rows.read(41, 42),
            lambda: rows.gather(np.array([90, 47, 3])),
            lambda: rows.read(39, 41),
        ):
            with pytest.raises(CorruptStoreError, match="tail/c/1/0: array tail, shard 1, chunk 1"):
                read()


def test_files_are_mapped_at_their_offsets_and_gaps_are_zero(tmp_path: Path) -> None:
    size = pages(1)
    place = AddressRange(3 * size)
    for number in (2, 0):
        (tmp_path / str(number)).write_bytes(bytes([number + 1]) * (10 + number))
        with (tmp_path / str(number)).open("rb") as file:
            assert place.map(file.fileno(), number * size) == 10 + number
    expected = np.zeros(3 * size, np.uint8)
    expected[:10], expected[2 * size : 2 * size + 12] = 1, 3
    assert np.array_equal(place.bytes, expected)
    assert not place.bytes.flags.writeable
    (tmp_path / "large").write_bytes(bytes(size + 1))
    with (tmp_path / "large").open("rb") as file, pytest.raises(OSError, match="do not fit"):
        place.map(file.fileno(), 2 * size)


def test_a_range_stays_mapped_while_an_array_uses_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"7" * 100)
    place = AddressRange(100)
    with (tmp_path / "file").open("rb") as file:
        place.map(file.fileno(), 0)
    view = place.bytes[:100]
    del place
    assert view.tobytes() == b"7" * 100
