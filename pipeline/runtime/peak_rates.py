"""What devices can at most compute, from their maker's data sheets, so that a rate can be given as a share of it."""

import re
from typing import Final, Literal

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
"""Words of the device's name; TFLOPS of dense products in bfloat16 on tensor cores, and in float32 outside them: torch
leaves TF32 off, and so do we. The first entry all of whose words are there counts."""


def peak_flops(device: str, dtype: Literal["float32", "bfloat16"], *, given_tflops: float = 0.0) -> float | None:
    """Return the floating-point operations a second that a device can at most do; None if nobody knows.

    Args:
        device: Its name as the driver gives it: ``NVIDIA H100 80GB HBM3``. A slice of a device (MIG) is not known.
        dtype: Of the matrix products.
        given_tflops: What to believe instead, in 10¹² a second; 0 for the table.
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
