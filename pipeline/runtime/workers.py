"""Start the worker processes of one command on one machine, without torchrun. This module imports no torch."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from storage.errors import RnngDistillError


class WorkerError(RnngDistillError):
    """A worker process ended without a result. The cause is the machine, not the input."""


def start_pool(num_workers: int, start: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:  # noqa: ANN401
    """Return a pool of new processes. Process n, counted from 0, first calls ``start(n, *arguments)``.

    The processes are spawned, not forked. A fork would copy locks that are held by threads of a tokenizer or a progress
    bar. It would not copy these threads, so nothing would release the locks. The new processes ignore Ctrl-C, which the
    calling process handles, and end when the calling process ends.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    return ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(numbers, start, arguments))


def usable_cores() -> int:
    """Return the number of cores that this process may use; if this is unknown, all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(numbers: Any, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:  # noqa: ANN401
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    start(number, *arguments)


def _end_with_parent() -> None:
    """Wait until the parent process ends, then end this process. A killed parent cannot send a signal."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
