"""Copy whole folders to and from an object store. Datasets need this, since they are read from a local path.

A fetched copy is identified by the URL and by the object store's listing: names, sizes, and the store's own tags or
times. The folder is fetched again if the listing has changed, or if the files of the copy no longer have the sha256
that they had directly after they were fetched. This module does not check that the right bytes were fetched. The code
that reads a dataset checks this, against the digests that every dataset holds.

A process may be reading a copied folder. So copied folders do not count towards the size limit of the cache
(`storage.remote.cache`), and are not removed to make room. They are removed after `KEEP_DAYS` days without use.
"""

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
from storage.json_files import read_json
from storage.locations import check_url, is_url, local_path
from storage.remote.cache import FileCache
from storage.remote.objects import ObjectStore

KEEP_DAYS = 30
_TAGS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created", "size")
"""Attributes of a listing that change when an object changes; object stores use different names for them."""
_DIGESTS = "digests.json"


def fetch_folder(location: str | Path, *, cache: FileCache | None = None, again: bool = False) -> Path:
    """Return a local folder with the files at a location: the path itself, or a copy of the folder at a URL.

    Args:
        location: The path or URL.
        cache: The cache of copies.
        again: Fetch the files even if there is a copy, because the copy was found to be damaged.

    Raises:
        ConfigError: If the URL cannot be used.
        StoreError: If the folder is missing, unreadable or changes while it is read, or the cache cannot be written.
        CorruptStoreError: If the name of an object is a path that leads outside the folder.
    """
    if not is_url(location):
        return local_path(location)
    objects = ObjectStore(check_url(location))
    cache = cache or FileCache()
    listing = objects.entries()
    if not listing:
        raise StoreError(f"{objects}: there is nothing at this URL. Give the URL of a dataset that build-dataset wrote")
    for name in listing:
        if not _is_inside(name):
            raise CorruptStoreError(f"{objects}: {name!r} is not the name of a file in it. Remove that object")
    key = sha256_bytes(canonical_json({"url": str(objects), "files": _tags(listing)}))
    folder = cache.subfolder("folders") / key
    copy = folder / str(objects).rpartition("/")[2]
    with cache.locked(key):
        if again or not _is_whole(folder, copy):
            shutil.rmtree(folder, ignore_errors=True)
            _copy(objects, {name: int(attributes["size"]) for name, attributes in listing.items()}, folder, copy.name)
        os.utime(folder)
    _remove_unused(folder.parent)
    return copy


def upload_folder(local: Path, location: str, *, last: str) -> None:
    """Copy a folder to a URL, each file as one object.

    Args:
        local: The folder.
        location: The URL. Nothing may exist there.
        last: Relative name of the file that is written last. Readers refuse a folder without it.

    Raises:
        ConfigError: If the URL cannot be used.
        StoreError: If something exists at the URL, the folder has no file ``last``, or an object cannot be written.
    """
    objects = ObjectStore(check_url(location))
    names = [name for name in list_files(local) if name != last]
    if not (local / last).is_file():
        raise StoreError(f"{local}: no file {last}, so the folder is incomplete. Build it again")
    found = objects.entries()
    if found:
        state = "" if last in found else ", probably left by an interrupted upload"
        raise StoreError(f"{objects}: already exists ({len(found)} files{state}). Remove it, or give another URL")
    for name in names:
        objects.write(name, (local / name).read_bytes())
    if not objects.create(last, (local / last).read_bytes()):
        raise StoreError(
            f"{objects}: another process wrote it at the same time. Remove it, and run one command at a time"
        )


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
    """Return whether a copy exists and no byte of it has changed since it was fetched."""
    try:
        digests = read_json(folder / _DIGESTS, dict[str, FileDigest], remedy="", error=StoreError)
    except StoreError:
        return False
    return not any(not _is_inside(name) or digest.problem_with(copy / name) for name, digest in digests.items())


def _tags(listing: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {name: {tag: str(found[tag]) for tag in _TAGS if tag in found} for name, found in listing.items()}


def _is_inside(name: str) -> bool:
    """Return whether a name from a listing leads to a file below the folder that it is joined to."""
    return all(part not in ("", ".", "..") and "\0" not in part for part in name.split("/"))


def _remove_unused(folders: Path) -> None:
    oldest = time.time() - KEEP_DAYS * 86_400
    for folder in folders.iterdir():
        try:
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removes too
            continue
