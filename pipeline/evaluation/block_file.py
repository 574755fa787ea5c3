"""Keep the finished blocks of an evaluation in a file, so that an interrupted evaluation can be continued.

A block has the values that were computed for a group of sentences, such as their log-probabilities.

    FOLDER/WHAT-0123456789abcdef.blocks     WHAT says what is computed, for example ``score``

    first, a line of JSON       the version of the format, and the fingerprint of everything that the values depend on
    then, for each block        a line of JSON with its number, its size and the sha256 of its bytes; then the bytes

The file's name has the first digits of the fingerprint, so evaluations with different options have different files.
When ``BlockFile`` opens a file, it drops an incomplete or damaged block and everything after it. The dropped blocks are
computed again.
"""

import fcntl
import logging
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated, Final

import msgspec

from storage.errors import StoreBusyError, StoreError
from storage.files import cannot_write, make_directory
from storage.fingerprints import Sha256, canonical_json, sha256_bytes
from storage.json_files import Count, decode

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
_LINE_BYTES: Final = 4096
"""Maximum size of a line of JSON in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    format_version: Annotated[int, msgspec.Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    fingerprint: Sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockLine:
    block: Count
    size_bytes: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    line: _BlockLine


class BlockFile:
    """The finished blocks of one evaluation. No other process can open the file while this object is open.

    Args:
        folder: Where the file is. It is created if it does not exist.
        what: The first part of the name, which says what is computed.
        fingerprint: The sha256 of everything that the values depend on.
        num_blocks: The number of blocks of the whole evaluation.

    Raises:
        StoreBusyError: If another process has the file open.
        StoreError: If the file cannot be opened, read or written.
    """

    def __init__(self, folder: Path, what: str, *, fingerprint: str, num_blocks: int) -> None:
        self.path = folder / f"{what}-{fingerprint[:16]}.blocks"
        self._places: dict[int, _Place] = {}
        make_directory(folder)
        self._file, self._size = self._open(), 0
        try:
            self._read(fingerprint, num_blocks)
        except BaseException:
            self._file.close()
            raise

    @property
    def finished(self) -> set[int]:
        """The numbers of the finished blocks."""
        return set(self._places)

    def append(self, block: int, data: bytes) -> None:
        """Add a finished block. It is on the disk when this method returns.

        Raises:
            StoreError: If the block cannot be written. Earlier blocks stay valid.
        """
        line = {"block": block, "size_bytes": len(data), "sha256": sha256_bytes(data)}
        text = canonical_json(line)
        self._write(text + data)
        self._places[block] = _Place(self._size - len(data), _BlockLine(**line))  # type: ignore[arg-type]

    def read(self, block: int) -> bytes:
        """Return the bytes of a finished block.

        Raises:
            StoreError: If the bytes cannot be read, or are not those that were written.
        """
        place = self._places[block]
        try:
            data = os.pread(self._file.fileno(), place.line.size_bytes, place.start)
        except OSError as error:
            raise self._unreadable(error) from error
        if sha256_bytes(data) != place.line.sha256:
            raise StoreError(f"{self.path}: block {block} is damaged; run the same command again")
        return data

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes open the file."""
        self._file.close()

    def _open(self) -> FileIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = FileIO(os.open(self.path, flags, 0o666), "r+")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        is_file, is_free = stat.S_ISREG(os.fstat(file.fileno()).st_mode), True
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        is_removed = not os.fstat(file.fileno()).st_nlink  # meanwhile another process finished and removed it
        if is_file and is_free and not is_removed:
            return file
        file.close()
        if is_file and is_free:
            return self._open()
        if is_file:
            raise StoreBusyError(f"{self.path}: another process is doing the same evaluation; wait for it, or stop it")
        raise StoreError(f"{self.path}: is not a file, expected finished blocks; remove it")

    def _read(self, fingerprint: str, num_blocks: int) -> None:
        """Find the finished blocks. Cut off the first incomplete or damaged block and everything after it."""
        try:
            size = os.fstat(self._file.fileno()).st_size
            good, problem = self._good_bytes(size, fingerprint, num_blocks)
            if good < size:
                kept = f"Finished blocks before the damage: {len(self._places)}. They are kept, and all others"
                log.warning("%s: %s. %s are computed again", self.path, problem, kept if self._places else "All blocks")
                self._file.truncate(good)
            self._file.seek(good)
        except OSError as error:
            raise self._unreadable(error) from error
        self._size = good
        if not good:
            self._write(canonical_json({"format_version": FORMAT_VERSION, "fingerprint": fingerprint}))

    def _good_bytes(self, size: int, fingerprint: str, num_blocks: int) -> tuple[int, str]:
        """Return the number of bytes before the first problem, and the problem; ``size`` and "" if all is well."""
        good = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as reader:
            try:
                while good < size:
                    text = reader.readline(_LINE_BYTES)
                    if not text.endswith(b"\n"):
                        return good, "its last line is incomplete"
                    if not good:
                        header = decode(text, _Header, where="its first line", remedy="", error=StoreError)
                        if header.fingerprint != fingerprint:
                            return 0, "it was made with other options"
                    else:
                        line = decode(
                            text, _BlockLine, where=f"it is damaged at byte {good}", remedy="", error=StoreError
                        )
                        place = _Place(reader.tell(), line)
                        if line.size_bytes > size - place.start:
                            return good, "its last block is incomplete"
                        is_new = line.block < num_blocks and line.block not in self._places
                        if not is_new or sha256_bytes(reader.read(line.size_bytes)) != line.sha256:
                            return good, f"it is damaged at byte {good}"
                        self._places[line.block] = place
                    good = reader.tell()
            except StoreError as error:
                return good, str(error).removesuffix("; ")
        return good, ""

    def _write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._size += len(data)

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path}: cannot be read ({error.strerror}); remove it to compute everything again")
