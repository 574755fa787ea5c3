"""Test that two machines share a dump or a training, and that losing one of them costs only unfinished work.

The machines are two agents of torchrun on this machine; see tests/kill_nodes.py. `make soak` loses more of them, and
gives each two processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run
from pipeline.runtime.checkpoint import state_path
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig
from tests.processes import ROOT, metrics, store_digest

pytestmark = [pytest.mark.processes, pytest.mark.faults]
TRAINING = {
    "max_steps": 30, "batch_tokens": 400, "checkpoint_every": 2, "eval_every": 15, "log_every": 1, "threads": 1,
    "device": "cpu",
}  # fmt: skip
SIZES = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2, "dropout": 0.0}


def options(values: dict[str, object]) -> list[object]:
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value)]


def lose_nodes(how: str, losses: int, folder: Path, watched: object, *command: object, processes: int = 1) -> None:
    """Run a command on two nodes, lose one of them again and again, and let both finish."""
    arguments = [how, processes, losses, 1, folder, watched, *command]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_nodes", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RNNG_DISTILL_LOST_AFTER_S": "8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["losses"] == losses


def dump_arguments(world: Path, out: object) -> list[object]:
    small = ["--k", 16, "--temperatures", "1,2", "--shard-positions", 384, "--batch-tokens", 512, "--device", "cpu"]
    return ["dump-teacher", "--data", world / "dataset", "--teacher", world / "teacher", "--out", out, *small]


def digest_of_one_process(world: Path, folder: Path) -> str:
    config = DumpConfig(k=16, temperatures=(1.0, 2.0), shard_positions=384, batch_tokens=512, device="cpu")
    dump_run(world / "dataset", [TeacherSource(world / "teacher", BeamConfig())], folder / "alone", config)
    return store_digest(folder / "alone")


def test_a_dump_by_two_machines_to_an_object_store_survives_the_loss_of_one(
    small_world: Path,
    tmp_path: Path,
    s3_bucket: str,
    soak_factor: int,
) -> None:
    s3_url = f"{s3_bucket}/two-nodes/dump"
    listing = f"{os.environ['AWS_ENDPOINT_URL_S3']}/bucket?list-type=2&prefix=two-nodes/dump/finished/"
    # Rank 0 may be on the lost machine; --take-over does not wait for its lease.
    arguments = [*dump_arguments(small_world, s3_url), "--take-over"]
    losses, processes = (4, 2) if soak_factor > 1 else (1, 1)
    lose_nodes("killed", losses, tmp_path, listing, *arguments, processes=processes)
    fsspec.filesystem("s3", use_listings_cache=False).get(f"{s3_url}/", str(tmp_path / "copy"), recursive=True)
    assert store_digest(tmp_path / "copy") == digest_of_one_process(small_world, tmp_path)


def test_a_training_by_two_machines_goes_on_after_one_went_silent(
    small_world: Path, tmp_path: Path, soak_factor: int
) -> None:
    data, run = small_world / "dataset", tmp_path / "run"
    arguments = ["train-student", "--data", data, "--out", run, *options(SIZES | TRAINING)]
    losses = 4 if soak_factor > 1 else 1
    lose_nodes("silent", losses, tmp_path, run / "metrics.jsonl", *arguments)
    train_student(data, None, tmp_path / "alone", SIZES, StudentTrainConfig(**TRAINING))
    found, expected = metrics(run, "train"), metrics(tmp_path / "alone", "train")
    assert [row["step"] for row in found] == list(range(1, 31))
    # The gradients of two processes are added in another order. There is no dropout.
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_nothing_changes_if_machines_with_two_processes_each_are_lost(
    small_world: Path, tmp_path: Path, soak_factor: int, how: str
) -> None:
    if soak_factor == 1:
        pytest.skip("make soak runs this test")
    dump = tmp_path / "dump"
    lose_nodes(how, 4, tmp_path, dump / "finished", *dump_arguments(small_world, dump), processes=2)
    assert store_digest(dump) == digest_of_one_process(small_world, tmp_path)
    weights = []
    for losses, run in ((0, tmp_path / "undisturbed"), (4, tmp_path / "disturbed")):
        sizes = SIZES | {"dropout": 0.2}
        arguments = ["train-student", "--data", small_world / "dataset", "--dump", dump, *options(sizes | TRAINING)]
        arguments += ["--out", run]
        lose_nodes(how, losses, tmp_path, run / "metrics.jsonl", *arguments, processes=2)
        weights.append(load_file(state_path(run).parent / "model.safetensors"))
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
