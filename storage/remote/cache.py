"""Local copies of remote files: bounded, verified, shared by all processes of a machine.

    CACHE/objects/AB/SHA256     a file, named by the sha256 of its content: a copy can be old, never wrong or stale
    CACHE/folders/KEY/NAME      a whole folder; `storage.remote.transfer`
    CACHE/locks/AB              whoever copies an object whose sha256 begins with AB holds an flock on it

A file is verified while it is copied and appears under its name only then; later its size is looked at, and its content
by the checksums within it. Ranks, workers and runs that want one file at once copy it once: they wait for each other.
Files used longest ago go first when the whole is over the bound. A file that is mapped stays readable when its name
is removed, and a name that is gone is fetched again, so any process may remove any file at any time. The price: the
disk is freed only when the last map of a removed file is gone, so more may be in use than the bound says.

It belongs to one user: its folder is created for nobody else to enter, since copies are not rehashed when used again.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from storage.errors import CorruptStoreError, StoreError
from storage.files import PARTIAL_SUFFIX
from storage.fingerprints import FileDigest
from storage.remote.objects import CACHE_VARIABLE, NO_ROOM, no_room, plain_text

DEFAULT_CACHE_BYTES = 10_000_000_000
"""A dump of 10 million words at k=64 is a third of it; homes on clusters often allow little more."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "Restore it from a copy, or delete its shard and run dump-teacher again"


def cache_folder() -> Path:
    """Return where copies are kept: RNNG_DISTILL_CACHE, or rnng-distill in XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    general = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (general if general.is_absolute() else Path.home() / ".cache") / "rnng-distill"


class FileCache:
    """Copies of files by their content."""

    def __init__(self, folder: Path | None = None, *, size_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.size_bytes = size_bytes

    def open(self, digest: FileDigest, fetch: Callable[[Path], None], *, where: str) -> FileIO:
        """Open a file for reading; copy it first if it is not here.

        Args:
            digest: Its content.
            fetch: Copies it to a path.
            where: What messages call it.

        Raises:
            FileNotFoundError: By ``fetch``, if there is no such file.
            CorruptStoreError: If what came is not what the digest says; no copy of it is kept.
            StoreError: If the cache cannot be written, or by ``fetch``.
        """
        if not _SHA256.fullmatch(str(digest.sha256)):  # it names a file here, and a stranger may have written it
            raise CorruptStoreError(f"{where}: its sha256 is noted as {str(digest.sha256)[:80]!r}. {_REMEDY}")
        target = self.subfolder("objects", digest.sha256[:2]) / digest.sha256
        file = self._here(target, digest)
        if file is None:
            with self.locked(digest.sha256):
                file = self._here(target, digest) or self._copy(target, digest, fetch, where)
        return file

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock that all processes share for keys that begin alike.

        There are 256 locks, whose files are never removed: removing a lock's file while another process waits for it
        would let two in.

        Raises:
            StoreError: If the cache cannot be written, or its disk knows no flock.
        """
        try:
            path = self._subfolder("locks") / key[:2]
            file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._cannot_use(error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise self._cannot_use(error) from None
            try:
                yield
            finally:
                # Closing alone would not do: a process forked meanwhile holds the descriptor too.
                fcntl.flock(file, fcntl.LOCK_UN)

    def subfolder(self, *names: str) -> Path:
        """Return a folder of the cache, which only this user may enter; create it if it is missing.

        Raises:
            StoreError: If that is not possible.
        """
        try:
            return self._subfolder(*names)
        except OSError as error:
            raise self._cannot_use(error) from None

    def _here(self, target: Path, digest: FileDigest) -> FileIO | None:
        """Open a copy and note that it was used; None if it is not here, or cut short by a crash of the machine."""
        try:
            file = target.open("rb", buffering=0)
            if os.fstat(file.fileno()).st_size != digest.size_bytes:
                file.close()
                return None
            # By modification time, since many disks note no access times.
            os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot_use(error) from None
        return file

    def _copy(self, target: Path, digest: FileDigest, fetch: Callable[[Path], None], where: str) -> FileIO:
        """Fetch, verify and name a file; for the one that holds its lock, so other partial files here are orphans."""
        for orphan in target.parent.glob(f"*{PARTIAL_SUFFIX}"):
            orphan.unlink(missing_ok=True)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
        try:
            fetch(partial)
            problem = digest.problem_with(partial)
            if problem:
                raise CorruptStoreError(f"{where}: {problem}. {_REMEDY}")
            try:
                file = partial.open("r+b", buffering=0)
                os.fsync(file.fileno())  # else a power cut may leave its name with other content
                partial.replace(target)
            except OSError as error:
                raise no_room(self.folder, where) if error.errno in NO_ROOM else self._cannot_use(error) from None
        finally:
            partial.unlink(missing_ok=True)
        # Opened already, it may be removed by anyone from here on.
        self._evict()
        return file

    def _evict(self) -> None:
        """Remove the files used longest ago until the rest is within the bound."""
        found = []
        for path in (self.folder / "objects").glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process evicts too
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in found) - self.size_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            if not path.name.endswith(PARTIAL_SUFFIX):
                path.unlink(missing_ok=True)
                excess -= size

    def _subfolder(self, *names: str) -> Path:
        path = self.folder.joinpath(*names)
        if not path.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _cannot_use(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.folder}: the cache of remote files cannot be used: {plain_text(error)}. "
            f"Name a folder of a local disk by {CACHE_VARIABLE}"
        )
