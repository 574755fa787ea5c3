"""Parse the location of a store: a path, or a URL that fsspec can open (s3://, gs://, abfs://, memory://).

A URL is taken literally: it must not hold wildcards, a query or a chain of file systems (``::``). It must not hold
credentials, either, since URLs appear in logs and histories. The libraries that open a URL find credentials in the
environment: AWS_* and FSSPEC_* variables, ~/.aws, or the machine's role.
"""

import re
from pathlib import Path
from typing import TypeAlias, TypeGuard
from urllib.parse import unquote

from storage.errors import ConfigError
from storage.folder import Folder, LocalFolder
from storage.remote.cache import DEFAULT_CACHE_BYTES, FileCache
from storage.remote.remote_folder import RemoteFolder

Place: TypeAlias = Path | str
"""A path or a URL."""
Location: TypeAlias = Path | str | Folder
"""A path, a URL, or an opened folder."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTAINER_FIRST = {"abfs", "abfss", "az", "adl", "wasb", "wasbs"}
"""Schemes whose URLs start with CONTAINER@ACCOUNT. The container is not a credential."""


def is_url(location: str | Path) -> TypeGuard[str]:
    """Return whether a location is a URL, other than a file:// URL. A ``Path`` is never a URL."""
    return isinstance(location, str) and "://" in location and not location.lower().startswith("file://")


def open_folder(location: str | Path, *, cache_bytes: int = DEFAULT_CACHE_BYTES, take_over: bool = False) -> Folder:
    """Return the folder of a store. Nothing is read or written yet.

    Args:
        location: A path, a file:// URL, or another URL.
        cache_bytes: Limit on the total size of the local copies of remote files. Ignored for a path.
        take_over: Whether `Folder.lock` takes the lock of a remote store from a writer that may still be alive. Ignored
            for a path, because the lock of a path ends with the process that holds it.

    Raises:
        ConfigError: If the URL is malformed or holds credentials.
    """
    if not is_url(location):
        return LocalFolder(local_path(location))
    return RemoteFolder(check_url(location), cache=FileCache(size_bytes=cache_bytes), take_over=take_over)


def as_folder(location: Location) -> Folder:
    """Return the folder at a path or URL, opened with the default options; return an opened folder unchanged.

    Raises:
        ConfigError: If the URL is malformed or holds credentials.
    """
    return open_folder(location) if isinstance(location, str | Path) else location


def local_path(location: str | Path) -> Path:
    """Return a path or a file:// URL as a ``Path``."""
    text = str(location)
    return Path(unquote(text[len("file://") :])) if text.lower().startswith("file://") else Path(text)


def check_url(url: str) -> str:
    """Return a URL without slashes at its end, with its scheme in lower case.

    Raises:
        ConfigError: If the URL holds credentials, is not SCHEME://BUCKET/NAME, or cannot be taken literally.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ConfigError("a location is neither a path nor SCHEME://BUCKET/NAME. Give a URL such as s3://BUCKET/NAME")
    protocol, rest = scheme[1].lower(), url[scheme.end() :].rstrip("/")
    where = f"{protocol}://…"  # the rest may be a secret
    bucket = rest.partition("/")[0]
    user, at, _ = bucket.rpartition("@")
    has_password = re.search(r":(?!\d+$)", bucket) or (":" in bucket and "@" in rest)
    if has_password or (at and (protocol not in _CONTAINER_FIRST or ":" in user)) or "?" in rest:
        raise ConfigError(
            f"{where}: the URL holds credentials, or a query, which may hold credentials. Leave both out, and give "
            "the credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    segments = rest.split("/")
    odd = sorted({c for c in rest if c in "*[]{}#\\" or not c.isprintable()})
    odd += [part for part in segments if part in ("", ".", "..")]
    if odd:
        raise ConfigError(f"{protocol}://{rest!r}: {odd} in it cannot be taken literally. Give another name")
    if len(segments) < 2:
        raise ConfigError(
            f"{protocol}://{rest}: names a bucket, expected a folder in it. Give {protocol}://{rest or 'BUCKET'}/NAME"
        )
    return f"{protocol}://{rest}"
