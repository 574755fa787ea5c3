"""Test faults in training: only the steps since the last checkpoint are lost, and the error appears at once.

`make soak` runs the first test for longer. Tests without a real model are in
tests/pipeline/training/test_training_loop.py.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.runtime.checkpoint import state_path
from pipeline.runtime.run_history import HISTORY
from storage.errors import RunError
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import train_teacher
from tests.processes import ROOT, finish, kill_when, metrics, run_cli, start_cli, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.faults]
SIZES = {"embed_dim": 32, "num_blocks": 1, "num_heads": 2}
SHORT = {"max_steps": 3, "batch_tokens": 500, "threads": 1, "device": "cpu"}


def test_training_killed_at_any_instant_resumes_to_the_same_bits_or_losses(
    small_world: Path, tmp_path: Path, soak_factor: int
) -> None:
    num_kills = 2 * soak_factor
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_trainings", str(small_world), str(tmp_path), str(num_kills), "3"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    counts = json.loads(done.stdout)
    assert counts.keys() == {"teacher exact", "teacher mixed", "student exact", "student mixed"}
    for sort, found in counts.items():
        assert found["killed"] >= num_kills // (2 if "mixed" in sort else 1)
        assert found["went_on"] >= max(1, num_kills // 8)
        assert found["sizes_changed"] >= ("mixed" in sort)


def test_training_in_three_processes_resumes_to_the_same_bits(small_world: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("whole", "killed"):
        run = tmp_path / name
        sizes = ["--embed-dim", 32, "--num-blocks", 2, "--num-heads", 2, "--dropout", 0.1, "--batch-tokens", 400]
        steps = ["--max-steps", 12, "--checkpoint-every", 2, "--log-every", 1, "--threads", 1, "--device", "cpu"]
        command = ["train-student", "--data", small_world / "dataset", "--out", run, *sizes, *steps]
        if name == "killed":
            kill_when(lambda: state_path(tmp_path / "killed").exists(), start_cli(*command, processes=3))
            assert torch.load(state_path(run), weights_only=True)["step"] < 12
        finish(start_cli(*command, processes=3))
        weights.append(load_file(state_path(run).parent / "model.safetensors"))
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_full_disk_gives_one_line_and_training_resumes_when_there_is_room(small_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "train-student", "--data", small_world / "dataset", "--out", run, "--embed-dim", 64, "--num-blocks", 1,
        "--num-heads", 2, "--batch-tokens", 500, "--checkpoint-every", 5, "--max-steps", 40, "--threads", 1,
        "--log-every", 1,
    ]  # fmt: skip
    [process] = start_cli(*arguments)
    # After 7 rows one checkpoint is complete, and the next is not being written yet.
    wait_until(lambda: len(metrics(run)) >= 7, [process])
    # The limit is smaller than the training state and larger than the metrics so far.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    message = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 1
    assert message.startswith(f"Error: {run}/checkpoints/")
    assert "cannot be written: File too large. Make room" in message
    assert not list(run.rglob("*.partial"))
    before = torch.load(state_path(run), weights_only=True)["step"]
    assert before % 5 == 0
    message = run_cli(*arguments).stderr
    assert f"continuing after step {before} of 40" in message
    assert "finished: all 40 steps are done" in message
    assert [row["step"] for row in metrics(run, "train")] == list(range(1, 41))


def test_a_run_resumes_only_with_its_own_options_and_data(small_world: Path, tmp_path: Path) -> None:
    data, run = small_world / "dataset", tmp_path / "run"
    training = StudentTrainConfig(**SHORT)
    train_student(data, None, run, SIZES, training)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != HISTORY}
    with pytest.raises(RunError, match="already exists and is not empty, and --resume is never"):
        train_student(data, None, run, SIZES, training, resume="never")
    other = dataclasses.replace(training, lr=0.5, max_steps=9)
    with pytest.raises(RunError, match=r"--embed-dim is 16, expected 32; --max-steps is 9, .*--lr is 0\.5"):
        train_student(data, None, run, SIZES | {"embed_dim": 16}, other)
    with pytest.raises(RunError, match="kind is teacher, expected student"):
        train_teacher(data, run, TeacherConfig(), TeacherTrainConfig(**SHORT))
    train_student(data, None, run, SIZES, training)
    for file, content in before.items():
        assert file.read_bytes() == content, file


def test_ranks_with_different_options_stop_before_the_first_step(small_world: Path, tmp_path: Path) -> None:
    arguments = ["train-teacher", "--data", small_world / "dataset", "--out", tmp_path / "run", "--max-steps", 1]
    processes = start_cli(*arguments, "--seed", processes=2, last=(1, 2))
    messages = [process.communicate(timeout=120)[1].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    for message in messages:
        assert "rank 1 on " in message
        assert "has other options or data than rank 0: --seed is 2, expected 1" in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_killed_rank_ends_the_others_with_one_line(small_world: Path, tmp_path: Path) -> None:
    arguments = ["train-teacher", "--data", small_world / "dataset", "--out", tmp_path / "run", "--batch-tokens", 500]
    processes = start_cli(*arguments, "--threads", 1, "--embed-dim", 16, "--hidden-dim", 16, processes=2)
    wait_until(lambda: metrics(tmp_path / "run"), processes)
    processes[1].kill()
    lines = processes[0].communicate(timeout=60)[1].splitlines()
    assert processes[0].returncode == 1
    assert lines[-1].startswith("Error: another process of this run ended (")
    assert not any("Traceback" in line for line in lines)
    processes[1].communicate()


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_bfloat16_losses_are_near_those_of_float32(small_world: Path, tmp_path: Path, kind: str) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        data, run, options = small_world / "dataset", tmp_path / dtype, SHORT | {"dtype": dtype, "warmup_steps": 0}
        if kind == "teacher":
            sizes = TeacherConfig(embed_dim=16, hidden_dim=24, dropout=0)
            losses[dtype] = train_teacher(data, run, sizes, TeacherTrainConfig(**options))
        else:
            losses[dtype] = train_student(data, None, run, SIZES, StudentTrainConfig(**options))
        weights = torch.load(state_path(run), weights_only=True)["model"]
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # bfloat16 has 8 significant bits, so losses are close to float32, but not equal.
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)
    assert losses["bfloat16"] != losses["float32"]
