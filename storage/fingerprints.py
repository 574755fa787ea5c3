"""Compute canonical JSON and sha256 fingerprints, to tell whether two things are equal or belong together.

Callers decide what goes into a fingerprint. sha256 runs at 1.5 GB/s per core; the checksum crc32c is eight times as
fast. So a large file is hashed when it is written, copied or verified. When it is read, only its crc32c checksums are
compared.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage.errors import FingerprintMismatchError
from storage.files import open_file

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDigest:
    """Size and sha256 of one file."""

    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]

    @classmethod
    def of_bytes(cls, data: bytes | memoryview) -> "FileDigest":
        """Return the digest of a file with this content."""
        return cls(sha256=sha256_bytes(data), size_bytes=len(data))

    def problem_with(self, path: Path) -> str | None:
        """Return a text that says what is wrong with a file, or None if the file has this size and sha256."""
        try:
            size = path.stat().st_size
            if size != self.size_bytes:
                return f"{size} bytes, expected {self.size_bytes}"
            found = sha256_file(path)
        except FileNotFoundError:
            return "the file is missing"
        except OSError as error:
            return f"the file cannot be read ({error.strerror})"
        return None if found == self.sha256 else f"sha256 is {found[:12]}, expected {self.sha256[:12]}"

    def problem_with_bytes(self, data: bytes | memoryview) -> str | None:
        """Do the same as `problem_with` for the content of a file."""
        if len(data) != self.size_bytes:
            return f"{len(data)} bytes, expected {self.size_bytes}"
        found = sha256_bytes(data)
        return None if found == self.sha256 else f"sha256 is {found[:12]}, expected {self.sha256[:12]}"


def canonical_json(value: object) -> bytes:
    """Return the canonical UTF-8 JSON text of ``value``: sorted keys, no spaces, a newline at the end.

    Raises:
        ValueError: If ``value`` holds a NaN or an infinity, which JSON cannot express.
        TypeError: If ``value`` holds an object that is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the sha256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return one sha256 over the names (sorted), dtypes, shapes and little-endian values of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        dtype = array.dtype.newbyteorder("<")
        digest.update(canonical_json({"name": name, "dtype": dtype.str, "shape": list(array.shape)}))
        values = np.ascontiguousarray(array.astype(dtype, copy=False))
        digest.update(values.reshape(-1).view(np.uint8).data if values.size else b"")
    return digest.hexdigest()


def check_fingerprint(name: str, *, found: str, expected: str, remedy: str) -> None:
    """Check that ``found``, the fingerprint of ``name``, equals ``expected``.

    Raises:
        FingerprintMismatchError: If they differ. The message gives the first 12 digits of both, and ``remedy``.
    """
    if found != expected:
        raise FingerprintMismatchError(f"{name}: sha256 is {found[:12]}, expected {expected[:12]}. {remedy}")
