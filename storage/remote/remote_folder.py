"""RemoteFolder: the files of one store in an object store, read through a cache of local copies.

A file is one object, put whole, so there is nothing partial to sweep: an object store shows an upload when it is
complete, and what an aborted one left (parts, invisible, but paid for) is for the bucket's lifecycle rule to remove.
The lease and the history lie beside the store, as the lock of a local one does. Reading copies whole files: a shard
read for one sentence costs its whole transfer, and pays when its neighbours are read too, as training does.
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
"""Files fetched at once ahead of reading; each is itself fetched in several parts."""

_log = logging.getLogger(__name__)


class RemoteFolder:
    """A `Folder` at a URL. Usable from several threads, in forked processes, and passed to others.

    What cannot be reached (no such bucket, no right, no network) is a `StoreError`, never mistaken for damage; only an
    object that is not there is a `FileNotFoundError`.
    """

    def __init__(self, url: str, *, cache: FileCache, take_over: bool = False) -> None:
        """Name a folder; nothing is read or written yet.

        Args:
            url: As `storage.locations.check_url` returns it.
            cache: Where copies are kept.
            take_over: Whether `lock` takes the lease from a holder that may still be alive.
        """
        self._objects = ObjectStore(url)
        self._cache = cache
        self._take_over = take_over
        self._lease: Lease | None = None
        self._prefetcher: _Prefetcher | None = None

    def __str__(self) -> str:
        return str(self._objects)

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process as what it was made of; the lease stays with its holder."""
        return _reopen, (str(self._objects), self._cache, self._take_over)

    def sizes(self) -> dict[str, int]:
        """Return name → bytes by one listing, as `Folder` says.

        Raises:
            StoreError: If it cannot be listed.
        """
        return {name: int(about["size"]) for name, about in self._objects.entries().items()}

    def read(self, name: str) -> bytes:
        """Return a file's content, as `Folder` says.

        Raises:
            FileNotFoundError: If there is no such file.
            StoreError: If it cannot be read for another reason.
        """
        return self._objects.read(name)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, as `Folder` says.

        Raises:
            StoreBusyError: If this folder held the lease and lost it.
            StoreError: If it cannot be written.
        """
        self._check_lease()
        self._objects.write(name, data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as `Folder` says.

        Raises:
            StoreBusyError: If this folder held the lease and lost it.
            StoreError: If one cannot be removed.
        """
        self._check_lease()
        self._objects.remove(names)

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Return what is wrong with a file as it lies there, not with a copy of it; as `Folder` says.

        Raises:
            StoreError: If it cannot be read, though it may be right.
        """
        try:
            found = FileDigest.of_bytes(self._objects.read(name))
        except FileNotFoundError:
            return "the file is missing"
        if found.size_bytes != digest.size_bytes:
            return f"{found.size_bytes} bytes, expected {digest.size_bytes}"
        return None if found == digest else f"sha256 is {found.sha256[:12]}, expected {digest.sha256[:12]}"

    def open(self, name: str, digest: FileDigest) -> FileIO:
        """Open a copy of a file, made and verified first if there is none; as `Folder` says.

        Raises:
            FileNotFoundError: If there is no such file.
            CorruptStoreError: If it is not what was written.
            StoreError: If it cannot be fetched for another reason, or the cache cannot be written.
        """
        return self._cache.open(digest, partial(self._objects.fetch, name), where=f"{self}/{name}")

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Begin to copy files in the background, at most half a cache of them; what fails is said when it is opened."""
        if self._prefetcher is None or self._prefetcher.process != os.getpid():
            self._prefetcher = _Prefetcher(self._objects, self._cache)  # threads do not survive a fork
        self._prefetcher.add(names)

    @property
    def max_open_bytes(self) -> int:
        """The cache's bound: a copy that is mapped takes room although it was evicted."""
        return self._cache.size_bytes

    def history(self) -> bytes:
        """Return what was logged, as `Folder` says; nothing where there is no history.

        Raises:
            StoreError: If it cannot be read.
        """
        return read_history(str(self))

    def sweep(self) -> None:
        """Do nothing: an object store shows no partial files."""

    def lock(self) -> Lease:
        """Become the one writer, as `Folder` says; from then on this folder writes only while it holds the lease."""
        self._lease = Lease(str(self), take_over=self._take_over)
        return self._lease

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()


class _Prefetcher:
    """Daemon threads that copy files into a cache: a program that ends does not wait for what nobody will read."""

    def __init__(self, objects: ObjectStore, cache: FileCache) -> None:
        self.process = os.getpid()
        self._objects = objects
        self._cache = cache
        self._queue: queue.SimpleQueue[tuple[str, FileDigest]] = queue.SimpleQueue()
        for number in range(PREFETCH_THREADS):
            threading.Thread(target=self._run, name=f"prefetch {number}", daemon=True).start()

    def add(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        room = self._cache.size_bytes // 2  # more would push out what was fetched before it is read
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


def _reopen(url: str, cache: FileCache, take_over: bool) -> RemoteFolder:
    return RemoteFolder(url, cache=cache, take_over=take_over)
