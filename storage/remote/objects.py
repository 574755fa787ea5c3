"""Whole objects whose names begin with one URL, over fsspec: put, get, list, remove; never append, never rename.

What fsspec and the libraries under it raise becomes one line with a remedy, or `FileNotFoundError` for an object that
is not there. Their exceptions are not chained to ours and their texts are searched for secrets first: what a server
or a library puts into a message is not ours to vouch for. Listings are always fresh.

A put that returns is trusted: object stores acknowledge whole objects only, the libraries send a checksum with each,
and a dump is read back once, every byte, before it is called complete.
"""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from storage.errors import ConfigError, StoreError

_LIBRARY_ERRORS = {
    "aiohttp": "ClientError",
    "azure.core.exceptions": "AzureError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
}
"""Module → the root of what it raises beside OSError."""
REMOVE_THREADS = 8
CACHE_VARIABLE = "RNNG_DISTILL_CACHE"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SECRET_NAMES = ("CRED", "KEY", "PASSW", "SECRET", "TOKEN")
_OF_A_URL = re.compile(r"(://(?=[^\s/@]*@)|\?)[^\s/@\"']+")
"""Where a URL in a message may hold a secret: before the host, or in a query."""
_REMEDY = (
    "Mend that (bucket, credentials, rights, network) and run the same command again: what was complete stays valid"
)


class ObjectStore:
    """Objects by name, relative to a URL. Usable from several threads, and in processes forked after its first use."""

    def __init__(self, url: str) -> None:
        self._url = url
        # A file system's connections and event loop do not survive a fork. The parent's is kept: dropping it in the
        # child would close what the parent still uses.
        self._file_systems: dict[int, tuple[Any, str]] = {}

    def __str__(self) -> str:
        return self._url

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str]]:
        """Go to another process as the URL alone: no connection, no credential."""
        return ObjectStore, (self._url,)

    def entries(self) -> dict[str, Mapping[str, Any]]:
        """Return name → what the store says of it (``size`` at least) of all objects, from one listing.

        Raises:
            StoreError: If that is not possible.
        """
        try:
            with self._plain_errors("", "listed"):
                files, base = self._files()
                found: dict[str, Mapping[str, Any]] = files.find(base, detail=True)
        except FileNotFoundError:
            return {}
        start = base + "/"
        # A name that ends in a slash is what consoles put to show an empty folder.
        return {
            path[len(start) :]: about
            for path, about in sorted(found.items())
            if path.startswith(start) and not path.endswith("/")
        }

    def read(self, name: str) -> bytes:
        """Return an object's content.

        Raises:
            FileNotFoundError: If there is no such object.
            StoreError: If it cannot be read for another reason.
        """
        with self._plain_errors(name, "read"):
            files, base = self._files()
            data: bytes = files.cat_file(_join(base, name))
        return data

    def fetch(self, name: str, target: Path) -> None:
        """Copy an object into a local file.

        Raises:
            FileNotFoundError: If there is no such object.
            StoreError: If it cannot be read for another reason, or the local disk is full.
        """
        with self._plain_errors(name, "read"):
            files, base = self._files()
            try:
                files.get_file(_join(base, name), str(target))
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise no_room(target.parent, self._name(name)) from None
                raise

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Make ``data`` an object's content, replacing what was there, by one put.

        Raises:
            StoreError: If that is not possible. The object is then as before.
        """
        self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if there is none of that name; return whether it was written.

        By If-None-Match or what the store has for it. A store that knows no such condition may ignore it; a connection
        that broke at the wrong moment may say False of an object just written. Read back what matters.

        Raises:
            StoreError: If that is not possible.
        """
        try:
            self._put(name, data, "create")
        except StoreError:
            # Stores word a failed condition in many ways; that something is there says it in one.
            try:
                self.read(name)
            except FileNotFoundError:
                pass
            else:
                return False
            raise
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error.

        One by one: deleting many by one request reports no object that it was not allowed to delete.

        Raises:
            StoreError: If that is not possible.
        """
        with ThreadPoolExecutor(REMOVE_THREADS) as pool:
            for _ in pool.map(self._remove_one, names):
                pass

    def _remove_one(self, name: str) -> None:
        try:
            with self._plain_errors(name, "removed"):
                files, base = self._files()
                files.rm_file(_join(base, name))
        except FileNotFoundError:
            pass

    def _put(self, name: str, data: bytes | memoryview, mode: str) -> None:
        try:
            with self._plain_errors(name, "written"):
                files, base = self._files()
                files.pipe_file(_join(base, name), bytes(data), mode=mode)
        except FileNotFoundError as error:
            raise StoreError(f"{self._name(name)}: cannot be written: {error.strerror}. {_REMEDY}") from None

    def _files(self) -> tuple[Any, str]:
        """Return this process's file system, and the URL as a path in it."""
        process = os.getpid()
        if process not in self._file_systems:
            from fsspec.core import url_to_fs  # noqa: PLC0415  a fifth of a second that paths need not pay

            try:
                self._file_systems[process] = url_to_fs(self._url, use_listings_cache=False)
            except ImportError as error:
                raise ConfigError(
                    f"{self._url}: a package is missing: {plain_text(error)}. For s3:// pip install 'rnng-distill[s3]'"
                ) from None
            except ValueError as error:
                raise ConfigError(f"{self._url}: {plain_text(error)}. Give a URL such as s3://BUCKET/NAME") from None
        return self._file_systems[process]

    def _name(self, name: str) -> str:
        return f"{self._url}/{name}" if name else self._url

    @contextmanager
    def _plain_errors(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except _errors() as error:
            text = plain_text(error)
            if isinstance(error, FileNotFoundError) and "bucket does not exist" not in text:
                raise FileNotFoundError(errno.ENOENT, "there is no such object", self._name(name)) from None
            raise StoreError(f"{self._name(name)}: cannot be {what}: {text}. {_REMEDY}") from None


def no_room(folder: Path, what: str) -> StoreError:
    """Return the error that says a local disk is too full for a copy of something."""
    return StoreError(
        f"{folder}: no room for a copy of {what}. Make room, name a folder of another disk by {CACHE_VARIABLE}, "
        "or allow the cache less"
    )


def plain_text(error: BaseException) -> str:
    """Return an exception's text in one line of at most 300 characters, secrets of the environment blotted out."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _OF_A_URL.sub(r"\1***", text)
    text = " ".join(text.split()).rstrip(".")
    return "".join(letter for letter in text if letter.isprintable())[:300]


def _secrets() -> set[str]:
    """Return what variables and fsspec's own settings of a secret's name hold."""
    found: set[str] = set()
    pending: list[tuple[str, object]] = list(os.environ.items())
    fsspec = sys.modules.get("fsspec")
    if fsspec is not None:
        pending += fsspec.config.conf.items()
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.items()
        elif isinstance(value, str) and len(value) >= 8 and any(part in name.upper() for part in _SECRET_NAMES):
            found.add(value)
    return found


def _errors() -> tuple[type[Exception], ...]:
    """Return what may be raised when a store cannot be reached, of the libraries that are loaded."""
    loaded = ((sys.modules.get(module), name) for module, name in _LIBRARY_ERRORS.items())
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))


def _join(base: str, name: str) -> str:
    assert name
    assert not PurePosixPath(name).is_absolute()
    return f"{base}/{name}"
