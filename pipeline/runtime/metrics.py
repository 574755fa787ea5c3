"""Rows of figures a script can read: ``metrics.jsonl``, and the same for TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Rows of figures: appended to ``metrics.jsonl``, shown in TensorBoard. Only the main process has one."""

    def __init__(self, run: Path) -> None:
        self._file = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"))
        self._start = time.monotonic()

    def row(self, split: str, *, step: int, figures: Mapping[str, float | int]) -> None:
        """Append one row; it is on disk when this returns."""
        row = {"split": split, "step": step, "elapsed_s": round(time.monotonic() - self._start, 3), **figures}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()
