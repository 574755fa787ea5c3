"""A reader returns the rows that were written, in any order, as plain zarr does."""

import math
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage.dump.positions import Positions
from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.errors import StoreError
from tests.storage.dumps import LENGTHS, assert_same, make_offsets, make_positions, make_schema, pick, write_dump

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Positions]:
    path = tmp_path_factory.mktemp("reader") / "dump"
    return path, write_dump(path, make_schema(LENGTHS), LENGTHS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.sampled_from([(8, 8), (32, 8), (96, 32), (65_536, 1_024)]),
    st.sampled_from([(50, 6), (50, 50), (7, 1), (70_000, 3)]),
    st.sampled_from([(1.0,), (1.0, 2.0, 0.5)]),
    st.sampled_from(["topk", "sampled", "stratified"]),
    st.data(),
)
def test_a_reader_returns_what_was_written(
    lengths: list[int],
    cut: tuple[int, int],
    size: tuple[int, int],
    temperatures: tuple[float, ...],
    selection: str,
    data: st.DataObject,
) -> None:
    if selection == "stratified" and size[1] == 1:
        selection = "sampled"
    if size[0] > 50:
        lengths = [min(length, 3) for length in lengths[:2]]
    schema = make_schema(
        lengths,
        shard_positions=cut[0],
        chunk_positions=cut[1],
        vocab_size=size[0],
        k=size[1],
        temperatures=temperatures,
        selection=selection,
        num_top=size[1] // 2 if selection == "stratified" else 0,
    )
    with TemporaryDirectory() as folder:
        expected = write_dump(Path(folder) / "dump", schema, lengths)
        reader = DumpReader(Path(folder) / "dump")
        assert reader.schema == schema
        assert reader.offsets.tolist() == make_offsets(lengths).tolist()
        assert_same(reader.read_range(0, schema.num_positions), expected)
        sentences = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20))
        offsets = reader.offsets
        rows = [row for m in sentences for row in range(offsets[m], offsets[m + 1])]
        assert_same(reader.read_sentences(sentences), pick(expected, np.array(rows, np.int64)))
        assert verify_dump(Path(folder) / "dump") == reader.summary


@pytest.mark.parametrize("num_positions", [1, 31, 32, 33, 64, 65])
def test_sizes_around_a_shard_are_read_back(tmp_path: Path, num_positions: int) -> None:
    expected = write_dump(tmp_path / "dump", make_schema([num_positions]), [num_positions])
    assert_same(DumpReader(tmp_path / "dump").read_sentences([0]), expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=8))
def test_sentences_equal_those_of_plain_zarr(dump: tuple[Path, Positions], sentences: list[int]) -> None:
    path, expected = dump
    group = zarr.open_group(path, mode="r")
    offsets = group["offsets"][:]
    arrays = {
        name: np.concatenate([group[name][offsets[m] : offsets[m + 1]] for m in sentences])
        for name in expected.arrays()
    }
    assert_same(DumpReader(path).read_sentences(np.array(sentences)), Positions(**arrays))


@pytest.mark.parametrize("changes", [{}, {"selection": "stratified", "num_top": 2, "draw_seed": 3}])
def test_plain_zarr_opens_and_lists_a_dump_without_a_warning(tmp_path: Path, changes: dict[str, Any]) -> None:
    schema = make_schema(LENGTHS, **changes)
    rows = write_dump(tmp_path / "dump", schema, LENGTHS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "dump", mode="r")
        assert {name for name, _ in group.arrays()} == {*rows.arrays(), "offsets"}
        assert dict(group.attrs) == schema.to_json()
        for name, expected in rows.arrays().items():
            alone = zarr.open_array(tmp_path / "dump" / name, mode="r")
            assert alone.metadata.to_dict() == group[name].metadata.to_dict()
            assert np.array_equal(alone[:], expected, equal_nan=expected.dtype.kind == "f")


@given(st.integers(0, 93), st.integers(0, 93))
@settings(deadline=None)
def test_ranges_are_slices(dump: tuple[Path, Positions], first: int, second: int) -> None:
    path, expected = dump
    start, stop = sorted((first, second))
    assert_same(DumpReader(path).read_range(start, stop), expected.slice(start, stop))


