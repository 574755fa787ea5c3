"""Worker processes of one command on one machine, for work that torchrun need not start."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from storage.errors import RunError


@contextmanager
def worker_pool(
    num_workers: int,
    start: Callable[..., None],
    *arguments: Any,  # noqa: ANN401  what `start` takes
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of new processes, each of which first calls ``start(number, *arguments)``, numbered from 0.

    They are new interpreters: a forked one would share locks that another thread of this one may hold. They end with
    this process however it ends, and what is still waiting is given up when the block is left by an error.

    Raises:
        RunError: If a worker ends by itself.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(numbers, start, arguments))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process ended by itself: killed, out of memory, or by an error shown above; what was finished is "
            "kept. Run the same command again, with fewer --workers if memory was short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(numbers: Any, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:  # noqa: ANN401
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    start(number, *arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
