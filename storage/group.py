"""Write and read small verified Zarr v3 groups through zarr-python. Datasets are such groups.

Dumps are Zarr v3 groups, too, but `storage.dump` writes and reads them.

A group is read all at once. Its arrays hold numbers, stored uncompressed with crc32c checksums; any other codec or data
type is refused. The attributes hold one sha256 per array (``array_sha256``), and one sha256 over these and all other
attributes (``content_sha256``). They detect what the checksums cannot: altered attributes, and missing chunks, for
which zarr silently returns the fill value. A group is written under a temporary name and then renamed.
"""

import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec

from storage.errors import CorruptStoreError, StoreError
from storage.files import PARTIAL_SUFFIX, cannot_write, fsync, is_there, list_files, make_directory
from storage.fingerprints import Json, Sha256, canonical_json, sha256_arrays, sha256_bytes
from storage.json_files import Count, convert, read_json

_CHUNK_BYTES = 1 << 23
_CODECS = {"bytes", "crc32c"}
_DATA_TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
_Kind = TypeVar("_Kind")
_REMEDY = "Build it again (build-dataset), or restore it from a copy"
_DIGEST, _ARRAY_DIGESTS = "content_sha256", "array_sha256"


def write_group(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Json]) -> str:
    """Write a group and return the sha256 of its content.

    Args:
        path: Path of the new group. It must not exist.
        arrays: The arrays by name. They hold numbers and have at least one dimension.
        attributes: JSON values; ``content_sha256`` and ``array_sha256`` are added.

    Raises:
        StoreError: If ``path`` exists, or cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path}: already exists. Remove it, or give another folder")
    digests = {name: sha256_arrays({name: array}) for name, array in arrays.items()}
    content = _content_sha256(digests, attributes)
    make_directory(path.absolute().parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        group = zarr.open_group(
            partial, mode="w-", zarr_format=3, attributes={**attributes, _ARRAY_DIGESTS: digests, _DIGEST: content}
        )
        for name, values in arrays.items():
            row_bytes = max(1, values.dtype.itemsize * int(np.prod(values.shape[1:])))
            rows = max(1, min(len(values), _CHUNK_BYTES // row_bytes))
            group.create_array(
                name,
                data=values,
                chunks=(rows, *(max(1, size) for size in values.shape[1:])),
                serializer=BytesCodec(endian="little" if values.dtype.itemsize > 1 else None),
                compressors=[Crc32cCodec()],
                filters=None,
                config={"write_empty_chunks": True},
            )
        for name in list_files(partial):
            fsync(partial / name)
        partial.rename(path)
        fsync(path.absolute().parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return content


def read_group(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Json]]:
    """Return a group's arrays and its attributes, including ``content_sha256``, after verifying every byte.

    Raises:
        StoreError: If there is no group, or this module does not read its format or one of its codecs.
        CorruptStoreError: If an array or the attributes do not match their sha256. The message names the array.
    """
    if not is_there(path / "zarr.json"):
        raise StoreError(f"{path}: there is no Zarr v3 group. Give a folder that build-dataset wrote")
    attributes = _metadata(path / "zarr.json", _GroupJson).attributes
    content = attributes.pop(_DIGEST, None)
    digests = convert(
        attributes.pop(_ARRAY_DIGESTS, None), dict[str, Sha256], where=f"{path}/zarr.json: {_ARRAY_DIGESTS}",
        remedy=_REMEDY, error=CorruptStoreError,
    )  # fmt: skip
    if content != _content_sha256(digests, attributes):
        raise _damaged(path, f"the attributes do not match their {_DIGEST}")
    arrays = {}
    for name, expected in digests.items():
        if Path(name).name != name:
            raise StoreError(f"{path}: array name {name!r} is a path, expected a plain name. {_REMEDY}")
        try:
            _check_array(path / name)
            stored = zarr.open_array(path / name, mode="r", zarr_format=3)
            if stored.nchunks_initialized != stored.nchunks:
                chunks = f"found {stored.nchunks_initialized}, expected {stored.nchunks}"
                raise _damaged(path / name, f"array {name}: chunks are missing ({chunks})")
            array = np.asarray(stored[...])
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
            raise _damaged(path / name, f"array {name}: {error}") from error
        found = sha256_arrays({name: array})
        if found != expected:
            raise _damaged(path / name, f"array {name}: sha256 is {found[:12]}, expected {expected[:12]}")
        arrays[name] = array
    return arrays, {**attributes, _DIGEST: content}


def _content_sha256(digests: Mapping[str, str], attributes: Mapping[str, Json]) -> str:
    return sha256_bytes(canonical_json({"arrays": dict(digests), "attributes": dict(attributes)}))


@dataclass(frozen=True, kw_only=True, slots=True)
class _GroupJson:
    """What is read from the ``zarr.json`` of a group."""

    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunks:
    chunk_shape: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    configuration: _Chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class _ArrayJson:
    """What is read from the ``zarr.json`` of an array, before zarr reads it."""

    zarr_format: Any
    codecs: list[Any]
    data_type: Any
    shape: tuple[Count, ...]
    chunk_grid: _Grid

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return self.chunk_grid.configuration.chunk_shape


def _check_array(path: Path) -> None:
    """Check an array's codecs and the number and size of its chunk files, before memory is allocated for them."""
    metadata = _metadata(path / "zarr.json", _ArrayJson)
    names = {str(codec.get("name") if isinstance(codec, dict) else codec) for codec in metadata.codecs}
    if metadata.zarr_format != 3 or not names <= _CODECS or metadata.data_type not in _DATA_TYPES:
        raise StoreError(
            f"{path}/zarr.json: found Zarr format {metadata.zarr_format} with {str(metadata.data_type)[:30]} and the "
            f"codecs {', '.join(sorted(names))[:200]}, expected format 3, numbers, and only the codecs "
            f"{', '.join(sorted(_CODECS))}. {_REMEDY}"
        )
    if len(metadata.shape) != len(metadata.chunk_shape):
        what = f"chunks have {len(metadata.chunk_shape)} dimensions, expected {len(metadata.shape)}"
        raise _damaged(path, f"array {path.name}: {what}")
    num_chunks = math.prod(-(-size // chunk) for size, chunk in zip(metadata.shape, metadata.chunk_shape, strict=True))
    found = [name for name in list_files(path) if name != "zarr.json"]
    if len(found) != num_chunks:
        raise _damaged(path, f"array {path.name}: chunks are missing (found {len(found)}, expected {num_chunks})")
    expected = math.prod(metadata.chunk_shape) * np.dtype(metadata.data_type).itemsize + 4 * ("crc32c" in names)
    for name in found:
        if not (path / name).is_file() or (size := (path / name).stat().st_size) != expected:
            what = f"{size} bytes" if (path / name).is_file() else "not a file"
            raise _damaged(path, f"array {path.name}, file {name}: {what}, expected {expected} bytes")


def _metadata(path: Path, kind: type[_Kind]) -> _Kind:
    return read_json(path, kind, remedy=_REMEDY, error=CorruptStoreError)


def _damaged(path: Path, problem: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path}: {problem}. {_REMEDY}")