def test_if_k_is_the_vocabulary_size_the_tail_is_empty(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", make_schema([9], k=50), [9])
    reader = DumpReader(tmp_path / "dump")
    assert np.isneginf(reader.read_range(0, 9).tail).all()
    assert reader.summary.mean_kept_mass == 1


def test_figures_follow_their_definitions(dump: tuple[Path, Positions]) -> None:
    path, rows = dump
    summary = DumpReader(path).summary
    last = make_offsets(LENGTHS)[1:] - 1
    words = np.setdiff1d(np.arange(94), last)
    kept = 1 - np.exp(rows.tail[:, 0].astype(np.float64))
    gold = rows.gold_logp.astype(np.float64)
    assert summary.mean_kept_mass == pytest.approx(kept.mean())
    assert summary.mean_kept_mass_without_eos == pytest.approx(kept[words].mean())
    assert summary.kept_mass_by_k.keys() == {1, 2, 4, 6}
    assert summary.kept_mass_by_k[2] == pytest.approx(
        np.exp(rows.logp[:, :2].astype(np.float64)).sum(1).mean(), rel=1e-6
    )
    assert summary.gold_nats == pytest.approx(-gold.sum())
    assert summary.eos_nats == pytest.approx(-gold[last].sum())
    assert summary.perplexity == pytest.approx(math.exp(-gold.mean()))
    assert summary.perplexity_without_eos == pytest.approx(math.exp(-gold[words].mean()))
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert summary.size_bytes == sum(file.stat().st_size for file in files)


def test_figures_of_a_dump_with_draws_are_about_its_top_tokens(tmp_path: Path) -> None:
    rows = write_dump(tmp_path / "a", make_schema([9], k=8, selection="stratified", num_top=3), [9])
    summary = DumpReader(tmp_path / "a").summary
    assert summary.mean_kept_mass == pytest.approx(1 - np.exp(rows.tail[:, 0].astype(np.float64)).mean())
    assert summary.kept_mass_by_k == {
        1: pytest.approx(np.exp(rows.logp[:, 0].astype(np.float64)).mean(), rel=1e-6),
        2: pytest.approx(np.exp(rows.logp[:, :2].astype(np.float64)).sum(1).mean(), rel=1e-6),
        3: summary.mean_kept_mass,
    }
    write_dump(tmp_path / "b", make_schema([9], k=8, selection="sampled"), [9])
    summary = verify_dump(tmp_path / "b")
    assert summary.mean_kept_mass == 0
    assert summary.kept_mass_by_k == {}


def test_a_dump_of_empty_sentences_has_no_figures_without_eos(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", make_schema([1, 1]), [1, 1])
    summary = DumpReader(tmp_path / "dump").summary
    assert summary.perplexity_without_eos is None
    assert summary.mean_kept_mass_without_eos is None


def test_an_undeclared_temperature_is_refused_with_a_remedy(dump: tuple[Path, Positions]) -> None:
    reader = DumpReader(dump[0])
    assert [reader.temperature_index(temperature) for temperature in (1, 2.0)] == [0, 1]
    with pytest.raises(StoreError, match=r"temperature 4 .* one of 1, 2: .* dump-teacher --temperatures 1,2,4"):
        reader.temperature_index(4)


def test_missing_sentences_positions_and_dumps_are_refused(dump: tuple[Path, Positions], tmp_path: Path) -> None:
    reader = DumpReader(dump[0])
    for sentences in ([-1], [0, 7]):
        with pytest.raises(IndexError):
            reader.read_sentences(sentences)
    for start, stop in ((-1, 2), (3, 2), (0, 95)):
        with pytest.raises(IndexError):
            reader.read_range(start, stop)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match="not a dump"):
            DumpReader(path)


@pytest.mark.parametrize("profile", ["exact", "compact"])
def test_mapped_shards_hold_no_files_open(tmp_path: Path, profile: str) -> None:
    lengths = [8] * 60
    write_dump(tmp_path / "dump", make_schema(lengths, shard_positions=8, profile=profile), lengths)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = DumpReader(tmp_path / "dump")
    reader.read_range(0, reader.schema.num_positions)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the offsets


def reversed_rows() -> NDArray[np.int64]:
    offsets = make_offsets(LENGTHS)
    return np.concatenate([np.arange(offsets[m], offsets[m + 1]) for m in reversed(range(len(LENGTHS)))])


@pytest.mark.parametrize("profile", ["exact", "compact"])
def test_a_reader_notices_that_its_dump_was_replaced(tmp_path: Path, profile: str) -> None:
    schema = make_schema(LENGTHS, profile=profile)
    write_dump(tmp_path / "dump", schema, LENGTHS)
    reader = DumpReader(tmp_path / "dump")
    first = reader[0]
    again = pickle.dumps(reader)
    shutil.rmtree(tmp_path / "dump")
    other = make_schema(LENGTHS, profile=profile, fingerprints={**schema.fingerprints, "teacher": "another"})
    write_dump(tmp_path / "dump", other, LENGTHS, make_positions(other, seed=9))
    assert_same(reader[0], first)
    with pytest.raises(StoreError, match="another dump replaced this one"):
        reader[6]
    with pytest.raises(StoreError, match="another dump replaced this one"):
        pickle.loads(again)  # noqa: S301  as a spawned worker does


def test_a_dump_of_symbolic_links_is_read(dump: tuple[Path, Positions], tmp_path: Path) -> None:
    path, expected = dump
    for file in (file for file in path.rglob("*") if file.is_file()):
        link = tmp_path / "links" / file.relative_to(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert_same(DumpReader(tmp_path / "links").read_range(0, 94), expected)
    verify_dump(tmp_path / "links")


def test_a_sentence_is_an_item(dump: tuple[Path, Positions]) -> None:
    path, expected = dump
    reader, offsets = DumpReader(path), make_offsets(LENGTHS)
    assert len(reader) == len(LENGTHS)
    for m in range(len(LENGTHS)):
        assert_same(reader[m], expected.slice(offsets[m], offsets[m + 1]))
    for m in (-1, len(LENGTHS)):
        with pytest.raises(IndexError):
            reader[m]


class Sentences(torch.utils.data.Dataset[list[float]]):
    """A PyTorch dataset over a dump, as a user would write it."""

    def __init__(self, reader: DumpReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, sentence: int) -> list[float]:
        return self.reader[sentence].gold_logp.tolist()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a machine with one core
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_the_same_positions(dump: tuple[Path, Positions], method: str) -> None:
    path, expected = dump
    reader, offsets = DumpReader(path), make_offsets(LENGTHS)
    reader.read_range(0, 94)  # maps the files before the workers start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork warns in a process with threads
        loader = torch.utils.data.DataLoader(
            Sentences(reader), batch_size=None, num_workers=2, multiprocessing_context=method
        )
        found = list(loader)
    gold = expected.gold_logp
    assert found == [gold[offsets[m] : offsets[m + 1]].tolist() for m in range(len(LENGTHS))]


def test_threads_share_a_reader(dump: tuple[Path, Positions]) -> None:
    path, expected = dump
    reader = DumpReader(path)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: reader.read_sentences(np.arange(len(LENGTHS))[::-1]), range(200)):
            assert_same(found, pick(expected, reversed_rows()))


def test_an_empty_split_makes_an_empty_dump(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", make_schema([]), [])
    reader = DumpReader(tmp_path / "dump")
    assert (len(reader), len(reader.read_sentences([])), len(reader.read_range(0, 0))) == (0, 0, 0)
    assert reader.summary.perplexity is reader.summary.mean_kept_mass is None
    assert reader.summary.kept_mass_by_k == {}
    assert verify_dump(tmp_path / "dump") == reader.summary
    group = zarr.open_group(tmp_path / "dump", mode="r")
    lengths = {name: array.shape[0] for name, array in group.arrays()}
    assert lengths.pop("offsets") == 1
    assert set(lengths.values()) == {0}


def test_inspect_describes_a_complete_dump(dump: tuple[Path, Positions]) -> None:
    about = inspect_dump(dump[0])
    assert (about["state"], about["num_shards"], about["num_finished_shards"]) == ("complete", 3, 3)
    assert about["statistics"] == DumpReader(dump[0]).summary.to_json()


def test_reading_needs_neither_torch_nor_zarr() -> None:
    program = (
        "import sys, storage.dump.reader, storage.dump.writer; sys.exit(bool({'torch', 'zarr'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == 0
