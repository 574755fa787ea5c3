"""Rows of figures are in the order of their steps, also after interruptions."""

import json
from pathlib import Path

import pytest

from pipeline.training.metrics import Metrics
from storage.errors import RunError


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def written(run: Path, *rows: int, **more: float) -> None:
    metrics = Metrics(run, **more)
    for step in rows:
        metrics.row("train", step=step, figures={"loss": 1.0})
    metrics.close()


def test_rows_after_the_checkpoint_and_an_incomplete_line_are_removed(tmp_path):
    written(tmp_path, 2, 4, 6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "st')
    written(tmp_path, 5, after_step=4, elapsed_s=100.0)
    assert steps(tmp_path) == [2, 4, 5]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 100 <= last["elapsed_s"] < 110
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 6}')
    written(tmp_path, after_step=9)
    assert steps(tmp_path) == [2, 4, 5]
    written(tmp_path, 1)
    assert steps(tmp_path) == [1]


def test_a_damaged_line_before_the_checkpoint_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not a row of figures"):
        Metrics(tmp_path, after_step=3)
