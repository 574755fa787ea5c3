"""Count the model FLOPs of the student, and look up the peak rate of a device.

Model FLOPs are what the arithmetic needs. They leave out padding and repeated computation. As in PaLM (Chowdhery et al.
2022, appendix B), a multiplication and an addition count as two operations:

    FLOPs per position = 6 N + 12 n D l        forward 2 N + 4 n D l; backward twice that
    N = n (4 D² + 2 D F) + V D

n is the number of blocks, D the embedding size, F the size of the feed-forward layers, and V the vocabulary. A row is
one input sequence of a batch (``student.rows``). l is the length of the position's row, without padding. N counts the
parameters of matrix products: the blocks and the output layer. The products that the causal mask makes unnecessary also
count, as in PaLM.
"""

import re
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from student.student_config import StudentConfig

PEAK_TFLOPS: Final[tuple[tuple[tuple[str, ...], float, float], ...]] = (
    (("B200",), 2250.0, 75.0),
    (("H200", "NVL"), 835.5, 60.0),
    (("H200",), 989.4, 67.0),
    (("H100", "NVL"), 835.5, 60.0),
    (("H100", "PCIe"), 756.0, 51.0),
    (("H100",), 989.4, 67.0),
    (("A100",), 312.0, 19.5),
    (("A40",), 149.7, 37.4),
    (("A10",), 125.0, 31.2),
    (("L40S",), 362.0, 91.6),
    (("L4",), 121.0, 30.3),
)
"""Peak rates from the manufacturer's data sheets. An entry has words of a device's name, the TFLOPS of dense bfloat16
products on tensor cores, and the TFLOPS of float32 products without tensor cores (TF32 is off). The first entry whose
words all occur in the name applies."""


def num_matmul_parameters(config: StudentConfig) -> int:
    """Return N, the number of parameters of matrix products."""
    size = config.embed_dim
    return config.num_blocks * (4 * size**2 + 2 * size * config.inner_dim) + config.vocab_size * size


def training_flops(config: StudentConfig, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``[M]``: model FLOPs of training once on each of M rows with ``lengths`` positions."""
    rows = lengths.astype(np.float64)
    return rows * (6 * num_matmul_parameters(config) + 12 * config.num_blocks * config.embed_dim * rows)


def peak_flops(device: str, dtype: Literal["float32", "bfloat16"], *, given_tflops: float = 0.0) -> float | None:
    """Return the peak floating-point operations per second of a device; None if it is not in the table.

    Args:
        device: The name that the driver reports, such as ``NVIDIA H100 80GB HBM3``. The table has no MIG slices.
        dtype: Type of the matrix products.
        given_tflops: A rate in 10¹² operations per second, which replaces the table's. 0 means that the table is used.
    """
    if given_tflops:
        return given_tflops * 1e12
    words = set(re.split(r"[\s-]+", device))
    if "NVIDIA" not in words or "MIG" in words:
        return None
    for named, bfloat16, float32 in PEAK_TFLOPS:
        if words.issuperset(named):
            return 1e12 * (bfloat16 if dtype == "bfloat16" else float32)
    return None
