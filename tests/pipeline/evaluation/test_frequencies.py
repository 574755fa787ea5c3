"""Frequencies: one key for the spellings of a word, counts of a key added up, and faulty lines named."""

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.frequencies import frequency_key, read_frequencies
from storage.errors import InputError


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ('"Dog,', "dog"),
        ("don't", "don't"),
        ("(1990s)", "1990s"),
        ("STRASSE", "strasse"),
        ("Stra\u00dfe.", "strasse"),
        ("e\u0301t\u00e9!", "\u00e9t\u00e9"),
        ("\u0915\u0940,", "\u0915\u0940"),  # a vowel sign at the end is part of the word
        ("...", "..."),
        ("  ", ""),
    ],
)
def test_the_key_of_a_word_has_no_case_and_no_marks_at_its_ends(word: str, key: str) -> None:
    assert frequency_key(word) == key


@given(st.text(max_size=6), st.sampled_from(["", '"', "(", "--"]), st.sampled_from(["", ".", '?"', "\u2026"]))
def test_marks_around_a_word_do_not_change_its_key(word: str, before: str, after: str) -> None:
    key = frequency_key(word)
    if any(character.isalnum() for character in key):
        assert frequency_key(before + word.strip() + after) == key


def test_counts_of_one_key_are_added_up_and_divided_by_all(tmp_path: Path) -> None:
    text = "the\t5\nThe\t1\n.\t1\ncaf\u00e9\t1\n"
    (tmp_path / "plain.tsv").write_text(text)
    (tmp_path / "zipped.tsv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.tsv", "zipped.tsv.gz"):
        frequencies = read_frequencies(tmp_path / name)
        assert frequencies.log_frequency('"THE') == pytest.approx(math.log2(6 / 8))
        assert frequencies.log_frequency("cafe\u0301") == frequencies.log_frequency(".") == -3
        assert frequencies.log_frequency("dog") is None
        assert frequencies.log_frequency(",") is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"word\tcount", r"'word\\tcount'"),
        (b"dog 3", "'dog 3'"),
        (b"dog\t3\t4", "dog"),
        (b"dog\t0", "dog"),
        (b"dog\t-1", "dog"),
        (b"dog\t1.5", "dog"),
        (b"dog\t" + b"9" * 5000, "dog"),
        (b"\t3", "3"),
        (b"", "''"),
        (b"caf\xe9\t3", "caf"),
    ],
)
def test_a_line_that_is_no_word_and_count_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(b"the\t5\n" + line + b"\ncat\t1\n")
    with pytest.raises(InputError, match=rf"table\.tsv:2: .*{found}.*, expected UTF-8: a word, a tab") as raised:
        read_frequencies(path)
    assert len(str(raised.value)) < 300


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("")
    with pytest.raises(InputError, match=r"table\.tsv: no word"):
        read_frequencies(tmp_path / "table.tsv")
