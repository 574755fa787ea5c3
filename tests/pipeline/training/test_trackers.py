"""A tracker gets the rows of metrics.jsonl, and groups the runs that differ only in their seed."""

import dataclasses
import sqlite3

import pytest

from pipeline.runtime.run_directory import RunInfo
from pipeline.training.metrics import Metrics
from pipeline.training.trackers import Tracker, group_of
from storage.errors import ConfigError

ROWS = [("train", 10, {"loss": 3.5}), ("dev", 10, {"loss": 3.25, "perplexity": 25.0}), ("train", 8, {"loss": 3.0})]


@pytest.fixture
def run(tmp_path):
    options = {"seed": 1, "out": "a", "lr": 0.1, "device": "cpu"}
    path = tmp_path / "student-seed1"
    path.mkdir()
    return RunInfo(path=path, kind="student", configuration=options, model={}, fingerprints={"dump": "ab"}, dump=None)


def logged(tracker):
    for row in ROWS:
        tracker.row(*row)
    tracker.close()


def test_wandb_gets_all_rows_also_without_a_network(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):  # the second time as after an interruption
        logged(Tracker("wandb", "syntax", run))
    files = sorted(run.path.glob("wandb/offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1, "a resumed training continues the same run"
    content = b"".join(file.read_bytes() for file in files)
    assert content.count(b"dev/perplexity") >= 2
    assert content.count(b"train/loss") >= 4
    assert b"syntax" in content
    assert b"student-seed1" in content


def test_wandb_without_a_login_is_refused_in_one_line(run, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse wandb login.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"--log-to wandb: No API key configured\. Run 'wandb login'") as refused:
        Tracker("wandb", "syntax", run)
    assert "\n" not in str(refused.value)


def test_trackio_gets_all_rows(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # 0.20 reads it when it is imported
    pytest.importorskip("trackio", reason="not in requirements.lock: it needs Pillow 11 there")
    logged(Tracker("trackio", "syntax", run))
    with sqlite3.connect(next((tmp_path / "trackio").glob("*.db"))) as database:
        assert sorted(step for (step,) in database.execute("select step from metrics")) == [8, 10, 10]


def test_training_goes_on_without_a_service_that_cannot_be_reached(run, monkeypatch, caplog):
    wandb = pytest.importorskip("wandb")

    def lose(*_, **__):
        raise ConnectionResetError("reset by peer")

    for name in ("init", "define_metric", "finish"):
        monkeypatch.setattr(wandb, name, lambda *_, **__: None)
    monkeypatch.setattr(wandb, "log", lose)
    metrics = Metrics(run.path, tracker=Tracker("wandb", "syntax", run))
    for split, step, figures in ROWS:
        metrics.row(split, step=step, figures=figures)
    metrics.close()
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == len(ROWS)
    assert [record.message for record in caplog.records if "wandb is lost" in record.message] == [
        "wandb is lost (reset by peer). Training goes on; metrics.jsonl has all metrics"
    ]


def test_runs_share_a_group_if_only_seed_folder_and_machine_differ(run):
    other = {"seed": 2, "out": "b", "lr": 0.1, "device": "cuda", "log_to": "wandb"}
    assert group_of(dataclasses.replace(run, configuration=other)) == group_of(run)
    assert group_of(dataclasses.replace(run, configuration={**other, "lr": 0.2})) != group_of(run)
    assert group_of(dataclasses.replace(run, fingerprints={"dump": "cd"})) != group_of(run)
    assert group_of(dataclasses.replace(run, kind="teacher")) != group_of(run)
