"""Rows of figures a script can read: ``metrics.jsonl``, and the same for TensorBoard."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from storage.errors import RunError
from storage.files import cannot_write


class Metrics:
    """Rows of figures: appended to ``metrics.jsonl``, shown in TensorBoard. Only the main process has one.

    Args:
        run: The run directory.
        after_step: The step that training goes on from. Rows of later steps, which an interrupted process left behind,
            are cut off, a torn last line included; TensorBoard hides its own.
        elapsed_s: Seconds that training took up to there.

    Raises:
        RunError: If a line that is to stay is damaged.
    """

    def __init__(self, run: Path, *, after_step: int = 0, elapsed_s: float = 0.0) -> None:
        self._path = run / "metrics.jsonl"
        _cut_back(self._path, after_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after_step + 1 if after_step else None)
        self._start = time.monotonic() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, those of interrupted processes up to their checkpoints included."""
        return time.monotonic() - self._start

    def row(self, split: str, *, step: int, figures: Mapping[str, float | int]) -> None:
        """Append one row; another process can read it when this returns.

        Raises:
            StoreError: If the disk is full.
        """
        row = {"split": split, "step": step, "elapsed_s": round(self.elapsed_s, 3), **figures}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in figures.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def sync(self) -> None:
        """Make all rows durable: a checkpoint must not outlive the rows before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files.

        Raises:
            StoreError: If the disk is full.
        """
        try:
            self._board.close()
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error


def _cut_back(path: Path, step: int) -> None:
    """Leave the rows up to ``step``, which stand in order."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    kept = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            found = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}:{number}: not a row of figures ({error!r}); remove the line") from error
        if found > step:
            break
        kept += len(line) + 1
    if kept < len(content):
        os.truncate(path, kept)
