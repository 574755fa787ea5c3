"""Damaged copies are fetched again, servers that fail are asked again, and what remains is one line with the URL."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus.dataset.dataset_store import load_dataset, write_dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer
from storage.dump.reader import DumpReader, verify_dump
from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.fingerprints import FileDigest, canonical_json
from storage.locations import open_folder
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore
from storage.remote.remote_folder import RemoteFolder
from tests.storage.dumps import LENGTHS, assert_same, make_schema, mapped, store_bytes, write_dump
from tests.storage.remote.faulty_server import FaultyServer, faulty_server
from tests.storage.remote.test_remote_folder import fresh_file_systems

DATA = os.urandom(5000)
DIGEST = FileDigest.of_bytes(DATA)


def upload(path: Path, url: str, cache: FileCache, profile: str) -> RemoteFolder:
    write_dump(path, make_schema(LENGTHS, profile=profile), LENGTHS)
    folder = RemoteFolder(url, cache=cache)
    for name, data in store_bytes(path).items():
        folder.write(name, data)
    return folder


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("profile", ["exact", "compact"])
@pytest.mark.parametrize("at", [5, -30, -2])  # a row, a checksum or an entry of the index, the index's checksum
def test_a_damaged_copy_is_fetched_again_once_with_a_warning(
    tmp_path: Path, cache: FileCache, caplog: pytest.LogCaptureFixture, profile: str, at: int
) -> None:
    folder = upload(tmp_path / "dump", f"memory://{tmp_path.name}/dump", cache, profile)
    expected = DumpReader(tmp_path / "dump").read_range(0, 94)
    DumpReader(folder).read_range(0, 94)
    copies = sorted(cache.folder.glob("objects/*/*"))
    for copy in copies:
        flip(copy, at)
    assert_same(DumpReader(RemoteFolder(str(folder), cache=cache)).read_range(0, 94), expected)
    warnings = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    num_shards = 3 * (6 if profile == "exact" else 5)
    assert len(warnings) == num_shards + 1  # and the offsets
    assert all("Fetching it again" in warning for warning in warnings)
    for copy in copies:
        assert FileDigest.of_bytes(copy.read_bytes()).sha256 == copy.name


def test_a_copy_is_fetched_again_and_its_object_is_named_if_that_is_damaged_too(
    tmp_path: Path, cache: FileCache
) -> None:
    folder = upload(tmp_path / "dump", f"memory://{tmp_path.name}/dump", cache, "exact")
    reader = DumpReader(folder)
    reader.read_range(0, 8)
    name = "ids/c/0/0"
    copy = cache.folder / "objects" / sha256_of(tmp_path / "dump" / name)[:2] / sha256_of(tmp_path / "dump" / name)
    flip(copy, 10 * 12)
    folder.write(name, b"x" * len(folder.read(name)))
    with pytest.raises(CorruptStoreError, match=rf"^{folder}/{name}: .* also when fetched again.*dump-teacher again"):
        reader.read_range(8, 16)


def sha256_of(path: Path) -> str:
    return FileDigest.of_bytes(path.read_bytes()).sha256


def test_a_copy_of_a_dataset_that_was_fetched_wrong_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RNNG_DISTILL_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/dataset"
    small_dataset(url)
    sha256 = load_dataset(url).sha256
    (listed,) = (tmp_path / "cache").glob("folders/*/digests.json")
    copy = next(listed.parent.glob("dataset/dataset.zarr/train/tokens/c/0"))
    copy.write_bytes(b"<html>" + copy.read_bytes()[6:])
    digests = {
        file.relative_to(listed.parent / "dataset").as_posix(): {
            "sha256": sha256_of(file),
            "size_bytes": file.stat().st_size,
        }
        for file in listed.parent.glob("dataset/**/*")
        if file.is_file()
    }
    listed.write_bytes(canonical_json(digests))
    assert load_dataset(url).sha256 == sha256
    assert f"This file is in a copy of {url}, which is now fetched again" in caplog.text

    objects = ObjectStore(url)
    name = "dataset.zarr/train/tokens/c/0"
    objects.write(name, b"<html>" + objects.read(name)[6:])
    with pytest.raises(CorruptStoreError, match=rf"^{url}/dataset\.zarr/train/tokens: "):
        load_dataset(url)


def small_dataset(url: str) -> None:
    tokenizer = Tokenizer.train(["a tale of two cats"], 300)
    arrays = {
        "tokens": np.array([5, 6], np.uint16),
        "offsets": np.array([0, 2], np.int64),
        "actions": np.array([2, 0, 0, 1, 0], np.int16),
        "action_offsets": np.array([0, 5], np.int64),
        "document_ids": np.zeros(1, np.int32),
        "num_words": np.ones(1, np.int32),
        "num_bytes": np.ones(1, np.int32),
    }
    write_dataset(
        url, {"train": arrays}, counts={"train": {"text_sha256": "0"}}, tokenizer=tokenizer, labels=("TOP",),
        trees="given", tree_source="by hand",
    )  # fmt: skip


@pytest.fixture
def server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with faulty_server(os.environ["AWS_ENDPOINT_URL_S3"]) as server, fresh_file_systems():
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        server.of = s3_url.removeprefix("s3://") + "/ids"
        yield server


@pytest.mark.parametrize("fault", ["500", "404", "html", "reset"])
def test_a_server_that_fails_once_is_asked_again(
    server: FaultyServer, s3_url: str, cache: FileCache, fault: str
) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    folder.write("ids/c/0/0", DATA)
    server.faults = [fault]
    assert mapped(folder.open("ids/c/0/0", DIGEST))[:] == DATA
    assert server.num_spoiled == 1


@pytest.mark.parametrize("fault", ["404", "html", "reset"])
def test_a_server_that_goes_on_failing_is_one_line_and_not_asked_for_ever(
    server: FaultyServer, s3_url: str, cache: FileCache, fault: str
) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    folder.write("ids/c/0/0", DATA)
    server.faults = [fault] * 99
    with pytest.raises((StoreError, FileNotFoundError), match=f"{s3_url}/ids/c/0/0") as caught:
        mapped(folder.open("ids/c/0/0", DIGEST))
    assert "\n" not in str(caught.value)
    assert server.num_spoiled < 20
    assert not list(cache.folder.glob("objects/*/*"))


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://localhost:9000", "http://localhost:99999", "http://"])
def test_a_malformed_endpoint_is_one_line(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, cache: FileCache, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with fresh_file_systems():
        folder = RemoteFolder(f"{s3_bucket}/d/store", cache=cache)
        for use in (folder.sizes, lambda: folder.read("x"), lambda: folder.write("x", b""), folder.lock):
            with pytest.raises(StoreError, match=r"^s3://bucket/d.*endpoint, bucket") as caught:
                use()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["github", "data", "nosuch", "cached", "dir", "generic", "reference", "jupyter"])
def test_a_scheme_that_is_unknown_or_needs_options_is_one_line(scheme: str) -> None:
    folder = open_folder(f"{scheme}://host/store")
    for use in (folder.sizes, lambda: folder.read("x"), lambda: folder.write("x", b""), lambda: verify_dump(folder)):
        with pytest.raises((ConfigError, StoreError), match=rf"^{scheme}://host/store") as caught:
            use()
        assert "\n" not in str(caught.value)
