"""Detect that another process of a run is lost although its connections stay open.

After a power cut or in a broken network, no connection is closed, and the other processes would wait for hours. So a
thread of each process regularly writes a sign of life into the store that all processes share, and reads the signs of
the others. If a sign no longer changes or the store no longer answers, a second thread prints one line and ends its own
process with status 1. An exception would not end the process, because the main thread may be waiting for the lost
process.
"""

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

import click
from torch.distributed import Store  # type: ignore[attr-defined]

from pipeline.runtime.terminal import visible_line
from storage.errors import ConfigError

VARIABLE: Final = "RNNG_DISTILL_LOST_AFTER_S"
"""Environment variable: the seconds without a sign of life after which a process counts as lost."""
LOST_AFTER_S: Final = 600.0
"""Default of ``VARIABLE``. A short failure of the network, or an overloaded machine, must not end a run."""
_PER_LIMIT = 20
_LONGEST_INTERVAL_S = 10.0
_LEAVE_S = 2.0
_LEFT = b"left"


class Heartbeat:
    """Exchange signs of life inside a ``with`` block. Enter the block when every process has made its ``Heartbeat``."""

    def __init__(self, store: Store, *, rank: int, size: int) -> None:
        """Write the first sign of life.

        Raises:
            ConfigError: If the environment variable is not a number above 0.
        """
        text = os.environ.get(VARIABLE, "")
        try:
            self._lost_after_s = float(text or LOST_AFTER_S)
        except ValueError:
            self._lost_after_s = 0.0
        if not 0 < self._lost_after_s < threading.TIMEOUT_MAX:
            raise ConfigError(f"{VARIABLE} is {text}, expected a number of seconds above 0")
        # The threads need a connection of their own: the main thread may be waiting for an answer on its connection.
        self._store: Store = store.clone()  # type: ignore[attr-defined]
        self._rank, self._keys = rank, [_key(each) for each in range(size)]
        self._interval_s = min(self._lost_after_s / _PER_LIMIT, _LONGEST_INTERVAL_S)
        self._values: list[bytes] = [b""] * size
        self._changed_s = [time.monotonic()] * size
        self._answered_s = time.monotonic()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._exchange, self._watch)]
        self._write(f"0 {socket.gethostname()}".encode())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(self._interval_s + _LEAVE_S)

    def _exchange(self) -> None:
        """Write and read signs of life until the end.

        If the store closes its connection, this loop ends, and `_watch` reports the store.
        """
        number, host = 0, socket.gethostname()
        with contextlib.suppress(RuntimeError):
            while not self._ended.wait(self._interval_s):
                number += 1
                self._write(f"{number} {host}".encode())
                found = self._store.multi_get(self._keys)
                now = time.monotonic()
                for rank, value in enumerate(found):
                    if value != self._values[rank] or value == _LEFT:
                        self._values[rank], self._changed_s[rank] = value, now
                self._answered_s = now
            self._write(_LEFT)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._interval_s):
            now = time.monotonic()
            if now - last > self._lost_after_s / 2:  # this process itself was stopped for a while
                self._answered_s, self._changed_s = now, [now] * len(self._keys)
            last = now
            if now - self._answered_s > self._lost_after_s:
                self._end("the machine that holds the store of this run")
            for rank, changed_s in enumerate(self._changed_s):
                # Time in which the store did not answer is not counted: during this time, all processes seem lost.
                if self._answered_s - changed_s > self._lost_after_s:
                    self._end(f"rank {rank} on {self._values[rank].decode().partition(' ')[2]}")

    def _write(self, value: bytes) -> None:
        self._store.set(_key(self._rank), value)  # type: ignore[arg-type]  # torch also takes bytes

    def _end(self, who: str) -> None:
        line = (
            f"Error: {who} has given no sign of life for {self._lost_after_s:g} s. Its machine or the network has "
            f"failed. Run the same command again. {VARIABLE} changes how many seconds a process waits for a sign"
        )
        click.echo(visible_line(line), err=True)
        os._exit(1)


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"
