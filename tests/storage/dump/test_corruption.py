"""A flipped byte anywhere, a missing file or a truncated file is refused and never gives wrong numbers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import canonical_json, sha256_bytes
from tests.storage.dumps import LENGTHS, make_schema, store_bytes, write_dump

SOAK = int(os.environ.get("RNNG_DISTILL_SOAK", "1"))
SHARDS = [f"{name}/c/{shard}{end}" for name, end in (("tokens", ""), ("ids", "/0"), ("logz", "/0")) for shard in (0, 2)]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corruption") / "dump"
    write_dump(path, make_schema(LENGTHS), LENGTHS)
    return path


@pytest.fixture(scope="module")
def compact_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact") / "dump"
    write_dump(path, make_schema(LENGTHS, profile="compact"), LENGTHS)
    return path


@contextmanager
def replaced(path: Path, data: bytes | None) -> Iterator[None]:
    before = path.read_bytes()
    try:
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


def read_everything(path: Path) -> None:
    reader = DumpReader(path)
    reader.read_sentences(np.arange(len(LENGTHS))[::-1])


@pytest.mark.faults
@settings(max_examples=150 if SOAK == 1 else 500 * SOAK, deadline=None)
@given(st.data())
def test_a_flipped_byte_anywhere_is_refused(dump: Path, compact_dump: Path, data: st.DataObject) -> None:
    dump = data.draw(st.sampled_from([dump, compact_dump]))
    files = store_bytes(dump)
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with replaced(dump / name, bytes(content)):
        for use in (verify_dump, read_everything, lambda path: DumpReader(path).read_range(0, 94)):
            with pytest.raises(CorruptStoreError, match=name):
                use(dump)


@pytest.mark.parametrize("name", [*SHARDS, "offsets/c/0", "zarr.json", "ids/zarr.json"])
@pytest.mark.parametrize("length", [None, 0, 10, -1])
def test_a_missing_or_short_file_is_named_with_a_remedy(dump: Path, name: str, length: int | None) -> None:
    data = None if length is None else (dump / name).read_bytes()[:length]
    with replaced(dump / name, data):
        for use in (verify_dump, DumpReader):
            with pytest.raises(CorruptStoreError, match=rf"{name}: .*dump-teacher again"):
                use(dump)


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]\n", b"null", b"\xff", b"[" * 100_000])
def test_a_malformed_manifest_is_refused(dump: Path, data: bytes) -> None:
    with replaced(dump / "manifest.json", data):
        for use in (verify_dump, DumpReader, inspect_dump):
            with pytest.raises(CorruptStoreError, match=r"manifest\.json"):
                use(dump)


@pytest.mark.parametrize("name", SHARDS)
def test_a_file_removed_after_opening_is_reported(dump: Path, name: str) -> None:
    reader = DumpReader(dump)
    with replaced(dump / name, None), pytest.raises(CorruptStoreError, match=name):
        reader.read_range(0, 94)
    with replaced(dump / name, b""), pytest.raises(CorruptStoreError, match=name):
        reader.read_range(0, 94)


@pytest.mark.parametrize("name", ["notes.txt", "ids/c/3/0", "finished/0.json", "c/0", ".zgroup"])
def test_verify_names_a_foreign_file(dump: Path, name: str) -> None:
    (dump / name).parent.mkdir(parents=True, exist_ok=True)
    (dump / name).touch()
    try:
        with pytest.raises(StoreError, match=name):
            verify_dump(dump)
    finally:
        (dump / name).unlink()


def test_verify_finds_swapped_shards(dump: Path) -> None:
    with (
        replaced(dump / "ids/c/0/0", (dump / "ids/c/1/0").read_bytes()),
        pytest.raises(CorruptStoreError, match="sha256"),
    ):
        verify_dump(dump)


def forge(dump: Path, change: dict[str, object]) -> bytes:
    """Return a manifest with other content and a matching digest, as a stranger may write it."""
    value = {**json.loads((dump / "manifest.json").read_bytes()), **change}
    del value["sha256"]
    return canonical_json({**value, "sha256": sha256_bytes(canonical_json(value))})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"bytes"',
            b'"pickle"',
            r'codecs\.0\.configuration\.codecs\.0\.name is "pickle", expected "bytes". Read the dump with',
        ),
        (b'"blosc"', b'"gzip"', r'codecs\.0\.configuration\.codecs\.1\.name is "gzip", expected "blosc"'),
        (b'"zstd"', b'"lz4"', r'codecs\.1\.configuration\.cname is "lz4", expected "zstd"'),
        (b'"uint16"', b'"int32"', 'data_type is "int32", expected "uint16"'),
        (
            b'"name":"crc32c"}]',
            b'"name":"crc32c"},{"name":"zstd"}]',
            r'codecs is \[.*"zstd"}\], expected \[.*"crc32c"}\]',
        ),
        (b'"attributes"', b' "attributes"', "not the bytes that this program writes"),
        (b"{", b"", "expected object, found str; Read"),
        (b"{", b" " * (1 << 20) + b"{", r"1,04\d,\d+ bytes, expected the metadata"),
    ],
)
def test_metadata_of_another_program_are_refused_with_the_value_that_differs(
    compact_dump: Path, old: bytes, new: bytes, message: str
) -> None:
    dump = compact_dump
    altered = (dump / "ids/zarr.json").read_bytes().replace(old, new, 1)
    metadata = json.loads((dump / "manifest.json").read_bytes())["metadata"]
    metadata["ids/zarr.json"] = {"sha256": sha256_bytes(altered), "size_bytes": len(altered)}
    with (
        replaced(dump / "ids/zarr.json", altered),
        replaced(dump / "manifest.json", forge(dump, {"metadata": metadata})),
        pytest.raises(StoreError, match=rf"ids/zarr\.json: .*{message}"),
    ):
        DumpReader(dump)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format is .*2"),
        ({"state": "done"}, "state: .*'done'"),
        ({"shards": []}, "shards listed"),
        ({"metadata": {"../../etc/passwd": {"sha256": "", "size_bytes": 1}}}, "metadata"),
        ({"schema": {}}, "format is"),
        ({"statistics": None}, "state is"),
        ({"shards": [], "state": "writing", "statistics": None}, "state is writing"),
    ],
)
def test_a_forged_manifest_is_refused(dump: Path, change: dict[str, object], message: str) -> None:
    with replaced(dump / "manifest.json", forge(dump, change)), pytest.raises(StoreError, match=message):
        DumpReader(dump)


def test_figures_that_do_not_follow_from_the_shards_are_refused(dump: Path) -> None:
    statistics = {**json.loads((dump / "manifest.json").read_bytes())["statistics"], "gold_nats": 0.5}
    with (
        replaced(dump / "manifest.json", forge(dump, {"statistics": statistics})),
        pytest.raises(CorruptStoreError, match="statistics"),
    ):
        verify_dump(dump)
