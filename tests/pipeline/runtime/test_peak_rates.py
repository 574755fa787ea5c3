"""A device is found by its driver's name, whole words only."""

import pytest

from pipeline.runtime.peak_rates import peak_flops


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
def test_a_known_device_has_its_peak_and_any_other_has_none(name, bfloat16, float32):
    assert peak_flops(name, "bfloat16") == pytest.approx(bfloat16)
    assert peak_flops(name, "float32") == pytest.approx(float32)


def test_a_given_peak_is_believed():
    assert peak_flops("NVIDIA H100 PCIe", "float32", given_tflops=1.5) == 1.5e12
    assert peak_flops("cpu x86_64", "bfloat16", given_tflops=0.1) == 1e11
