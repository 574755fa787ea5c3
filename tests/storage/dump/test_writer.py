"""The bytes of a finished store depend only on schema, offsets and rows, and not on how it was written."""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.dump.positions import Positions
from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter
from storage.errors import ConfigError, FingerprintMismatchError, IncompleteStoreError, StoreBusyError, StoreError
from storage.folder import history_path
from tests.storage.dumps import (
    LENGTHS,
    assert_same,
    make_offsets,
    make_positions,
    make_schema,
    store_bytes,
    write_dump,
    write_shards,
)

SCHEMA = make_schema(LENGTHS)
OFFSETS = make_offsets(LENGTHS)
POSITIONS = make_positions(SCHEMA)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a dump that was never interrupted."""
    path = tmp_path_factory.mktemp("reference") / "dump"
    write_dump(path, SCHEMA, LENGTHS, POSITIONS)
    return store_bytes(path)


def test_a_finished_store_holds_only_metadata_shards_and_the_manifest(finished: dict[str, bytes]) -> None:
    arrays = [spec.name for spec in (*SCHEMA.position_arrays, SCHEMA.offsets_array)]
    metadata = {"zarr.json", "manifest.json", *(f"{name}/zarr.json" for name in arrays)}
    shards = {spec.file(shard) for spec in SCHEMA.position_arrays for shard in range(3)} | {"offsets/c/0"}
    assert finished.keys() == metadata | shards


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(3)), st.lists(st.integers(0, 3), max_size=4), st.booleans())
def test_order_interruptions_and_number_of_writers_do_not_change_a_byte(
    finished: dict[str, bytes], order: list[int], cuts: list[int], by_others: bool
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        for cut in [*cuts, None]:
            with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as main:
                writer = DumpWriter.open(path, SCHEMA, OFFSETS, main=False) if by_others else main
                pending = main.pending()
                write_shards(writer, POSITIONS, [shard for shard in order if shard in pending][:cut])
                if cut is None:
                    main.finish()
        assert store_bytes(path) == finished


def killed_after(calls: int, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run ``work`` in a child process that dies at its n-th fsync or renaming. Return whether it died."""
    child = os.fork()
    if child == 0:
        left = calls

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return function(*arguments, **options)

            return call

        monkeypatch.setattr(os, "fsync", counted(lambda _: None))
        monkeypatch.setattr(Path, "replace", counted(Path.replace))
        monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            work()
        except BaseException:  # noqa: BLE001  the child must not continue as a second pytest
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_dump_killed_at_any_step_resumes_to_the_same_bytes(
    tmp_path: Path, finished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, died = 0, True
    while died:
        path = tmp_path / str(stage)
        died = killed_after(stage, lambda path=path: write_dump(path, SCHEMA, LENGTHS, POSITIONS) and None, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            write_dump(path, SCHEMA, LENGTHS, POSITIONS)
        assert store_bytes(path) == finished, f"stage {stage}"
        shutil.rmtree(path)
        stage += 1
    assert stage > 80


def test_a_file_is_synced_before_its_renaming_and_its_folder_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> Path:
        events.append("rename " + source.name)
        return replace(source, target)

    with DumpWriter.open(tmp_path / "dump", SCHEMA, OFFSETS, main=True) as writer:
        monkeypatch.setattr(os, "fsync", recording_fsync)
        monkeypatch.setattr(Path, "replace", recording_replace)
        write_shards(writer, POSITIONS, [2])
    renamings = [index for index, event in enumerate(events) if event.startswith("rename")]
    assert len(renamings) == 7
    for index in renamings:
        assert events[index - 1] == events[index].replace("rename", "sync")
        assert events[index + 1] in ("sync c", "sync 2", "sync finished")
    assert events[renamings[-1]].startswith("rename .2.json")


def test_a_second_writer_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as first:
        with pytest.raises(StoreBusyError, match="another process"):
            DumpWriter.open(path, SCHEMA, OFFSETS, main=True)
        write_shards(first, POSITIONS, first.pending())
        first.finish()
    DumpWriter.open(path, SCHEMA, OFFSETS, main=True).close()


def test_the_history_next_to_the_store_is_the_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    for host in ("one", "two"):
        with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
            writer.log({"event": "start", "host": host})
        with history_path(path).open("ab") as file:
            file.write(b'{"half')  # killed while writing
    lines = history_path(path).read_text().splitlines()
    assert [json.loads(line)["host"] for line in lines if line.endswith("}")] == ["one", "two"]
    assert not any("history" in name for name in store_bytes(path))
    with history_path(path).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_complete_dump_has_no_pending_shards(tmp_path: Path, finished: dict[str, bytes]) -> None:
    path = tmp_path / "dump"
    write_dump(path, SCHEMA, LENGTHS, POSITIONS)
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
        assert writer.is_complete
        assert writer.pending() == []
        assert writer.finish() == DumpReader(path).summary
        with pytest.raises(StoreError, match="complete"):
            write_shards(writer, POSITIONS, [0])
    assert store_bytes(path) == finished


def test_other_options_are_refused_and_both_values_named(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    write_dump(path, SCHEMA, LENGTHS, POSITIONS)
    other = make_schema(LENGTHS, k=5, computation={"threads": 2, "dtype": "float32"})
    for main in (True, False):
        with pytest.raises(StoreError, match=r"computation.threads is 1, now 2; k is 6, now 5"):
            DumpWriter.open(path, other, OFFSETS, main=main)
    other = make_schema(LENGTHS, fingerprints={**SCHEMA.fingerprints, "teacher": "other"})
    with pytest.raises(FingerprintMismatchError, match=r"fingerprints.teacher is 't+', now 'other'"):
        DumpWriter.open(path, other, OFFSETS, main=True)
    with pytest.raises(StoreError, match="other sentences"):
        DumpWriter.open(path, SCHEMA, make_offsets(LENGTHS[::-1]), main=True)


@pytest.mark.parametrize("file", ["ids/c/1/0", "tokens/c/0", "zarr.json", "logp/zarr.json", "offsets/c/0"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_running_again_repairs_a_damaged_dump(
    tmp_path: Path, finished: dict[str, bytes], file: str, damage: str
) -> None:
    path = tmp_path / "dump"
    write_dump(path, SCHEMA, LENGTHS, POSITIONS)
    data = bytearray(finished[file])
    data[len(data) // 2] ^= 1
    (path / file).unlink() if damage == "remove" else (path / file).write_bytes(
        data[: -1 if damage == "truncate" else None]
    )
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
        assert len(writer.pending()) == (0 if "zarr" in file or "offsets" in file else 1)
        write_shards(writer, POSITIONS, writer.pending())
        writer.finish()
    assert store_bytes(path) == finished


def test_a_damaged_finished_shard_is_pending_again(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
        write_shards(writer, POSITIONS, [0, 1, 2])
        assert writer.pending() == []
        (path / "logp/c/1/0").write_bytes(b"short")
        (path / "finished/2.json").write_text((path / "finished/0.json").read_text())
        assert writer.pending() == [1, 2]
        shards: list[int] = []
        with pytest.raises(IncompleteStoreError, match=r"not all shards are finished \(missing 2; first: "):
            writer.finish(shards.append)
        assert shards == [1, 1, 1]


def test_an_incomplete_dump_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
        assert not writer.is_complete
        write_shards(writer, POSITIONS, [1])
    for use in (DumpReader, verify_dump):
        with pytest.raises(IncompleteStoreError, match=r"1 of 3 shards.* dump-teacher"):
            use(path)
    about = inspect_dump(path)
    assert (about["state"], about["num_finished_shards"], about["num_shards"]) == ("writing", 1, 3)


def test_a_process_of_an_abandoned_run_cannot_add_its_shards_to_another_dump(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    first = make_schema(LENGTHS, fingerprints={**SCHEMA.fingerprints, "teacher": "another"})
    other_rows = make_positions(SCHEMA, seed=7)
    DumpWriter.open(path, first, OFFSETS, main=True).close()
    late = DumpWriter.open(path, first, OFFSETS, main=False)
    write_shards(late, other_rows, [1])
    entry = (path / "finished" / "1.json").read_bytes()
    shutil.rmtree(path)
    with DumpWriter.open(path, SCHEMA, OFFSETS, main=True) as writer:
        with pytest.raises(StoreError, match="shard 0: the store was replaced by another dump"):
            write_shards(late, other_rows, [0])
        write_shards(writer, POSITIONS, [0, 1])
        (path / "finished" / "1.json").write_bytes(entry)  # written late, after the check
        assert writer.pending() == [1, 2]
        write_shards(writer, POSITIONS, [1, 2])
        writer.finish()
    assert_same(DumpReader(path).read_range(0, 94), POSITIONS)


def test_foreign_files_are_refused_when_a_dump_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.mkdir()
    (path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        DumpWriter.open(path, SCHEMA, OFFSETS, main=True)
    (path / "thesis.tex").unlink()
    DumpWriter.open(path, SCHEMA, OFFSETS, main=True).close()
    (path / "ids" / "notes").touch()
    with pytest.raises(StoreError, match="ids/notes"):
        DumpWriter.open(path, SCHEMA, OFFSETS, main=True)


def changed(**changes: Any) -> Positions:
    part = POSITIONS.slice(0, 32)
    return Positions(**(part.arrays() | changes))


def bad_rows() -> Iterator[tuple[str, Positions]]:
    part = POSITIONS.slice(0, 32)
    yield "tokens is uint16", POSITIONS.slice(0, 31)
    yield "logp is float32", changed(logp=part.logp.astype(np.float32))
    yield "tokens holds the id 50", changed(tokens=np.full_like(part.tokens, 50))
    yield "ids holds the id 60", changed(ids=np.full_like(part.ids, 60))
    yield "logp rises", changed(logp=part.logp[:, ::-1].copy())
    yield "logp holds a NaN", changed(logp=np.full_like(part.logp, np.nan))
    yield "logp holds a NaN or a value above 0", changed(logp=np.full_like(part.logp, 0.5))
    yield "gold_logp is not finite", changed(gold_logp=np.full_like(part.gold_logp, -np.inf))
    yield "tail holds a NaN", changed(tail=np.full_like(part.tail, np.nan))
    yield "logz is inf", changed(logz=np.full_like(part.logz, np.inf))


DRAWS = make_schema(LENGTHS, k=8, selection="stratified", num_top=3, draw_seed=1)
DRAWN = make_positions(DRAWS).slice(0, 32)


def edited(name: str, row: int, column: int, value: float) -> Positions:
    array = DRAWN.arrays()[name].copy()
    array[row, column] = value
    return dataclasses.replace(DRAWN, **{name: array})


def bad_draws() -> Iterator[tuple[str, DumpSchema, Positions]]:
    assert DRAWN.counts is not None
    used = (DRAWN.counts[:, 3:] > 0).sum(1)
    row = int(np.argmin(used))  # a row with unused columns
    last = 3 + int(used[row]) - 1
    yield "counts is missing", DRAWS, dataclasses.replace(DRAWN, counts=None)
    yield "counts does not belong in a topk dump", SCHEMA, changed(counts=np.zeros((32, 6), np.uint8))
    yield "counts of the 3 top tokens are not 0", DRAWS, edited("counts", row, 0, 1)
    yield "counts have a wrong sum, expected 5", DRAWS, edited("counts", row, last, int(DRAWN.counts[row, last]) + 1)
    yield "counts have a wrong sum, expected 5, or 0 if", DRAWS, edited("tail", row, 0, -np.inf)
    shifted = DRAWN.counts.copy()
    shifted[row, last + 1], shifted[row, last] = shifted[row, last], 0
    yield "an unused column before a used one", DRAWS, dataclasses.replace(DRAWN, counts=shifted)
    yield "does not mark exactly the unused columns", DRAWS, edited("logp", row, last, np.nan)
    yield "does not mark exactly the unused columns", DRAWS, edited("ids", row, last, 65_535)
    yield "does not mark exactly the unused columns", DRAWS, edited("logp", row, last + 1, -9.0)
    yield "does not mark exactly the unused columns", DRAWS, edited("ids", row, last + 1, 1)
    yield "ids holds the id 50", DRAWS, edited("ids", row, last, 50)
    yield "logp holds a NaN", DRAWS, edited("logp", row, 0, np.nan)
    yield "logp rises", DRAWS, edited("logp", row, last, -0.001)
    sampled = dataclasses.replace(DRAWS, selection="sampled", num_top=0)
    rows = dataclasses.replace(make_positions(sampled).slice(0, 32), tail=DRAWN.tail)
    yield "tail is not 0", sampled, rows


@pytest.mark.parametrize(
    ("message", "schema", "rows"), list(bad_draws()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_impossible_draws_are_not_written(tmp_path: Path, message: str, schema: DumpSchema, rows: Positions) -> None:
    with DumpWriter.open(tmp_path / "dump", schema, OFFSETS, main=True) as writer:
        before = store_bytes(tmp_path / "dump")
        with pytest.raises(StoreError, match=message):
            writer.write_shard(0, rows)
        assert store_bytes(tmp_path / "dump") == before
        writer.write_shard(0, make_positions(schema).slice(0, 32))


def test_a_row_without_remaining_mass_has_no_draws(tmp_path: Path) -> None:
    arrays = {name: array.copy() for name, array in DRAWN.arrays().items()}
    arrays["tail"][5], arrays["counts"][5], arrays["logp"][5, 3:], arrays["ids"][5, 3:] = -np.inf, 0, np.nan, 65_535
    with DumpWriter.open(tmp_path / "dump", DRAWS, OFFSETS, main=True) as writer:
        writer.write_shard(0, Positions(**arrays))
        assert 0 not in writer.pending()


@pytest.mark.parametrize(
    ("message", "rows"), list(bad_rows()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_rows_that_are_no_distributions_are_not_written(tmp_path: Path, message: str, rows: Positions) -> None:
    with DumpWriter.open(tmp_path / "dump", SCHEMA, OFFSETS, main=True) as writer:
        before = store_bytes(tmp_path / "dump")
        with pytest.raises(StoreError, match=message):
            writer.write_shard(0, rows)
        assert store_bytes(tmp_path / "dump") == before


def test_only_the_main_process_finishes(tmp_path: Path) -> None:
    DumpWriter.open(tmp_path / "dump", SCHEMA, OFFSETS, main=True).close()
    other = DumpWriter.open(tmp_path / "dump", SCHEMA, OFFSETS, main=False)
    for call in (other.finish, lambda: other.log({})):
        with pytest.raises(RuntimeError, match="main process"):
            call()
    with pytest.raises(ConfigError, match="offsets"):
        DumpWriter.open(tmp_path / "dump", SCHEMA, OFFSETS[:-1], main=True)


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from storage.errors import StoreError
from tests.storage.dumps import make_schema, write_dump
lengths = [40] * 100
schema = make_schema(lengths, shard_positions=2048, k=20)
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_dump(Path(sys.argv[1]), schema, lengths)
except StoreError as error:
    print(error)
    sys.exit(3)
"""


def test_a_full_disk_gives_a_clear_error_and_finished_shards_stay_valid(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[3])

    def dump(name: str, limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name), root, str(limit)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    full = dump("a", 50_000)
    assert (full.returncode, full.stderr) == (3, "")
    assert "File too large. Make room" in full.stdout
    assert not list((tmp_path / "a").rglob("*.partial"))
    assert (tmp_path / "a" / "tokens" / "c" / "0").exists()
    for name in ("a", "b"):
        assert dump(name, 0).returncode == 0
    assert store_bytes(tmp_path / "a") == store_bytes(tmp_path / "b")
