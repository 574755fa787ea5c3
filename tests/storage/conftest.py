"""Switch fsync off, and provide object stores.

No test cuts the power, so tests need not wait for the disk. One test checks the order of syncs. The object stores are
fsspec's file system in memory, and moto's S3 server on this machine, reached over HTTP.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.remote.cache import FileCache

ACCESS_KEY = "AKIDTESTTESTTEST"
SECRET_KEY = "do-not-show/this+secret"  # noqa: S105  it opens nothing


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


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of a bucket of an S3 server on this machine. Environment variables give the server and credentials."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        import s3fs

        s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


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
