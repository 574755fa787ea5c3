"""Files are written completely or not at all, and only write errors are reported as write errors."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.files import written_whole


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_all_files_get_their_content(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / name for name in ("a.txt", "b.txt")]
    with written_whole(paths) as (first, second):
        print("ä", file=first)
        second.writelines(["x\n", "y\n"])
        assert not paths[0].exists()
    assert [path.read_bytes() for path in paths] == ["ä\n".encode(), b"x\ny\n"]
    assert len(list(paths[0].parent.iterdir())) == 2


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "trees.mrg"), ValueError("a malformed tree")]
)
def test_an_error_of_reading_inside_the_block_passes_through_unchanged(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")

    def write_half() -> None:
        with written_whole([path]) as (file,):
            file.write("half")
            raise error

    with pytest.raises(type(error)) as raised:
        write_half()
    assert raised.value is error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_write_that_fails_names_the_file_and_leaves_the_earlier_ones(tmp_path: Path, size: int) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("before")
    with (
        pytest.raises(StoreError, match=r"b\.txt: cannot be written: File too large\. Make room"),
        file_size_limit(64),
        written_whole(paths) as (_, second),
    ):
        second.write("x" * size)
    assert [path.read_text() for path in paths] == ["before", "before"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_sync_or_a_rename_that_fails_is_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", failing)
    else:
        monkeypatch.setattr(Path, "replace", failing)
    with (
        pytest.raises(StoreError, match=r"out\.txt: cannot be written: No space left"),
        written_whole([tmp_path / "out.txt"]) as (file,),
    ):
        file.write("x")
    assert not list(tmp_path.iterdir())
