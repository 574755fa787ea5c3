"""Test that text is normalised once and files are read line by line with the position of every fault."""

import gzip
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.corpus.text import text_files
from pipeline.corpus.text.text_files import normalise_text, read_lines, read_texts
from storage.errors import InputError
from storage.fingerprints import sha256_file

anything = st.text(st.characters(), max_size=40)


@given(anything)
@example("e\u200d\u0301")
@example("\u2000\u2001 \u1680")
@example("\ud800")
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    once.encode()


@given(anything)
def test_the_result_is_nfc_with_single_spaces_and_nothing_invisible(text: str) -> None:
    found = normalise_text(text)
    assert unicodedata.is_normalized("NFC", found)
    assert found == found.strip()
    assert "  " not in found
    assert not [c for c in found if c != " " and (c.isspace() or unicodedata.category(c) in ("Cc", "Cs"))]


@given(st.text(st.sampled_from("aB1.,'\"-()$\u201c\u2014\u00e9\u4f60\U0001f600"), min_size=1))
def test_visible_characters_stay_as_they_are(text: str) -> None:
    assert normalise_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a\u00a0 b\t\r\nc ", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200bb\ufeff\u00adc\u200d", "abc"),
        ("\u2764\ufe0f", "\u2764"),
        ("a\x00b\x1fc\x85d\u2028e", "ab c d e"),
        ("\u200b \ufeff", ""),
        ("x\ud800y", "x\ufffdy"),
    ],
)
def test_invisible_characters_are_removed_and_white_space_becomes_one_space(text: str, expected: str) -> None:
    assert normalise_text(text) == expected


def test_only_line_feeds_end_lines_and_bad_bytes_are_reported_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\nt\xe2\x80\xa8wo\n\xff\nlast")
    lines = [(1, "one", True), (2, "", True), (3, "t\u2028wo", True), (4, "\ufffd", False), (5, "last", True)]
    assert [line[:3] for line in read_lines(path)] == lines
    zipped = tmp_path / "b.txt.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert [line[:3] for line in read_lines(zipped)] == lines
    assert all(line.is_whole for line in read_lines(path))
    assert list(read_texts(path, "skip")) == ["one", "", "t wo", None, "last"]
    with pytest.raises(InputError, match=r"a\.txt:4: not UTF-8"):
        list(read_texts(path))


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read \(No such file"):
        list(read_lines(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_lines(tmp_path))
    whole = gzip.compress(bytes(range(256)) * 40)
    for damaged in (whole[:-9], whole[:40] + b"\x00\xff" + whole[42:]):
        (tmp_path / "x.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.gz: damaged gzip"):
            list(read_lines(tmp_path / "x.gz"))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_line_without_end_is_an_error_even_if_long_lines_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1 << 10)
    monkeypatch.setattr(text_files, "MAX_SKIPPED_BYTES", 1 << 14)
    path = tmp_path / "text"
    for size, is_error in ((1 << 13, False), (1 << 15, True)):
        data = b"first\n" + b"a" * size + b"\nlast\n"
        path.write_bytes(gzip.compress(data) if zipped else data)
        if is_error:
            with pytest.raises(InputError, match=rf"{path}:2: a line longer than 0 MiB"):
                list(read_lines(path, "skip"))
        else:
            assert [line.is_whole for line in read_lines(path, "skip")] == [True, False, True]
        with pytest.raises(InputError, match=rf"{path}:2: a line longer than"):
            list(read_lines(path))


def test_a_pipe_or_a_folder_is_an_error_and_no_reader_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "a pipe or a device"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=rf"{path}: cannot be read \({reason}"):
            list(read_lines(path))
        with pytest.raises(OSError, match=reason):
            sha256_file(path)
