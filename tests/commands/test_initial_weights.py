"""Test ``train-student --init``: training starts from another student's best weights, and weights must fit."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from pipeline.corpus.dataset.dataset_store import load_dataset
from storage.errors import ConfigError, FingerprintMismatchError, RunError
from storage.fingerprints import sha256_file
from student.student_config import StudentConfig, StudentTrainConfig
from student.train_student import _SIZES, StudentTask, train_student
from tests.processes import edit_run

SIZES = {"embed_dim": 32, "num_blocks": 1, "num_heads": 2, "max_length": 100}
SHORT = {"batch_tokens": 600, "warmup_steps": 0, "threads": 1, "device": "cpu", "log_every": 1}
STILL = 1e-30
"""A learning rate that changes no weight."""


def trained(world: Path, run: Path, *, sizes: dict[str, Any] | None = None, **options: Any) -> Path:
    init, resume = options.pop("init", None), options.pop("resume", "auto")
    training = StudentTrainConfig(**SHORT | options)
    train_student(world / "dataset", None, run, sizes or SIZES, training, init=init, resume=resume)
    return run


def best(run: Path) -> dict[str, list[float]]:
    weights = safetensors.torch.load_file(run / "checkpoints/best/model.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def student(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(small_world, tmp_path_factory.mktemp("init") / "student", max_steps=4)


def test_training_starts_from_the_best_weights_and_the_run_records_them(small_world, student, tmp_path):
    # --ff-dim 128 is the default, 4 times --embed-dim, so the sizes are equal. Dropout may differ.
    sizes = SIZES | {"ff_dim": 128, "dropout": 0.3}
    run = trained(small_world, tmp_path / "run", sizes=sizes, init=student, max_steps=1, lr=STILL, seed=5)
    assert best(run) == best(student)
    described = json.loads((run / "run.json").read_text())
    digest = sha256_file(student / "checkpoints/best/model.safetensors")
    assert described["init"] == {"run": str(student), "sha256": digest}
    assert described["fingerprints"]["initial weights"] == digest
    without = trained(small_world, tmp_path / "without", max_steps=1, lr=STILL, seed=5)
    assert best(without) != best(student)
    assert json.loads((without / "run.json").read_text())["init"] is None


def test_other_sizes_are_refused_with_the_values_to_give(small_world, student, tmp_path):
    with pytest.raises(ConfigError) as refused:
        trained(small_world, tmp_path / "run", sizes={"num_heads": 2}, init=student)  # other sizes at their defaults
    message = str(refused.value)
    assert (
        "--embed-dim is 256, expected 32; --num-blocks is 6, expected 1; --max-length is 512, expected 100" in message
    )
    assert message.endswith("Give --embed-dim 32 --num-blocks 1 --max-length 100")
    with pytest.raises(ConfigError, match=r": --ff-dim is 64, expected 128\. Give --ff-dim 128$"):
        trained(small_world, tmp_path / "run", sizes=SIZES | {"ff_dim": 64}, init=student)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_tokenizer_or_of_a_teacher_are_refused(small_world, student, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(student, other)
    with (other / "tokenizer.json").open("a") as file:
        file.write("\n")
    theirs = sha256_file(other / "tokenizer.json")
    edit_run(other, lambda described: described["fingerprints"].update(tokenizer=theirs))
    ours = load_dataset(small_world / "dataset").tokenizer.sha256
    with pytest.raises(FingerprintMismatchError, match=f"tokenizer is {ours[:12]}, but .* with {theirs[:12]}"):
        trained(small_world, tmp_path / "run", init=other)
    with pytest.raises(RunError, match="this run is a teacher's, expected a student's"):
        trained(small_world, tmp_path / "run", init=small_world / "teacher")


@pytest.mark.parametrize("damage", ["missing", "truncated", "of another model"])
def test_a_broken_checkpoint_is_refused_and_named(small_world, student, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    file = broken / "checkpoints/best/model.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        other = trained(small_world, tmp_path / "large", sizes=SIZES | {"embed_dim": 64}, max_steps=1)
        shutil.copy(other / "checkpoints/best/model.safetensors", file)
    with pytest.raises(RunError, match=r"broken.*(no checkpoint here|not a checkpoint)"):
        trained(small_world, tmp_path / "run", init=broken)


class StoppedError(Exception):
    pass


def test_resuming_uses_the_checkpoint_and_not_the_initial_weights(small_world, student, tmp_path, monkeypatch):
    options = {"init": student, "max_steps": 6, "checkpoint_every": 2}
    whole = trained(small_world, tmp_path / "whole", **options)
    batches = StudentTask.train_batches

    def few(self: StudentTask, epoch: int, first: int) -> Iterator[Any]:
        found: Iterable[Any] = batches(self, epoch, first)
        yield from islice(found, 3)
        raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(StudentTask, "train_batches", few)
        with pytest.raises(StoppedError):
            trained(small_world, tmp_path / "stopped", **options)
    trained(small_world, tmp_path / "stopped", **options, resume="auto")
    assert best(tmp_path / "stopped") == best(whole)


def test_a_run_resumes_only_with_the_same_initial_weights(small_world, student, tmp_path):
    run = trained(small_world, tmp_path / "run", init=student, max_steps=2)
    for init in (None, trained(small_world, tmp_path / "other", max_steps=1)):
        with pytest.raises(RunError, match="sha256 of the initial weights is"):
            trained(small_world, run, init=init, max_steps=2, resume="auto")
    with pytest.raises(RunError, match=r"sha256 of the initial weights is .*, expected not set"):
        trained(small_world, tmp_path / "other", init=student, max_steps=1, resume="auto")
    moved = tmp_path / "moved"
    shutil.copytree(student, moved)
    trained(small_world, run, init=moved, max_steps=2, resume="auto")


def test_every_size_of_the_student_is_compared() -> None:
    assert {field.name for field in fields(StudentConfig)} == {*_SIZES, "vocab_size", "dropout"}
