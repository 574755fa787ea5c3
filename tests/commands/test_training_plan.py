"""Test that --plan predicts what a training writes, and writes nothing itself."""

from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.training import training_plan
from student.student_config import StudentTrainConfig
from student.train_student import plan_student, train_student
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import plan_teacher, train_teacher
from tests.processes import metrics

STUDENT = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
TEACHER = TeacherConfig(embed_dim=16, hidden_dim=24)
CASES: dict[str, dict[str, Any]] = {
    "student of epochs": {"num_epochs": 2},
    "teacher of steps": {"max_steps": 9, "eval_every": 4, "checkpoint_every": 2, "accumulate_batches": 2},
    "student with words": {"max_steps": 9, "word_checkpoints": ("1k", "2k", "1M")},
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_takes_the_planned_steps_and_writes_the_planned_bytes(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(training_plan, "NUM_STEPS", 2)
    data, run = small_world / "dataset", tmp_path / "run"
    options = {"batch_tokens": 1500, "threads": 1, "device": "cpu", "log_every": 1} | CASES[case]
    if case.startswith("teacher"):
        training = TeacherTrainConfig(**options)
        plan = plan_teacher(data, run, TEACHER, training, (1, 2))
        assert not list(tmp_path.iterdir())
        train_teacher(data, run, TEACHER, training)
    else:
        of_student = StudentTrainConfig(**options)
        plan = plan_student(data, None, run, STUDENT, of_student, processes=(1, 2))
        assert not list(tmp_path.iterdir())
        train_student(data, None, run, STUDENT, of_student)
    last = metrics(run, "train")[-1]
    assert plan["num_steps"] == last["step"]
    assert plan["num_positions"] == pytest.approx(last["positions"], rel=0.05)
    assert plan["num_evaluations"] == len(metrics(run, "dev"))
    written = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert plan["size_bytes"] == pytest.approx(written, rel=0.1)
    assert plan["hours_by_processes"]["1"] > 0
    assert list(plan["hours_by_processes"]) == ["1", "2"]


def test_a_plan_leaves_an_existing_run_as_it_is(small_world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training_plan, "NUM_STEPS", 2)
    monkeypatch.setattr(training_plan, "write_rate", lambda _: 1000.0)
    data, run = small_world / "dataset", tmp_path / "run"
    training = TeacherTrainConfig(max_steps=2, threads=1, device="cpu")
    train_teacher(data, run, TEACHER, training)
    (run / "checkpoints/last/model.safetensors").unlink()  # as if the process had been killed before it was written

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}

    before = content()
    for sizes in (TEACHER, TeacherConfig(embed_dim=8, hidden_dim=12)):
        assert plan_teacher(data, run, sizes, training, (1,))["num_steps"] == 2
        assert content() == before


def test_hours_count_steps_evaluations_and_checkpoints(small_world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training_plan, "_step_seconds", lambda *_: 2.0)
    monkeypatch.setattr(training_plan, "_evaluation_seconds", lambda _: 0.5)
    monkeypatch.setattr(training_plan, "write_rate", lambda _: 1000.0)
    training = TeacherTrainConfig(max_steps=10, eval_every=5, threads=1, device="cpu")
    plan = plan_teacher(small_world / "dataset", tmp_path / "run", TEACHER, training, (1, 2))
    evaluation_s = (plan["hours_by_processes"]["1"] - plan["hours_by_processes"]["2"]) * 3600 * 2
    assert evaluation_s / 2 / 0.5 == pytest.approx(round(evaluation_s))  # two evaluations of whole positions
    expected_s = 10 * 2.0 + evaluation_s + plan["written_bytes"] / 1000
    assert plan["hours_by_processes"]["1"] * 3600 == pytest.approx(expected_s)


def test_a_few_slow_steps_do_not_change_the_hours(small_world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A step with a batch of a new shape can take four times as long as usual."""
    clock = accumulate([0.0, 90.0, 2.0, 2.0, 9.0, 2.0])  # the time before the first step and after each step
    monkeypatch.setattr(training_plan, "NUM_STEPS", 4)
    monkeypatch.setattr(training_plan, "MEASURE_S", 1000.0)
    monkeypatch.setattr(training_plan, "_evaluation_seconds", lambda _: 1e-9)
    monkeypatch.setattr(training_plan, "write_rate", lambda _: 1e12)
    monkeypatch.setattr(training_plan, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    training = TeacherTrainConfig(max_steps=1800, threads=1, device="cpu")
    plan = plan_teacher(small_world / "dataset", tmp_path / "run", TEACHER, training, (1,))
    assert plan["hours_by_processes"]["1"] == pytest.approx(1.0)
