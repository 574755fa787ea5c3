"""Sums of the loss, times and rates between two rows of figures.

``model_flops_per_s`` are the operations the model needs (a task counts them) over the time, by all ranks together;
``mfu``, model FLOPs utilisation (Chowdhery et al. 2022, appendix B), is their share of what the devices can at most do.
``data_wait_share`` is the share of the time that the main rank waited for batches.
"""

import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.runtime.distributed import World


class Tally:
    """Sums and times since the last row of figures. Sums stay on the device until a row is written."""

    def __init__(self, parts: Sequence[str], device: torch.device, *, peak_flops: float | None = None) -> None:
        """Begin the first row; ``peak_flops``: what all devices together can at most do a second, if it is known."""
        self._parts = parts
        self._peak_flops = peak_flops
        self._sums = torch.zeros(len(parts), dtype=torch.float64, device=device)
        self._positions = 0
        self._timed_positions = 0
        self._timed_flops = 0.0
        self._waited_s = 0.0
        self._start = time.perf_counter()
        self._skipped_from = self._start

    def add(self, sums: Tensor, positions: int, *, flops: float = 0.0) -> None:
        """Add this rank's sums of a batch; positions and, if they are known, model FLOPs are those of all ranks."""
        self._sums += sums[: len(self._parts)]
        self._positions += positions
        self._timed_positions += positions
        self._timed_flops += flops
        self._skipped_from = time.perf_counter()

    def skip_time(self) -> None:
        """Leave the time since the last batch out of the rates."""
        self._start += time.perf_counter() - self._skipped_from

    def close(self, world: World, *, wait_s: float) -> dict[str, float]:
        """Return the figures of a row and begin the next; every rank must call it. Waits for the device.

        Args:
            world: Over whose ranks the sums are added.
            wait_s: Seconds this process has waited for batches in all.
        """
        means = (world.sum(self._sums) / self._positions).tolist()
        now = time.perf_counter()
        elapsed_s, waited_s = now - self._start, wait_s - self._waited_s
        figures = dict(zip(self._parts, means, strict=True)) | {
            "positions_per_s": round(self._timed_positions / elapsed_s, 1),
            "data_wait_s": round(waited_s, 4),
            "data_wait_share": round(waited_s / elapsed_s, 4),
        }
        if self._timed_flops:
            flops_per_s = self._timed_flops / elapsed_s
            figures["model_flops_per_s"] = round(flops_per_s)
            if self._peak_flops is not None:
                figures["mfu"] = round(flops_per_s / self._peak_flops, 4)
        self._sums.zero_()
        self._positions = self._timed_positions = 0
        self._timed_flops = 0.0
        self._waited_s, self._start = wait_s, now
        return figures

    def saved(self, world: World) -> tuple[Tensor, int]:
        """Return each rank's sums, float64 ``[size, num_parts]``, and the positions; every rank must call it."""
        return world.gather(self._sums).cpu(), self._positions

    def restore(self, sums: Tensor, positions: int, world: World) -> None:
        """Go on from what was saved; at another number of ranks the main one takes all sums."""
        if len(sums) == world.size:
            self._sums.copy_(sums[world.rank])
        elif world.is_main:
            self._sums.copy_(sums.sum(0))
        self._positions = positions


def perplexity(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the perplexity a position of a row that has a ``cross_entropy``; nothing where it has none, or over 1e300.

    A teacher's losses are joint with the tree, or given it: their exponential is no language model's perplexity.
    """
    cross_entropy = figures.get("cross_entropy", math.inf)
    return {"perplexity": math.exp(cross_entropy)} if cross_entropy < math.log(1e300) else {}
