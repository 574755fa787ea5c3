"""Exported dumps hold the dump's values at the right places, and DistillKit's columns can be imported."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.dataset_store import load_dataset
from storage.dump.manifest import MANIFEST, Manifest
from storage.dump.reader import DumpReader, verify_dump
from storage.folder import LocalFolder
from tests.processes import store_digest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

DUMPING = ["--split", "dev", "--k", "9", "--temperatures", "1,2", "--shard-positions", "700", "--device", "cpu"]


def run(*given: object) -> str:
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*given: object) -> str:
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dump dev from the grammar. Some of its rows have fewer than k possible tokens."""
    out = tmp_path_factory.mktemp("dump") / "dump"
    teacher = ["--data", small_world / "dataset", "--teacher", small_world / "corpus"]
    run("dump-teacher", *teacher, "--out", out, *DUMPING)
    return out


@pytest.fixture(scope="module")
def exported(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    for form in ("datasets", "distillkit", "axolotl"):
        run("export-dump", dump, folder / form, "--format", form)
    return {form.name: form for form in folder.iterdir()}


def rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_dump_carries_its_tokenizer_and_a_card(small_world, dump, exported):
    tokenizer = (small_world / "dataset/tokenizer.json").read_bytes()
    assert (dump / "tokenizer.json").read_bytes() == tokenizer
    card = (dump / "README.md").read_text()
    assert "| distributions | of the grammar |" in card
    assert "train-student" in card
    assert (exported["datasets"] / "tokenizer.json").read_bytes() == tokenizer


def test_the_columns_for_datasets_are_the_arrays_of_the_dump(small_world, dump, exported):
    reader, rows = DumpReader(dump), rows_of(exported["datasets"])
    tokenizer = load_dataset(small_world / "dataset").tokenizer
    assert len(rows) == len(reader)
    for sentence, row in enumerate(rows):
        expected = reader[sentence]
        assert row["input_ids"] == [tokenizer.bos_id, *expected.tokens[:-1].tolist()]
        for name, values in expected.arrays().items():
            np.testing.assert_array_equal(np.array(row[name]), values.astype(np.float64))


def test_the_columns_for_distillkit_are_aligned_as_its_code_reads_them(dump, exported):
    reader = DumpReader(dump)
    for sentence, row in enumerate(rows_of(exported["distillkit"])):
        # compression/compressor.py passes token_ids and top_values on; lossfuncs/common.py gathers the student's
        # logits [length of input_ids, V] at token_ids, position by position.
        ids, values = np.array(row["token_ids"]), np.array(row["top_values"])
        assert set(row) == {"input_ids", "token_ids", "top_values"}
        assert ids.shape == values.shape == (len(row["input_ids"]), reader.schema.k)
        # The logits at position i predict token i + 1, so the gold token of row i is the next input.
        assert row["input_ids"][1:] == reader[sentence].tokens[:-1].tolist()
        np.testing.assert_array_equal(ids, reader[sentence].ids)
        np.testing.assert_array_equal(values, reader[sentence].logp.astype(np.float64))


def test_the_columns_for_axolotl_are_aligned_as_its_code_reads_them(small_world, dump, exported):
    reader, tokenizer = DumpReader(dump), load_dataset(small_world / "dataset").tokenizer
    for sentence, row in enumerate(rows_of(exported["axolotl"])):
        # kernels/liger.py compares the hidden state at i with targets at i and with labels at i + 1.
        expected, mask = reader[sentence], np.array(row["target_mask"])
        assert row["input_ids"] == [tokenizer.bos_id, *expected.tokens.tolist()]
        assert row["labels"] == [-100, *expected.tokens.tolist()]
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert mask[:-1].all()
        assert not mask[-1].any()
        np.testing.assert_array_equal(np.array(row["target_token_ids"])[:-1], expected.ids)
        probabilities = np.exp(np.array(row["target_logprobs"])[:-1])
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        ratio = np.exp(expected.logp.astype(np.float64))
        np.testing.assert_allclose(probabilities, ratio / ratio.sum(1, keepdims=True), atol=1e-6)


def test_importing_what_was_exported_gives_the_dump_back(small_world, dump, exported, tmp_path):
    arguments = ["import-dump", exported["distillkit"], "--data", small_world / "dataset", "--split", "dev"]
    run(*arguments, "--out", tmp_path / "back", "--shard-positions", 700)
    verify_dump(tmp_path / "back")
    found, expected = DumpReader(tmp_path / "back"), DumpReader(dump)
    assert (found.schema.condition, found.schema.temperatures) == ("none", (1.0,))
    mine, theirs = (each.read_range(0, each.schema.num_positions) for each in (found, expected))
    for name in ("tokens", "logp"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert (mine.ids == theirs.ids).mean() > 0.9  # equal log-probabilities are ordered by id
    # float16 moves a log-probability by 2^-11 of itself, and so the mass by up to 1e-3.
    np.testing.assert_allclose(np.exp(mine.tail[:, 0]), np.exp(theirs.tail[:, 0]), atol=1e-3)
    is_kept = (theirs.ids == theirs.tokens[:, None]).any(1)
    np.testing.assert_allclose(mine.gold_logp[is_kept], theirs.gold_logp[is_kept], rtol=2**-10, atol=1e-5)
    before = store_digest(tmp_path / "back")
    (tmp_path / "back/tail/c/1/0").unlink()
    run(*arguments, "--out", tmp_path / "back", "--shard-positions", 700)
    assert store_digest(tmp_path / "back") == before


def changed(row: dict, kind: str) -> dict:
    if kind == "logits":
        row["top_values"] = [[value + 5 for value in values] for values in row["top_values"]]
    elif kind == "tokens":
        row["input_ids"] = row["input_ids"][::-1]
    elif kind == "repeated":
        row["token_ids"][0][1] = row["token_ids"][0][0]
    elif kind == "ragged":
        row["top_values"][1] = row["top_values"][1][:-1]
    elif kind == "null":
        row["token_ids"] = None
    elif kind == "large":
        row["token_ids"][0][0] = 10_000
    return row


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logits", "row 3: the probabilities of a position add up to"),
        ("tokens", "row 3: input_ids are ["),
        ("repeated", "row 3: token_ids are not distinct ids below 600"),
        ("large", "row 3: token_ids are not distinct ids below 600"),
        ("ragged", "row 3: token_ids or top_values are not"),
        ("fewer", "rows in all, expected the"),
        ("more", "more rows than the"),
        ("columns", "no column top_values of the right type, expected input_ids (a list of numbers), and token_ids"),
        ("flat", "no column token_ids of the right type"),
        ("null", "row 3: token_ids or top_values are not"),
        ("text", "cannot be read as parquet"),
        ("nothing", "no parquet files"),
    ],
)
def test_rows_that_do_not_belong_to_the_dataset_are_refused_in_one_line(
    small_world: Path, exported: dict[str, Path], tmp_path: Path, kind: str, expected: str
) -> None:
    rows, folder = rows_of(exported["distillkit"]), tmp_path / "source"
    folder.mkdir()
    rows[3] = changed(rows[3], kind)
    if kind == "flat":
        rows = [row | {"token_ids": row["input_ids"]} for row in rows]
    rows = rows[:-2] if kind == "fewer" else [*rows, rows[0]] if kind == "more" else rows
    table = pa.Table.from_pylist(rows)
    if kind == "text":
        (folder / "a.parquet").write_text("text")
    elif kind != "nothing":
        pq.write_table(table.drop_columns("top_values") if kind == "columns" else table, folder / "a.parquet")
    arguments = ["--data", small_world / "dataset", "--split", "dev", "--out", tmp_path / "out"]
    assert expected in refused("import-dump", folder, *arguments)
    assert not (tmp_path / "out" / MANIFEST).exists() or not Manifest.read(LocalFolder(tmp_path / "out")).is_complete


