"""Test trainings in two real processes: after SIGTERM, or a restart by torchrun, they resume to the same losses.

tests/kill_trainings.py stops trainings in one process at random instants, and requires bit-identical results.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.runtime.checkpoint import state_path
from pipeline.runtime.run_history import HISTORY, read_history
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from tests.processes import ROOT, metrics, start_cli, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.faults]
SIZES = {"embed_dim": 32, "num_blocks": 1, "num_heads": 2, "dropout": 0.0}
TRAINING: dict[str, Any] = {
    "batch_tokens": 500, "max_steps": 200, "checkpoint_every": 7, "log_every": 2, "eval_every": 150, "threads": 1,
    "device": "cpu",
}  # fmt: skip


def arguments(world: Path, run: Path) -> list[object]:
    options = [part for name, value in (SIZES | TRAINING).items() for part in ("--" + name.replace("_", "-"), value)]
    return ["train-student", "--data", world / "dataset", "--out", run, *options]


def train_here(world: Path, run: Path) -> None:
    train_student(world / "dataset", None, run, SIZES, StudentTrainConfig(**TRAINING))


def events(run: Path) -> list[str]:
    return [event.get("state", "start") for event in read_history(run)]


def test_a_signal_to_one_process_stops_all_after_the_same_step(small_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_cli(*arguments(small_world, run), processes=2)
    wait_until(lambda: len(metrics(run)) >= 10, processes)
    processes[1].terminate()
    lines = [process.communicate(timeout=60)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    step = read_history(run)[-1]["step"]
    assert lines[0][-1] == f"{run}: stopped by a signal after step {step} of 200. Run the same command to continue"
    assert lines[1] == []
    assert torch.load(state_path(run), weights_only=True)["step"] == step
    assert events(run) == ["start", "stopped"]


def test_torchrun_restarts_a_killed_training_and_passes_a_signal_on(small_world: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [sys.executable, *launcher, str(ROOT / "cli.py"), *map(str, arguments(small_world, run))]
    torchrun = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    wait_until(lambda: len(metrics(run)) >= 10, [torchrun])
    os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
    before = len(metrics(run))
    wait_until(lambda: events(run).count("start") == 2, [torchrun])
    # The restarted group cuts off the rows after the checkpoint and writes them again. Rows beyond ``before`` are new.
    wait_until(lambda: len(metrics(run)) >= before + 10, [torchrun])
    # Do as Slurm does: signal every process of the job. torchrun is one of them, and signals the workers again.
    for worker in map(int, children.read_text().split()):
        os.kill(worker, signal.SIGTERM)
    torchrun.terminate()
    err = torchrun.communicate(timeout=60)[1]
    assert torchrun.returncode != 0
    assert "stopped by a signal after step" in err
    train_here(small_world, run)
    train_here(small_world, whole)
    found = events(run)
    assert found[0] == "start"
    assert found[-4:] == ["start", "stopped", "start", "finished"], (run / HISTORY).read_text()
    assert len(metrics(run)) == len(metrics(whole)) == 104
    for one, other in zip(metrics(run), metrics(whole), strict=True):
        assert (one["split"], one["step"], one["positions"]) == (other["split"], other["step"], other["positions"])
        # Two processes add up sums in another order.
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
