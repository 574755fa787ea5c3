"""A dump that a stranger or a bug made is refused by one line, though its digests fit and before it costs memory."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.dump import writer as writer_module
from storage.dump.positions import Positions
from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.dump.schema import DumpSchema, check_offsets
from storage.dump.writer import DumpWriter
from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.fingerprints import canonical_json, sha256_bytes
from storage.folder import LocalFolder
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

DRAWS: dict[str, Any] = {"k": 8, "selection": "stratified", "num_top": 3, "draw_seed": 1}
OLD_KEYS = {"shard", "files", "figures"}


def change_manifest(dump: Path, change: Any) -> None:
    """Change a manifest and give it a fitting digest."""
    value = json.loads((dump / "manifest.json").read_bytes())
    del value["sha256"]
    change(value)
    (dump / "manifest.json").write_bytes(canonical_json({**value, "sha256": sha256_bytes(canonical_json(value))}))


def as_older_version(value: dict[str, Any]) -> None:
    value["shards"] = [{key: entry[key] for key in OLD_KEYS} for entry in value["shards"]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Two dumps of the same layout for each profile; ``older`` has the manifest of an older version."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for profile in ("exact", "compact", "older"):
        schema = make_schema(LENGTHS, profile="exact" if profile == "older" else profile)
        for seed in (0, 5):
            path = folder / f"{profile}{seed}"
            write_dump(path, schema, LENGTHS, make_positions(schema, seed))
            if profile == "older":
                change_manifest(path, as_older_version)
        found[profile] = (folder / f"{profile}0", folder / f"{profile}5")
    return found


@pytest.mark.parametrize("profile", ["exact", "compact", "older"])
@pytest.mark.parametrize("array", ["tokens", "ids", "tail", "logp"])
@pytest.mark.parametrize("source", ["another dump", "another shard"])
def test_an_exchanged_shard_is_refused_before_its_first_row_is_used(
    pairs: dict[str, tuple[Path, Path]], tmp_path: Path, profile: str, array: str, source: str
) -> None:
    dump, other = pairs[profile]
    shutil.copytree(dump, tmp_path / "dump")
    array = "gaps" if (profile, array) == ("compact", "logp") else array
    end = "" if array == "tokens" else "/0"
    donor = other / f"{array}/c/1{end}" if source == "another dump" else dump / f"{array}/c/0{end}"
    same_size = donor.stat().st_size == (dump / f"{array}/c/1{end}").stat().st_size
    shutil.copy(donor, tmp_path / f"dump/{array}/c/1{end}")
    if same_size:
        reader = DumpReader(tmp_path / "dump")
        assert len(reader.read_range(0, 32)) == 32
        with pytest.raises(
            CorruptStoreError, match=rf"array {array}, shard 1: not the file that .* dump-teacher again"
        ):
            reader.read_range(40, 41)
    with pytest.raises(CorruptStoreError, match=f"array {array}, shard 1"):
        verify_dump(tmp_path / "dump")
    # The remedy of the message works.
    schema = make_schema(LENGTHS, profile="compact" if profile == "compact" else "exact")
    rows = make_positions(schema)
    with DumpWriter.open(tmp_path / "dump", schema, make_offsets(LENGTHS), main=True) as writer:
        assert writer.pending() == [1]
        write_shards(writer, rows, [1])
        writer.finish()
    verify_dump(tmp_path / "dump")


def test_a_dump_of_an_older_version_is_read_as_before(pairs: dict[str, tuple[Path, Path]]) -> None:
    old, new = pairs["older"][0], pairs["exact"][0]
    assert_same(DumpReader(old).read_range(0, 94), DumpReader(new).read_range(0, 94))
    assert verify_dump(old) == verify_dump(new)


def changes() -> Iterator[tuple[str, str, dict[str, Any], str, int, Any]]:
    """Name, profile, schema options, array, column (or -1), value in row 40, which is row 0 of chunk 1 of shard 1."""
    yield "tokens holds the id 50", "exact", {}, "tokens", -1, 50
    yield "ids holds the id 65535", "exact", {}, "ids", 3, 65_535
    yield "ids holds the id 60", "compact", {}, "ids", 3, 60
    yield "ids holds the id 51", "exact", DRAWS, "ids", 3, 51
    yield "logp holds a NaN", "exact", {}, "logp", 5, np.nan
    yield "logp holds a NaN or a value above 0", "exact", {}, "logp", 0, 0.5
    yield "logp holds a NaN or a value above 0", "exact", {}, "logp", 0, np.inf
    yield "gold_logp is not finite", "exact", {}, "gold_logp", -1, np.nan
    yield "gold_logp is not finite, or is above 0", "compact", {}, "gold_logp", -1, 2.0
    yield "tail holds a NaN", "exact", {}, "tail", 1, np.nan
    yield r"tail holds a NaN, \+inf", "compact", {}, "tail", 0, np.nan
    yield "logz is inf at temperature 2, expected", "exact", {}, "logz", 1, np.inf
    yield "logz is 3 at temperature 2, expected", "exact", {}, "logz", 1, 3.0
    yield "counts have a wrong sum", "exact", DRAWS, "counts", 3, 200
    yield "counts of the 3 top tokens are not 0", "exact", DRAWS, "counts", 0, 1


@pytest.mark.parametrize(("message", "profile", "options", "array", "column", "value"), list(changes()))
def test_a_value_that_no_dump_can_have_is_refused_though_its_digests_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    profile: str,
    options: dict[str, Any],
    array: str,
    column: int,
    value: Any,
) -> None:
    schema = make_schema(LENGTHS, profile=profile, **options)
    good = make_positions(schema)
    dump = write_unchecked(tmp_path / "dump", schema, good, edited(good, array, column, value), monkeypatch)
    for use in (verify_dump, lambda path: DumpReader(path).read_range(38, 42)):
        with pytest.raises(
            CorruptStoreError, match=rf"array \w+, shard 1, chunk 1: position 40: .*{message}"
        ) as caught:
            use(dump)
        assert "\n" not in str(caught.value)
    assert len(DumpReader(dump).read_range(0, 40)) == 40


def test_verify_checks_the_values_of_a_row_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = make_schema(LENGTHS)
    good = make_positions(schema)
    for number, (message, array, column, value) in enumerate(
        [
            ("ids repeats an id", "ids", 3, int(good.ids[40, 2])),
            ("logp rises", "logp", 5, -0.001),
            ("add up to .* at temperature 1, expected 1", "logp", 0, -0.001),
            ("add up to .* at temperature 2, expected 1", "tail", 1, -0.001),
        ]
    ):
        bad = edited(good, array, column, value)
        dump = write_unchecked(tmp_path / str(number), schema, good, bad, monkeypatch)
        with pytest.raises(CorruptStoreError, match=rf"shard 1, chunk 1: position 40: .*{message}"):
            verify_dump(dump)


def edited(rows: Positions, array: str, column: int, value: Any) -> Positions:
    arrays = {name: each.copy() for name, each in rows.arrays().items()}
    arrays[array][(40, column) if column >= 0 else 40] = value
    return Positions(**arrays)


def write_unchecked(
    path: Path, schema: DumpSchema, good: Positions, bad: Positions, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Write bad rows, with the figures of good ones, as a program without checks would."""
    figures = writer_module.figures_of_shard

    def of_good_rows(_: Positions, schema: DumpSchema, offsets: Any, shard: int, *rest: Any) -> Any:
        rows = schema.layout.rows_of(shard)
        return figures(good.slice(rows.start, rows.stop), schema, offsets, shard, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "check_positions", lambda *_, **__: None)
        patch.setattr(writer_module, "figures_of_shard", of_good_rows)
        patch.setattr("storage.dump.compact._check_mass", lambda *_: None)
        write_dump(path, schema, LENGTHS, bad)
    return path


