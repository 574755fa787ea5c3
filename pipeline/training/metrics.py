"""Compute the metrics of a training, and write them row by row to ``metrics.jsonl`` and TensorBoard.

Each row has one of four values of ``split``:

- ``train``: means over the batches since the last row of ``train``, with dropout.
- ``dev``: means over dev, without dropout.
- ``train_sample``: means over a fixed sample of the training split, without dropout.
- ``gap``: the number of earlier rows that were lost.

A row of ``train`` also has metrics of speed, among them:

- ``model_flops_per_s``: the floating-point operations per second that the model needs, summed over all ranks; only if
  the task counts them.
- ``mfu``: model FLOPs utilisation (Chowdhery et al. 2022, appendix B): ``model_flops_per_s`` divided by the peak rate
  of all devices together, if that rate is known.
- ``data_wait_share``: the share of the time that the main rank waited for batches.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.runtime.distributed import World
from pipeline.runtime.metric_rows import GAP, METRICS, content, parse_row
from pipeline.training.trackers import Tracker
from storage.files import cannot_write

log = logging.getLogger(__name__)

TRAIN_SAMPLE = "train_sample"
"""The value of ``split`` in rows about the fixed training sample."""


class Metrics:
    """Append rows of metrics to ``metrics.jsonl`` and to TensorBoard. Only the main process has an instance.

    Args:
        run: The run directory.
        after_step: The step that training continues from. An interrupted process may have written rows of later
            steps. They are removed. If the last line is incomplete, it is removed, too.
        elapsed_s: Seconds of training up to that step.
        expected_rows: The number of rows of ``train`` that training wrote up to that step. If there are fewer, a
            warning is logged, and a row ``gap`` is written.
        tracker: If given, it also gets every row.

    Raises:
        RunError: If a line before the first row of a later step is damaged.
        StoreError: If a file cannot be written.
    """

    def __init__(
        self,
        run: Path,
        *,
        after_step: int = 0,
        elapsed_s: float = 0.0,
        expected_rows: int = 0,
        tracker: Tracker | None = None,
    ) -> None:
        self._path = run / METRICS
        num_missing = expected_rows - _cut_back(run, after_step)
        try:
            self._file = self._path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after_step + 1 if after_step else None)
        except OSError as error:
            raise cannot_write(Path(error.filename or run / "tensorboard"), error) from error
        self._tracker = tracker
        self._start = time.monotonic() - elapsed_s
        if num_missing > 0:
            log.warning(
                "%s: %d of the %d rows up to step %d are missing, so the curves of this run have a gap. If you have a "
                "copy of the file, stop the training, restore the file, and run the same command again",
                self._path, num_missing, expected_rows, after_step,
            )  # fmt: skip
            self.row(GAP, step=after_step, figures={"missing_rows": num_missing})

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, including the time before the checkpoint that training was continued from."""
        return time.monotonic() - self._start

    def row(self, split: str, *, step: int, figures: Mapping[str, float | int]) -> None:
        """Append one row. Other processes can read it when this method returns.

        Raises:
            StoreError: If the row cannot be written.
        """
        row = {"split": split, "step": step, "elapsed_s": round(self.elapsed_s, 3), **figures}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in figures.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        if self._tracker is not None:
            self._tracker.row(split, step, figures)

    def sync(self) -> None:
        """Write all rows to disk. Call this before each checkpoint, so that no checkpoint survives without its rows."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files and the tracker.

        Raises:
            StoreError: If a file cannot be written.
        """
        try:
            self._board.close()
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        finally:
            if self._tracker is not None:
                self._tracker.close()


def _cut_back(run: Path, step: int) -> int:
    """Remove the rows after ``step``; return how many rows of ``train`` were written up to ``step``.

    Rows that a row ``gap`` reports as missing count as written.
    """
    path, kept, num_rows = run / METRICS, 0, 0
    if not path.exists():
        return 0
    lines = content(run).split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        row = parse_row(line, f"{path}:{number}")
        if int(row["step"] or 0) > step:
            break
        num_rows += row["split"] == "train"
        num_rows += int(row.get("missing_rows") or 0) if row["split"] == GAP else 0
        kept += len(line) + 1
    if kept < path.stat().st_size:
        os.truncate(path, kept)
    return num_rows


class Tally:
    """Add up losses, positions, FLOPs and times since the last row. Losses stay on the device until ``close``."""

    def __init__(self, parts: Sequence[str], device: torch.device, *, peak_flops: float | None = None) -> None:
        """Begin the first row. ``peak_flops``: peak FLOPs per second of all devices together; None if unknown."""
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
        """Add a batch. ``sums`` are this rank's, but ``positions`` and ``flops`` (0: unknown) are over all ranks."""
        self._sums += sums[: len(self._parts)]
        self._positions += positions
        self._timed_positions += positions
        self._timed_flops += flops
        self._skipped_from = time.perf_counter()

    def skip_time(self) -> None:
        """Exclude the time since the last batch from the rates."""
        self._start += time.perf_counter() - self._skipped_from

    def close(self, world: World, *, wait_s: float) -> dict[str, float]:
        """Return the metrics of a row and begin the next row. Waits for the device. Every rank must call it.

        ``wait_s``: seconds that this process has waited for batches since it began to train.
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
        """Return the sums of each rank, float64 ``[size, num_parts]``, and the number of positions over all ranks.

        Every rank must call it.
        """
        return world.gather(self._sums).cpu(), self._positions

    def restore(self, sums: Tensor, positions: int, world: World) -> None:
        """Continue from saved sums. If the number of ranks changed, the main rank takes all sums."""
        if len(sums) == world.size:
            self._sums.copy_(sums[world.rank])
        elif world.is_main:
            self._sums.copy_(sums.sum(0))
        self._positions = positions


def perplexity(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the perplexity per position from a row's ``cross_entropy``; empty if that is missing, or above log(1e300).

    A teacher's row has no ``cross_entropy``, because its losses are joint with the tree or given the tree.
    """
    cross_entropy = figures.get("cross_entropy", math.inf)
    return {"perplexity": math.exp(cross_entropy)} if cross_entropy < math.log(1e300) else {}
