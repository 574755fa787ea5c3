"""Keep local copies of remote files: verified, limited in size, and shared by all processes of a machine.

    CACHE/objects/AB/SHA256     a file, named by the sha256 of its content, so a copy is never stale
    CACHE/folders/KEY/NAME      a whole folder; KEY is a sha256 of its URL and list of files (`storage.remote.transfer`)
    CACHE/locks/AB              a lock file; a process locks it while it copies an object whose sha256 starts with AB

A file is verified after it is copied, and only then gets its name. Later uses check its size, and readers check the
checksums inside it. If several processes need the same file at once, one copies it and the others wait. When the copies
exceed the limit, those that were used longest ago are removed. A mapped file stays readable after it is removed, and a
missing file is fetched again, so any process may remove any file at any time. But the disk space of a removed file is
freed only when its last map is gone, so the cache may use more than its limit.

If the cache's folder does not exist, it is created such that only the user can enter it, because copies are not hashed
again when they are used. The permissions of an existing folder stay as they are.
"""

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from storage.errors import CorruptStoreError, StoreError
from storage.files import PARTIAL_SUFFIX
from storage.fingerprints import FileDigest
from storage.remote.objects import CACHE_VARIABLE, NO_ROOM, no_room, plain_text

DEFAULT_CACHE_BYTES = 10_000_000_000
"""A dump of 10 million words at k=64 takes a third of this size. Home folders on clusters often have little
more room than this."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = (
    "Restore it from a copy, or run dump-teacher again with the same options: it rewrites only the missing and damaged "
    "files"
)

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the cache's folder.

    The environment variable RNNG_DISTILL_CACHE names it. If this variable is not set, the folder is
    XDG_CACHE_HOME/rnng-distill. If XDG_CACHE_HOME is not set, or is not an absolute path, the folder is
    ~/.cache/rnng-distill.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    general = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (general if general.is_absolute() else Path.home() / ".cache") / "rnng-distill"


class FileCache:
    """Local copies of files, found by the digest of their content."""

    def __init__(self, folder: Path | None = None, *, size_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.size_bytes = size_bytes

    def open(self, digest: FileDigest, fetch: Callable[[Path], None], *, where: str) -> FileIO:
        """Open a file for reading, after copying it if the cache does not hold it.

        Args:
            digest: Digest of the file.
            fetch: A function that copies the file to a path.
            where: Name of the file in messages.

        Raises:
            FileNotFoundError: If ``fetch`` finds no such file.
            CorruptStoreError: If the fetched bytes do not match the digest. They are removed.
            StoreError: If the file cannot be fetched, or the cache cannot be written.
        """
        if not _SHA256.fullmatch(str(digest.sha256)):  # it becomes a file name, and a stranger may have written it
            raise CorruptStoreError(f"{where}: its sha256 in the manifest is {str(digest.sha256)[:80]!r}. {_REMEDY}")
        target = self.subfolder("objects", digest.sha256[:2]) / digest.sha256
        file = self._here(target, digest)
        if file is None:
            with self.locked(digest.sha256):
                file = self._here(target, digest) or self._copy(target, digest, fetch, where)
        return file

    def drop_damaged(self, digest: FileDigest) -> bool:
        """Remove the copy of a file if its content does not match the digest. Return whether it was removed."""
        target = self.subfolder("objects", digest.sha256[:2]) / digest.sha256
        with self.locked(digest.sha256):
            is_damaged = target.exists() and digest.problem_with(target) is not None
            if is_damaged:
                target.unlink(missing_ok=True)
        return is_damaged

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock for a key, which is a sha256.

        All keys that start with the same two characters share one lock file. Lock files are never removed: if one were
        removed while a process waits for it, two processes could hold the same lock.

        Raises:
            StoreError: If the cache cannot be written, or its file system lacks flock.
        """
        path = self.subfolder("locks") / key[:2]
        with ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("ab", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise self._cannot_use(error) from None
            try:
                yield
            finally:
                # Closing is not enough, since a process forked meanwhile holds the descriptor, too.
                fcntl.flock(file, fcntl.LOCK_UN)

    def subfolder(self, *names: str) -> Path:
        """Return a folder inside the cache's folder. Create both if they are missing.

        Raises:
            StoreError: If it cannot be created.
        """
        path = self.folder.joinpath(*names)
        try:
            if not path.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_use(error) from None
        return path

    def _here(self, target: Path, digest: FileDigest) -> FileIO | None:
        """Open a copy and record its use. Return None if there is no copy, or a crash of the machine truncated it."""
        try:
            file = target.open("rb", buffering=0)
            if os.fstat(file.fileno()).st_size != digest.size_bytes:
                file.close()
                return None
            # The modification time records the use, since many file systems record no access times.
            os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot_use(error) from None
        return file

    def _copy(self, target: Path, digest: FileDigest, fetch: Callable[[Path], None], where: str) -> FileIO:
        """Fetch and verify a file, then give it its name.

        The caller holds the lock for the file, so partial files in the same folder come from killed processes.
        """
        for orphan in target.parent.glob(f"*{PARTIAL_SUFFIX}"):
            orphan.unlink(missing_ok=True)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
        try:
            problem = self._fetch(partial, digest, fetch)
            if problem:
                # A server or a proxy may have sent an error page, half of the object, or nothing.
                _log.warning("%s: %s. Fetching it again", where, problem)
                partial.unlink(missing_ok=True)
                fetch(partial)
                problem = digest.problem_with(partial)
            if problem:
                raise CorruptStoreError(f"{where}: {problem}, also when fetched again. {_REMEDY}")
            try:
                file = partial.open("r+b", buffering=0)
                os.fsync(file.fileno())  # otherwise a power cut may leave the name with other content
                partial.replace(target)
            except OSError as error:
                raise no_room(self.folder, where) if error.errno in NO_ROOM else self._cannot_use(error) from None
        finally:
            partial.unlink(missing_ok=True)
        # The file is open, so from here on any process may remove its name.
        self._evict()
        return file

    def _fetch(self, target: Path, digest: FileDigest, fetch: Callable[[Path], None]) -> str | None:
        """Fetch a file, and return the problem with it as text, or None."""
        try:
            fetch(target)
        except FileNotFoundError as error:
            return error.strerror
        return digest.problem_with(target)

    def _evict(self) -> None:
        """Remove the files that were used longest ago until the rest fits into the limit."""
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

    def _cannot_use(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.folder}: the cache of remote files cannot be used: {plain_text(error)}. "
            f"Set {CACHE_VARIABLE} to a folder on a local disk"
        )
