"""Learning-rate schedules: a linear warm-up, then cosine, linear or constant."""

import math
from typing import Literal


def lr_factor(
    step: int, *, num_steps: int, warmup_steps: int, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """Return what the peak learning rate is multiplied by at a step counted from 0; in (0, 1].

    The first step has ``1 / warmup_steps`` of the peak; cosine and linear would reach 0 one step after the last.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    left = 1 - (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
