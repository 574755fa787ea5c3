"""Read, write, list and remove whole objects below one URL, through fsspec. Objects are never appended to or renamed.

An exception of fsspec or of a library under it becomes an error of one line with a remedy, or a `FileNotFoundError` if
an object does not exist. The error quotes the original exception with secrets replaced by ***. The original exception
is not chained, since it may hold a secret. Listings are never cached.

If the library reports that a write succeeded, this module trusts it: object stores acknowledge whole objects only, the
libraries send a checksum with each object, and every byte of a dump is read back once before the dump is marked
complete.
"""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from storage.errors import ConfigError, StoreError

_LIBRARY_ERRORS = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""Modules and the base classes of their exceptions, which are not OSErrors."""
_MISUSE = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError)
"""Exceptions that fsspec and the libraries raise if a setting is malformed, if the server answers unexpectedly, or if a
scheme needs options or cannot list or write."""
REMOVE_THREADS = 8
CACHE_VARIABLE = "RNNG_DISTILL_CACHE"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SECRET_NAMES = ("CRED", "KEY", "PASSW", "SECRET", "TOKEN")
_OF_A_URL = re.compile(r"(://(?=[^\s/@]*@)|\?)[^\s/@\"']+")
"""The parts of a URL that may hold a secret: the part before the host, and the query."""
_REMEDY = (
    "Fix that (endpoint, bucket, credentials, permissions, network) and run the same command again: completed work "
    "stays valid"
)


class ObjectStore:
    """The objects below a URL, by relative name. Threads may share a store, and so may forked processes."""

    def __init__(self, url: str) -> None:
        self._url = url
        # The connections and the event loop of a file system do not survive a fork, so each process has its own. A
        # child keeps the parent's file system, since dropping it would close connections that the parent still uses.
        self._file_systems: dict[int, tuple[Any, str]] = {}

    def __str__(self) -> str:
        return self._url

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str]]:
        """Pickle only the URL, without connections or credentials."""
        return ObjectStore, (self._url,)

    def entries(self) -> dict[str, Mapping[str, Any]]:
        """Return the attributes (at least ``size``) of all objects by name, from one listing.

        Raises:
            StoreError: If the objects cannot be listed.
        """
        try:
            with self._plain_errors("", "listed"):
                files, base = self._files()
                found: dict[str, Mapping[str, Any]] = files.find(base, detail=True)
        except FileNotFoundError:
            return {}
        start = base + "/"
        # Web consoles mark an empty folder by an object whose name ends in a slash.
        return {
            path[len(start) :]: attributes
            for path, attributes in sorted(found.items())
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
        """Make ``data`` an object's content, replacing any earlier content, by one request.

        Raises:
            StoreError: If the object cannot be written. It is then unchanged.
        """
        self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if none has that name. Return whether it was written.

        The request carries the condition If-None-Match, or the store's equivalent. Some stores ignore this condition.
        If the connection breaks after the write, the result may be False although this call wrote the object. A caller
        that must be certain reads the object back.

        Raises:
            StoreError: If the object cannot be written.
        """
        try:
            self._put(name, data, "create")
        except StoreError:
            # Stores report a failed condition in many ways. If the object exists, the condition failed.
            with suppress(FileNotFoundError):
                self.read(name)
                return False
            raise
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects. A missing object is not an error.

        Each object takes a request of its own, so that an error names the object.

        Raises:
            StoreError: If an object cannot be removed.
        """
        with ThreadPoolExecutor(REMOVE_THREADS) as pool:
            for _ in pool.map(self._remove_one, names):
                pass

    def _remove_one(self, name: str) -> None:
        with suppress(FileNotFoundError), self._plain_errors(name, "removed"):
            files, base = self._files()
            files.rm_file(_join(base, name))

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
            from fsspec.core import url_to_fs  # noqa: PLC0415  takes a fifth of a second, not needed for paths

            try:
                self._file_systems[process] = url_to_fs(self._url, use_listings_cache=False)
            except ImportError as error:
                raise ConfigError(
                    f"{self._url}: a package is missing: {plain_text(error)}. For s3:// pip install 'rnng-distill[s3]'"
                ) from None
            except _errors() as error:
                raise ConfigError(
                    f"{self._url}: cannot be opened: {_described(error)}. Give a URL such as s3://BUCKET/NAME, or "
                    "check the settings of its scheme (AWS_* and FSSPEC_* variables, ~/.aws, ~/.config/fsspec)"
                ) from None
        return self._file_systems[process]

    def _name(self, name: str) -> str:
        return f"{self._url}/{name}" if name else self._url

    @contextmanager
    def _plain_errors(self, name: str, participle: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except _errors() as error:
            text = _described(error)
            if isinstance(error, FileNotFoundError) and "bucket does not exist" not in text:
                raise FileNotFoundError(errno.ENOENT, "there is no such object", self._name(name)) from None
            raise StoreError(f"{self._name(name)}: cannot be {participle}: {text}. {_REMEDY}") from None


def no_room(folder: Path, name: str) -> StoreError:
    """Return the error for a local disk that is too full for a copy of the object ``name``."""
    return StoreError(
        f"{folder}: no room for a copy of {name}. Make room, set {CACHE_VARIABLE} to a folder on another disk, or give "
        "the cache a lower limit (train-student --cache-gb)"
    )


def _described(error: BaseException) -> str:
    """Return the text of an exception. The name of its class comes first if the text alone may say nothing."""
    text = plain_text(error)
    return f"{type(error).__name__}: {text}" if isinstance(error, _MISUSE) and not isinstance(error, OSError) else text


def plain_text(error: BaseException) -> str:
    """Return an exception's text as one line of at most 300 characters, with secrets of the environment replaced."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _OF_A_URL.sub(r"\1***", text)
    text = " ".join(text.split()).rstrip(".")
    return "".join(letter for letter in text if letter.isprintable())[:300]


def _secrets() -> set[str]:
    """Return the values of environment variables and fsspec settings whose names suggest a secret."""
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
    """Return the exception classes that the loaded libraries raise if a store cannot be reached."""
    loaded = ((sys.modules.get(module), name) for module, name in _LIBRARY_ERRORS)
    return (OSError, *_MISUSE, *(getattr(module, name) for module, name in loaded if module is not None))


def _join(base: str, name: str) -> str:
    assert name
    assert not PurePosixPath(name).is_absolute()
    return f"{base}/{name}"
