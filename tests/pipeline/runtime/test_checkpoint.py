"""A training state is read back as written. A damaged or foreign state, or one of another model, is refused."""

import math
import pathlib
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.runtime.checkpoint import TrainingState, load_state, repair_weights, save_checkpoint, state_path
from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import checkpoint_path, load_weights, open_run
from storage.errors import RnngDistillError, RunError
from tests.processes import describe


def trained(dim: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(dim, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, dim)).sum().backward()
    optimizer.step()
    return model, optimizer


def saved(run: Path) -> TrainingState:
    describe(run)
    model, optimizer = trained()
    state = TrainingState(
        step=7,
        positions=70,
        best_loss=math.inf,
        best_step=0,
        num_worse=0,
        elapsed_s=1.5,
        row_sums=torch.ones(1, 2, dtype=torch.float64),
        row_positions=3,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
    )
    save_checkpoint(run, state, model)
    return state


def load(run: Path, dim: int = 5) -> TrainingState | None:
    return load_state(run, *trained(dim), World())


def test_a_state_is_read_back_as_it_was_written(tmp_path):
    assert load(tmp_path) is None
    state = saved(tmp_path)
    model, optimizer = trained()
    found = load_state(tmp_path, model, optimizer, World())
    assert (found.step, found.positions, found.best_loss, found.row_positions) == (7, 70, math.inf, 3)
    assert torch.equal(model.weight, state.model["weight"])
    moments = optimizer.state[model.weight]
    assert torch.equal(moments["exp_avg"], state.optimizer["state"][0]["exp_avg"])
    load_weights(open_run(tmp_path), "last", model)
    assert not checkpoint_path(tmp_path, "best").exists()


def test_a_truncated_or_flipped_file_is_refused_and_left_alone(tmp_path):
    saved(tmp_path)
    path = state_path(tmp_path)
    whole, generator = path.read_bytes(), random.Random(1)
    damaged = [whole[: generator.randrange(len(whole))] for _ in range(40)] + [b"\0" * 100]
    # These bytes belong to entries, which checksums cover. The bytes between entries are padding.
    with zipfile.ZipFile(path) as archive:
        entries = [archive.read(name) for name in archive.namelist() if "data" in name]
    for entry in entries:
        start = whole.index(entry)
        for _ in range(10):
            data = bytearray(whole)
            data[start + generator.randrange(len(entry))] ^= 1 << generator.randrange(8)
            damaged.append(bytes(data))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(RunError, match=r"training_state\.pt: is damaged.*Restore the file"):
            load(tmp_path)
        assert path.read_bytes() == data


def test_any_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    saved(tmp_path)
    path = state_path(tmp_path)
    whole, generator = path.read_bytes(), random.Random(2)
    expected = load(tmp_path)
    for _ in range(400):
        data = bytearray(whole)
        data[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            found = load(tmp_path)
        except RnngDistillError:
            continue
        assert torch.equal(found.model["weight"], expected.model["weight"])
        assert (found.step, found.positions, found.best_step) == (7, 70, 0)


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def test_code_in_a_foreign_file_is_refused_and_not_executed(tmp_path):
    mark = tmp_path / "executed"
    path = state_path(tmp_path)
    path.parent.mkdir(parents=True)
    for content in (Harmful(mark), {"format_version": 1, "step": Harmful(mark)}):
        torch.save(content, path)
        with pytest.raises(RunError, match="holds more than numbers; nothing in it was executed"):
            load(tmp_path)
        torch.save(content, path, _use_new_zipfile_serialization=False)
        with pytest.raises(RunError, match="is damaged"):
            load(tmp_path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "has format version None, expected 1"),
        ({"format_version": 2}, "has format version 2, expected 1"),
        ({"format_version": 1, "step": "7"}, "is not a training state: step, positions"),
    ],
)
def test_a_file_with_another_format_is_refused(tmp_path, content, expected):
    path = state_path(tmp_path)
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    with pytest.raises(RunError, match=expected):
        load(tmp_path)


def test_a_state_of_another_model_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(RunError, match="does not fit this model: size mismatch for weight"):
        load(tmp_path, dim=6)
    content = torch.load(state_path(tmp_path), weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(9)
    torch.save(content, state_path(tmp_path))
    with pytest.raises(RunError, match="has the optimiser state of another model"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"step": -1}, {"positions": 2**80}, {"best_loss": math.nan}, {"elapsed_s": math.inf}, {"row_positions": -5}],
)
def test_a_state_with_impossible_counts_is_refused(tmp_path, change):
    saved(tmp_path)
    content = torch.load(state_path(tmp_path), weights_only=True)
    torch.save(content | change, state_path(tmp_path))
    with pytest.raises(RunError, match=r"has impossible counts\. Restore the file"):
        load(tmp_path)


def test_hyperparameters_come_from_the_options_and_not_from_a_file(tmp_path):
    saved(tmp_path)
    content = torch.load(state_path(tmp_path), weights_only=True)
    content["optimizer"]["param_groups"][0] |= {"weight_decay": "much", "betas": (1e9, None)}
    torch.save(content, state_path(tmp_path))
    model, optimizer = trained()
    load_state(tmp_path, model, optimizer, World())
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("lost", ["checkpoints/last/training_state.pt", "checkpoints/last"])
def test_a_run_that_lost_its_state_is_not_trained_from_the_start(tmp_path, lost):
    saved(tmp_path)
    shutil.copytree(tmp_path / "checkpoints/last", tmp_path / "checkpoints/best")
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match="missing, but the run has the checkpoint best"):
        load(tmp_path)


def test_a_state_or_weights_of_another_run_are_refused(tmp_path):
    saved(tmp_path)
    describe(tmp_path, seed=2)
    with pytest.raises(RunError, match="is the training state of another run"):
        load(tmp_path)
    with pytest.raises(RunError, match="weights of another run"):
        load_weights(open_run(tmp_path), "last", trained()[0])


def test_one_flipped_bit_in_the_weights_is_refused(tmp_path):
    saved(tmp_path)
    path = checkpoint_path(tmp_path, "last")
    whole, (model, _) = path.read_bytes(), trained()
    load_weights(open_run(tmp_path), "last", model)
    weight = whole.index(model.weight.detach().numpy().tobytes())
    for at in (weight, weight + 17, len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 4
        path.write_bytes(data)
        with pytest.raises(RunError, match="damaged: the sha256 of its weights is not"):
            load_weights(open_run(tmp_path), "last", model)


def test_states_and_weights_of_older_versions_are_read(tmp_path):
    state = saved(tmp_path)
    content = torch.load(state_path(tmp_path), weights_only=True)
    del content["run"]
    torch.save(content, state_path(tmp_path))
    model, _ = trained()
    safetensors.torch.save_file(state.model, checkpoint_path(tmp_path, "last"))
    before = checkpoint_path(tmp_path, "last").read_bytes()
    assert load(tmp_path).step == 7
    load_weights(open_run(tmp_path), "last", model)
    repair_weights(tmp_path, state, model)
    assert checkpoint_path(tmp_path, "last").read_bytes() == before
