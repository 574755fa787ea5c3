"""A location is a path or a URL taken literally, and a URL never holds or shows credentials."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ConfigError
from storage.folder import LocalFolder
from storage.locations import check_url, is_url, open_folder
from storage.remote.remote_folder import RemoteFolder

SECRET = "s3cr3t-value"  # noqa: S105
WITH_CREDENTIALS = [
    f"s3://key:{SECRET}@bucket/dump",
    f"s3://key:{SECRET}/slashed@bucket/dump",
    f"s3://key:1234/{SECRET}@bucket/dump",
    f"s3://{SECRET}@bucket/dump",
    f"s3://key:{SECRET}%40bucket/dump",
    f"abfs://user:{SECRET}@account/dump",
    f"https://host/dump?X-Amz-Signature={SECRET}",
    f"S3://key:{SECRET}@bucket/dump",
]


@pytest.mark.parametrize("location", ["dump", "/a/dump", "./s3:/dump", Path("dump"), "file:///a/dump"])
def test_paths_and_file_urls_are_local(location: str | Path) -> None:
    assert isinstance(open_folder(location), LocalFolder)


def test_a_file_url_is_the_path_it_names() -> None:
    assert str(open_folder("file:///a/my%20dump")) == "/a/my dump"


@pytest.mark.parametrize("location", ["s3://bucket/dump", "s3://bucket/a/dump/", "gs://b/d", "abfs://box@account/dump"])
def test_other_urls_are_remote_and_named_as_written(location: str) -> None:
    folder = open_folder(location)
    assert isinstance(folder, RemoteFolder)
    assert str(folder) == location.rstrip("/")


@pytest.mark.parametrize("location", WITH_CREDENTIALS)
def test_credentials_in_a_url_are_refused_without_being_shown(location: str) -> None:
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        open_folder(location)
    assert SECRET not in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["s3://bucket", "s3://", "s3://bucket//dump", "s3://bucket/../dump", "s3://bucket/d*", "s3://bucket/a\nb",
     "simplecache::s3://bucket/dump", "://x/y", "s3://bucket/[1]/d"],
)  # fmt: skip
def test_a_url_that_cannot_be_taken_literally_is_refused_in_one_line(location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_folder(location)
    assert "\n" not in str(caught.value)
    assert "[]" not in str(caught.value)


@given(st.text() | st.from_regex(r"[a-z]{1,3}://[a-z:@/.?%*0-9]*", fullmatch=True))
def test_any_text_is_a_path_a_url_or_refused(text: str) -> None:
    if not is_url(text):
        return
    try:
        url = check_url(text)
    except ConfigError as error:
        refusal = str(error)
    else:
        assert check_url(url) == url
        refusal = ""
    assert "\n" not in refusal


def test_an_unknown_scheme_is_refused_when_it_is_used() -> None:
    with pytest.raises(ConfigError, match=r"nosuch://bucket/dump: .*Protocol not known"):
        open_folder("nosuch://bucket/dump").sizes()


def test_a_missing_package_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"s3://bucket/dump: a package is missing: .*s3fs.*rnng-distill\[s3\]"):
        open_folder("s3://bucket/dump").sizes()


def test_a_folder_is_pickled_as_its_url() -> None:
    folder = open_folder("s3://bucket/dump", cache_bytes=5, take_over=True)
    data = pickle.dumps(folder)
    assert str(pickle.loads(data)) == str(folder)  # noqa: S301


@pytest.mark.parametrize("module", ["storage.dump.reader", "storage.dump.writer", "storage.locations"])
def test_paths_load_neither_fsspec_nor_torch(module: str) -> None:
    script = (
        f"import sys, {module}\nfrom storage.locations import open_folder\nopen_folder('.').sizes()\n"
        "assert not {'fsspec', 's3fs', 'aiohttp', 'torch', 'zarr'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