def test_exports_that_cannot_be_made_are_refused_and_leave_nothing(small_world, dump, exported, tmp_path):
    assert "already exists" in refused("export-dump", dump, exported["axolotl"])
    drawn = tmp_path / "drawn"
    teacher = ["--data", small_world / "dataset", "--teacher", small_world / "corpus"]
    run("dump-teacher", *teacher, "--out", drawn, *DUMPING, "--selection", "sampled")
    assert "expected topk for --format distillkit" in refused(
        "export-dump", drawn, tmp_path / "out", "--format", "distillkit"
    )
    assert not (tmp_path / "out").exists()
    run("export-dump", drawn, tmp_path / "draws")
    row = rows_of(tmp_path / "draws")[0]
    assert [sum(counts) for counts in row["counts"]] == [9] * len(row["input_ids"])
    old = tmp_path / "old"
    shutil.copytree(dump, old)
    manifest = Manifest.read(LocalFolder(old))
    assert manifest.companions.keys() == {"README.md", "tokenizer.json"}
    dataclasses.replace(manifest, companions={}).write(LocalFolder(old))
    (old / "tokenizer.json").unlink()
    (old / "README.md").unlink()
    assert "holds no tokenizer.json" in refused("export-dump", old, tmp_path / "out")
    run("export-dump", old, tmp_path / "out", "--tokenizer", small_world / "dataset/tokenizer.json")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_hugging_face_datasets_loads_every_format(dump, exported, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    for folder in exported.values():
        loaded = datasets.load_dataset(str(folder), split="dev", cache_dir=str(tmp_path))
        assert len(loaded) == len(DumpReader(dump))
        assert loaded[0] == rows_of(folder)[0]
