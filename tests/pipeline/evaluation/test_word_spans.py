"""Words by spans: tokens go where a character-by-character reading puts them, and faulty files are named."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.word_spans import SpanFile, check_words, spaced_words, words_of_tokens
from storage.errors import InputError

Spans = list[tuple[int, int]]


@st.composite
def divided_texts(draw: st.DrawFn) -> tuple[str, Spans, Spans]:
    """A text, its words, and its tokens, which may hold parts of two words."""
    words = draw(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "bc", "d e", "fgh"])), min_size=1, max_size=6))
    text, word_spans = "", Spans()
    for spaced, word in words:
        text += " " if spaced and text else ""
        word_spans.append((len(text), len(text) + len(word)))
        text += word
    cuts = sorted({0, len(text), *draw(st.sets(st.integers(0, len(text)), max_size=len(text)))})
    tokens = list(pairwise(cuts))
    # as of a character whose bytes are in two tokens
    return text, word_spans, sorted([*tokens, *draw(st.lists(st.sampled_from(tokens), max_size=2))])


def slow_words_of_tokens(tokens: Spans, words: Spans) -> list[set[int]]:
    """The words that each token holds characters of: a space in no word is the next word's."""

    def word_at(character: int) -> int:
        return next(i for i, (_, stop) in enumerate(words) if character < stop)

    return [{word_at(character) for character in range(*token)} for token in tokens]


@given(divided_texts())
def test_a_token_belongs_to_the_one_word_it_holds_characters_of_and_else_is_refused(
    case: tuple[str, Spans, Spans],
) -> None:
    text, words, tokens = case
    check_words(text, words)
    expected = slow_words_of_tokens(tokens, words)
    if all(len(found) == 1 for found in expected):
        assert words_of_tokens(text, tokens, words).tolist() == [found.pop() for found in expected]
    else:
        with pytest.raises(ValueError, match="holds parts of two words"):
            words_of_tokens(text, tokens, words)


@given(divided_texts(), st.data())
def test_words_that_leave_out_a_character_or_go_beyond_are_refused(
    case: tuple[str, Spans, Spans], data: st.DataObject
) -> None:
    text, words, _ = case
    i = data.draw(st.integers(0, len(words) - 1))
    with pytest.raises(ValueError, match="in no word"):
        check_words(text, words[:i] + words[i + 1 :])
    with pytest.raises(ValueError, match="of a line of"):
        check_words(text, [*words, (len(text), len(text) + 1)])
    with pytest.raises(ValueError, match="with a space at its edge"):
        check_words(text + " b", [*words, (len(text), len(text) + 2)])


def test_words_between_spaces_are_spans() -> None:
    assert spaced_words("the cat, a") == [(0, 3), (4, 8), (9, 10)]


def test_spans_are_read_alongside_lines_of_which_some_have_none(tmp_path: Path) -> None:
    path = tmp_path / "spans.tsv.gz"
    path.write_bytes(gzip.compress(b"2\t0\t3\n2\t3\t4\n3\t0\t1\n5\t1\t2\n"))
    spans = SpanFile(path)
    assert [spans.of_line(number) for number in (1, 2, 4, 5)] == [[], [(0, 3), (3, 4)], [], [(1, 2)]]
    spans.refuse_beyond(5, tmp_path / "text.txt")
    for last_asked in (2, 3, 4):
        spans = SpanFile(path)
        spans.of_line(last_asked)
        with pytest.raises(InputError, match=r"words of sentence 5, expected at most 4, the lines of .*text\.txt"):
            spans.refuse_beyond(4, tmp_path / "text.txt")


@pytest.mark.parametrize(
    "line", ["sentence\tstart\tstop", "1 3 4", "1\t3", "1\t3\t4\t5", "0\t3\t4", "1\t4\t4", "1\t-3\t4", "1\t3\t4.0", ""]
)
def test_a_line_that_is_no_span_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "spans.tsv").write_text(f"1\t0\t3\n{line}\n")
    with pytest.raises(InputError, match=r"spans\.tsv:2: .*, expected the number of a sentence from 1, a start"):
        SpanFile(tmp_path / "spans.tsv").refuse_beyond(9, tmp_path)


@pytest.mark.parametrize("line", ["2\t2\t4", "2\t0\t1", "1\t9\t10"])
def test_spans_that_overlap_or_go_back_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "spans.tsv").write_text(f"2\t0\t3\n{line}\n")
    with pytest.raises(
        InputError, match=r"spans\.tsv:2: characters .* after 0 to 3 of sentence 2, expected words in asc"
    ):
        SpanFile(tmp_path / "spans.tsv").refuse_beyond(9, tmp_path)
