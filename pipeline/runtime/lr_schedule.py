"""Learning-rate schedules: a linear warm-up, then cosine, linear, constant, or constant and at last linear (wsd)."""

import math
from typing import Final, Literal

Schedule = Literal["cosine", "linear", "constant", "wsd"]
DECAY_SHARE: Final = 0.2
"""Share of the steps in which wsd falls, unless --decay-share says otherwise: Hu et al. (2024) take a tenth of a much
longer training, Hägele et al. (2024) find a fifth as good as cosine."""


def lr_factor(
    step: int, *, num_steps: int, warmup_steps: int, schedule: Schedule, decay_share: float = DECAY_SHARE
) -> float:
    """Return what the peak learning rate is multiplied by at a step counted from 0; in (0, 1].

    The first step has ``1 / warmup_steps`` of the peak; all but constant would reach 0 one step after the last.

    Args:
        step: From 0.
        num_steps: Of the whole training.
        warmup_steps: Steps of the warm-up.
        schedule: What follows it. ``wsd`` is warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4).
        decay_share: Of wsd: the share of ``num_steps``, rounded to whole steps, in which the rate falls linearly. Where
            the warm-up reaches into them, there is no stable part, and it falls from the warm-up's end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    begin = warmup_steps
    if schedule == "wsd":
        begin = max(warmup_steps, num_steps - max(1, round(decay_share * num_steps)))
    left = 1 - max(0, step - begin) / max(1, num_steps - begin)
    return 0.5 * (1 - math.cos(math.pi * left)) if schedule == "cosine" else left
