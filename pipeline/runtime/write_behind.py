"""Do one thing at a time in a background thread, behind its producer: the counterpart of reading ahead.

At most one piece of work is under way and none waits, so that what is held in memory is bounded: the piece being done
and the one being produced.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class WriteBehind:
    """A context manager; its end waits for the last piece. A piece's error is raised at the next call or the end."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._under_way: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        if kind is None:
            self.wait()

    def submit(self, work: Callable[[], object]) -> None:
        """Begin ``work`` once the piece before it is done."""
        self.wait()
        self._under_way = self._executor.submit(work)

    def wait(self) -> None:
        """Wait for the piece that is under way, and raise its error if it failed."""
        if self._under_way is not None:
            done, self._under_way = self._under_way, None
            done.result()
