"""A dump's tokenizer and card are covered by its manifest. Dumps of older versions have neither."""

from pathlib import Path

import pytest

from storage.dump.manifest import CARD, COMPANIONS, TOKENIZER, Manifest
from storage.dump.reader import DumpReader, verify_dump
from storage.dump.writer import DumpWriter
from storage.errors import CorruptStoreError, StoreError
from storage.folder import LocalFolder
from tests.storage.dumps import (
    LENGTHS,
    make_offsets,
    make_positions,
    make_schema,
    store_bytes,
    write_dump,
    write_shards,
)


def files(summary) -> dict[str, bytes]:
    return {TOKENIZER: b"{}", CARD: f"# {summary.num_positions} positions".encode()}


def finished(path: Path) -> Path:
    """Write a dump with companions, or continue it."""
    schema = make_schema(LENGTHS)
    with DumpWriter.open(path, schema, make_offsets(LENGTHS), main=True) as writer:
        write_shards(writer, make_positions(schema), writer.pending())
        writer.finish(companions=files)
    return path


def test_companions_are_written_listed_and_verified_and_do_not_count_as_size(tmp_path):
    dump = finished(tmp_path / "dump")
    assert (dump / CARD).read_text() == f"# {sum(LENGTHS)} positions"
    write_dump(tmp_path / "bare", make_schema(LENGTHS), LENGTHS)
    assert verify_dump(dump) == verify_dump(tmp_path / "bare")
    with_files, bare = store_bytes(dump), store_bytes(tmp_path / "bare")
    assert with_files.keys() == bare.keys() | set(COMPANIONS)
    assert {name for name in bare if bare[name] != with_files[name]} == {"manifest.json"}


@pytest.mark.parametrize("name", COMPANIONS)
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_companion_is_found_does_not_stop_readers_and_is_written_again(tmp_path, name: str, damage: str):
    dump = finished(tmp_path / "dump")
    before = store_bytes(dump)
    (dump / name).unlink() if damage == "missing" else (dump / name).write_bytes(b"x")
    DumpReader(dump)
    with pytest.raises(CorruptStoreError, match=f"{name}: .*run the same dump-teacher again"):
        verify_dump(dump)
    finished(dump)
    assert store_bytes(dump) == before


def test_a_repaired_shard_keeps_the_companions(tmp_path):
    dump = finished(tmp_path / "dump")
    before = store_bytes(dump)
    (dump / "tail/c/1/0").write_bytes(b"x")
    finished(dump)
    assert store_bytes(dump) == before


def test_a_dump_of_an_older_version_stays_readable_and_unchanged(tmp_path):
    write_dump(tmp_path / "dump", make_schema(LENGTHS), LENGTHS)
    before = store_bytes(tmp_path / "dump")
    assert Manifest.read(LocalFolder(tmp_path / "dump")).companions == {}
    finished(tmp_path / "dump")
    verify_dump(tmp_path / "dump")
    assert store_bytes(tmp_path / "dump") == before
    (tmp_path / "dump" / CARD).write_text("# foreign")
    with pytest.raises(StoreError, match=r"not part of the dump: README\.md"):
        verify_dump(tmp_path / "dump")
