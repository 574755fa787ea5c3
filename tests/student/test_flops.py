"""Model FLOPs are those that torch counts when the model is computed without shortcuts."""

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from storage.ragged import Ragged
from student.model import Student, num_matmul_parameters, training_flops
from student.student_config import StudentConfig


@pytest.mark.parametrize("length", [1, 5, 12])
def test_model_flops_are_what_forward_and_backward_of_one_sentence_take(length):
    config = StudentConfig(vocab_size=31, embed_dim=8, num_blocks=3, num_heads=2, ff_dim=20, dropout=0.0)
    model = Student(config, bos_id=0, seed=1)
    tokens = Ragged.from_lists([np.arange(length - 1)], np.int64)
    # Attention as two matrix products: fused kernels make the first one again on the way back.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.logits(model.states(model.prepare(tokens, None))).sum().backward()
    assert counted.get_total_flops() == training_flops(config, np.array([length]))[0]


def test_every_weight_counts_once_but_the_positions_and_what_is_no_matrix():
    config = StudentConfig(vocab_size=31, embed_dim=8, num_blocks=3, num_heads=2)
    named = Student(config, bos_id=0, seed=1).named_parameters()
    matrices = [weight.numel() for name, weight in named if weight.dim() == 2 and ".wpe." not in name]
    assert num_matmul_parameters(config) == sum(matrices)


def test_padding_is_no_use():
    config = StudentConfig(vocab_size=31, embed_dim=8, num_blocks=1, num_heads=2)
    short, long = training_flops(config, np.array([3, 30]))
    assert long - 10 * short == 12 * 8 * (30 * 30 - 10 * 3 * 3)
    assert training_flops(config, np.zeros(0, np.int64)).shape == (0,)
