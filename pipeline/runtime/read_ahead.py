"""Make items in a background thread, a few ahead of their consumer, and measure how long the consumer waits.

A thread is enough: what is made ahead is numpy work and memory-mapped reading, which release the interpreter lock,
while torch computes.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

DEPTH = 2
"""Items made ahead: one ready while the next is being made."""


class ReadAhead(Generic[Item]):
    """An iterator over ``items``, made in one thread; a context manager, which ends the thread.

    An exception raised while making an item is raised where the item would have come.
    """

    def __init__(self, items: Iterable[Item], *, depth: int = DEPTH) -> None:
        self.wait_s = 0.0
        """Seconds the consumer has waited in all."""
        self._items = iter(items)
        self._depth = depth
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Item]:
        coming: deque[Future[tuple[Item, ...]]] = deque(self._submit() for _ in range(self._depth))
        while True:
            start = time.perf_counter()
            made = coming.popleft().result()
            self.wait_s += time.perf_counter() - start
            if not made:
                return
            coming.append(self._submit())
            yield made[0]

    def _submit(self) -> Future[tuple[Item, ...]]:
        return self._executor.submit(lambda: tuple(itertools.islice(self._items, 1)))
