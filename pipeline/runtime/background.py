"""Move work into a background thread: make items before they are needed, or finish work after it was handed over.

A thread is enough, because the work (numpy, memory-mapped reading, file writing) releases the interpreter lock.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

DEPTH = 2
"""Number of items that are made ahead. With 2, one item is ready while the next is being made."""


class ReadAhead(Generic[Item]):
    """Iterate over ``items``. One thread makes up to ``depth`` items before they are asked for.

    The thread ends with the ``with`` block. If making an item raises an exception, the consumer gets the exception in
    place of that item.
    """

    def __init__(self, items: Iterable[Item], *, depth: int = DEPTH) -> None:
        self.wait_s = 0.0
        """Total seconds that the consumer has waited."""
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


class WriteBehind:
    """Do pieces of work in one thread, one after another, while the caller prepares the next piece.

    Memory holds at most two pieces: the one that the thread works on, and the one that the caller prepares. If a piece
    fails, its error is raised at the next ``submit`` or ``wait``, or at the end of the ``with`` block.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._current: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        if kind is None:
            self.wait()

    def submit(self, work: Callable[[], object]) -> None:
        """Wait until the previous piece is done, then start ``work``."""
        self.wait()
        self._current = self._executor.submit(work)

    def wait(self) -> None:
        """Wait for the current piece, and raise its error if it failed."""
        if self._current is not None:
            current, self._current = self._current, None
            current.result()
