"""A store in an object store behaves like one on a disk, and its failures are errors of one line."""

import json
import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptStoreError, RnngDistillError, StoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder, LocalFolder
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore, plain_text
from storage.remote.remote_folder import RemoteFolder
from tests.conftest import ACCESS_KEY, SECRET_KEY
from tests.storage.conftest import wait_for
from tests.storage.dumps import mapped

DATA = bytes(range(256)) * 40
DIGEST = FileDigest.of_bytes(DATA)
NAMES = st.sampled_from(["zarr.json", "ids/c/0/0", "ids/c/1/0", "tokens/c/0", "manifest.json"])
STEPS = st.lists(
    st.tuples(st.just("write"), NAMES, st.binary(max_size=40))
    | st.tuples(st.just("remove"), st.lists(NAMES, max_size=3), st.none()),
    max_size=12,
)


@contextmanager
def fresh_file_systems() -> Iterator[None]:
    """Give the block new connections, and drop them afterwards."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(url: str, cache: FileCache) -> RemoteFolder:
    return RemoteFolder(url, cache=cache)


@settings(max_examples=30)
@given(STEPS)
def test_a_remote_folder_behaves_like_a_local_one(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    place = tmp_path_factory.mktemp("folder")
    local: Folder = LocalFolder(place / "store")
    remote: Folder = RemoteFolder(f"memory://{place.name}/store", cache=FileCache(place / "cache"))
    for kind, what, written in steps:
        for folder in (local, remote):
            folder.write(what, written) if kind == "write" else folder.remove(what)
        assert remote.sizes() == local.sizes()
        for name in local.sizes():
            data = local.read(name)
            assert remote.read(name) == data
            for digest in (FileDigest.of_bytes(data), FileDigest.of_bytes(data + b"x"), FileDigest.of_bytes(b"x")):
                assert remote.problem_with(name, digest) == local.problem_with(name, digest)
            if data:
                assert mapped(remote.open(name, FileDigest.of_bytes(data)))[:] == mapped(local.open(name, DIGEST))[:]


def test_a_file_written_is_listed_read_mapped_and_removed(folder: RemoteFolder) -> None:
    assert folder.sizes() == {}
    folder.write("ids/c/0/0", memoryview(DATA))
    folder.write("zarr.json", b"{}")
    assert folder.sizes() == {"ids/c/0/0": len(DATA), "zarr.json": 2}
    assert folder.read("ids/c/0/0") == DATA
    assert folder.problem_with("ids/c/0/0", DIGEST) is None
    assert mapped(folder.open("ids/c/0/0", DIGEST))[:] == DATA
    folder.sweep()
    folder.remove(["ids/c/0/0", "never/there"])
    assert folder.sizes() == {"zarr.json": 2}
    assert folder.problem_with("ids/c/0/0", DIGEST) == "the file is missing"
    with pytest.raises(FileNotFoundError, match="there is no such object"):
        folder.read("ids/c/0/0")
    with pytest.raises(FileNotFoundError):
        mapped(folder.open("gone", FileDigest.of_bytes(b"gone")))


def test_files_of_another_process_are_listed_at_once(folder: RemoteFolder, url: str, cache: FileCache) -> None:
    other = RemoteFolder(url, cache=cache)
    for number in range(3):
        assert len(folder.sizes()) == number
        other.write(f"finished/{number}.json", b"{}")


def test_files_of_another_process_are_found_after_an_older_listing(s3_url: str, cache: FileCache) -> None:
    import s3fs

    folder = RemoteFolder(s3_url, cache=cache)
    folder.write("finished/0.json", b"{}")
    assert len(folder.sizes()) == 1
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(f"{s3_url}/finished/1.json", b"[]")
    assert folder.read("finished/1.json") == b"[]"
    assert len(folder.sizes()) == 2


def test_objects_next_to_the_folder_are_not_in_it(folder: RemoteFolder, url: str, cache: FileCache) -> None:
    RemoteFolder(url + "-other", cache=cache).write("zarr.json", b"{}")
    parent = ObjectStore(url.rpartition("/")[0])
    parent.write("store.history.jsonl", b"{}\n")
    assert folder.sizes() == {}


def test_large_objects_are_sent_in_parts_and_read_back_complete(
    s3_url: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    # Parts of 50 MB would take seconds. S3 requires at least 5 MB.
    monkeypatch.setattr(s3fs.S3FileSystem._pipe_file, "__defaults__", (5 << 20, None, "overwrite"))
    monkeypatch.setattr(s3fs.S3FileSystem, "default_block_size", 5 << 20)
    data = os.urandom(1 << 20) * 11
    with fresh_file_systems():
        folder = RemoteFolder(s3_url, cache=cache)
        folder.write("ids/c/0/0", memoryview(data))
        about = fsspec.filesystem("s3").info(f"{s3_url}/ids/c/0/0")
        assert about["ETag"].strip('"').endswith("-3")  # three parts
        assert mapped(folder.open("ids/c/0/0", FileDigest.of_bytes(data)))[:] == data


def test_a_damaged_object_is_refused_and_not_cached(folder: RemoteFolder, cache: FileCache) -> None:
    folder.write("ids/c/0/0", DATA[:-1] + b"x")
    with pytest.raises(CorruptStoreError, match=r"/store/ids/c/0/0: sha256 is .*expected.*dump-teacher"):
        mapped(folder.open("ids/c/0/0", DIGEST))
    assert folder.problem_with("ids/c/0/0", DIGEST) is not None
    assert not list((cache.folder / "objects").glob("*/*"))
    folder.write("ids/c/0/0", DATA)
    assert mapped(folder.open("ids/c/0/0", DIGEST))[:] == DATA


def test_a_replaced_object_is_never_read_from_an_older_copy(folder: RemoteFolder) -> None:
    for data in (b"first", b"other"):
        folder.write("tokens/c/0", data)
        assert mapped(folder.open("tokens/c/0", FileDigest.of_bytes(data)))[:] == data


def num_copies(cache: FileCache) -> int:
    return len([path for path in (cache.folder / "objects").glob("*/*") if path.suffix != ".partial"])


def test_files_are_fetched_ahead_and_failures_are_reported_when_opened(folder: RemoteFolder, cache: FileCache) -> None:
    parts = {f"ids/c/{number}/0": bytes([number]) * 100 for number in range(8)}
    for name, data in parts.items():
        folder.write(name, data)
    digests = {name: FileDigest.of_bytes(data) for name, data in parts.items()}
    missing = ("gone", FileDigest.of_bytes(b"gone"))
    folder.prefetch([missing, *digests.items()])
    wait_for(lambda: num_copies(cache) == len(parts))
    folder.remove(parts)
    assert [mapped(folder.open(name, digest))[:] for name, digest in digests.items()] == list(parts.values())
    with pytest.raises(FileNotFoundError):
        mapped(folder.open(*missing))


def test_at_most_half_the_cache_is_fetched_ahead(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, size_bytes=1000)
    folder = RemoteFolder(f"memory://{tmp_path.name}/store", cache=cache)
    parts = {f"tokens/c/{number}": bytes([number]) * 100 for number in range(9)}
    for name, data in parts.items():
        folder.write(name, data)
    folder.prefetch([(name, FileDigest.of_bytes(data)) for name, data in parts.items()])
    wait_for(lambda: num_copies(cache) == 5)
    time.sleep(0.05)
    assert len(list((cache.folder / "objects").glob("*/*"))) == 5


def test_threads_share_a_folder(s3_url: str, cache: FileCache) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    problems: list[str | None] = []

    def work(number: int) -> None:
        data = bytes([number]) * 1000
        folder.write(f"tokens/c/{number}", data)
        problems.append(folder.problem_with(f"tokens/c/{number}", FileDigest.of_bytes(data)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert problems == [None] * 8


def _use(folder: RemoteFolder, cache: FileCache) -> None:
    assert mapped(folder.open("ids/c/0/0", DIGEST))[:] == DATA
    folder.prefetch([("ids/c/1/0", FileDigest.of_bytes(b"other"))])
    wait_for(lambda: num_copies(cache) == 2)
    folder.write(f"{os.getpid()}", b"from a child")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_folder_in_use_can_be_used_by_child_processes(s3_url: str, cache: FileCache, method: str) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    folder.write("ids/c/0/0", DATA)
    folder.write("ids/c/1/0", b"other")
    folder.prefetch([("ids/c/0/0", DIGEST)])  # starts threads and connections in the parent
    wait_for(lambda: num_copies(cache) == 1)
    context = multiprocessing.get_context(method)
    # A spawned process imports everything again.
    children = [context.Process(target=_use, args=(folder, cache)) for _ in range(2 if method == "fork" else 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert not any(child.exitcode for child in children)
    assert folder.sizes() == {
        "ids/c/0/0": len(DATA),
        "ids/c/1/0": 5,
        **{str(child.pid): len(b"from a child") for child in children},
    }


def actions(folder: RemoteFolder) -> dict[str, Callable[[], object]]:
    return {
        "sizes": folder.sizes,
        "read": lambda: folder.read("x"),
        "write": lambda: folder.write("x", DATA),
        "problem_with": lambda: folder.problem_with("x", DIGEST),
        "map": lambda: mapped(folder.open("x", DIGEST)),
        "remove": lambda: folder.remove(["x"]),
        "lock": folder.lock,
    }


def refusals(folder: RemoteFolder) -> list[str]:
    texts = []
    for name, action in actions(folder).items():
        with pytest.raises(StoreError) as caught:
            action()
        assert not isinstance(caught.value, CorruptStoreError), name
        texts.append(str(caught.value))
        assert "\n" not in texts[-1]
        assert "same command again" in texts[-1]
    return texts


def test_a_missing_bucket_gives_an_error_of_one_line(s3_bucket: str, cache: FileCache) -> None:
    for text in refusals(RemoteFolder(f"{s3_bucket}-missing/d/store", cache=cache)):
        assert text.startswith(f"{s3_bucket}-missing/d")
        assert "bucket does not exist" in text


def test_a_missing_network_gives_an_error_of_one_line(
    s3_bucket: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with fresh_file_systems():
        for text in refusals(RemoteFolder(f"{s3_bucket}/d/store", cache=cache)):
            assert "Could not connect" in text


def test_a_missing_permission_gives_an_error_of_one_line(s3_url: str, cache: FileCache) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    folder.write("x", DATA)
    bucket, _, key = s3_url.removeprefix("s3://").partition("/")
    files = fsspec.filesystem("s3")
    rule = {
        "Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"],
        "Resource": f"arn:aws:s3:::{bucket}/{key}/*",
    }  # fmt: skip
    files.call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    try:
        for name in ("write", "read", "map", "problem_with", "remove"):
            with pytest.raises(StoreError, match=r"store/x: cannot be \w+: (Forbidden|Access Denied)\. Fix that"):
                actions(folder)[name]()
    finally:
        files.call_s3("delete_bucket_policy", Bucket=bucket)


def test_a_full_local_disk_is_distinguished_from_a_failing_store(
    cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RemoteFolder(f"memory://{cache.folder.parent.name}/store", cache=cache)
    folder.write("x", DATA)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", full)
    with pytest.raises(StoreError, match=r"no room for a copy of memory://.*RNNG_DISTILL_CACHE"):
        mapped(folder.open("x", DIGEST))


def test_credentials_are_never_shown(
    s3_url: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    option = "storage-option-secret"
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {}, "client_kwargs": {"aws_session_token": option}})
    monkeypatch.setattr("storage.remote.lease.SETTLE_S", 0.0)

    async def leak(*_: object, **__: object) -> None:
        raise PermissionError(f"signing with {ACCESS_KEY}\n{SECRET_KEY} and {option} failed at http://a:b@c/d?sig=e")

    caplog.set_level(logging.DEBUG, "storage")
    shown = []
    with fresh_file_systems():
        folder = RemoteFolder(s3_url, cache=cache)
        with closing(folder.lock()) as lease:
            lease.log(b"{}\n")
            folder.write("x", DATA)
            parent = ObjectStore(s3_url.rpartition("/")[0])
            assert parent.entries().keys() == {"store.lease.json", "store.history.jsonl", "store/x"}
            shown += [parent.read(name).decode("latin-1") for name in parent.entries()]
            shown += [str(folder), repr(folder), repr(lease)]
        monkeypatch.setattr("s3fs.S3FileSystem._call_s3", leak)
        folder = RemoteFolder(s3_url, cache=cache)  # a folder that does not check its lease first
        for action in actions(folder).values():
            with pytest.raises(RnngDistillError) as caught:
                action()
            shown.append(str(caught.value))
            assert caught.value.__cause__ is None
            assert "signing with *** *** and *** failed at http://***@c/d?***" in shown[-1]
    for text in (*shown, caplog.text):
        assert SECRET_KEY not in text
        assert ACCESS_KEY not in text
        assert option not in text


def test_an_error_text_is_one_printable_line_of_limited_length() -> None:
    text = plain_text(ValueError("a\r\n\x1b[31mb" + "x" * 1000))
    assert text.isprintable()
    assert len(text) == 300
    assert plain_text(ValueError()) == "ValueError"
