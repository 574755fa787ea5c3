"""Test that the built-in grammar is a proper, subcritical PCFG of English, and that text and words correspond."""

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.lexicon import VERBS, other_number, verb_forms
from pipeline.corpus.sample.pcfg import Grammar, label_of, parse_rules, text_of_words
from tests.pipeline.corpus.corpora import terminals_of

GRAMMAR = english_grammar()
PHRASE_LABELS = {"TOP", "S", "SQ", "SBARQ", "SBAR", "NP", "VP", "PP", "ADJP", "ADVP", "WHNP"}
VERB_TAGS = {"VB", "VBZ", "VBP", "VBD", "VBN", "VBG", "MD", "TO"}
OTHER_TAGS = {"DT", "NN", "NNS", "NNP", "PRP", "PRP$", "POS", "JJ", "CD", "IN", "RB", "CC", "WP", "WDT", "EX", ",", "."}
TREEBANK_LABELS = PHRASE_LABELS | VERB_TAGS | OTHER_TAGS


def uniform(seed: int) -> Callable[[], float]:
    return np.random.default_rng(seed).random


@cache
def sampled(num: int, seed: int = 0) -> list[list[int]]:
    source = uniform(seed)
    return [GRAMMAR.sample(source) for _ in range(num)]


@cache
def inside() -> Inside:
    return Inside(GRAMMAR)


def is_sentence(text: str) -> bool:
    return bool(np.isfinite(inside().log_probs([terminals_of(text)])[0]))


def test_the_rules_of_every_symbol_sum_to_one():
    totals: dict[str, float] = {}
    for rule in GRAMMAR.rules:
        assert rule.prob > 0
        totals[rule.lhs] = totals.get(rule.lhs, 0.0) + rule.prob
    assert set(totals) == set(GRAMMAR.symbols)
    np.testing.assert_allclose(list(totals.values()), 1, rtol=1e-12)


def test_variables_share_a_weight_in_proportion_to_their_domain():
    domains = {"x": {"p": 1.0, "q": 3.0}}
    lexicon = {"B[p]": {"b": 1.0}, "B[q]": {"c": 1.0}, "C": {"d": 2.0, "e": 6.0}}
    rules = parse_rules("20 A -> B[$x1] B[$x2]\n20 A -> C\n1 D[$x] -> B[$x] C", domains, lexicon)
    probs = {(rule.lhs, rule.rhs): rule.prob for rule in rules if rule.lhs != "B[p]"}
    assert probs["A", ("B[p]", "B[p]")] == pytest.approx(1 / 32)
    assert probs["A", ("B[p]", "B[q]")] == pytest.approx(3 / 32)
    assert probs["A", ("B[q]", "B[q]")] == pytest.approx(9 / 32)
    assert probs["A", ("C",)] == pytest.approx(1 / 2)
    assert probs["D[q]", ("B[q]", "C")] == 1
    assert probs["C", ("e",)] == pytest.approx(3 / 4)


def test_sentences_end_and_have_the_expected_length():
    assert GRAMMAR.spectral_radius < 0.8
    assert 10 <= GRAMMAR.expected_length <= 12
    lengths = np.array([len(GRAMMAR.words(derivation)) for derivation in sampled(4000)])
    standard_error = lengths.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() - GRAMMAR.expected_length) < 4 * standard_error
    assert (lengths > 30).mean() < 0.03


def test_a_grammar_whose_sentences_may_not_end_is_refused():
    rules = parse_rules("60 S -> S S\n40 S -> A", {}, {"A": {"a": 1}})
    with pytest.raises(ValueError, match=r"spectral radius 1\.200"):
        Grammar(rules, start="S")


def test_rules_are_drawn_with_their_probability():
    counts = np.zeros(len(GRAMMAR.rules))
    for derivation in sampled(4000):
        np.add.at(counts, derivation, 1)
    totals = dict.fromkeys(GRAMMAR.symbols, 0.0)
    for rule, count in zip(GRAMMAR.rules, counts, strict=True):
        totals[rule.lhs] += count
    scores = [
        (count - totals[rule.lhs] * rule.prob) / np.sqrt(totals[rule.lhs] * rule.prob * (1 - rule.prob))
        for rule, count in zip(GRAMMAR.rules, counts, strict=True)
        if totals[rule.lhs] * rule.prob > 20 and rule.prob < 1
    ]
    assert len(scores) > 200
    assert np.abs(scores).max() < 5  # in standard deviations, for some hundred rules
    assert 0.8 < np.std(scores) < 1.2


@given(st.lists(st.sampled_from(GRAMMAR.terminals), max_size=12))
def test_text_and_terminal_strings_are_in_one_to_one_correspondence(words):
    assert terminals_of(text_of_words(words)) == words


def test_two_words_that_a_capital_letter_would_merge_are_refused():
    rules = parse_rules("1 S -> A", {}, {"A": {"rose": 1, "Rose": 1}})
    with pytest.raises(ValueError, match="first letter"):
        Grammar(rules, start="S")


@pytest.mark.parametrize("word", ["boy's", "two words", "etc.", "(x"])
def test_a_word_that_cannot_be_restored_from_text_is_refused(word):
    with pytest.raises(ValueError, match="rename it"):
        Grammar(parse_rules("1 S -> A", {}, {"A": {word: 1}}), start="S")


