"""Switch fsync off, and provide URLs in object stores: in fsspec's file system in memory, and in moto's S3 server.

No test cuts the power, so tests need not wait for the disk. One test checks the order of syncs.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.remote.cache import FileCache


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """A URL at which nothing exists."""
    return f"{s3_bucket}/{secrets.token_hex(4)}/store"


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A URL at which nothing exists, for each kind of object store."""
    if request.param == "s3":
        found: str = request.getfixturevalue("s3_url")
        return found
    return f"memory://{secrets.token_hex(4)}/store"


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache")
