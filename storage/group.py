"""Write and read small verified Zarr v3 groups through zarr-python. Datasets are such groups; dumps are not.

A group is read all at once. Its arrays are stored uncompressed with crc32c. A sha256 over every array and the
attributes catches two errors that checksums of chunks cannot: altered attributes, and a missing chunk, which zarr
silently reads as its fill value. A group is written under a temporary name and then renamed, so nobody sees half a
group. Only Zarr v3 groups with arrays of numbers and the codecs bytes and crc32c are opened.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec

from storage.errors import CorruptStoreError, StoreError
from storage.files import PARTIAL_SUFFIX, cannot_write, fsync, list_files, make_directory
from storage.fingerprints import Json, canonical_json, sha256_arrays, sha256_bytes

_CHUNK_BYTES = 1 << 23
_CODECS = {"bytes", "crc32c"}
_REMEDY = "Build it again (build-dataset), or restore it from a copy"
_DIGEST, _ARRAY_DIGESTS = "content_sha256", "array_sha256"


def write_group(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Json]) -> str:
    """Write a group and return the sha256 of its content.

    Args:
        path: Path of the new group. It must not exist.
        arrays: Name → array of numbers, with at least one dimension.
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
        StoreError: If there is no group, or it has another format or codec.
        CorruptStoreError: If an array or the attributes do not match their sha256. The message names the array.
    """
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: there is no Zarr v3 group. Give a folder that build-dataset wrote")
    attributes = _metadata(path / "zarr.json").get("attributes")
    if not isinstance(attributes, dict):
        raise _damaged(path, "it has no attributes")
    digests, content = attributes.pop(_ARRAY_DIGESTS, None), attributes.pop(_DIGEST, None)
    if not isinstance(digests, dict) or content != _content_sha256(digests, attributes):
        raise _damaged(path, f"the attributes do not match their {_DIGEST}")
    arrays = {}
    for name, expected in digests.items():
        if Path(name).name != name:
            raise StoreError(f"{path}: array name {name!r} is a path. It was not written by this program")
        _check_codecs(path / name / "zarr.json")
        try:
            stored = zarr.open_array(path / name, mode="r", zarr_format=3)
            if stored.nchunks_initialized != stored.nchunks:
                chunks = f"found {stored.nchunks_initialized}, expected {stored.nchunks}"
                raise _damaged(path / name, f"array {name}: chunks are missing ({chunks})")
            array = np.asarray(stored[...])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise _damaged(path / name, f"array {name}: {error}") from error
        found = sha256_arrays({name: array})
        if found != expected:
            raise _damaged(path / name, f"array {name}: sha256 is {found[:12]}, expected {expected[:12]}")
        arrays[name] = array
    return arrays, {**attributes, _DIGEST: content}


def _content_sha256(digests: Mapping[str, str], attributes: Mapping[str, Json]) -> str:
    return sha256_bytes(canonical_json({"arrays": dict(digests), "attributes": dict(attributes)}))


def _check_codecs(path: Path) -> None:
    metadata = _metadata(path)
    found, codecs = metadata.get("zarr_format"), metadata.get("codecs")
    listed = codecs if isinstance(codecs, list) else [codecs]
    names = {str(codec.get("name") if isinstance(codec, dict) else codec) for codec in listed}
    if found != 3 or not names <= _CODECS:
        raise StoreError(
            f"{path}: found Zarr format {found} with the codecs {', '.join(sorted(names))}, expected format 3 and only "
            f"the codecs {', '.join(sorted(_CODECS))}. {_REMEDY}"
        )


def _metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path.parent, f"{path.name} cannot be read ({error})") from error
    if not isinstance(metadata, dict):
        raise _damaged(path.parent, f"{path.name} is not an object")
    return metadata


def _damaged(path: Path, problem: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path}: {problem}. {_REMEDY}")
