"""Worker processes of one command on one machine, for work that torchrun need not start. Imports no torch."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from storage.errors import RnngDistillError


class WorkerError(RnngDistillError):
    """A process of several ended without its result: the machine, not the input, is to blame."""


def start_pool(num_workers: int, start: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:  # noqa: ANN401
    """Return a pool of new processes, each of which first calls ``start(number, *arguments)``, numbered from 0.

    They are spawned, not forked: the threads of a tokenizer or a progress bar would be copied half-way through what
    they do. They leave Ctrl-C to this process and end with it however it ends.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    return ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(numbers, start, arguments))


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(numbers: Any, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:  # noqa: ANN401
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    start(number, *arguments)


def _end_with_parent() -> None:
    """End this process when the main one does, also if that is killed: nothing else would tell it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
