"""Files that are either whole or absent, also after a power cut: temporary name, fsync, rename, fsync of the folder.

The price is two fsyncs a file; stores have few, large files. A process killed in the middle leaves a file whose name
ends in ``.partial``, which whoever holds the store's lock removes.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from storage.errors import StoreError

PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Make ``data`` the content of ``path``, replacing what was there; its folder must exist.

    Raises:
        StoreError: If the bytes cannot be written (disk full, quota, size limit, rights). ``path`` is then as before.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def written_whole(paths: Sequence[Path], *, stale: Sequence[Path] = ()) -> Iterator[list[IO[str]]]:
    """Open temporary files. If the block succeeds, rename them to ``paths`` in order; if it fails, remove them.

    The files of ``stale`` are removed once all temporary files are on disk, before the first rename. Put the last of
    ``paths`` into ``stale`` too: then, even after a kill, that file exists only next to files that belong to it.
    """
    folder = paths[0].absolute().parent
    make_directory(folder)
    partial = [path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}") for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in partial]
            yield list(files)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        if stale:
            for path in stale:
                path.unlink(missing_ok=True)
            fsync_directory(folder)
        for path, final in zip(partial, paths, strict=True):
            path.replace(final)
        fsync_directory(folder)
    except OSError as error:
        raise cannot_write(paths[0], error) from error
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Create ``path`` and the folders above it that are missing, each made durable in its parent.

    Raises:
        StoreError: If that is not possible.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            fsync_directory(folder.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_files(root: Path) -> Iterator[str]:
    """Yield every file below ``root`` (links too), sorted within its folder, as a path relative to it with slashes."""
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        here = Path(folder)
        links = [name for name in subfolders if (here / name).is_symlink()]
        for name in sorted(names + links):
            yield (here / name).relative_to(root).as_posix()


def remove_partial_files(root: Path) -> int:
    """Remove the temporary files that interrupted writers left below ``root``; return how many there were."""
    orphans = [name for name in list_files(root) if name.endswith(PARTIAL_SUFFIX)]
    for name in orphans:
        (root / name).unlink()
    return len(orphans)


def beside(stem: Path, suffix: str) -> Path:
    """Return the path of a file named after a stem, which may have dots of its own: ``STEM`` and ``.mrg``."""
    return stem.with_name(stem.name + suffix)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the error that says a disk is full, a quota or limit reached, or a right missing."""
    return StoreError(
        f"{path}: cannot be written: {error.strerror}. Make room, lift the limit or mend the rights, and run the same "
        "command again: what was complete stays valid"
    )
