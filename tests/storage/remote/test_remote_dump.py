"""A dump in an object store has the bytes of a dump on a disk, is resumed like it, and is read through a cache."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.dump.writer import DumpWriter
from storage.errors import CorruptStoreError, IncompleteStoreError, StoreBusyError
from storage.locations import open_folder
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore
from storage.remote.remote_folder import RemoteFolder
from tests.processes import finish, run_cli, start_cli
from tests.storage.dumps import (
    LENGTHS,
    assert_same,
    make_offsets,
    make_positions,
    make_schema,
    pick,
    store_bytes,
    write_dump,
    write_shards,
)

SCHEMA = make_schema(LENGTHS)
POSITIONS = make_positions(SCHEMA)


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.remote.lease.SETTLE_S", 0.01)


def object_bytes(url: str) -> dict[str, bytes]:
    store = ObjectStore(url)
    return {name: store.read(name) for name in store.entries()}


@pytest.mark.parametrize("profile", ["exact", "compact"])
def test_a_dump_at_a_url_has_the_bytes_of_one_on_a_disk(
    url: str, cache: FileCache, tmp_path: Path, profile: str
) -> None:
    schema = make_schema(LENGTHS, profile=profile)
    write_dump(tmp_path / "dump", schema, LENGTHS, POSITIONS)
    with DumpWriter.open(RemoteFolder(url, cache=cache), schema, make_offsets(LENGTHS), main=True) as writer:
        write_shards(writer, POSITIONS, [1])
    assert inspect_dump(url)["num_finished_shards"] == 1
    with pytest.raises(IncompleteStoreError, match=f"{url}: state is writing.*1 of 3 shards"):
        DumpReader(RemoteFolder(url, cache=cache))
    with DumpWriter.open(RemoteFolder(url, cache=cache), schema, make_offsets(LENGTHS), main=True) as writer:
        other = DumpWriter.open(RemoteFolder(url, cache=cache), schema, make_offsets(LENGTHS), main=False)
        assert writer.pending() == [0, 2]
        write_shards(other, POSITIONS, [0])
        write_shards(writer, POSITIONS, [2])
        writer.finish()
    assert object_bytes(url) == store_bytes(tmp_path / "dump")
    remote, local = DumpReader(RemoteFolder(url, cache=cache)), DumpReader(tmp_path / "dump")
    assert verify_dump(RemoteFolder(url, cache=cache)) == local.summary
    assert_same(remote.read_sentences([6, 3, 0]), local.read_sentences([6, 3, 0]))


def test_a_second_writer_is_refused_until_it_takes_over(url: str, cache: FileCache) -> None:
    def opened(take_over: bool = False) -> DumpWriter:
        folder = RemoteFolder(url, cache=cache, take_over=take_over)
        return DumpWriter.open(folder, SCHEMA, make_offsets(LENGTHS), main=True)

    first = opened()
    with pytest.raises(StoreBusyError, match="--take-over"):
        opened()
    with opened(take_over=True) as second:
        with pytest.raises(StoreBusyError, match="another process now holds it"):
            write_shards(first, POSITIONS, [0])
        write_shards(second, POSITIONS, second.pending())
        second.finish()
    first.close()
    assert_same(DumpReader(RemoteFolder(url, cache=cache)).read_range(0, 94), POSITIONS)


def test_a_dump_larger_than_the_cache_is_read_right_and_stays_within_the_limit(url: str, tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", SCHEMA, LENGTHS, POSITIONS)
    folder = RemoteFolder(url, cache=FileCache(tmp_path / "writer"))
    for name, data in store_bytes(tmp_path / "dump").items():
        folder.write(name, data)
    largest = max(size for name, size in folder.sizes().items() if "/c/" in name)
    bound = 3 * largest
    cache = FileCache(tmp_path / "cache", size_bytes=bound)
    reader = DumpReader(RemoteFolder(url, cache=cache))
    offsets = make_offsets(LENGTHS)
    generator = np.random.default_rng(1)
    for _ in range(20):
        sentences = generator.permutation(len(LENGTHS))
        reader.prefetch(sentences)
        rows = np.concatenate([np.arange(offsets[m], offsets[m + 1]) for m in sentences])
        assert_same(reader.read_sentences(sentences), pick(POSITIONS, rows))
        kept = [file.stat().st_size for file in (tmp_path / "cache" / "objects").rglob("*") if file.is_file()]
        assert sum(kept) <= bound


@pytest.mark.parametrize("name", ["ids/c/1/0", "offsets/c/0", "tail/zarr.json"])
def test_an_altered_object_is_refused(url: str, cache: FileCache, tmp_path: Path, name: str) -> None:
    write_dump(tmp_path / "dump", SCHEMA, LENGTHS, POSITIONS)
    folder = RemoteFolder(url, cache=cache)
    for each, data in store_bytes(tmp_path / "dump").items():
        altered = bytearray(data)
        altered[len(data) // 2] ^= each == name
        folder.write(each, bytes(altered))
    with pytest.raises(CorruptStoreError, match=name):
        verify_dump(folder)
    with pytest.raises(CorruptStoreError, match=name):
        DumpReader(folder).read_range(0, 94)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_a_dump_at_a_url(s3_url: str, cache: FileCache, method: str) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    with DumpWriter.open(folder, SCHEMA, make_offsets(LENGTHS), main=True) as writer:
        write_shards(writer, POSITIONS, writer.pending())
        writer.finish()
    reader = DumpReader(RemoteFolder(s3_url, cache=cache))
    reader[0]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(reader.__getitem__, range(len(LENGTHS)))
    for m, positions in enumerate(found):
        assert_same(positions, reader[m])


@pytest.mark.processes
@pytest.mark.faults
def test_a_killed_dump_at_a_url_is_taken_over_and_a_student_learns_the_same_from_it(
    small_world: Path, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNG_DISTILL_CACHE", str(tmp_path / "cache"))
    dataset_url = f"{s3_url}-dataset"
    splits = [part for s in ("train", "dev", "test") for part in (f"--{s}", small_world / "corpus" / s)]
    run_cli("build-dataset", *splits, "--tokenizer", small_world / "tokenizer.json", "--out", dataset_url)

    def arguments(data: object, out: object) -> list[object]:
        options = ["--k", 16, "--shard-positions", 384, "--batch-tokens", 512, "--device", "cpu"]
        return ["dump-teacher", "--data", data, "--teacher", small_world / "teacher", "--out", out, *options]

    run_cli(*arguments(small_world / "dataset", tmp_path / "dump"))
    running = start_cli(*arguments(dataset_url, s3_url), processes=2)
    folder = open_folder(s3_url)
    while sum(name.startswith("finished/") for name in folder.sizes()) < 3:
        assert all(process.poll() is None for process in running)
        time.sleep(0.05)
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    refused = run_cli(*arguments(dataset_url, s3_url), fails=True).stderr
    assert "another process is writing it" in refused
    assert len(refused.strip().splitlines()) == 1
    finish(start_cli(*arguments(dataset_url, s3_url), "--take-over", processes=2))
    assert object_bytes(s3_url) == store_bytes(tmp_path / "dump")
    assert "verified" in run_cli("verify", s3_url).stdout
    assert '"state": "complete"' in run_cli("inspect", s3_url, "--json").stdout

    sizes = ["--embed-dim", 16, "--num-blocks", 1, "--num-heads", 2, "--max-steps", 4, "--device", "cpu"]
    sizes += ["--shuffle-window", 4096, "--dropout", 0, "--log-every", 1]
    for name, data, dump in (("remote", dataset_url, s3_url), ("local", small_world / "dataset", tmp_path / "dump")):
        run_cli("train-student", "--data", data, "--dump", dump, "--out", tmp_path / name, *sizes, "--cache-gb", 0.001)
    losses = [_losses(tmp_path / name / "metrics.jsonl") for name in ("remote", "local")]
    assert losses[0] == losses[1]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    grep = subprocess.run(["grep", "-r", secret, str(tmp_path)], capture_output=True, text=True, check=False)
    assert grep.stdout == ""
    assert not any(secret.encode() in data for data in object_bytes(s3_url.rpartition("/")[0]).values())


def _losses(metrics: Path) -> list[str]:
    rows = metrics.read_text().splitlines()
    return [row[row.index('"loss"') : row.index('"positions_per_s"')] for row in rows if '"positions_per_s"' in row]