def test_offsets_whose_differences_overflow_are_refused() -> None:
    schema = make_schema([2, 3, 4])
    offsets = np.array([0, 6 << 60, -(6 << 60), 9], np.int64)
    with pytest.raises(ConfigError, match="do not always rise, expected int64"):
        check_offsets(offsets, schema)


@pytest.fixture
def dump(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> Path:
    shutil.copytree(pairs["exact"][0], tmp_path / "dump")
    return tmp_path / "dump"


HUGE = 10**18
SIZES: dict[str, dict[str, Any]] = {
    "shards": {"num_positions": 10**13, "shard_positions": 1, "chunk_positions": 1},
    "positions": {"num_positions": HUGE},
    "chunks": {"num_positions": 94, "shard_positions": HUGE, "chunk_positions": 1},
    "columns": {"k": 50 << 50, "num_top": 50 << 50, "vocab_size": 50 << 50},
    "sentences": {"num_sentences": 94},
    "chunk": {"shard_positions": 1 << 40, "chunk_positions": 1 << 40},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("state", ["complete", "writing"])
def test_a_size_in_the_manifest_is_not_believed(dump: Path, name: str, state: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["schema"].update(SIZES[name])
        value["state"] = state
        if state == "writing":
            value.update(shards=[], statistics=None)

    change_manifest(dump, change)
    for use in (DumpReader, verify_dump, inspect_dump):
        if use is inspect_dump and (state == "writing" or name == "sentences"):
            continue  # it describes the manifest alone
        with pytest.raises(StoreError, match="dump") as caught:
            use(dump)
        assert "\n" not in str(caught.value)
    if name == "shards" and state == "writing":
        assert inspect_dump(dump)["num_shards"] == 10**13


BAD = [None, True, -1, 1.5, "x", [], {}, [[]], HUGE * HUGE, {"sha256": 1, "size_bytes": "x"}]
PLACES: list[tuple[Any, ...]] = [
    ("state",), ("schema",), ("metadata",), ("metadata", "zarr.json"), ("metadata", "zarr.json", "sha256"),
    ("shards",), ("shards", 0), ("shards", 0, "shard"), ("shards", 0, "files"), ("shards", 0, "files", "ids"),
    ("shards", 0, "files", "ids", "size_bytes"), ("shards", 0, "figures"), ("shards", 0, "figures", "sums"),
    ("shards", 0, "figures", "sums", "gold_nats"), ("shards", 0, "figures", "entropy_histogram"),
    ("shards", 0, "checksums"), ("shards", 0, "checksums", "ids"), ("companions",),
    ("statistics", "gold_nats"), ("statistics", "kept_mass_by_k"), ("statistics", "num_positions"),
    *(("schema", key) for key in ("num_positions", "k", "temperatures", "profile", "split")),
    *(("schema", key) for key in ("fingerprints", "computation")),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_type_in_the_manifest_is_not_believed(dump: Path, place: tuple[Any, ...]) -> None:
    before = (dump / "manifest.json").read_bytes()
    for bad in BAD:
        (dump / "manifest.json").write_bytes(before)

        def change(value: dict[str, Any], bad: Any = bad) -> None:
            for key in place[:-1]:
                value = value[key]
            value[place[-1]] = bad

        change_manifest(dump, change)
        for use in (DumpReader, verify_dump, inspect_dump):
            with suppress(StoreError):  # a few of the values are right
                use(dump)


@pytest.mark.parametrize("split", ["../../outside", "a/b", "..", "train\n"])
def test_a_split_is_a_plain_name_because_files_are_named_after_it(split: str) -> None:
    with pytest.raises(ConfigError, match="split"):
        make_schema(LENGTHS, split=split)


def test_nothing_is_written_or_removed_through_a_link(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").write_bytes(b"precious")
    shutil.rmtree(dump / "tokens" / "c")
    (dump / "tokens" / "c").symlink_to(tmp_path / "elsewhere")
    folder = LocalFolder(dump)
    for use in (lambda: folder.write("tokens/c/0", b"x"), lambda: folder.remove(["tokens/c/0"])):
        with pytest.raises(StoreError, match="tokens/c: is a link"):
            use()
    (dump / "README.md").unlink(missing_ok=True)
    (dump / "README.md").symlink_to(tmp_path / "elsewhere" / "0")
    folder.write("README.md", b"card")
    assert (tmp_path / "elsewhere" / "0").read_bytes() == b"precious"
    assert not (dump / "README.md").is_symlink()


def test_the_history_is_not_written_through_a_link(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(b"precious")
    (tmp_path / "dump.history.jsonl").unlink(missing_ok=True)
    (tmp_path / "dump.history.jsonl").symlink_to(tmp_path / "notes")
    with pytest.raises(StoreError, match=r"dump\.history\.jsonl: cannot be opened"):
        DumpWriter.open(dump, make_schema(LENGTHS), make_offsets(LENGTHS), main=True)
    assert (tmp_path / "notes").read_bytes() == b"precious"


def test_a_dump_of_links_is_read_because_download_caches_consist_of_them(dump: Path, tmp_path: Path) -> None:
    for name in store_bytes(dump):
        (tmp_path / "links" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "links" / name).symlink_to(dump / name)
    assert verify_dump(tmp_path / "links") == verify_dump(dump)
    assert_same(DumpReader(tmp_path / "links").read_range(0, 94), DumpReader(dump).read_range(0, 94))


@pytest.mark.parametrize("name", ["manifest.json", "zarr.json", "offsets/c/0", "ids/c/0/0"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_what_is_not_a_file_is_refused_without_waiting(dump: Path, name: str, kind: str) -> None:
    (dump / name).unlink()
    if kind == "pipe":
        os.mkfifo(dump / name)
    elif kind == "endless":
        (dump / name).symlink_to("/dev/zero")
    else:
        (dump / name).mkdir()
    for use in (DumpReader, verify_dump):
        with pytest.raises(StoreError, match=name):
            use(dump)
