"""Read and write the files of a store, such as a dump, at a URL. Files are read through a cache of local copies.

In the object store, a file is one object, which appears only when its upload is complete. If the upload of a large file
is aborted, parts of it may remain that are invisible but cost money; a lifecycle rule of the bucket should remove them.
The lease (the right to write, for a limited time) and the history (a record of events, such as the start of a writer)
are objects next to the store. To read any part of a file, the whole file is copied. This is expensive for a single
sentence, but training also reads the other sentences of the file.
"""

import logging
import os
import queue
import threading
from collections.abc import Iterable
from functools import partial
from io import FileIO

from storage.errors import StoreError
from storage.fingerprints import FileDigest
from storage.remote.cache import FileCache
from storage.remote.lease import Lease, read_history
from storage.remote.objects import ObjectStore

PREFETCH_THREADS = 4
"""Number of files that ``prefetch`` fetches at the same time."""

_log = logging.getLogger(__name__)


class RemoteFolder:
    """A folder at a URL; implements `Folder`. Threads, forked processes and spawned processes may use it.

    If an object does not exist, the error is a `FileNotFoundError`. For any other failure (no such bucket, no
    permission, no network) it is a `StoreError`, so the failure is never mistaken for damage.
    """

    def __init__(self, url: str, *, cache: FileCache, take_over: bool = False) -> None:
        """Create the folder. Nothing is read or written yet.

        Args:
            url: URL as `storage.locations.check_url` returns it.
            cache: Cache of local copies.
            take_over: Whether `lock` takes the lease from a holder that may still be alive.
        """
        self._objects = ObjectStore(url)
        self._cache = cache
        self._take_over = take_over
        self._lease: Lease | None = None
        self._prefetcher: _Prefetcher | None = None
        self._renewed: set[str] = set()

    def __str__(self) -> str:
        return str(self._objects)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the arguments of the constructor. The unpickled folder does not hold the lease."""
        return partial(RemoteFolder, cache=self._cache, take_over=self._take_over), (str(self._objects),)

    def sizes(self) -> dict[str, int]:
        """Return the size of each file by name, as `Folder.sizes` describes."""
        return {name: int(attributes["size"]) for name, attributes in self._objects.entries().items()}

    def read(self, name: str) -> bytes:
        """Return a file's content, as `Folder.read` describes."""
        return self._objects.read(name)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, as `Folder.write` describes.

        Raises:
            StoreBusyError: If this folder has lost the lease.
            StoreError: If the file cannot be written.
        """
        self._check_lease()
        self._objects.write(name, data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as `Folder.remove` describes.

        Raises:
            StoreBusyError: If this folder has lost the lease.
            StoreError: If a file cannot be removed.
        """
        self._check_lease()
        self._objects.remove(names)

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Return the problem with the object itself, not with a copy of it, as `Folder.problem_with` describes.

        Raises:
            StoreError: If the object cannot be read. The object may nevertheless be undamaged.
        """
        try:
            return digest.problem_with_bytes(self._objects.read(name))
        except FileNotFoundError:
            return "the file is missing"

    def open(self, name: str, digest: FileDigest) -> FileIO:
        """Open a copy of a file, as `Folder.open` describes.

        Raises:
            FileNotFoundError: If there is no such file.
            CorruptStoreError: If the file does not match ``digest``.
            StoreError: If the file cannot be fetched for another reason, or the cache cannot be written.
        """
        return self._cache.open(digest, partial(self._objects.fetch, name), where=f"{self}/{name}")

    def renew(self, name: str, digest: FileDigest) -> bool:
        """Drop the copy of a file if it is damaged, as `Folder.renew` describes, and log a warning."""
        if name in self._renewed or not self._cache.drop_damaged(digest):
            return False
        self._renewed.add(name)
        _log.warning("%s/%s: its copy in %s was damaged. Fetching it again", self, name, self._cache.folder)
        return True

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Start to copy files in the background, up to half the cache's limit. Errors are raised only by ``open``."""
        if self._prefetcher is None or self._prefetcher.process != os.getpid():
            self._prefetcher = _Prefetcher(self._objects, self._cache)  # threads do not survive a fork
        self._prefetcher.add(names)

    @property
    def max_open_bytes(self) -> int:
        """The limit on the bytes of all mapped files: the same as the limit of the cache."""
        return self._cache.size_bytes

    def history(self) -> bytes:
        """Return the history, as `Folder.history` describes; empty if there is none."""
        return read_history(str(self))

    def sweep(self) -> None:
        """Do nothing: an object store shows no partial files."""

    def lock(self) -> Lease:
        """Take the lease, as `Folder.lock` describes. From then on this folder writes only while it holds the lease."""
        self._lease = Lease(str(self), take_over=self._take_over)
        return self._lease

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()


class _Prefetcher:
    """Daemon threads that copy files into a cache. A program that ends does not wait for them."""

    def __init__(self, objects: ObjectStore, cache: FileCache) -> None:
        self.process = os.getpid()
        self._objects = objects
        self._cache = cache
        self._queue: queue.SimpleQueue[tuple[str, FileDigest]] = queue.SimpleQueue()
        for number in range(PREFETCH_THREADS):
            threading.Thread(target=self._run, name=f"prefetch {number}", daemon=True).start()

    def add(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        room = self._cache.size_bytes // 2  # more would evict fetched files before they are read
        for name, digest in names:
            room -= digest.size_bytes
            if room < 0:
                return
            self._queue.put((name, digest))

    def _run(self) -> None:
        while True:
            name, digest = self._queue.get()
            fetch = partial(self._objects.fetch, name)
            try:
                self._cache.open(digest, fetch, where=f"{self._objects}/{name}").close()
            except (OSError, StoreError) as error:
                _log.debug("%s/%s: not fetched ahead: %s", self._objects, name, error)
