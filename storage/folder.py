"""Read and write the files of one store, such as a dump, under a lock that admits one writer at a time.

A dump's reader and writer use only the protocol `Folder`. `LocalFolder` implements it for a directory, and
`storage.remote.remote_folder.RemoteFolder` for an object store. Files are named by relative paths with slashes.
"""

import errno
import fcntl
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Protocol

from storage.errors import StoreBusyError, StoreError
from storage.files import cannot_write, fsync, list_files, make_directory, remove_partial_files, write_atomically
from storage.fingerprints import FileDigest


class WriterLock(Protocol):
    """The right of one process to write a store and its history.

    The history is a file next to the store. Each line records an event, such as the start of a writer.
    """

    def log(self, line: bytes) -> None:
        """Append one line to the history.

        Raises:
            StoreError: If the history cannot be written.
        """

    def close(self) -> None:
        """Release the lock, so that another process can write."""


class Folder(Protocol):
    """The files of one store. Messages name the store by ``str(folder)``, which never holds credentials."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file, by name; empty if there is no store.

        The result includes the partial files that interrupted writers left.
        """

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OSError: If there is no such file (FileNotFoundError), or it cannot be read.
        """

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Make ``data`` the content of a file, durably, replacing any earlier content. Readers never see half a file.

        Raises:
            StoreError: If the file cannot be written. It is then unchanged.
        """

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, durably. A missing file is not an error."""

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Read a whole file and return the problem with it as text, or None if it has this digest."""

    def open(self, name: str, digest: FileDigest) -> FileIO:
        """Open a file for reading, so that the caller can memory-map it. For a remote file, a local copy is opened.

        The copy is checked against ``digest`` when it is fetched. The content of a local file is not checked.

        Raises:
            OSError: If there is no such file (FileNotFoundError), or it cannot be read.
            CorruptStoreError: If the fetched bytes do not match ``digest``.
        """

    def renew(self, name: str, digest: FileDigest) -> bool:
        """Drop the local copy of a remote file if it is damaged. Return whether ``open`` will fetch the file again.

        The copy of a file is dropped only once. If it is damaged a second time, do nothing and return False.
        """

    @property
    def max_open_bytes(self) -> int | None:
        """Largest total size of the files that may be mapped at once; None if there is no limit.

        Only copies of remote files need a limit: a mapped copy takes disk space even after the cache has removed it.
        """

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Start to fetch remote files that will be opened soon. Returns at once."""

    def history(self) -> bytes:
        """Return the history: one JSON object per line, and perhaps incomplete lines of killed writers."""

    def sweep(self) -> None:
        """Remove the partial files of interrupted writers. Only the holder of the lock may call this."""

    def lock(self) -> WriterLock:
        """Become the only writer of the store.

        Raises:
            StoreBusyError: If another process is writing the store.
            StoreError: If the store cannot be written at all.
        """


class LocalFolder:
    """A directory of a local or shared file system; implements `Folder`.

    The lock is an flock on PATH.history.jsonl next to the store. The system releases the lock when the process ends,
    even if the process is killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def sizes(self) -> dict[str, int]:
        """Return the sizes by name, as `Folder.sizes` describes."""
        try:
            return {name: _size(self._path / name) for name in list_files(self._path)}
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error.strerror}. Fix its permissions") from error

    def read(self, name: str) -> bytes:
        """Return a file's content, as `Folder.read` describes."""
        return self._regular(name).read_bytes()

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, as `Folder.write` describes."""
        target = self._path / name
        self._refuse_links(name)
        make_directory(target.parent)
        write_atomically(target, data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as `Folder.remove` describes, and then the folders that have become empty."""
        folders = set()
        try:
            for name in names:
                self._refuse_links(name)
                path = self._path / name
                path.unlink(missing_ok=True)
                folders.add(path.parent)
            for folder in folders:
                if folder != self._path and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
                    fsync(folder.parent)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Return the problem with a file, as `Folder.problem_with` describes."""
        return digest.problem_with(self._path / name)

    def open(self, name: str, digest: FileDigest) -> FileIO:  # noqa: ARG002  digest: only copies need it
        """Open a file, as `Folder.open` describes."""
        return FileIO(self._regular(name))

    def renew(self, name: str, digest: FileDigest) -> bool:  # noqa: ARG002  there are no copies
        """Return False, since nothing is copied."""
        return False

    @property
    def max_open_bytes(self) -> None:
        """No limit, since nothing is copied."""

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Do nothing: the files are on this machine."""

    def history(self) -> bytes:
        """Return the history, as `Folder.history` describes; empty if there is none."""
        path = history_path(self._path)
        try:
            return path.read_bytes() if path.is_file() or not path.exists() else b""
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}. Fix its permissions, or remove it") from error

    def _regular(self, name: str) -> Path:
        """Return the path of a file. A pipe or a device is refused, because reading it might never end."""
        path = self._path / name
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return path

    def _refuse_links(self, name: str) -> None:
        """Raise an error if a folder on the way to a file is a link: writing would change a folder outside the store.

        A link in place of the file itself is replaced or removed, and its target stays. Reading follows links: in a
        download cache, such as Hugging Face's, every file is a link.
        """
        for folder in list(PurePosixPath(name).parents)[:-1]:
            if _is_link(self._path / folder):
                raise StoreError(
                    f"{self._path / folder}: is a link, expected a folder of the store: writing would change the "
                    "folder that the link leads to. Replace the link by the folder itself, or give another folder"
                )

    def sweep(self) -> None:
        """Remove partial files, as `Folder.sweep` describes."""
        remove_partial_files(self._path)

    def lock(self) -> "LocalLock":
        """Become the only writer, as `Folder.lock` describes."""
        make_directory(self._path.absolute().parent)
        if self._path.exists() and not self._path.is_dir():
            raise StoreError(f"{self._path}: a file is in the way. Give another folder")
        return LocalLock(self._path)


class LocalLock:
    """The flock of a store's only writer, held on the history file; implements `WriterLock`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._target = history_path(store)
        self._file = self._take()

    def log(self, line: bytes) -> None:
        """Append one line, as `WriterLock.log` describes."""
        try:
            self._file.write(line)
        except OSError as error:
            raise cannot_write(self._target, error) from error

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def _take(self) -> FileIO:
        try:
            file = FileIO(self._target, "a+", opener=_without_links)
        except OSError as error:
            raise StoreError(
                f"{self._target}: cannot be opened: {error.strerror}. Fix that, or give another folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0, os.SEEK_END)
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # otherwise the next line would continue the incomplete line of a killed writer
        except BlockingIOError as error:
            file.close()
            raise StoreBusyError(
                f"{self._store}: another process is writing it and holds the lock on {self._target}. "
                "Wait for that process or stop it, then run the same command again"
            ) from error
        except OSError as error:
            file.close()
            raise StoreError(
                f"{self._target}: cannot be locked: {error.strerror}. Use a file system with flock"
            ) from error
        return file


def history_path(path: Path) -> Path:
    """Return the path of a store's history file, which is also its lock file.

    Links to a store have the same history file as the store.
    """
    real = path.resolve()
    return real.with_name(real.name + ".history.jsonl")


def _without_links(path: str, flags: int) -> int:
    """Open a file, unless it is a link: a stranger's link could lead to any file of the user."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def _size(path: Path) -> int:
    """Return the size of a file in bytes.

    For a link, this is the size of its target. If the target cannot be reached, it is the size of the link itself.
    """
    try:
        return path.stat().st_size
    except OSError:
        return path.lstat().st_size
