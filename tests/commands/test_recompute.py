"""Test verify --recompute: recomputed shards have the same bytes, and a forged shard is found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner

import cli
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run, verify_run
from storage.dump.dump_statistics import summarise
from storage.dump.manifest import Manifest
from storage.dump.positions import Positions
from storage.dump.reader import DumpReader, verify_dump
from storage.dump.writer import DumpWriter
from storage.errors import CorruptStoreError, FingerprintMismatchError, StoreError
from storage.locations import open_folder
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig
from tests.processes import start_cli

OPTIONS: dict[str, Any] = {"k": 16, "temperatures": (1.0, 2.0), "shard_positions": 2048, "device": "cpu"}
OTHERS = {
    "topk": {},
    "sampled": {"selection": "sampled"},
    "stratified": {"selection": "stratified", "num_top": 5, "draw_seed": 3},
    "compact": {"profile": "compact"},
    "small batches": {"batch_tokens": 300},
}


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recompute") / "dump"
    sources = [TeacherSource(small_world / "teacher", BeamConfig())]
    dump_run(small_world / "dataset", sources, out, DumpConfig(**OPTIONS))
    return out


def recomputed(world: Path, dump: Path, **changes: Any) -> dict[str, Any]:
    sources = [TeacherSource(world / "teacher", BeamConfig())]
    options = {"data": world / "dataset", "sources": sources, "num_shards": 100, "seed": 1, "device": "cpu"}
    summary = verify_run(dump, **{**options, **changes})
    assert summary["verified"]
    found: dict[str, Any] = summary["recomputed"]
    return found


def forged(dump: Path, out: Path, *, computation: dict[str, Any] | None = None, **arrays: np.ndarray) -> Path:
    """Write the dump again with other values. The writer computes all digests, so they match the forged values."""
    reader = DumpReader(dump)
    rows = reader.read_range(0, reader.schema.num_positions)
    rows = Positions(**rows.arrays() | arrays)
    schema = replace(reader.schema, computation={**reader.schema.computation, **(computation or {})})
    with DumpWriter.open(out, schema, reader.offsets, main=True) as writer:
        for shard in writer.pending():
            of_shard = schema.layout.rows_of(shard)
            writer.write_shard(shard, rows.slice(of_shard.start, of_shard.stop))
        writer.finish()
    verify_dump(out)
    return out


def moved(dump: Path, name: str, row: int, by: float) -> np.ndarray:
    """Return an array of the dump in which one value is changed by ``by``."""
    array: np.ndarray = getattr(DumpReader(dump).read_range(0, DumpReader(dump).schema.num_positions), name)
    array.reshape(len(array), -1)[row, 0] += by
    return array


@pytest.mark.parametrize("options", OTHERS)
def test_a_correct_dump_is_byte_identical_when_recomputed(small_world, tmp_path, options):
    out = tmp_path / "dump"
    config = DumpConfig(**OPTIONS | OTHERS[options])
    dump_run(small_world / "dataset", [TeacherSource(small_world / "teacher", BeamConfig())], out, config)
    schema = DumpReader(out).schema
    assert recomputed(small_world, out) == {
        "shards": list(range(schema.layout.num_shards)),
        "num_positions": schema.num_positions,
        "is_identical": True,
        "computation_differences": {},
        "max_differences": dict.fromkeys(("gold_logp", "tail", "logz", "logp"), 0.0),
        "share_of_ids_that_agree": 1.0,
    }


def test_the_seed_chooses_the_shards(small_world, dump):
    chosen = [recomputed(small_world, dump, num_shards=2, seed=seed)["shards"] for seed in (1, 1, 2, 3, 4)]
    assert all(len(shards) == 2 for shards in chosen)
    assert chosen[0] == chosen[1]
    assert len({tuple(shards) for shards in chosen}) > 1


@pytest.mark.parametrize(
    ("name", "by"), [("gold_logp", 1e-6), ("tail", 1e-6), ("logp", -2e-3), ("logz", 1e-6)], ids=str
)
def test_a_forged_value_with_matching_digests_is_found(small_world, dump, tmp_path, name, by):
    row = 2048 + 17
    column = moved(dump, name, row, by)
    assert not np.array_equal(column, moved(dump, name, row, 0))
    with pytest.raises(CorruptStoreError, match=f"shard 1, array {name}: sha256 is .* when recomputed"):
        recomputed(small_world, forged(dump, tmp_path / "forged", **{name: column}))


def test_forged_figures_are_found(small_world, dump, tmp_path):
    shutil.copytree(dump, tmp_path / "forged")
    folder = open_folder(tmp_path / "forged")
    manifest = Manifest.read(folder)
    first, *others = manifest.shards
    figures = replace(first.figures, entropy_histogram=[0, *first.figures.entropy_histogram])
    shards = (replace(first, figures=figures), *others)
    summary = summarise(manifest.schema, [entry.figures for entry in shards], manifest.size_bytes())
    replace(manifest, shards=shards, statistics=summary).write(folder)
    verify_dump(tmp_path / "forged")
    with pytest.raises(CorruptStoreError, match="shard 0, its sums"):
        recomputed(small_world, tmp_path / "forged")


def test_in_another_environment_differing_keys_are_named_and_values_compared(small_world, dump, tmp_path):
    rows = DumpReader(dump).read_range(0, DumpReader(dump).schema.num_positions)
    ids = rows.ids.copy()
    ids[100, [3, 4]] = ids[100, [4, 3]]  # as if a tie was broken the other way
    ids[200, 15] = next(token for token in range(600) if token not in ids[200])
    other = {"computation": {"numpy": "1.0"}, "ids": ids, "gold_logp": moved(dump, "gold_logp", 40, 1e-3)}
    found = recomputed(small_world, forged(dump, tmp_path / "forged", **other))
    assert found["computation_differences"] == {"numpy": {"dump": "1.0", "here": np.__version__}}
    assert not found["is_identical"]
    largest = found["max_differences"]
    assert largest["gold_logp"] == pytest.approx(1e-3, rel=1e-3)
    assert (largest["tail"], largest["logz"]) == (0, 0)
    assert largest["logp"] == abs(float(rows.logp[100, 3]) - float(rows.logp[100, 4]))
    assert found["share_of_ids_that_agree"] == pytest.approx(1 - 1 / ids.size, abs=1e-12)


def test_in_another_environment_identical_bytes_are_reported_as_identical(small_world, dump, tmp_path):
    found = recomputed(small_world, forged(dump, tmp_path / "forged", computation={"device": "another CPU"}))
    assert found["is_identical"]
    assert list(found["computation_differences"]) == ["device"]


@pytest.mark.parametrize("by", [0.02, np.nan], ids=["beyond the bound", "no number"])
def test_in_another_environment_a_wrong_gold_log_probability_is_refused(small_world, dump, tmp_path, by, monkeypatch):
    if np.isnan(by):  # our writer refuses NaN, but another program's writer may not
        monkeypatch.setattr("storage.dump.writer.check_positions", lambda *_, **__: None)
        figures = [entry.figures for entry in Manifest.read(open_folder(dump)).shards]
        monkeypatch.setattr("storage.dump.writer.figures_of_shard", lambda _1, _2, _3, shard, *_: figures[shard])
    gold = moved(dump, "gold_logp", 2048 + 17, by)
    differs = r"shard 1, array gold_logp: differs by .* nats .* at most 0\.01"
    message = r"array gold_logp, shard 1, .*not finite" if np.isnan(by) else differs
    with pytest.raises(CorruptStoreError, match=message):
        recomputed(
            small_world, forged(dump, tmp_path / "forged", computation={"device": "another CPU"}, gold_logp=gold)
        )


def test_another_teacher_or_dataset_is_refused_before_shards_are_read(small_world, dump, tmp_path, monkeypatch):
    shutil.copytree(small_world / "teacher", tmp_path / "teacher")
    weights = tmp_path / "teacher/checkpoints/best/model.safetensors"
    safetensors.torch.save_file(
        {name: tensor * 1.5 for name, tensor in safetensors.torch.load_file(weights).items()}, weights
    )
    monkeypatch.setattr("pipeline.dumping.dump_source.verify_dump_files", lambda _: pytest.fail("read"))
    expected = DumpReader(dump).schema.fingerprints["teacher"][:12]
    with pytest.raises(
        FingerprintMismatchError, match=rf"teacher of the dump is {expected}, but [0-9a-f]{{12}} was given\."
    ):
        recomputed(small_world, dump, sources=[TeacherSource(tmp_path / "teacher", BeamConfig())])
    other = forged(dump, tmp_path / "other")
    manifest = Manifest.read(open_folder(other))
    wrong = replace(
        manifest.schema, fingerprints={**manifest.schema.fingerprints, "dataset": "0" * 64, "split": "1" * 64}
    )
    replace(manifest, schema=wrong).write(open_folder(other))
    with pytest.raises(
        FingerprintMismatchError, match=r"dataset of the dump is 000000000000, .*; split of the dump is 111111111111"
    ):
        recomputed(small_world, other)


def test_unusable_recorded_settings_are_refused(small_world, dump, tmp_path):
    path = forged(dump, tmp_path / "forged", computation={"threads": "many"})
    with pytest.raises(StoreError, match="threads 'many', batch_tokens 4096"):
        recomputed(small_world, path)


def test_the_command_prints_its_findings_as_json(small_world, dump):
    where = ["--teacher", small_world / "teacher", "--data", small_world / "dataset"]
    arguments = ["verify", dump, "--recompute", 1, *where]
    done = CliRunner().invoke(cli.main, [*map(str, arguments), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["recomputed"]["is_identical"]
    assert summary["size_bytes"] == DumpReader(dump).summary.size_bytes
    assert "recompute: 2,048/2,048" in done.stderr
    refused = CliRunner().invoke(cli.main, ["verify", str(dump), "--recompute", "1"])
    assert refused.exit_code == 2
    assert "--recompute needs --teacher and --data" in refused.stderr


def test_the_progress_of_verify_ends_at_the_bytes_of_the_manifest(dump):
    counted: list[int] = []
    summary = verify_dump(dump, counted.append)
    assert sum(counted) == summary.size_bytes
    done = CliRunner().invoke(cli.main, ["verify", str(dump)])
    size = (
        f"{summary.size_bytes / 1e6:.3g} MB" if summary.size_bytes >= 999_500 else f"{summary.size_bytes / 1e3:.3g} kB"
    )
    assert f"verify: {size}/{size}, " in done.stderr
    assert "B/s, took" in done.stderr


@pytest.mark.processes
def test_several_processes_are_refused_in_one_line(small_world, dump):
    where = ["--teacher", small_world / "teacher", "--data", small_world / "dataset"]
    for command in (["verify", dump, "--recompute", 1], ["dump-teacher", "--plan"]):
        processes = start_cli(*command, *where, "--device", "cpu", processes=2)
        messages = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
        assert "started in 2 processes, expected 1" in messages[0]
        assert len(messages[0].strip().splitlines()) == 1
        assert not messages[1]
