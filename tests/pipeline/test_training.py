"""What the training loop decides for every model: which parameters decay, and how dropout is seeded."""

import itertools

import pytest
import torch

from pipeline.runtime.train_config import TrainConfig
from pipeline.training import _epoch_ends, _optimizer, _step_seed
from student.config import StudentConfig
from student.model import Student
from teacher.config import TeacherConfig
from teacher.rnng import Rnng


def decayed_names(model: torch.nn.Module) -> set[str]:
    groups = _optimizer(model, TrainConfig()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    return {name for name, parameter in model.named_parameters() if id(parameter) in decayed}


def test_only_matrices_of_the_teacher_decay():
    model = Rnng(TeacherConfig(embed_dim=6, hidden_dim=8, num_layers=1), vocab_size=9, num_labels=3, eos_id=1)
    assert decayed_names(model) == {
        "composition.input_weight",
        "composition.recurrent_weight",
        "composition.output.weight",
        "stack.0.input.weight",
        "stack.0.recurrent.weight",
        "action_head.weight",
        "projection.weight",
    }


def test_only_matrices_of_the_student_decay():
    config = StudentConfig(vocab_size=9, embed_dim=8, num_blocks=1, num_heads=2)
    block = "transformer.h.0."
    assert decayed_names(Student(config, bos_id=0, seed=0)) == {
        block + "attn.c_attn.weight",
        block + "attn.c_proj.weight",
        block + "mlp.c_fc.weight",
        block + "mlp.c_proj.weight",
    }


@pytest.mark.parametrize("seed", [0, 1, 1_234_567_890, 2**62])
def test_each_step_and_rank_has_a_seed_that_torch_takes(seed):
    seeds = {_step_seed(seed, step, rank) for step, rank in itertools.product(range(50), range(8))}
    assert len(seeds) == 400
    for one in seeds:
        torch.manual_seed(one)


class Epochs:
    """So many batches in each epoch; all that the length of training asks of a task."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def num_batches(self, epoch: int) -> int:
        return self.sizes[epoch % len(self.sizes)]


def test_training_ends_with_its_epochs_or_its_steps():
    assert _epoch_ends(Epochs(4, 5), TrainConfig(num_epochs=3)) == [4, 9, 13]
    assert _epoch_ends(Epochs(4, 5), TrainConfig(num_epochs=3, max_steps=6)) == [4, 6]
    assert _epoch_ends(Epochs(4, 5), TrainConfig(num_epochs=1, max_steps=14)) == [4, 9, 13, 14]
    assert _epoch_ends(Epochs(4, 5), TrainConfig(num_epochs=1, max_steps=4)) == [4]
