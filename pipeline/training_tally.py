"""Sums of the loss and times between two rows of figures."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.runtime.distributed import World


class Tally:
    """Sums and times since the last row of figures. Sums stay on the device until a row is written."""

    def __init__(self, parts: Sequence[str], device: torch.device) -> None:
        self._parts = parts
        self._sums = torch.zeros(len(parts), dtype=torch.float64, device=device)
        self._positions = 0
        self._timed_positions = 0
        self._waited_s = 0.0
        self._start = time.perf_counter()
        self._skipped_from = self._start

    def add(self, sums: Tensor, positions: int) -> None:
        """Add this rank's sums of a batch that has so many positions over all ranks."""
        self._sums += sums[: len(self._parts)]
        self._positions += positions
        self._timed_positions += positions
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
        figures = dict(zip(self._parts, means, strict=True)) | {
            "positions_per_s": round(self._timed_positions / (now - self._start), 1),
            "data_wait_s": round(wait_s - self._waited_s, 4),
        }
        self._sums.zero_()
        self._positions = self._timed_positions = 0
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
