"""A cache returns the right bytes, stays within its limit, and is shared by the processes of a machine."""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import FileDigest
from storage.remote.cache import FileCache, cache_folder
from storage.remote.objects import no_room
from tests.storage.dumps import mapped


def content(number: int, size: int = 1000) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1)


def digest_of(number: int) -> FileDigest:
    return FileDigest.of_bytes(content(number))


def fetching(data: bytes, calls: list[Path] | None = None) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        if calls is not None:
            calls.append(target)
        target.write_bytes(data)

    return fetch


def never(target: Path) -> None:
    raise AssertionError(f"{target} was fetched again")


def files(cache: FileCache) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (cache.folder / "objects").glob("*/*")}


def test_the_cache_folder_comes_from_the_variable_or_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RNNG_DISTILL_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("RNNG_DISTILL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rnng-distill"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # its specification says to ignore a relative path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "rnng-distill"


def test_a_file_is_fetched_once(cache: FileCache) -> None:
    assert mapped(cache.open(digest_of(1), fetching(content(1)), where="one"))[:] == content(1)
    assert mapped(cache.open(digest_of(1), never, where="one"))[:] == content(1)


def test_a_copy_is_found_by_its_digest_and_not_by_its_name(cache: FileCache) -> None:
    mapped(cache.open(digest_of(1), fetching(content(1)), where="same name"))
    assert mapped(cache.open(digest_of(2), fetching(content(2)), where="same name"))[:] == content(2)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"x" + data[1:]])
def test_fetched_bytes_that_do_not_match_are_refused_and_removed(
    cache: FileCache, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(CorruptStoreError, match=r"^s3://b/d/ids: .*expected.*dump-teacher"):
        mapped(cache.open(digest_of(1), fetching(damage(content(1))), where="s3://b/d/ids"))
    assert files(cache) == {}
    assert mapped(cache.open(digest_of(1), fetching(content(1)), where="s3://b/d/ids"))[:] == content(1)


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "/etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_malformed_digest_never_becomes_a_file_name(cache: FileCache, sha256: str) -> None:
    with pytest.raises(CorruptStoreError, match=r"^d: its sha256 in the manifest is"):
        mapped(cache.open(FileDigest(sha256=sha256, size_bytes=3), never, where="d"))


def test_a_truncated_copy_is_fetched_again(cache: FileCache) -> None:
    mapped(cache.open(digest_of(1), fetching(content(1)), where="one"))
    os.truncate(next((cache.folder / "objects").glob("*/*")), 10)
    assert mapped(cache.open(digest_of(1), fetching(content(1)), where="one"))[:] == content(1)


def test_an_empty_file_cannot_be_mapped(cache: FileCache) -> None:
    with pytest.raises(ValueError, match="empty"):
        mapped(cache.open(FileDigest.of_bytes(b""), fetching(b""), where="empty"))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 7), max_size=30), st.integers(0, 6))
def test_the_cache_stays_within_its_limit_and_drops_the_least_recently_used(
    tmp_path_factory: pytest.TempPathFactory, uses: list[int], room: int
) -> None:
    size = len(content(0))
    cache = FileCache(tmp_path_factory.mktemp("cache"), size_bytes=room * size)
    expected: list[int] = []
    clock = iter(range(1, 100))
    with pytest.MonkeyPatch.context() as patch:
        utime = os.utime
        # Uses closer together than the clock's resolution have no order.
        patch.setattr(os, "utime", lambda file: utime(file, ns=(0, next(clock) * 10**9)))
        for number in uses:
            calls: list[Path] = []
            kept = mapped(cache.open(digest_of(number), fetching(content(number), calls), where="file"))
            assert bool(calls) == (number not in expected)
            expected = [*(used for used in expected if used != number), number][-room:] if room else []
            assert kept[:] == content(number)
            if calls and files(cache):  # a new file has the real time, which is later than all of these
                newest = cache.folder / "objects" / digest_of(number).sha256[:2] / digest_of(number).sha256
                utime(newest, ns=(0, next(clock) * 10**9))
            assert files(cache).keys() == {digest_of(used).sha256 for used in expected}


def test_more_files_than_fit_into_the_cache_can_be_mapped(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, size_bytes=2500)
    maps = [mapped(cache.open(digest_of(number), fetching(content(number)), where="file")) for number in range(10)]
    assert [found[:] for found in maps] == [content(number) for number in range(10)]
    assert sum(files(cache).values()) <= 2500


def test_partial_files_of_a_killed_process_are_removed(cache: FileCache) -> None:
    folder = cache.subfolder("objects", digest_of(1).sha256[:2])
    (folder / "killed.partial").write_bytes(b"half")
    mapped(cache.open(digest_of(1), fetching(content(1)), where="one"))
    assert files(cache).keys() == {digest_of(1).sha256}


def _map_all(folder: Path, log: Path, size_bytes: int, order: list[int], wait_s: float) -> None:
    cache = FileCache(folder, size_bytes=size_bytes)

    def fetch_and_note(number: int) -> Callable[[Path], None]:
        def fetch(target: Path) -> None:
            with log.open("a") as file:
                file.write(f"{number}\n")
            time.sleep(wait_s)
            target.write_bytes(content(number))

        return fetch

    for number in order:
        assert mapped(cache.open(digest_of(number), fetch_and_note(number), where="file"))[:] == content(number)


def _run_all(arguments: list[tuple[object, ...]]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_map_all, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_processes_that_need_the_same_file_fetch_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _run_all([(tmp_path / "cache", log, 10**9, [1, 2], 0.3)] * 3)
    assert sorted(log.read_text().split()) == ["1", "2"]


def test_processes_that_evict_each_others_files_read_the_right_bytes(tmp_path: Path) -> None:
    orders = [[(step * stride + start) % 12 for step in range(150)] for start, stride in ((0, 1), (5, 5), (3, 7))]
    _run_all([(tmp_path / "cache", tmp_path / "log", 2500, order, 0.0) for order in orders])
    assert sum(files(FileCache(tmp_path / "cache")).values()) <= 2500


def test_a_lock_is_released_even_if_a_process_was_forked_meanwhile(cache: FileCache) -> None:
    with cache.locked("ab"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        start = time.monotonic()
        with cache.locked("ab"):
            assert time.monotonic() - start < 10
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_cache_that_cannot_be_written_gives_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cache of remote files cannot be used: .*RNNG_DISTILL_CACHE"):
        mapped(FileCache(tmp_path / "file" / "cache").open(digest_of(1), never, where="one"))


def test_a_full_disk_leaves_no_partial_file(cache: FileCache) -> None:
    def fetch(target: Path) -> None:
        target.write_bytes(b"half")
        raise no_room(target.parent, "one")

    with pytest.raises(StoreError, match="Make room"):
        mapped(cache.open(digest_of(1), fetch, where="one"))
    assert files(cache) == {}
