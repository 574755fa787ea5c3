"""Files are written completely or not at all, and only write errors are reported as write errors."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.files import new_folder, written_whole


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


def test_of_two_writers_of_one_folder_the_first_to_finish_gets_the_name(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write_slowly() -> None:
        with new_folder(out) as slow:
            (slow / "slow").write_text("slow")
            with new_folder(out) as quick:
                (quick / "quick").write_text("quick")
            assert (slow / "slow").exists()

    with pytest.raises(StoreError, match=r"out: already exists\. Remove it, or choose another name"):
        write_slowly()
    assert [path.name for path in out.iterdir()] == ["quick"]
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(StoreError, match="already exists"), new_folder(out):
        pytest.fail("the block ran")


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert not list(tmp_path.iterdir())


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from storage.files import new_folder, written_whole\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "with new_folder(here / 'out') as folder, written_whole([here / 'x.txt']) as (file,):\n"
        "    (folder / 'a').write_text('a'); file.write('half'); file.flush(); os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    with new_folder(tmp_path / "out2"), written_whole([tmp_path / "x.txt"]):
        assert set(left) < set(tmp_path.iterdir()), "their writer may be about to lock them"
    (tmp_path / "out2").rmdir()
    (tmp_path / "x.txt").unlink()
    for path in left:
        os.utime(path, (0, 0))
    with new_folder(tmp_path / "other"), written_whole([tmp_path / "xy.txt"]):
        pass
    assert set(left) < set(tmp_path.iterdir())
    with new_folder(tmp_path / "out"), written_whole([tmp_path / "x.txt"]) as (file,):
        file.write("whole")
        with written_whole([tmp_path / "x.txt"]):  # another writer leaves this one's file alone
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "x.txt", "xy.txt"]
    assert (tmp_path / "x.txt").read_text() == "whole"
