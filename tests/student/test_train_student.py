"""A compiled student has the losses, checkpoints and parameter names of a student that is not compiled."""

import shutil
from pathlib import Path

import pytest
import torch

import pipeline.training.training_loop
from pipeline.runtime.checkpoint import state_path
from student.model import Student
from student.student_config import StudentConfig, StudentTrainConfig
from student.train_student import compile_transformer, train_student
from tests.processes import metrics, refused

SIZES = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2, "dropout": 0.0}
TRAINING = {
    "max_steps": 6, "eval_every": 3, "log_every": 1, "batch_tokens": 500, "lr": 0.01, "warmup_steps": 0, "threads": 1,
    "device": "cpu",
}  # fmt: skip
CPU = torch.device("cpu")
# torch's compiler imports modules that torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")


class StopHereError(Exception):
    pass


def stop_after_step_3(monkeypatch: pytest.MonkeyPatch) -> None:
    save = pipeline.training.training_loop.save_checkpoint

    def saving(*arguments: object, **more: object) -> None:
        save(*arguments, **more)
        raise StopHereError

    monkeypatch.setattr("pipeline.training.training_loop.save_checkpoint", saving)


@pytest.mark.timeout(900)
def test_compiled_and_plain_runs_agree_and_each_continues_from_the_other(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")

    def trained(name: str, *, compiled: bool) -> Path:
        training = StudentTrainConfig(**TRAINING, compile=compiled)
        train_student(small_world / "dataset", None, tmp_path / name, SIZES, training, resume="auto")
        return tmp_path / name

    for name, begins_compiled in (("mixed-1", True), ("mixed-2", False)):
        with monkeypatch.context() as patch:
            stop_after_step_3(patch)
            with pytest.raises(StopHereError):
                trained(name, compiled=begins_compiled)
    expected = trained("eager", compiled=False)
    found = [trained("compiled", compiled=True), trained("mixed-1", compiled=False), trained("mixed-2", compiled=True)]
    names = torch.load(state_path(expected), weights_only=True)["model"].keys()
    assert not any("_orig_mod" in name for name in names)
    for run in found:
        assert torch.load(state_path(run), weights_only=True)["model"].keys() == names
        assert [row["split"] for row in metrics(run)] == [row["split"] for row in metrics(expected)]
        for one, other in zip(metrics(run), metrics(expected), strict=True):
            # Sums of float32 in another order, after six steps.
            assert one["loss"] == pytest.approx(other["loss"], abs=2e-5)
            assert one["positions"] == other["positions"]


def test_compiling_keeps_parameter_names_and_compiles_only_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("torch.compile", lambda function, **_: lambda inputs: tried.append(function(inputs)))
    model = Student(StudentConfig(vocab_size=9, embed_dim=8, num_blocks=1, num_heads=2), bos_id=0, seed=1)
    names = list(model.state_dict())
    compile_transformer(model, CPU)
    assert len(tried) == 1
    assert list(model.state_dict()) == names
    assert model.transformer._compiled_call_impl is not None


def test_a_missing_compiler_is_a_one_line_error(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/none/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    arguments = ["train-student", "--data", small_world / "dataset", "--out", tmp_path / "run", "--device", "cpu"]
    line = refused(*arguments, "--compile")
    assert line.startswith("Error: --compile: torch cannot compile for cpu on this machine (")
    assert "/none/g++" in line
    assert line.endswith("install that, or leave --compile out")
    assert not (tmp_path / "run").exists()
