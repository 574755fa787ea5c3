"""Model FLOPs equal what torch counts for the model without shortcuts; a device is found by whole words of its name."""

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from storage.ragged import Ragged
from student.flops import num_matmul_parameters, peak_flops, training_flops
from student.model import Student
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


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 19.5e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H200", 989.4e12, 67e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None, None),
        ("NVIDIA TITAN V", None, None),
        ("cpu x86_64 AVX512", None, None),
    ],
)
def test_a_known_device_has_its_peak_rate_and_an_unknown_one_has_none(name, bfloat16, float32):
    assert peak_flops(name, "bfloat16") == pytest.approx(bfloat16)
    assert peak_flops(name, "float32") == pytest.approx(float32)


def test_a_given_peak_rate_replaces_the_table():
    assert peak_flops("NVIDIA H100 PCIe", "float32", given_tflops=1.5) == 1.5e12
    assert peak_flops("cpu x86_64", "bfloat16", given_tflops=0.1) == 1e11
