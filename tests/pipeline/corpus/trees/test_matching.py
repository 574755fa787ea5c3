"""Test that words are found in the raw text by their characters."""

import pytest
from hypothesis import given

from pipeline.corpus.text.text_files import escape_brackets, normalise_text, unescape_brackets
from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import Tree, parse_tree
from tests.pipeline.corpus.strategies import sentences, words


@given(sentences().filter(lambda s: normalise_text(s.text) == s.text))
def test_words_are_found_with_any_spaces(sentence: Sentence) -> None:
    spans = match_words(sentence.tree, sentence.text)
    assert spans is not None
    assert [sentence.text[a:b] for a, b in filter(None, spans)] == [sentence.text[a:b] for a, b in sentence.spans]


@given(words)
def test_escaped_words_can_be_leaves_of_trees(word: str) -> None:
    escaped = escape_brackets(word)
    assert not set("() ") & set(escaped)
    assert unescape_brackets(escaped) == unescape_brackets(word)


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        ("-LRB-a-RRB- friend-LRB-s-RRB-", "(a) friend(s)"),
        ("-LSB- 1 -RSB- -LCB- x -RCB-", "[1] {x}"),
        ("`` Go '' , he said", '"Go", he said'),
        ("`` Go ''", "\u201cGo\u201d"),
        ("` Go ' do n't", "\u2018Go\u2019 don\u2019t"),
        ("a -- b", "a \u2014 b"),
        ("a -- b", "a - b"),
        ("a ... b", "a \u2026 b"),
        (r"1\/2 a\*", "1/2 a*"),
        ("1/2", "1/2"),
        ("10000", "10 000"),
        ("-LRB-", "-LRB-"),
        ("cafe\u0301", "caf\u00e9"),
        ("dogs ' ''", "dogs' \""),
    ],
)
def test_treebank_spellings_match_the_text(leaves: str, text: str) -> None:
    tree = parse_tree("(TOP " + " ".join(f"(NN {leaf})" for leaf in leaves.split()) + ")")
    spans = match_words(tree, text)
    assert spans is not None
    assert "".join(text[a:b] for a, b in filter(None, spans)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("leaves", "text"), [("a b", "a c"), ("a b", "a"), ("a", "a b"), ("non - sports", "nonsports")]
)
def test_other_words_do_not_match(leaves: str, text: str) -> None:
    assert match_words(parse_tree("(TOP " + " ".join(f"(NN {leaf})" for leaf in leaves.split()) + ")"), text) is None


def test_markup_is_skipped_if_the_text_does_not_have_it() -> None:
    tree = parse_tree("(TOP (CODE <disfluency>) (DT a) (CODE </disfluency>) (, ,) (DT a) (SU /))")
    assert match_words(tree, "a, a") == [None, (0, 1), None, (1, 2), (3, 4), None]
    assert match_words(tree, "a, a /") == [None, (0, 1), None, (1, 2), (3, 4), (5, 6)]
    assert match_words(Tree(("a", "/"), ("DT", "NN"), (("TOP", 0, 2),)), "a") is None
