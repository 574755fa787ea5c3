"""Test that --plan predicts the size of a dump, and that it writes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import DumpJob
from pipeline.dumping.dump_plan import plan_dump
from pipeline.dumping.dump_source import dump_run, plan_run
from storage.dump.reader import DumpReader
from storage.ragged import Ragged
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig
from teacher.train_teacher import load_teacher
from tests.processes import store_digest

EXACT: dict[str, dict[str, Any]] = {
    "usual": {},
    "short shards": {"shard_positions": 384, "batch_tokens": 512},
    "two temperatures": {"temperatures": (1.0, 2.0), "k": 7},
    "draws": {"selection": "stratified", "k": 9},
    "another split": {"split": "dev", "shard_positions": 100},
}


def planned(world: Path, config: DumpConfig, processes: tuple[int, ...] = (1, 2, 4, 8)) -> dict[str, Any]:
    return plan_run(world / "dataset", [TeacherSource(world / "teacher", BeamConfig())], None, config, processes)


def dumped(world: Path, out: Path, config: DumpConfig) -> DumpReader:
    dump_run(world / "dataset", [TeacherSource(world / "teacher", BeamConfig())], out, config)
    return DumpReader(out)


@pytest.mark.parametrize("options", EXACT)
def test_an_exact_dump_has_the_planned_bytes(small_world, tmp_path, options):
    config = DumpConfig(device="cpu", **EXACT[options])
    plan, reader = planned(small_world, config), dumped(small_world, tmp_path / "dump", config)
    assert plan["size_bytes"] == reader.summary.size_bytes
    assert plan["size_is"] == "exact"
    assert plan["bytes_per_position"] == reader.summary.size_bytes / reader.summary.num_positions
    assert plan["num_positions"] == reader.summary.num_positions
    assert plan["num_sentences"] == reader.summary.num_sentences
    assert plan["num_shards"] == reader.schema.layout.num_shards


@pytest.mark.parametrize(
    "options", [{}, {"shard_positions": 2048}, {"shard_positions": 384, "batch_tokens": 300, "k": 16}],
    ids=["one shard", "several", "short ones"],
)  # fmt: skip
def test_a_compact_dump_has_the_planned_bytes_to_5_percent(small_world, tmp_path, options):
    config = DumpConfig(device="cpu", profile="compact", **options)
    plan, reader = planned(small_world, config), dumped(small_world, tmp_path / "dump", config)
    assert plan["size_bytes"] == pytest.approx(reader.summary.size_bytes, rel=0.05)
    assert plan["size_is"].startswith("estimated")
    assert plan["size_bytes"] < 0.8 * planned(small_world, DumpConfig(device="cpu", **options))["size_bytes"]


def test_the_process_with_the_most_shards_determines_the_hours(small_world):
    config = DumpConfig(device="cpu", shard_positions=1024)
    plan = planned(small_world, config, (1, 3, 100))
    rate, hours, shards = plan["positions_per_s"]["one_process"], plan["hours_by_processes"], plan["num_shards"]
    assert list(hours) == ["1", "3", "100"]
    stages = plan["positions_per_s"]
    last_check = plan["num_positions"] / stages["check"] / 3600  # by one process
    assert hours["1"] == pytest.approx(plan["num_positions"] / rate / 3600 + last_check)
    assert hours["3"] == pytest.approx(-(-shards // 3) * 1024 / rate / 3600 + last_check)
    assert hours["100"] == pytest.approx(1024 / rate / 3600 + last_check)
    assert 0 < rate <= stages["compute"]


def test_a_slow_disk_makes_the_planned_hours_longer(small_world, tmp_path, monkeypatch):
    import pipeline.dumping.dump_plan as module

    config = DumpConfig(device="cpu", shard_positions=1024)
    sources = [TeacherSource(small_world / "teacher", BeamConfig())]
    monkeypatch.setattr(module, "write_rate", lambda out: 1000.0 if out == tmp_path else 1e12)
    plan = plan_run(small_world / "dataset", sources, tmp_path, config, (1, 8))
    seconds = plan["size_bytes"] / 1000
    # All processes share the disk, so eight of them do not write faster than one.
    assert plan["hours_by_processes"] == pytest.approx({"1": seconds / 3600, "8": seconds / 3600}, rel=0.01)


def test_the_plan_measures_batches_from_all_over_the_split(small_world, monkeypatch):
    import pipeline.dumping.dump_plan as module

    seen: list[tuple[int, int]] = []
    prepare = module.prepare_batch

    def noted(job, shard, sentences):
        seen.append((shard, int(sentences[0])))
        return prepare(job, shard, sentences)

    monkeypatch.setattr(module, "prepare_batch", noted)
    plan = planned(small_world, DumpConfig(device="cpu", shard_positions=512, batch_tokens=256))
    assert seen[0] == seen[1]  # the plan runs the first batch twice and does not time the first call
    assert len(set(seen)) == module.NUM_BATCHES == len(seen) - 1
    shards = {shard for shard, _ in seen}
    assert min(shards) < plan["num_shards"] / 8
    assert max(shards) >= plan["num_shards"] * 7 / 8 - 1
    seen.clear()
    # With only one shard, the batches come from different places in it.
    planned(small_world, DumpConfig(device="cpu", batch_tokens=256))
    assert len(set(seen)) == module.NUM_BATCHES
    assert max(start for _, start in seen) > 500


def test_the_command_prints_json_and_writes_nothing(small_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [store_digest(small_world / part) for part in ("dataset", "teacher")]
    arguments = ["dump-teacher", "--data", small_world / "dataset", "--teacher", small_world / "teacher", "--plan"]
    arguments += ["--device", "cpu", "--out", "dump", "--k", 8, "--json", "--plan-processes", "1,5"]
    done = CliRunner().invoke(cli.main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["hours_by_processes"]) == ["1", "5"]
    assert [store_digest(small_world / part) for part in ("dataset", "teacher")] == before
    assert not list(tmp_path.iterdir())


def test_out_is_required_without_plan(small_world):
    arguments = ["dump-teacher", "--data", str(small_world / "dataset"), "--teacher", str(small_world / "teacher")]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    assert "Missing option '--out'" in done.stderr


@pytest.mark.parametrize("profile", ["exact", "compact"])
def test_an_empty_split_has_a_size_and_no_rates(small_world, profile):
    dataset = load_dataset(small_world / "dataset")
    empty = Ragged(np.zeros(0, np.uint16), np.zeros(1, np.int64))
    nothing = replace(dataset.split("train"), tokens=empty, actions=empty)
    model, _ = load_teacher(small_world / "teacher", torch.device("cpu"))
    dataset = replace(dataset, splits={"train": nothing})
    config, device = DumpConfig(device="cpu", profile=profile), torch.device("cpu")
    job = DumpJob(models=[model], dataset=dataset, config=config, teachers=["t"], device=device)
    plan = plan_dump(job, None, (1, 2))
    assert (plan["num_positions"], plan["num_shards"], plan["bytes_per_position"]) == (0, 0, None)
    assert plan["size_bytes"] > 0
    assert plan["hours_by_processes"] == {"1": None, "2": None}
    assert set(plan["positions_per_s"].values()) == {None}
