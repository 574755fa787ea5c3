"""Test that next-word distributions equal an enumeration of strings, and multiply to the inside probability."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pcfg import Grammar, parse_rules
from pipeline.corpus.sample.prefix import Branch, NextWords
from tests.pipeline.corpus.sample.tiny_grammar import TINY, strings_by_enumeration, tiny_strings

ENGLISH = english_grammar()
FINITE = Grammar(
    parse_rules(
        """
        3 S -> A B
        2 S -> A
        1 S -> A B A
        4 S -> C
        1 C -> A A B
        1 A -> X
        1 A -> Y
        1 X -> W
        """,
        {},
        {"W": {"a": 1, "b": 2}, "Y": {"b": 1, "c": 3}, "B": {"a": 2, "d": 1}},
    ),
    start="S",
)


@pytest.fixture(scope="module")
def english() -> NextWords:
    return NextWords(ENGLISH)


def gold_log_probs(next_words: NextWords, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the sum of the log-probabilities of the words and the end of each sentence."""
    columns = {word: index for index, word in enumerate(next_words.words)}
    end = len(columns)
    rows = next_words.probs(sentences)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-12)
    gold = np.concatenate([[*(columns[word] for word in words), end] for words in sentences])
    lengths = np.array([len(words) + 1 for words in sentences])
    return np.add.reduceat(np.log(rows[np.arange(len(gold)), gold]), np.cumsum(lengths) - lengths)


def test_every_next_word_distribution_of_a_finite_grammar_equals_an_enumeration():
    strings = strings_by_enumeration(FINITE, 10)
    assert math.isclose(sum(strings.values()), 1, rel_tol=1e-12)
    next_words = NextWords(FINITE)
    for sentence in strings:
        rows = next_words.probs([sentence])
        for n in range(len(sentence) + 1):
            after = {s: p for s, p in strings.items() if s[:n] == sentence[:n]}
            expected = [sum(p for s, p in after.items() if s[n : n + 1] == (word,)) for word in next_words.words]
            expected.append(sum(p for s, p in after.items() if len(s) == n))
            np.testing.assert_allclose(rows[n], np.array(expected) / sum(after.values()), rtol=1e-12)


def test_with_left_recursion_and_homographs_the_factors_multiply_to_the_enumerated_probability():
    strings = tiny_strings()
    found = gold_log_probs(NextWords(TINY), list(strings))
    np.testing.assert_allclose(found, np.log(list(strings.values())), rtol=1e-12)


def test_on_the_english_grammar_the_factors_multiply_to_the_inside_probability(english):
    source = np.random.default_rng(3).random
    sentences = [ENGLISH.words(ENGLISH.sample(source)) for _ in range(120)]
    assert max(map(len, sentences)) > 20
    np.testing.assert_allclose(gold_log_probs(english, sentences), Inside(ENGLISH).log_probs(sentences), rtol=1e-12)


def test_a_word_that_cannot_come_has_probability_exactly_zero(english):
    rows = english.probs([["this", "boy", "sleeps", "."]])
    assert (rows >= 0).all()
    column = {word: index for index, word in enumerate(english.words)}
    assert rows[2, column["sleep"]] == 0
    assert rows[1, column["boys"]] == 0
    assert (rows[:-1, -1] == 0).all()
    assert rows[-1].tolist() == [0.0] * len(english.words) + [1.0]


def test_a_branch_has_the_row_of_the_sentence_that_begins_with_it(english):
    sentences = [["the", "dogs", "sleep", "."], ["she", "smiles", "."]]
    branches = [Branch(sentence=1, num_words=1, word="sleeps"), Branch(sentence=0, num_words=1, word="dog")]
    rows = english.probs(sentences, branches)
    assert len(rows) == 5 + 4 + 2
    for row, words in zip(rows[-2:], (["she", "sleeps"], ["the", "dog"]), strict=True):
        np.testing.assert_allclose(row, english.probs([words])[-1], rtol=1e-12, atol=1e-15)
    impossible = english.probs([["she", "smiles", "."]], [Branch(sentence=0, num_words=1, word="smile")])
    assert not impossible[-1].any()


def test_long_sentences_do_not_underflow():
    words = {f"w{index}": 1.0 for index in range(1000)}
    grammar = Grammar(parse_rules("49 S -> W S\n51 S -> W", {}, {"W": words}), start="S")
    expected = 200 * math.log(1 / 1000) + 199 * math.log(0.49) + math.log(0.51)
    assert math.isclose(gold_log_probs(NextWords(grammar), [["w7"] * 200])[0], expected, rel_tol=1e-12)


def test_neighbours_are_the_pairs_of_words_that_strings_contain():
    next_words = NextWords(FINITE)
    pairs = {pair for string in strings_by_enumeration(FINITE, 10) for pair in pairwise(string)}
    found = {
        (next_words.words[i], next_words.words[j]) for i, j in zip(*np.nonzero(next_words.neighbours), strict=True)
    }
    assert found == pairs
