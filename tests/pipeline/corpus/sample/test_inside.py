"""Test that the inside algorithm equals the sum over all derivations, which a slow reference enumerates."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.sample import inside as inside_module
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pcfg import Grammar, parse_rules
from tests.pipeline.corpus.corpora import terminals_of
from tests.pipeline.corpus.sample.tiny_grammar import TINY, tiny_strings

ENGLISH = english_grammar()
ENGLISH_INSIDE = Inside(ENGLISH)


def test_inside_equals_the_sum_over_all_derivations_and_is_zero_elsewhere():
    expected = tiny_strings()
    assert len(expected) > 300
    found = np.exp(Inside(TINY).log_probs(list(expected)))
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-12)
    generator = np.random.default_rng(0)
    others = {tuple(generator.choice(list("nxvpc"), size=generator.integers(1, 7))) for _ in range(500)} - set(expected)
    assert len(others) > 100
    assert np.isneginf(Inside(TINY).log_probs(sorted(others))).all()


def test_the_probabilities_of_all_strings_sum_to_one():
    # S -> a S b | a b | b has strings of every length. The mass beyond length 60 is about 0.3 ** 30.
    grammar = Grammar(
        parse_rules("30 S -> A S B\n50 S -> A B\n20 S -> B", {}, {"A": {"a": 1}, "B": {"b": 1}}), start="S"
    )
    strings = [["a"] * m + ["b"] * n for m in range(40) for n in range(40) if m + n]
    assert math.isclose(np.exp(Inside(grammar).log_probs(strings)).sum(), 1, rel_tol=1e-12)


def test_batches_and_order_do_not_change_the_probabilities(monkeypatch):
    strings = list(tiny_strings())[:400]
    expected = Inside(TINY).log_probs(strings)
    monkeypatch.setattr(inside_module, "BATCH_POSITIONS", 16)
    np.testing.assert_allclose(Inside(TINY).log_probs(strings[::-1])[::-1], expected, rtol=1e-12)


def test_unknown_words_and_the_empty_string_have_probability_zero():
    assert np.isneginf(Inside(TINY).log_probs([["n", "unknown"], [], ["p"]])).all()
    assert Inside(TINY).log_probs([]).shape == (0,)


def test_long_sentences_do_not_underflow():
    words = {f"w{index}": 1.0 for index in range(1000)}
    grammar = Grammar(parse_rules("49 S -> W S\n51 S -> W", {}, {"W": words}), start="S")
    num_words = 200
    expected = num_words * math.log(1 / 1000) + (num_words - 1) * math.log(0.49) + math.log(0.51)
    assert expected < -1500
    assert math.isclose(Inside(grammar).log_probs([["w7"] * num_words])[0], expected, rel_tol=1e-12)


def test_a_circle_of_unary_rules_is_refused():
    grammar = Grammar(parse_rules("1 S -> A\n50 A -> S\n50 A -> B", {}, {"B": {"b": 1}}), start="S")
    with pytest.raises(ValueError, match="circle"):
        Inside(grammar)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_a_sentence_is_at_least_as_probable_as_one_of_its_derivations(seed):
    derivation = ENGLISH.sample(np.random.default_rng(seed).random)
    log_prob = ENGLISH_INSIDE.log_probs([ENGLISH.words(derivation)])[0]
    assert ENGLISH.log_prob(derivation) - 1e-9 <= log_prob <= 0


def test_an_ambiguous_sentence_is_more_probable_than_each_of_its_trees():
    text = "The boy followed the girl with the dog."
    words = terminals_of(text)
    log_prob = ENGLISH_INSIDE.log_probs([words])[0]
    trees = derivations_of(words, "TOP")
    assert len({tree for tree, _ in trees}) >= 2
    assert max(prob for _, prob in trees) < math.exp(log_prob) * 0.95
    assert math.isclose(sum(prob for _, prob in trees), math.exp(log_prob), rel_tol=1e-9)


def derivations_of(words: list[str], start: str) -> list[tuple[str, float]]:
    """Return (tree with features, probability) of every derivation. Memoised recursion over spans enumerates them."""
    rules_of = {symbol: [rule for rule in ENGLISH.rules if rule.lhs == symbol] for symbol in ENGLISH.symbols}

    @cache
    def spans(symbol: str, i: int, j: int) -> list[tuple[str, float]]:
        found = []
        for rule in rules_of[symbol]:
            if rule.is_lexical:
                if j == i + 1 and rule.rhs[0] == words[i]:
                    found.append((f"({symbol} {words[i]})", rule.prob))
            else:
                found += [(f"({symbol} {tree})", rule.prob * prob) for tree, prob in sequences(rule.rhs, i, j)]
        return found

    @cache
    def sequences(symbols: tuple[str, ...], i: int, j: int) -> list[tuple[str, float]]:
        if len(symbols) == 1:
            return spans(symbols[0], i, j)
        found = []
        for k in range(i + 1, j - len(symbols) + 2):
            rest = sequences(symbols[1:], k, j)
            if rest:
                found += [(a + b, p * q) for a, p in spans(symbols[0], i, k) for b, q in rest]
        return found

    return spans(start, 0, len(words))


def test_inside_equals_the_sum_over_listed_derivations_of_english_sentences():
    source = np.random.default_rng(5).random
    sentences = [ENGLISH.words(ENGLISH.sample(source)) for _ in range(40)]
    sentences = [words for words in sentences if len(words) <= 9][:8]
    found = ENGLISH_INSIDE.log_probs(sentences)
    expected = [math.log(sum(prob for _, prob in derivations_of(words, "TOP"))) for words in sentences]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_exact_probability_agrees_with_monte_carlo_frequency():
    source = np.random.default_rng(11).random
    num_draws = 20_000
    counts: dict[tuple[str, ...], int] = {}
    for _ in range(num_draws):
        words = tuple(ENGLISH.words(ENGLISH.sample(source)))
        counts[words] = counts.get(words, 0) + 1
    frequent = sorted(counts, key=lambda words: -counts[words])[:200]
    probs = np.exp(ENGLISH_INSIDE.log_probs(frequent))
    # The strings were selected by their counts, so these counts are too high. Compare with an independent sample.
    fresh = dict.fromkeys(frequent, 0)
    for _ in range(num_draws):
        words = tuple(ENGLISH.words(ENGLISH.sample(source)))
        if words in fresh:
            fresh[words] += 1
    expected = probs.sum() * num_draws
    assert expected > 100
    assert abs(sum(fresh.values()) - expected) < 5 * math.sqrt(expected)
