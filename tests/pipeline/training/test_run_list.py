"""The list of runs shows states, dev losses and differences. A damaged run is a row; no run is disturbed."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import RunDescription
from pipeline.runtime.run_history import HISTORY, add_end, is_held
from pipeline.runtime.run_start import training_run
from pipeline.training.run_list import list_runs, runs_as_text
from storage.errors import InputError
from storage.fingerprints import sha256_file

OPTIONS = {"lr": 0.1, "alpha": 0.5, "seed": 1}


@pytest.fixture
def description(tmp_path: Path) -> RunDescription:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    fingerprints = {"tokenizer": sha256_file(tokenizer), "dataset": "d" * 64}
    return RunDescription(
        kind="student", configuration=OPTIONS, model={}, fingerprints=fingerprints, tokenizer=tokenizer
    )


def start(path: Path, run: RunDescription, **options: object):
    run = dataclasses.replace(run, configuration={**run.configuration, **options})
    return training_run(path, run, resume="auto", device=torch.device("cpu"), world=World())


def begin(path: Path, run: RunDescription, **options: object) -> None:
    with start(path, run, **options):
        pass


def write_rows(run: Path, *rows: dict) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"split": "tr')


def test_each_run_has_its_state_and_its_step(tmp_path, description):
    runs = tmp_path / "runs"
    for name, end in {
        "a/finished": ("finished", "all 30 steps are done", 30),
        "a/failed": ("failed", "no room", 12),
        "stopped": ("stopped", "SIGTERM", 21),
        "killed": None,
    }.items():
        begin(runs / name, description)
        write_rows(runs / name, {"split": "train", "step": 10, "loss": 2.0}, {"split": "train", "step": 20, "loss": 1})
        if end is not None:
            state, reason, step = end
            add_end(runs / name, state, reason=reason, step=step)
    begin(runs / "killed once more", description)
    add_end(runs / "killed once more", "stopped", reason="SIGTERM", step=25)
    begin(runs / "killed once more", description)
    with start(runs / "training", description):
        rows, _ = list_runs(runs)
        assert is_held(runs / "training")
    assert [(row.path, row.state, row.step) for row in rows] == [
        ("a/failed", "failed", 12),
        ("a/finished", "finished", 30),
        ("killed", "interrupted", 20),
        ("killed once more", "interrupted", 25),
        ("stopped", "stopped", 21),
        ("training", "training", 0),
    ]
    assert all(row.kind == "student" and row.last_start is not None for row in rows)
    assert "a/failed failed: no room" in runs_as_text(*list_runs(runs))


def test_the_best_dev_loss_is_the_cross_entropy_if_there_is_one(tmp_path, description):
    begin(tmp_path / "student", description)
    dev = {"split": "dev", "step": 5, "loss": 1.0, "cross_entropy": 3.0}
    better = {"split": "dev", "step": 10, "loss": 1.5, "cross_entropy": 2.0}
    write_rows(tmp_path / "student", dev, better, {"split": "train", "step": 11, "loss": 0.5})
    begin(tmp_path / "teacher", dataclasses.replace(description, kind="teacher"))
    write_rows(tmp_path / "teacher", {"split": "dev", "step": 4, "loss": 5.0, "token_loss": 4.0})
    rows, _ = list_runs(tmp_path)
    assert [(row.path, row.best_dev_loss, row.best_step, row.step) for row in rows] == [
        ("student", 2.0, 10, 11),
        ("teacher", 5.0, 4, 4),
    ]
    assert rows[0].best_dev_perplexity == pytest.approx(math.exp(2))
    assert "joint with the tree" in runs_as_text(*list_runs(tmp_path))


def test_only_differing_options_are_shown_by_kind(tmp_path, description):
    dumped = dataclasses.replace(description, fingerprints={**description.fingerprints, "manifest": "e" * 64})
    begin(tmp_path / "baseline", description)
    begin(tmp_path / "distilled", dumped, alpha=0.25, tail="drop")
    begin(tmp_path / "teacher", dataclasses.replace(description, kind="teacher"), lr=0.7)
    _, differences = list_runs(tmp_path)
    assert differences == {
        "student": {
            "baseline": {"alpha": 0.5, "tail": None, "dump": None},
            "distilled": {"alpha": 0.25, "tail": "drop", "dump": "e" * 12},
        }
    }
    shown = runs_as_text(*list_runs(tmp_path)).splitlines()
    assert shown[-5] == "What differs between student runs:"
    assert shown[-1].split() == ["distilled", "0.25", "drop", "eeeeeeeeeeee"]


@pytest.mark.parametrize("damage", ["run.json", "tokenizer.json", "metrics.jsonl", HISTORY, "no history"])
def test_a_damaged_run_is_a_row_with_an_error(tmp_path, description, damage):
    begin(tmp_path / "good", description)
    begin(tmp_path / "bad", description)
    if damage == "no history":
        (tmp_path / "bad" / HISTORY).unlink()
    else:
        (tmp_path / "bad" / damage).write_text("{}\n")
    rows, _ = list_runs(tmp_path)
    assert [(row.path, row.error is None) for row in rows] == [("bad", False), ("good", True)]
    lines = runs_as_text(*list_runs(tmp_path)).splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [["bad", "-", "damaged"], ["good", "student", "interrupted"]]
    assert (HISTORY if damage == "no history" else damage) in lines[-1]


def test_folders_inside_runs_and_stores_are_not_searched(tmp_path, description):
    begin(tmp_path / "run", description)
    begin(tmp_path / "run" / "results" / "inner", description)
    begin(tmp_path / "dump" / "inner", description)
    (tmp_path / "dump" / "zarr.json").touch()
    assert [row.path for row in list_runs(tmp_path)[0]] == ["run"]
    assert [row.path for row in list_runs(tmp_path / "run")[0]] == ["."]


def test_the_command_prints_text_or_json(tmp_path, description):
    def shown(*arguments: object) -> str:
        result = CliRunner().invoke(cli.main, ["runs", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert shown(tmp_path).strip() == "no runs here"
    begin(tmp_path / "run", description)
    assert json.loads(shown(tmp_path, "--json"))["runs"][0]["state"] == "interrupted"
    assert "interrupted" in shown(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_runs(tmp_path / "nowhere")
