"""Write files so that a path never holds half a file, even after a power cut.

A file is written under a temporary name, synced and renamed; then its folder is synced. The price is two fsyncs per
file, which is low for stores with few, large files.

A killed writer leaves a file or folder whose name ends in ``.partial``. In a store (such as a dump) or a run directory,
the next process that takes the lock there removes the leftover. Elsewhere, ``written_whole`` and ``new_folder``
remove the leftovers of their own earlier calls for the same path, if these calls were killed and the leftovers are at
least a minute old. A leftover of ``write_atomically`` stays.
"""

import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any

from storage.errors import InputError, StoreError

PARTIAL_SUFFIX = ".partial"
_LOCKED_SUFFIX = ".locked" + PARTIAL_SUFFIX
"""Suffix of temporary files and folders that their writer locks while it writes."""
_UNLOCKED_S = 60.0
"""Age in seconds below which a temporary file or folder is never removed: its writer may not have locked it yet."""


def write_atomically(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Make ``data`` the content of ``path``, replacing any earlier content. Its folder must exist.

    Raises:
        StoreError: If the bytes cannot be written (disk full, quota, size limit, permissions). ``path`` then has its
            earlier content, unless only the last step failed, which makes the new name durable.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    with _write_errors(path):
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        fsync(path.parent)


@contextmanager
def written_whole(paths: Sequence[Path], *, stale: Sequence[Path] = ()) -> Iterator[list[TextIOWrapper]]:
    """Open a temporary text file for each of ``paths``; at the end of the ``with`` block, rename them in order.

    The files in ``stale`` are removed just before the first rename. If the last of ``paths`` is also in ``stale``, it
    becomes a marker, because it is absent while the other files are renamed. Whenever it exists, even after a kill, all
    files of ``paths`` are from the same call.

    If the block raises an exception, the temporary files are removed, ``paths`` are unchanged, and the exception is
    passed on as it is.

    Raises:
        StoreError: If one of the files cannot be written.
    """
    folder = paths[0].absolute().parent
    make_directory(folder)
    partial = [_partial_path(path) for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_open_text(*names)) for names in zip(partial, paths, strict=True)]
            yield list(files)
            for file, path in zip(files, paths, strict=True):
                file.flush()
                with _write_errors(path):
                    os.fsync(file.fileno())
            if stale:
                with _write_errors(folder):
                    for path in stale:
                        path.unlink(missing_ok=True)
                    fsync(folder)
            for name, path in zip(partial, paths, strict=True):  # the files are still open, and so still locked
                with _write_errors(path):
                    name.replace(path)
            for each in {path.absolute().parent for path in paths}:
                with _write_errors(each):
                    fsync(each)
    finally:
        for name in partial:
            name.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder; at the end of the block it becomes ``path``, unless the block raises an exception.

    Several processes may call this for one path at once: the first to finish creates ``path``, and the others raise a
    StoreError.

    Raises:
        StoreError: If ``path`` exists, at the start or at the end, or the folder cannot be created or renamed.
    """
    exists = StoreError(f"{path}: already exists. Remove it, or choose another name")
    if is_there(path):
        raise exists
    make_directory(path.absolute().parent)
    partial = _partial_path(path)
    try:
        with _write_errors(path):
            partial.mkdir()
            lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield partial
            if is_there(path):
                raise exists
            with _write_errors(path):
                partial.rename(path)
                fsync(path.absolute().parent)
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_path(path: Path) -> Path:
    """Remove the temporary files that killed writers of ``path`` left, and return a new temporary name."""
    for orphan in path.absolute().parent.glob(f".{glob.escape(path.name)}.*{_LOCKED_SUFFIX}"):
        with suppress(OSError):  # another process removes it too, or is still writing it
            if time.time() - orphan.lstat().st_mtime < _UNLOCKED_S:
                continue
            descriptor = os.open(orphan, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if orphan.is_dir():
                    shutil.rmtree(orphan)
                else:
                    orphan.unlink()
            finally:
                os.close(descriptor)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{_LOCKED_SUFFIX}")


class _OutputFile(FileIO):
    """A temporary file that will be renamed to ``path``. If it cannot be written, the StoreError names ``path``."""

    def __init__(self, partial: Path, path: Path) -> None:
        self._path = path
        with _write_errors(path):
            super().__init__(partial, "x")
            fcntl.flock(self.fileno(), fcntl.LOCK_EX)

    def write(self, data: Any, /) -> int:  # noqa: ANN401  any buffer, as in FileIO
        with _write_errors(self._path):
            return super().write(data)


def _open_text(partial: Path, path: Path) -> TextIOWrapper:
    return TextIOWrapper(BufferedWriter(_OutputFile(partial, path)), encoding="utf-8", newline="\n")


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def make_directory(path: Path) -> None:
    """Create ``path`` and its missing parent folders, and sync each new name to the disk.

    Raises:
        StoreError: If a folder cannot be created.
    """
    with _write_errors(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            fsync(folder.parent)


def fsync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, to the disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path) -> FileIO:
    """Open a file to read its bytes, and never wait for a pipe or a device.

    Raises:
        OSError: If the file cannot be opened, or is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return FileIO(descriptor)


def is_there(path: Path) -> bool:
    """Return whether there is anything at a path, even a broken link or something that this user may not inspect."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # for example no permission: whoever uses the path next gets an error with the reason
        return True
    return True


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: If the file cannot be opened or read, or is a folder, a pipe or a device.
    """
    with open_file(path) as file:
        return file.readall()


def list_files(root: Path) -> Iterator[str]:
    """Yield the relative path, with slashes, of every file and link below ``root``, sorted within each folder.

    Raises:
        InputError: If this user may not read a folder, or the name of a file is not UTF-8.
    """
    for folder, subfolders, names in os.walk(root, onerror=_refuse_unreadable):
        subfolders.sort()
        here = Path(folder)
        links = [name for name in subfolders if (here / name).is_symlink()]
        for name in sorted(names + links):
            if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
                raise InputError(f"{here / name}: its name is not UTF-8, expected a name in UTF-8; rename it")
            yield (here / name).relative_to(root).as_posix()


def _refuse_unreadable(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); fix its permissions") from error


def remove_partial_files(root: Path) -> None:
    """Remove the temporary files that interrupted writers left below ``root``."""
    for name in list(list_files(root)):
        if name.endswith(PARTIAL_SUFFIX):
            (root / name).unlink()


def beside(stem: Path, suffix: str) -> Path:
    """Return ``stem`` with ``suffix`` appended to its name, for example ``.mrg``. The stem may contain dots."""
    return stem.with_name(stem.name + suffix)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the error for a file that cannot be written, for example because the disk is full."""
    return StoreError(
        f"{path}: cannot be written: {error.strerror}. Make room, lift the limit or fix the permissions, and run the "
        "same command again: completed work stays valid"
    )


def cannot_be_used(error: OSError) -> StoreError:
    """Return the error for a file or stream that failed in a way that no other message covers."""
    where = error.filename or "a file or stream"
    return StoreError(
        f"{os.fsdecode(where) if isinstance(where, bytes) else where}: {error.strerror or error}. Check that the disk "
        "has room and that the path and its permissions are right, and run the same command again"
    )
