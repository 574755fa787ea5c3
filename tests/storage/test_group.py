"""A Zarr group is read back, and damage to it is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import group as group_module
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import Json
from storage.group import read_group, write_group
from tests.storage.dumps import store_bytes

ARRAYS = {
    "tokens": np.arange(1_000, dtype=np.uint16),
    "offsets": np.arange(0, 77, 7, dtype=np.int64),
    "flags": np.ones((5, 3), np.uint8),
    "zeros": np.zeros(10, np.int32),
    "none": np.zeros(0, np.int64),
}
ATTRIBUTES: dict[str, Json] = {"labels": ["TOP", "NP"], "counts": {"kept": 3}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_group(tmp_path / "group", ARRAYS, ATTRIBUTES)
    return tmp_path / "group"


def test_a_group_is_read_back_with_the_digest_of_its_content(tmp_path: Path) -> None:
    digest = write_group(tmp_path / "a" / "group", ARRAYS, ATTRIBUTES)
    arrays, attributes = read_group(tmp_path / "a" / "group")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)
    assert attributes == {**ATTRIBUTES, "content_sha256": digest}
    assert write_group(tmp_path / "b", ARRAYS, ATTRIBUTES) == digest
    assert write_group(tmp_path / "c", ARRAYS, {}) != digest
    assert write_group(tmp_path / "d", {**ARRAYS, "zeros": np.ones(10, np.int32)}, ATTRIBUTES) != digest


def test_plain_zarr_opens_a_group(path: Path) -> None:
    assert np.array_equal(zarr.open_group(path, mode="r")["tokens"][:], ARRAYS["tokens"])


def test_a_group_in_many_chunks_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "_CHUNK_BYTES", 100)
    write_group(tmp_path / "group", ARRAYS, {})
    assert np.array_equal(read_group(tmp_path / "group")[0]["tokens"], ARRAYS["tokens"])
    chunks = tmp_path / "group" / "tokens" / "c"
    (chunks / "0").write_bytes((chunks / "1").read_bytes())
    with pytest.raises(CorruptStoreError, match="array tokens: sha256"):
        read_group(tmp_path / "group")


@pytest.mark.parametrize("name", ["tokens", "zeros"])
def test_a_missing_chunk_is_named_though_zarr_would_read_zeros(path: Path, name: str) -> None:
    shutil.rmtree(path / name / "c")
    with pytest.raises(CorruptStoreError, match=rf"array {name}: chunks are missing \(found 0, expected 1\)") as caught:
        read_group(path)
    assert "build-dataset" in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_byte_in_a_chunk_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flip") / "group"
    write_group(path, ARRAYS, ATTRIBUTES)
    name = data.draw(st.sampled_from([name for name in sorted(store_bytes(path)) if "/c/" in name]))
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(content)
    with pytest.raises(CorruptStoreError, match=f"array {name.partition('/')[0]}"):
        read_group(path)


def test_altered_attributes_are_refused(path: Path) -> None:
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace("NP", "VP"))
    with pytest.raises(CorruptStoreError, match="attributes"):
        read_group(path)


def test_unknown_codecs_are_refused(path: Path) -> None:
    metadata = json.loads((path / "tokens" / "zarr.json").read_text())
    metadata["codecs"].insert(0, {"name": "numcodecs.pickle"})
    (path / "tokens" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"numcodecs\.pickle"):
        read_group(path)


def test_a_group_is_not_overwritten_and_no_partial_group_remains(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="already exists"):
        write_group(path, ARRAYS, {})

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(group_module, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_group(path.with_name("other"), ARRAYS, {})
    assert [entry.name for entry in path.parent.iterdir()] == ["group"]


def test_a_folder_that_is_no_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no Zarr v3 group"):
        read_group(tmp_path)


def change(path: Path, *keys: Any, to: Any) -> None:
    """Change a value in the metadata of an array, which no digest covers."""
    metadata = json.loads((path / "tokens" / "zarr.json").read_text())
    value = metadata
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = to
    (path / "tokens" / "zarr.json").write_text(json.dumps(metadata))


GRID = ("chunk_grid", "configuration", "chunk_shape")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("shape",), [10**13]),
        (("shape",), [10**30]),
        (("shape",), [10**6] * 5),
        (("shape",), [-1]),
        (("shape",), "many"),
        (("shape", 0), 1.5),
        (GRID, [1]),
        (GRID, [0]),
        (GRID, [10**13]),
        (GRID, [10**13, 10**13]),
        (GRID, None),
        (("data_type",), "float64"),
        (("data_type",), "string"),
        (("data_type",), {"name": "bytes"}),
        (("codecs",), {}),
        (("codecs",), [["bytes"]]),
        (("fill_value",), "x"),
        (("chunk_key_encoding",), {"name": "v9"}),
    ],
)
def test_a_size_or_type_in_the_metadata_of_an_array_is_not_believed(path: Path, keys: Any, value: Any) -> None:
    change(path, *keys, to=value)
    with pytest.raises(StoreError, match=str(path)) as caught:
        read_group(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"attributes": 1}', b'{"attributes": {}}']
)
def test_a_malformed_group_is_one_line(path: Path, text: bytes) -> None:
    (path / "zarr.json").write_bytes(text)
    with pytest.raises(CorruptStoreError, match=r"zarr\.json") as caught:
        read_group(path)
    assert "\n" not in str(caught.value)
