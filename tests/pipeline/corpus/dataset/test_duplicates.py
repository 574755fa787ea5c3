"""Test the search for duplicates against a slow comparison of strings."""

import re

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.corpus.dataset.duplicates import MIN_SHARE, NUM_WORDS, HeldOut, hash_sentences, is_among

sentences = st.lists(st.sampled_from(["a", "B", "b", ","]), max_size=14).map(" ".join)
LONG = "we show that the cells of the mouse do not divide"


def grams(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + NUM_WORDS]) for i in range(len(words) - NUM_WORDS + 1)]


@given(st.lists(sentences, max_size=6), st.lists(sentences, max_size=6))
@example(["a b b b b b b b"], ["b b a b b b b b"])
@example(["a b b b b b b b"], ["b a b b b b b b", "a b b", "b b b b b"])
def test_duplicates_equal_those_of_a_slow_comparison_of_strings(train: list[str], held_out: list[str]) -> None:
    exact, near = HeldOut([hash_sentences(held_out[:3]), hash_sentences(held_out[3:])]).find(hash_sentences(train))
    assert exact.tolist() == [text in held_out for text in train]
    known = {gram for text in held_out for gram in grams(text)}
    shares = [np.mean([gram in known for gram in grams(text)]) if grams(text) else 0 for text in train]
    expected = [
        share >= MIN_SHARE and text not in held_out if grams(text) else False
        for text, share in zip(train, shares, strict=True)
    ]
    assert near.tolist() == expected


def test_case_and_punctuation_do_not_hide_a_duplicate_and_short_sentences_are_compared_whole() -> None:
    held_out = HeldOut([hash_sentences([LONG, "Figure 1"])])
    train = [LONG, LONG.upper() + " (!)", "Figure 1", "figure 1", "then " * 4 + LONG, "then " * 5 + LONG]
    exact, near = held_out.find(hash_sentences(train))
    assert exact.tolist() == [True, False, True, False, False, False]
    assert near.tolist() == [False, True, False, False, True, False]  # 4 of 8 and 4 of 9 8-grams are held out


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 9), max_size=8))
def test_is_among_equals_membership_in_a_set(values: list[int], known: list[int]) -> None:
    found = is_among(np.array(values, np.uint64), np.unique(np.array(known, np.uint64)))
    assert found.tolist() == [value in known for value in values]