def test_trees_are_well_formed_and_carry_the_words_of_the_text():
    for derivation in sampled(500):
        tree = GRAMMAR.tree(derivation)
        assert tree.startswith("(TOP (S")
        assert tree.count("(") == tree.count(")")
        assert not set("_[/") & set(tree)
        leaves = re.findall(r"\(\S+ ([^()\s]+)\)", tree)
        assert text_of_words(leaves) == text_of_words(GRAMMAR.words(derivation))
        assert set(re.findall(r"\((\S+)", tree)) <= TREEBANK_LABELS


def test_no_phrase_has_a_phrase_of_its_own_label_as_its_only_child():
    def alone(symbol: str) -> set[str]:
        """Return the labels of the phrases that can cover the whole span of ``symbol``; hidden symbols are expanded."""
        if not symbol.startswith("_"):
            return {label_of(symbol)}
        units = [rule.rhs[0] for rule in GRAMMAR.rules if rule.lhs == symbol and len(rule.rhs) == 1]
        return set().union(*map(alone, units))

    for rule in GRAMMAR.rules:
        if not rule.is_lexical and len(rule.rhs) == 1:
            assert label_of(rule.lhs) not in alone(rule.rhs[0]), rule


GOOD_AND_BAD = [
    ("The teacher near the boys smiles.", "The teacher near the boys smile."),
    ("The boys that the teacher likes smile.", "The boys that the teacher likes smiles."),
    ("The girl who sees the boys sees herself.", "The girl who sees the boys sees themselves."),
    ("The king thinks that the queen loves herself.", "The king thinks that the queen loves himself."),
    ("Do the boys near the teacher laugh?", "Does the boys near the teacher laugh?"),
    ("I am happy.", "I is happy."),
    ("A boy helps an owl.", "An boy helps an owl."),
    ("These sheep sleep.", "These sheep sleeps."),
    ("No boy has ever smiled.", "Every boy has ever smiled."),
    ("There are some boys near the house.", "There is some boys near the house."),
    ("The boy and the girl smile.", "The boy and the girl smiles."),
    ("These boys smile.", "This boys smile."),
    ("Many boys smile.", "Many boy smiles."),
    ("A happy old man sings.", "An happy old man sings."),
    ("She sees him.", "Her sees him."),
    ("The teacher wants to help himself.", "The teacher wants to help itself."),
    ("Who does the girl like?", "Who does the girl like the boy?"),
    ("The book that the boy found is old.", "The book that the boy found it is old."),
    ("The letters surprise the boy.", "The letters think that the boy smiles."),
]


@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD)
def test_agreement_binding_and_gaps_are_exact(good, bad):
    assert is_sentence(good)
    assert not is_sentence(bad)


def test_a_present_verb_of_the_wrong_number_after_a_pronoun_has_probability_zero():
    swap = other_number()
    flipped = []
    for derivation in sampled(4000):
        words = GRAMMAR.words(derivation)
        # ``he`` and ``she`` are always the subject of the next verb.
        flipped += [
            [*words[: index + 1], swap[words[index + 1]], *words[index + 2 :]]
            for index in range(len(words) - 1)
            if words[index] in {"he", "she"} and words[0] not in {"do", "does", "did"} and words[index + 1] in swap
        ]
    # In a question the auxiliary precedes the subject, and the verb after the subject is a bare form.
    flipped = [words for words in flipped if words[-1] != "?"]
    assert len(flipped) > 100
    assert np.isneginf(inside().log_probs(flipped)).all()


def test_a_good_share_of_sentences_has_an_attractor():
    """An attractor is a noun of the other number between the head of the subject and the verb."""

    def num_attractors(derivation: list[int]) -> int:
        found = 0
        stack: list[tuple[str, str]] = [(GRAMMAR.start, "")]  # symbol, and the number of the modified subject around it
        for index in derivation:
            rule = GRAMMAR.rules[index]
            symbol, inside_subject = stack.pop()
            assert symbol == rule.lhs
            label = label_of(symbol)
            if rule.is_lexical:
                found += label in {"NN", "NNS"} and inside_subject not in {"", label}
                continue
            modified = symbol.startswith("_MODIFIED") and inside_subject == "subject"
            number = "NNS" if re.search(r"\[(they|dogs|cups)\]", symbol) else "NN"
            for child in reversed(rule.rhs):
                if symbol.startswith("NP/s["):
                    stack.append((child, "subject" if child.startswith("_MODIFIED") else ""))
                elif modified:
                    stack.append((child, "" if child.startswith("NP/b") else number))
                else:
                    stack.append((child, inside_subject))
        return found

    share = np.mean([num_attractors(derivation) > 0 for derivation in sampled(4000)])
    assert share > 0.15


def test_every_verb_has_its_forms():
    forms = verb_forms("carry")
    assert forms == {
        "VB": "carry",
        "VBP": "carry",
        "VBZ": "carries",
        "VBD": "carried",
        "VBN": "carried",
        "VBG": "carrying",
    }
    assert verb_forms("run/ran/run/running")["VBG"] == "running"
    assert verb_forms("watch")["VBZ"] == "watches"
    assert "VBG" not in verb_forms("~know/knew/known")
    assert sum(len(verbs.split()) for verbs in VERBS.values()) > 50
    assert 300 <= len(GRAMMAR.terminals) <= 600
