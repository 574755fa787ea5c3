"""Test that runs on one dump do not affect each other, and that writing another dump does not affect a run."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run
from storage.dump.reader import verify_dump
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig
from tests.processes import metrics, start_cli, wait_until

pytestmark = pytest.mark.processes
SIZES = {"embed_dim": 32, "num_blocks": 2, "num_heads": 2}
NUM_STEPS = 60
FIGURES = ("step", "positions", "loss", "cross_entropy", "kl", "grad_norm")
# With a constant rate, the first steps do not depend on the total number of steps.
OPTIONS = {
    "batch_tokens": 600, "warmup_steps": 0, "schedule": "constant", "threads": 1, "device": "cpu", "log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("side-by-side") / "dump"
    config = DumpConfig(k=16, shard_positions=2048, device="cpu")
    dump_run(small_world / "dataset", [TeacherSource(small_world / "teacher", BeamConfig())], out, config)
    return out


@pytest.fixture(scope="module")
def alone(small_world: Path, dump: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    return trained(small_world, dump, tmp_path_factory.mktemp("alone") / "run")


def trained(world: Path, dump: Path, run: Path) -> list[tuple[Any, ...]]:
    train_student(world / "dataset", dump, run, SIZES, StudentTrainConfig(**OPTIONS, max_steps=NUM_STEPS))
    found = figures(run)
    assert len(found) == NUM_STEPS
    return found


def figures(run: Path) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in FIGURES) for row in metrics(run, "train")]


def typed(options: dict[str, Any]) -> list[object]:
    return [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]


@contextlib.contextmanager
def going_on(*arguments: object, progress: Callable[[], int]) -> Iterator[None]:
    """Run a command in the background. Enter after it has made progress; exit after it has made more."""
    [process] = start_cli(*arguments)
    try:
        wait_until(progress, [process])
        before = progress()
        yield
        wait_until(lambda: progress() > before, [process])
    finally:
        process.kill()
        process.communicate()


def test_two_simultaneous_runs_on_one_dump_have_the_losses_of_a_single_run(small_world, dump, alone, tmp_path):
    other = tmp_path / "other"
    arguments = ["train-student", "--data", small_world / "dataset", "--dump", dump, "--out", other]
    arguments += [*typed(SIZES), *typed(OPTIONS), "--max-steps", 100_000]
    with going_on(*arguments, progress=lambda: len(figures(other))):
        assert trained(small_world, dump, tmp_path / "run") == alone
    found = figures(other)[:NUM_STEPS]
    assert found == alone[: len(found)]
    verify_dump(dump)


def test_a_run_has_the_same_losses_while_another_dump_is_written(small_world, dump, alone, tmp_path):
    beside = dump.parent / "beside"
    arguments = ["dump-teacher", "--data", small_world / "dataset", "--teacher", small_world / "teacher"]
    arguments += ["--out", beside, "--k", 16, "--shard-positions", 256]
    # The dump uses beam search, so that it takes longer than the run.
    arguments += ["--condition", "beam", "--beam", 10, "--word-beam", 5]
    with going_on(*arguments, progress=lambda: len(list(beside.glob("finished/*.json")))):
        assert trained(small_world, dump, tmp_path / "run") == alone
    assert json.loads((beside / "manifest.json").read_text())["state"] == "writing"
