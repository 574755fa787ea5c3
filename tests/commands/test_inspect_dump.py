"""Test inspect on dumps: complete JSON, one screen for people, and dumps that are not finished."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from storage.dump.reader import DumpReader, inspect_dump
from storage.dump.writer import DumpWriter
from storage.folder import history_path
from tests.storage.dumps import make_offsets, make_positions, make_schema, write_shards

LENGTHS = [5, 1, 7, 30, 40, 2, 9]
COMPUTATION = {"threads": 1, "dtype": "float32", "device": "cpu of a test", "torch": "2.6.0+cpu"}


def written(path: Path, *, shards: list[int], finish: bool, **changes: Any) -> Path:
    schema = make_schema(LENGTHS, computation=COMPUTATION, **changes)
    with DumpWriter.open(path, schema, make_offsets(LENGTHS), main=True) as writer:
        writer.log({"event": "begin", "host": "node-a", "world_size": 2, "command": "cli.py dump-teacher --k 6"})
        with history_path(path).open("ab") as file:
            file.write(b'{"event": "begin", "ho')  # as if the process was killed while it wrote this line
    with DumpWriter.open(path, schema, make_offsets(LENGTHS), main=True) as writer:
        writer.log({"event": "begin", "host": "node-b", "world_size": 1, "command": "cli.py dump-teacher --k \x1b[2J6"})
        write_shards(writer, make_positions(schema), shards)
        if finish:
            writer.finish()
            writer.log({"event": "complete", "host": "node-b", "world_size": 1, "command": "cli.py dump-teacher"})
    return path


def inspected(path: Path, *options: str) -> str:
    done = CliRunner().invoke(cli.main, ["inspect", str(path), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("inspect") / "dump", shards=[0, 1, 2], finish=True)


def test_one_screen_shows_origin_and_content_of_a_dump(dump):
    text, summary = inspected(dump), DumpReader(dump).summary
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert len(lines) <= 40
    assert max(map(len, text.splitlines())) <= 120 + len(str(dump))
    assert "state complete, 3 of 3 shards of 32 positions" in lines
    size = sum(file.stat().st_size for file in dump.rglob("*") if file.is_file())
    assert f"size {size / 1000:.3g} kB, {size / 94:.0f} bytes per position" in lines
    assert any(line.startswith("begun 20") and line.endswith("on node-a, 2 processes") for line in lines)
    assert any(line.startswith("last resumed") and line.endswith("on node-b, 1 process, start 2") for line in lines)
    assert any(line.startswith("completed") and line.endswith("on node-b, 1 process") for line in lines)
    assert "command cli.py dump-teacher --k ?[2J6" in lines  # a stranger's file must not move the cursor
    assert "teacher sha256 tttttttttttt" in lines
    assert "split train, sha256 ssssssssssss" in lines
    assert "trees treebank" in lines
    assert "selection topk, the k = 6 most probable tokens" in lines
    assert "temperatures 1, 2" in lines
    assert "profile exact: tokens, ids, logp, gold_logp, tail, logz, offsets" in lines
    with_eos, without = summary.perplexity, summary.perplexity_without_eos
    assert f"perplexity, given the tree {with_eos:.2f} with <eos>, {without:.2f} without" in lines
    kept = ", ".join(f"{k}: {mass:.3f}" for k, mass in summary.kept_mass_by_k.items())
    assert f"mass of the first k {kept}" in lines
    assert summary.entropy_nats_quantiles is not None
    quantiles = ", ".join(f"{percent} %: {nats:.2f}" for percent, nats in summary.entropy_nats_quantiles.items())
    assert f"entropy, quantiles {quantiles}" in lines
    assert "settings device cpu of a test, dtype float32, threads 1" in lines
    assert "versions torch 2.6.0+cpu" in lines


def test_the_json_holds_the_whole_description(dump):
    about = json.loads(inspected(dump, "--json"))
    history = about.pop("history")
    assert [(event["event"], event["host"]) for event in history] == [
        ("begin", "node-a"),
        ("begin", "node-b"),
        ("complete", "node-b"),
    ]
    assert about.pop("stored_bytes") == sum(file.stat().st_size for file in dump.rglob("*") if file.is_file())
    assert about == inspect_dump(dump)
    assert about["schema"]["fingerprints"]["teacher"] == "t" * 64


def test_an_unfinished_dump_is_described_with_its_finished_shards(tmp_path):
    path = written(tmp_path / "dump", shards=[1], finish=False)
    text = " ".join(inspected(path).split())
    assert "state writing, 1 of 3 shards of 32 positions" in text
    assert "so far" in text
    assert "completed" not in text
    assert "perplexity" not in text
    about = json.loads(inspected(path, "--json"))
    assert about["statistics"] is None
    assert about["num_finished_shards"] == 1


@pytest.mark.parametrize("history", [None, b"", b"[1]\nnull\n\xff\n{\n"])
def test_a_dump_without_a_usable_history_can_be_inspected(dump, history):
    before = history_path(dump).read_bytes()
    try:
        history_path(dump).unlink()
        if history is not None:
            history_path(dump).write_bytes(history)
        assert "history none next to the dump" in " ".join(inspected(dump).split())
        assert json.loads(inspected(dump, "--json"))["history"] == []
    finally:
        history_path(dump).write_bytes(before)


def test_a_dump_of_draws_is_described_as_such_and_has_no_entropy(tmp_path):
    drawn = written(tmp_path / "a", shards=[0, 1, 2], finish=True, k=9, selection="sampled", draw_seed=4)
    text = " ".join(inspected(drawn).split())
    assert "selection sampled, k = 9 draws, seed 4" in text
    assert "entropy, quantiles -" in text
    both = written(tmp_path / "b", shards=[], finish=False, k=9, selection="stratified", num_top=4)
    assert "stratified, k = 9: the 4 most probable tokens and 5 draws, seed 0" in " ".join(inspected(both).split())
