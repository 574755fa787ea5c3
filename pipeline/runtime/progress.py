"""Show the progress of long work with rate and ETA: a bar on a terminal, log lines elsewhere. Imports no torch."""

import datetime as dt
import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline.runtime.display import size

log = logging.getLogger(__name__)

LINE_EVERY_S = 15.0
"""Seconds between progress lines if standard error is not a terminal, as in a Slurm log."""


class Progress:
    """Show a bar on a terminal and occasional log lines elsewhere. Show nothing if ``shown`` is False.

    Without ``total`` there is no ETA. The unit ``B`` is shown as kB, MB and so on. ``initial`` is the number of units
    that were done earlier. They are shown as done, but the rate does not include them.
    """

    def __init__(self, what: str, *, total: int | None, unit: str, shown: bool = True, initial: int = 0) -> None:
        self._what, self._total, self._unit, self._shown = what, total, unit, shown
        self._done = self._initial = initial
        self._figures: dict[str, str] = {}
        self._start = self._last_line = time.monotonic()
        on_terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, initial=initial) if on_terminal else None

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
        """Add ``done`` units."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
        elif self._shown and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._line()

    def reached(self, total_done: int) -> None:
        """Set the count to ``total_done`` units, which includes the work of other processes."""
        self.update(total_done - self._done)

    def figures(self, **figures: float) -> None:
        """Show these values after the count, in place of the values of the last call."""
        self._figures = {name: f"{value:,.0f}" if value >= 100 else f"{value:.4g}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)

    def _line(self, *, finished: bool = False) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        rate = (self._done - self._initial) / elapsed if elapsed else 0.0
        end = f"took {_clock(elapsed)}"
        if not finished and self._total is not None:
            end = f"ETA {_clock((self._total - self._done) / rate) if rate else 'unknown'}"
        elif not finished:
            end = f"{_clock(elapsed)} so far"
        figures = "".join(f", {name} {value}" for name, value in self._figures.items())
        share = "/".join(self._amount(number) for number in (self._done, self._total) if number is not None)
        speed = size(rate) if self._unit == "B" else f"{rate:{',.0f' if rate >= 10 else '.2g'}} {self._unit}"
        log.info("%s: %s, %s/s, %s%s", self._what, share, speed, end, figures)

    def _amount(self, number: int) -> str:
        return size(number) if self._unit == "B" else f"{number:,}"


def _clock(seconds: float) -> str:
    return str(dt.timedelta(seconds=round(seconds)))
