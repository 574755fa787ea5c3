"""The files of one store, wherever it lies: named by relative paths, each whole or absent, one writer at a time.

`Folder` is all that a dump's reader and writer know of a disk. `LocalFolder` is a directory; an object store is another
class with the same methods. Names use slashes and are computed by this program, never taken from a store.
"""

import fcntl
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Protocol

from storage.errors import StoreBusyError, StoreError
from storage.files import (
    cannot_write,
    fsync_directory,
    list_files,
    make_directory,
    remove_partial_files,
    write_atomically,
)
from storage.fingerprints import FileDigest


class WriterLock(Protocol):
    """What the one process that may write a store holds; also the store's history, which lies beside it."""

    def log(self, line: bytes) -> None:
        """Append one line to the history.

        Raises:
            StoreError: If that is not possible.
        """

    def close(self) -> None:
        """Let another process write."""


class Folder(Protocol):
    """The files of one store. ``str(folder)`` is what messages call it; it never holds credentials."""

    def sizes(self) -> dict[str, int]:
        """Return name → bytes of every file, what interrupted writers left included; empty if there is none."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OSError: If there is no such file (FileNotFoundError), or it cannot be read.
        """

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Make ``data`` the content of a file, durably, replacing what was there; never half of it is seen.

        Raises:
            StoreError: If that is not possible. The file is then as before.
        """

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, durably; one that is not there is no error."""

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Return what is wrong with a file, every byte of it read, or None if it is the one with this digest."""

    def open(self, name: str, digest: FileDigest) -> FileIO:
        """Return a file of the local machine with this content, open for reading, to be mapped.

        A local file is opened as it lies there, its content unchecked; one that has to be fetched first is checked
        against ``digest`` on its way.

        Raises:
            OSError: If there is no such file (FileNotFoundError), or it cannot be read.
            CorruptStoreError: If what was fetched is not what was written.
        """

    @property
    def max_open_bytes(self) -> int | None:
        """Bytes of files that may be mapped at once, because copies of them take room; None for no bound."""

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Begin to fetch files that will be opened soon, where files have to be fetched; returns at once."""

    def history(self) -> bytes:
        """Return what was logged beside the store, a JSON object a line, half lines of killed writers included."""

    def sweep(self) -> None:
        """Remove what interrupted writers left; for the one who holds the lock."""

    def lock(self) -> WriterLock:
        """Become the store's one writer.

        Raises:
            StoreBusyError: If another process is that.
            StoreError: If the store cannot be written at all.
        """


class LocalFolder:
    """A directory of a local or shared file system.

    The lock is an flock on PATH.history.jsonl beside the store, which the system releases when the process ends,
    however it ends. What an interrupted writer leaves has a name that ends in ``.partial``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def sizes(self) -> dict[str, int]:
        """Return name → bytes, as `Folder` says."""
        if not self._path.is_dir():
            return {}
        return {name: _size(self._path / name) for name in list_files(self._path)}

    def read(self, name: str) -> bytes:
        """Return a file's content, as `Folder` says."""
        return (self._path / name).read_bytes()

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, as `Folder` says."""
        target = self._path / name
        make_directory(target.parent)
        write_atomically(target, data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files and the folders this empties, as `Folder` says."""
        for folder, inside in _by_folder(self._path / name for name in names).items():
            for path in inside:
                path.unlink(missing_ok=True)
            if folder != self._path and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                fsync_directory(folder.parent)

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Return what is wrong with a file, as `Folder` says."""
        return digest.problem_with(self._path / name)

    def open(self, name: str, digest: FileDigest) -> FileIO:  # noqa: ARG002  chunks have checksums of their own
        """Open a file as it lies there, as `Folder` says."""
        return FileIO(self._path / name)

    @property
    def max_open_bytes(self) -> None:
        """Nothing is copied."""

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Do nothing: the files are here."""

    def history(self) -> bytes:
        """Return what was logged, as `Folder` says; nothing where there is no history."""
        try:
            return history_path(self._path).read_bytes()
        except FileNotFoundError:
            return b""

    def sweep(self) -> None:
        """Remove files of temporary names, as `Folder` says."""
        remove_partial_files(self._path)

    def lock(self) -> "LocalLock":
        """Become the one writer, as `Folder` says."""
        make_directory(self._path.absolute().parent)
        if self._path.exists() and not self._path.is_dir():
            raise StoreError(f"{self._path}: a file is in the way. Name another folder")
        return LocalLock(self._path)


class LocalLock:
    """The flock of a store's one writer, and its history, in one file."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._target = history_path(store)
        self._file = self._take()

    def log(self, line: bytes) -> None:
        """Append one line, as `WriterLock` says."""
        try:
            self._file.write(line)
        except OSError as error:
            raise cannot_write(self._target, error) from error

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def _take(self) -> FileIO:
        try:
            file = self._target.open("a+b", buffering=0)
        except OSError as error:
            raise StoreError(
                f"{self._target}: cannot be opened: {error.strerror}. Mend that, or name another folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0, os.SEEK_END)
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # a killed writer's half line stays by itself
        except BlockingIOError as error:
            file.close()
            raise StoreBusyError(
                f"{self._store}: another process is writing it (it holds the lock on {self._target}). "
                "Wait for it or stop it, then run the same command again"
            ) from error
        except OSError as error:
            file.close()
            raise StoreError(
                f"{self._target}: cannot be locked: {error.strerror}. Use a file system with flock"
            ) from error
        return file


def history_path(path: Path) -> Path:
    """Return the history and lock file of a store: beside it, not in it; one, whatever links lead to the store."""
    real = path.resolve()
    return real.with_name(real.name + ".history.jsonl")


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the file a link leads to; of a link that leads nowhere, its own."""
    return (path.stat() if path.exists() else path.lstat()).st_size


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return folders
