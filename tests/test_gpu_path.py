"""Steps of training and inference run on a GPU without mixing devices and without waiting for values.

`tests.pretend_device` runs them on a device that does not exist. Launches are counted on the CPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import KINDS
from benchmarks.launches import launches_of, teacher_step
from teacher.teacher_config import TeacherConfig
from tests.processes import ROOT, run_cli

LAUNCHES_PER_ROUND = {
    ("top-down", "bilstm"): 44,
    ("top-down", "attention"): 38,
    ("binary", "treelstm"): 46,
    ("binary", "bilstm"): 50,
    ("binary", "attention"): 51,
}
"""Kernels per round of LSTM cells, forward and backward, that a training step may launch. On a GPU a teacher's step
takes as long as its launches (docs/gpu.md)."""


@pytest.fixture(scope="module")
def errors(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Run all cases once; return the error of each."""
    world = tmp_path_factory.mktemp("pretend")
    (world / "dataset").symlink_to(small_world / "dataset")
    source = ["--data", small_world / "dataset", "--teacher", small_world / "teacher", "--k", 8]
    run_cli("dump-teacher", *source, "--out", world / "topk", "--temperatures", "1,2")
    run_cli("dump-teacher", *source, "--out", world / "draws", "--selection", "stratified")
    command = [sys.executable, "-m", "tests.pretend_device", world]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["case"]: row["error"] for row in rows}


def test_no_step_mixes_devices_or_waits_for_a_value(errors: dict[str, str | None]):
    failed = [f"{name}:\n{error}" for name, error in errors.items() if error and not name.startswith("wrong")]
    assert not failed, "\n\n".join(failed)
    for wanted in ("train top-down bilstm bfloat16", "infer binary treelstm", "beam binary bilstm"):
        assert wanted in errors
    assert sum(name.startswith("train student") for name in errors) == 10


def test_a_mix_of_devices_and_a_read_of_a_value_are_found(errors: dict[str, str | None]):
    assert "at least two devices, pretend:0 and cpu" in str(errors["wrong: a tensor of the CPU"])
    assert "DataDependentOutputException" in str(errors["wrong: .item()"])
    assert "DynamicOutputShapeException" in str(errors["wrong: a mask as an index"])


@pytest.mark.parametrize(("strategy", "composition"), KINDS)
def test_a_teacher_launches_few_kernels_per_round(strategy: str, composition: str):
    config = TeacherConfig(embed_dim=8, hidden_dim=8, dropout=0.1, strategy=strategy, composition=composition)
    step, batch = teacher_step(config, 64, vocab_size=97)
    launches = launches_of(step).total
    per_round = launches / batch.schedule.num_rounds
    assert per_round <= LAUNCHES_PER_ROUND[strategy, composition], f"{launches} launches, {per_round:.1f} per round"
