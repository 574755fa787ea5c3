"""Rows of figures are in the order of their steps, also after interruptions."""

import json
from pathlib import Path

import pytest

from pipeline.runtime.metric_rows import read_rows
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
    row = '{"split": "train", "step": 1}'
    for line in ("nonsense", '{"step": 2}', '{"split": "train", "step": -1}', '{"split": "train", "step": 1.0}', "[]"):
        (tmp_path / "metrics.jsonl").write_text(f"{row}\n{line}\n{row}\n")
        for read in (lambda: Metrics(tmp_path, after_step=3), lambda: read_rows(tmp_path)):
            with pytest.raises(RunError, match=r"metrics\.jsonl:2: .*; remove the line"):
                read()


def test_a_figure_that_is_not_finite_is_none(tmp_path):
    line = '{"split": "train", "step": 1, "loss": NaN, "lr":-Infinity, "grad_norm": 2}'
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{line[:-3]}")
    assert read_rows(tmp_path) == ([{"split": "train", "step": 1, "loss": None, "lr": None, "grad_norm": 2}], True)


def test_missing_rows_are_reported_once_and_recorded(tmp_path, caplog):
    written(tmp_path, 2, 4, 6)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:1]))
    for _ in range(2):
        written(tmp_path, 8, after_step=6, expected_rows=3)
        assert [(row["split"], row["step"], row.get("missing_rows")) for row in read_rows(tmp_path)[0]] == [
            ("train", 2, None), ("gap", 6, 2), ("train", 8, None)
        ]  # fmt: skip
    (warning,) = caplog.messages
    assert "metrics.jsonl: 2 of the 3 rows up to step 6 are missing" in warning
