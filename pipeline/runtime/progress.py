"""What a person and a script see of long work: a progress line with rate and ETA, and rows of figures in files."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 15.0
"""Seconds between progress lines where standard error is no terminal, as in a Slurm log."""


class Progress:
    """A bar on a terminal, a line now and then elsewhere; nothing at all where ``shown`` is False."""

    def __init__(self, what: str, *, total: int, unit: str, shown: bool = True) -> None:
        self._what, self._total, self._unit, self._shown = what, total, unit, shown
        self._done = 0
        self._figures: dict[str, str] = {}
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True) if shown and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown and kind is None:
            self._line(finished=True)

    def update(self, done: int) -> None:
        """Count ``done`` more units."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
        elif self._shown and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._line()

    def figures(self, **figures: float) -> None:
        """Show these figures beside the count."""
        self._figures = {name: f"{value:,.0f}" if value >= 100 else f"{value:.4g}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)

    def _line(self, *, finished: bool = False) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        rate = self._done / elapsed if elapsed else 0.0
        left = (self._total - self._done) / rate if rate else float("inf")
        end = f"took {_clock(elapsed)}" if finished else f"ETA {_clock(left)}"
        figures = "".join(f", {name} {value}" for name, value in self._figures.items())
        share = f"{self._done:,}/{self._total:,} {self._unit}"
        log.info(
            "%s: %s, %s %s/s, %s%s",
            self._what,
            share,
            f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
            self._unit,
            end,
            figures,
        )


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


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}"
