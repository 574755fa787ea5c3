"""Tests of the words of a line, of files of spans, and of tables of frequencies."""

import gzip
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.words import (
    SpanFile,
    around_added_tokens,
    check_words,
    frequency_key,
    read_frequencies,
    spaced_words,
    words_of_tokens,
)
from storage.errors import InputError

Spans = list[tuple[int, int]]


@st.composite
def divided_texts(draw: st.DrawFn) -> tuple[str, Spans, Spans]:
    """Draw a text, its words, and its tokens, which may have parts of two words."""
    words = draw(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "bc", "d e", "fgh"])), min_size=1, max_size=6))
    text, word_spans = "", Spans()
    for spaced, word in words:
        text += " " if spaced and text else ""
        word_spans.append((len(text), len(text) + len(word)))
        text += word
    cuts = sorted({0, len(text), *draw(st.sets(st.integers(0, len(text)), max_size=len(text)))})
    tokens = list(pairwise(cuts))
    # two tokens may cover the same character, as when its bytes are divided
    return text, word_spans, sorted([*tokens, *draw(st.lists(st.sampled_from(tokens), max_size=2))])


def slow_words_of_tokens(tokens: Spans, words: Spans) -> list[set[int]]:
    """Return the words of the characters of each token. A space in no word belongs to the next word."""

    def word_at(character: int) -> int:
        return next(i for i, (_, stop) in enumerate(words) if character < stop)

    return [{word_at(character) for character in range(*token)} for token in tokens]


@given(divided_texts())
def test_a_token_belongs_to_the_word_of_its_characters_and_two_words_are_an_error(
    case: tuple[str, Spans, Spans],
) -> None:
    text, words, tokens = case
    check_words(text, words)
    expected = slow_words_of_tokens(tokens, words)
    if all(len(found) == 1 for found in expected):
        assert words_of_tokens(text, tokens, words).tolist() == [found.pop() for found in expected]
    else:
        with pytest.raises(ValueError, match="has parts of two words"):
            words_of_tokens(text, tokens, words)


@given(divided_texts(), st.data())
def test_words_that_miss_a_character_or_go_beyond_the_text_are_refused(
    case: tuple[str, Spans, Spans], data: st.DataObject
) -> None:
    text, words, _ = case
    i = data.draw(st.integers(0, len(words) - 1))
    with pytest.raises(ValueError, match="is in no word"):
        check_words(text, words[:i] + words[i + 1 :])
    with pytest.raises(ValueError, match="but the line has only"):
        check_words(text, [*words, (len(text), len(text) + 1)])
    with pytest.raises(ValueError, match="has a space at its edge"):
        check_words(text + " b", [*words, (len(text), len(text) + 2)])


def test_words_between_spaces_have_spans() -> None:
    assert spaced_words("the cat, a") == [(0, 3), (4, 8), (9, 10)]


def test_spans_are_read_in_step_with_lines_and_some_lines_have_none(tmp_path: Path) -> None:
    path = tmp_path / "spans.tsv.gz"
    path.write_bytes(gzip.compress(b"2\t0\t3\n2\t3\t4\n3\t0\t1\n5\t1\t2\n"))
    spans = SpanFile(path)
    assert [spans.of_line(number) for number in (1, 2, 4, 5)] == [[], [(0, 3), (3, 4)], [], [(1, 2)]]
    spans.refuse_beyond(5, tmp_path / "text.txt")
    for last_asked in (2, 3, 4):
        spans = SpanFile(path)
        spans.of_line(last_asked)
        with pytest.raises(InputError, match=r"sentence 5, expected at most 4, the number of lines of .*text\.txt"):
            spans.refuse_beyond(4, tmp_path / "text.txt")


@pytest.mark.parametrize(
    "line", ["sentence\tstart\tstop", "1 3 4", "1\t3", "1\t3\t4\t5", "0\t3\t4", "1\t4\t4", "1\t-3\t4", "1\t3\t4.0", ""]
)
def test_a_malformed_line_of_spans_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "spans.tsv").write_text(f"1\t0\t3\n{line}\n")
    with pytest.raises(InputError, match=r"spans\.tsv:2: .*, expected the number of a sentence from 1, a start"):
        SpanFile(tmp_path / "spans.tsv").refuse_beyond(9, tmp_path)


@pytest.mark.parametrize("line", ["2\t2\t4", "2\t0\t1", "1\t9\t10"])
def test_spans_that_overlap_or_go_back_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "spans.tsv").write_text(f"2\t0\t3\n{line}\n")
    with pytest.raises(
        InputError, match=r"spans\.tsv:2: characters .* come after 0 to 3 of sentence 2, expected words"
    ):
        SpanFile(tmp_path / "spans.tsv").refuse_beyond(9, tmp_path)


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


def test_counts_of_one_key_are_added_up_and_divided_by_the_total(tmp_path: Path) -> None:
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
def test_a_line_that_is_not_a_word_and_a_count_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(b"the\t5\n" + line + b"\ncat\t1\n")
    with pytest.raises(InputError, match=rf"table\.tsv:2: .*{found}.*, expected UTF-8: a word, a tab") as raised:
        read_frequencies(path)
    assert len(str(raised.value)) < 300


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("")
    with pytest.raises(InputError, match=r"table\.tsv: no word"):
        read_frequencies(tmp_path / "table.tsv")


@pytest.mark.parametrize(
    ("tokens", "added", "words", "trimmed"),
    [
        (
            [(0, 3), (3, 7), (7, 15)],
            [0, 1],
            [(0, 3), (4, 7), (8, 11), (12, 15)],
            None,
        ),  # a space goes with the next word
        ([(0, 3), (3, 11), (11, 15)], [1], [(0, 3), (4, 11), (12, 15)], None),
        ([(0, 5), (5, 11), (11, 15)], [0], [(0, 7), (8, 11), (12, 15)], None),
        ([(0, 5), (5, 15)], [0, 1], [(0, 15)], None),
        ([(0, 4), (4, 7), (7, 15)], [0], [(0, 3), (4, 7), (8, 11), (12, 15)], [(0, 3), (4, 7), (7, 15)]),
        ([(0, 3), (3, 4), (4, 15)], [1], [(0, 3), (4, 7), (8, 11), (12, 15)], None),
    ],
)
def test_words_that_share_an_added_token_become_one(
    tokens: list[tuple[int, int]], added: list[int], words: list[tuple[int, int]], trimmed: list[tuple[int, int]] | None
) -> None:
    text = "the big dog ran"
    is_added = [i in added for i in range(len(tokens))]
    found = around_added_tokens(text, spaced_words(text), tokens, is_added)
    assert found == (words, trimmed or tokens)
