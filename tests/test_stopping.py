"""Trainings in two real processes that are stopped by SIGTERM, or restarted by torchrun, go on to the same bits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.runtime.checkpoint import state_path
from pipeline.runtime.run_history import HISTORY, read_history
from tests.processes import ROOT, finish, start_cli

pytestmark = [pytest.mark.processes, pytest.mark.faults]
TIMES = {"elapsed_s", "positions_per_s", "data_wait_s"}


def arguments(world: Path, run: Path) -> list[object]:
    return [
        "train-student", "--data", world / "dataset", "--out", run, "--embed-dim", 32, "--num-blocks", 1,
        "--num-heads", 2, "--dropout", 0.2, "--batch-tokens", 500, "--max-steps", 60, "--checkpoint-every", 7,
        "--log-every", 2, "--eval-every", 45, "--threads", 1, "--device", "cpu",
    ]  # fmt: skip


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_rows(run: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def assert_same(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    for which in ("best", "last"):
        weights = Path("checkpoints") / which / "model.safetensors"
        assert (run / weights).read_bytes() == (whole / weights).read_bytes()


def events(run: Path) -> list[str]:
    return [event.get("state", "start") for event in read_history(run)]


def test_a_signal_to_one_process_stops_all_after_the_same_step(small_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_cli(*arguments(small_world, run), processes=2)
    wait_until(lambda: num_rows(run) >= 10, processes[0])
    processes[1].terminate()
    lines = [process.communicate(timeout=60)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    step = read_history(run)[-1]["step"]
    assert lines[0][-1] == f"{run}: stopped by SIGTERM after step {step} of 60; the same command goes on"
    assert lines[1] == []
    assert torch.load(state_path(run), weights_only=True)["step"] == step
    assert events(run) == ["start", "stopped"]


def test_torchrun_restarts_a_killed_training_and_passes_a_signal_on(small_world: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    finish(start_cli(*arguments(small_world, whole), processes=2))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [sys.executable, *launcher, str(ROOT / "cli.py"), *map(str, arguments(small_world, run))]
    torchrun = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    wait_until(lambda: num_rows(run) >= 10, torchrun)
    os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
    wait_until(lambda: events(run).count("start") == 2, torchrun)
    wait_until(lambda: num_rows(run) >= 15, torchrun)
    # As Slurm does: every process of the job gets the signal; torchrun, one of them, sends it again.
    for worker in map(int, children.read_text().split()):
        os.kill(worker, signal.SIGTERM)
    torchrun.terminate()
    err = torchrun.communicate(timeout=60)[1]
    assert torchrun.returncode != 0
    assert "stopped by SIGTERM after step" in err
    finish(start_cli(*arguments(small_world, run), processes=2))
    found = events(run)
    assert found[0] == "start"
    assert found[-4:] == ["start", "stopped", "start", "finished"], (run / HISTORY).read_text()
    assert_same(run, whole)
