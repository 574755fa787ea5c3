"""A folder is copied to a URL and back unchanged, and no file of it is written outside its copy."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.group import read_group, write_group
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore
from storage.remote.transfer import KEEP_DAYS, fetch_folder, upload_folder

LAST = "dataset.zarr/zarr.json"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder with the files that build-dataset writes."""
    path = tmp_path / "dataset"
    write_group(path / "dataset.zarr", {"tokens": np.arange(50, dtype=np.uint16)}, {"kind": "dataset"})
    (path / "tokenizer.json").write_text("{}")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_uploaded_and_fetched_unchanged(dataset: Path, url: str, cache: FileCache) -> None:
    upload_folder(dataset, url, last=LAST)
    copy = fetch_folder(url, cache=cache)
    assert copy.name == "store"
    assert content(copy) == content(dataset)
    arrays, _ = read_group(copy / "dataset.zarr")
    assert arrays["tokens"].tolist() == list(range(50))


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_path_is_not_copied(dataset: Path, prefix: str) -> None:
    assert fetch_folder(f"{prefix}{dataset}") == dataset


def test_a_folder_is_fetched_once_unless_it_or_its_copy_changed(
    dataset: Path, url: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fetch = ObjectStore.fetch
    monkeypatch.setattr(
        ObjectStore, "fetch", lambda self, name, target: calls.append(name) or fetch(self, name, target)
    )
    upload_folder(dataset, url, last=LAST)
    copy = fetch_folder(url, cache=cache)
    num_files = len(calls)
    assert fetch_folder(url, cache=cache) == copy
    assert len(calls) == num_files
    (copy / "tokenizer.json").write_text("[]")
    assert content(fetch_folder(url, cache=cache)) == content(dataset)
    assert len(calls) == 2 * num_files
    ObjectStore(url).write("tokenizer.json", b"[]")
    assert (fetch_folder(url, cache=cache) / "tokenizer.json").read_text() == "[]"
    assert len(calls) == 3 * num_files


def test_the_last_file_is_written_last(
    dataset: Path, url: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise StoreError("the network is down")

    monkeypatch.setattr(ObjectStore, "create", fail)
    with pytest.raises(StoreError, match="the network is down"):
        upload_folder(dataset, url, last=LAST)
    found = ObjectStore(url).entries().keys()
    assert found == content(dataset).keys() - {LAST}
    with pytest.raises(StoreError, match=r"there is no Zarr v3 group"):
        read_group(fetch_folder(url, cache=cache) / "dataset.zarr")
    with pytest.raises(StoreError, match=r"already exists .*interrupted upload.*Remove it, or give another URL"):
        upload_folder(dataset, url, last=LAST)


def test_an_existing_folder_is_not_overwritten(dataset: Path, url: str) -> None:
    upload_folder(dataset, url, last=LAST)
    with pytest.raises(StoreError, match=rf"^{url}: already exists"):
        upload_folder(dataset, url, last=LAST)


def test_a_folder_without_the_last_file_is_not_uploaded(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match=r"no file dataset\.zarr/zarr\.json"):
        upload_folder(tmp_path, url, last=LAST)


def test_an_empty_url_gives_an_error_of_one_line(url: str, cache: FileCache) -> None:
    with pytest.raises(StoreError, match=rf"^{url}: there is nothing"):
        fetch_folder(url, cache=cache)
    with pytest.raises(ConfigError):
        fetch_folder("s3://key:secret@bucket/dataset", cache=cache)


@pytest.mark.parametrize("name", ["../../escaped", "a/../../../escaped", "/escaped", "a//b", "./escaped", "a\0b"])
def test_a_name_in_a_listing_cannot_lead_out_of_the_copy(
    cache: FileCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ObjectStore, "entries", lambda _: {name: {"size": 1}})
    monkeypatch.setattr(ObjectStore, "fetch", lambda _self, _name, target: target.write_bytes(b"x"))
    with pytest.raises(CorruptStoreError, match="is not the name of a file in it"):
        fetch_folder("memory://bucket/store", cache=cache)
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_folder_that_changes_while_it_is_fetched_is_refused(
    dataset: Path, url: str, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(dataset, url, last=LAST)
    fetch: Callable[..., None] = ObjectStore.fetch

    def meddle(self: ObjectStore, name: str, target: Path) -> None:
        self.write(name, b"longer than it was")
        fetch(self, name, target)

    monkeypatch.setattr(ObjectStore, "fetch", meddle)
    with pytest.raises(StoreError, match="changed while it was read"):
        fetch_folder(url, cache=cache)
    assert not list((cache.folder / "folders").iterdir())


def test_copies_not_used_for_30_days_are_removed(dataset: Path, url: str, cache: FileCache) -> None:
    upload_folder(dataset, url, last=LAST)
    old = cache.subfolder("folders", "old")
    recent = cache.subfolder("folders", "recent")
    os.utime(old, (0, 0))
    fetch_folder(url, cache=cache)
    assert recent.is_dir()
    assert not old.exists()
    assert KEEP_DAYS >= 7
