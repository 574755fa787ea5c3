"""Whole folders to and from an object store: datasets, which are read from a path at once and not file by file.

A folder carries no list of its digests, so what was fetched is known by what the listing says of it: names, sizes, and
the store's own tags or times. A changed folder is fetched anew, an unchanged one is rehashed and used again. That its
content is what was built is for its own reader to check; every dataset carries the digests of its arrays. Copies do
not count into the cache's bound, since a reader may be amid one; those not used for `KEEP_DAYS` are removed.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.errors import CorruptStoreError, StoreError
from storage.files import PARTIAL_SUFFIX, list_files, make_directory, write_atomically
from storage.fingerprints import FileDigest, canonical_json, sha256_bytes, sha256_file
from storage.locations import check_url, is_url, local_path
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore

KEEP_DAYS = 30
_TAGS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created", "size")
"""What stores call that which changes with an object."""
_DIGESTS = "digests.json"


def fetch_folder(location: str | Path, *, cache: FileCache | None = None) -> Path:
    """Return a local folder with the files at a location: itself for a path, a copy of the whole for a URL.

    Raises:
        ConfigError: If the URL cannot be used.
        StoreError: If there is nothing, it changes meanwhile, it cannot be read, or the cache cannot be written.
        CorruptStoreError: If a name in it would lead out of the copy.
    """
    if isinstance(location, Path) or not is_url(location):
        return local_path(location)
    objects = ObjectStore(check_url(location))
    cache = cache or FileCache()
    listing = objects.entries()
    if not listing:
        raise StoreError(f"{objects}: there is nothing. Give the URL of a folder that upload_folder wrote")
    for name in listing:
        if not _is_inside(name):
            raise CorruptStoreError(f"{objects}: {name!r} is not the name of a file in it. Remove that object")
    key = sha256_bytes(canonical_json({"url": str(objects), "files": _tags(listing)}))
    folder = cache.subfolder("folders") / key
    copy = folder / str(objects).rpartition("/")[2]
    with cache.locked(key):
        if not _is_whole(folder, copy):
            shutil.rmtree(folder, ignore_errors=True)
            _copy(objects, {name: int(about["size"]) for name, about in listing.items()}, folder, copy.name)
        os.utime(folder)
    _remove_unused(folder.parent)
    return copy


def upload_folder(local: Path, location: str, *, last: str) -> None:
    """Copy a folder to a URL, each file as a whole object, the file that makes it valid last.

    Args:
        local: The folder.
        location: Where; nothing may be there.
        last: Name, relative to the folder, of the file without which a reader refuses the rest.

    Raises:
        ConfigError: If the URL cannot be used.
        StoreError: If something is there, the folder has no such file, or it cannot be written.
    """
    objects = ObjectStore(check_url(location))
    names = [name for name in list_files(local) if name != last]
    if not (local / last).is_file():
        raise StoreError(f"{local}: no file {last}, so it is not whole. Build it again")
    found = objects.entries()
    if found:
        state = "" if last in found else ", left by an interrupted upload, as it seems"
        raise StoreError(f"{objects}: already exists ({len(found)} files{state}). Remove it, or give another URL")
    for name in names:
        objects.write(name, (local / name).read_bytes())
    if not objects.create(last, (local / last).read_bytes()):
        raise StoreError(f"{objects}: another process wrote it at the same time. Remove it, and write it once")


def _copy(objects: ObjectStore, sizes: Mapping[str, int], folder: Path, name: str) -> None:
    partial = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    digests = {}
    try:
        for file, size in sizes.items():
            target = partial / name / file
            make_directory(target.parent)
            try:
                objects.fetch(file, target)
                found = target.stat().st_size
            except FileNotFoundError:
                found = None
            if found != size:
                raise StoreError(f"{objects}/{file}: changed while it was read. Run the same command again")
            digests[file] = asdict(FileDigest(sha256=sha256_file(target), size_bytes=size))
        write_atomically(partial / _DIGESTS, canonical_json(digests))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path, copy: Path) -> bool:
    """Return whether a copy is here and no byte of it changed since it was fetched."""
    try:
        digests = _parse_digests((folder / _DIGESTS).read_bytes())
    except (OSError, ValueError, TypeError):
        return False
    return not any(digest.problem_with(copy / name) for name, digest in digests.items())


def _parse_digests(data: bytes) -> dict[str, FileDigest]:
    return {name: FileDigest(**digest) for name, digest in json.loads(data).items()}


def _tags(listing: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {name: {tag: str(about[tag]) for tag in _TAGS if tag in about} for name, about in listing.items()}


def _is_inside(name: str) -> bool:
    """Return whether a name from a listing stays below the folder it is joined to."""
    return all(part not in ("", ".", "..") and "\0" not in part for part in name.split("/"))


def _remove_unused(folders: Path) -> None:
    oldest = time.time() - KEEP_DAYS * 86_400
    for folder in folders.iterdir():
        try:
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removes too
            continue
