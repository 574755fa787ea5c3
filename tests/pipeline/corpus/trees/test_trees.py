"""Test that formatting and parsing are inverse, and that normalisation is idempotent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.trees.trees import MalformedTreeError, Tree, format_tree, normalise_tree, parse_tree, strip_label
from tests.pipeline.corpus.strategies import LABELS, trees


def normalised(text: str) -> str:
    return format_tree(normalise_tree(parse_tree(text)))


@given(trees())
def test_brackets_give_back_the_tree(tree: Tree) -> None:
    assert parse_tree(format_tree(tree)) == tree


@given(trees())
def test_white_space_between_brackets_is_ignored(tree: Tree) -> None:
    spread = format_tree(tree).replace(" ", "\n  \t").replace(")", " )")
    assert parse_tree(spread) == tree


@given(trees())
def test_normalising_twice_is_normalising_once(tree: Tree) -> None:
    once = normalise_tree(tree)
    assert normalise_tree(once) == once
    assert once.words == tree.words
    assert once.phrases[0] == ("TOP", 0, len(tree.words))
    assert not [1 for above, below in zip(once.phrases, once.phrases[1:], strict=False) if above == below]
    assert set(once.phrases) == {*tree.phrases, once.phrases[0]}


@given(trees(), st.data())
def test_removing_words_keeps_the_phrases_of_the_other_words(tree: Tree, data: st.DataObject) -> None:
    without = data.draw(st.sets(st.integers(0, len(tree.words) - 1), max_size=len(tree.words) - 1))
    found = normalise_tree(tree, without)
    kept = [i for i in range(len(tree.words)) if i not in without]
    assert found.words == tuple(tree.words[i] for i in kept)
    covered = {(label, *[i for i in kept if start <= i < stop]) for label, start, stop in tree.phrases}
    assert {(label, *kept[start:stop]) for label, start, stop in found.phrases} == {c for c in covered if len(c) > 1}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("NP-SBJ", "NP"),
        ("NP-SBJ-1", "NP"),
        ("NP-SBJ=1", "NP"),
        ("NP=2", "NP"),
        ("S-NOM-SBJ", "S"),
        ("-LRB-", "-LRB-"),
        ("-NONE-", "-NONE-"),
        ("PRP$", "PRP$"),
        ("=", "="),
        ("WHADVP-3", "WHADVP"),
        ("NPB~owl~2~1", "NPB"),
        ("NP-TMP^<S,ROOT>", "NP"),
        ("~", "~"),
        ("Q^N", "Q^N"),
    ],
)
def test_function_tags_and_indices_are_stripped(label: str, expected: str) -> None:
    assert strip_label(label) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(ROOT (S (NP-SBJ (PRP I)) (VP (VBP go))))", "(TOP (S (NP (PRP I)) (VP (VBP go))))"),
        ("( (S (VP (VB Go))) )", "(TOP (S (VP (VB Go))))"),
        ("(S (VP (VB Go)))", "(TOP (S (VP (VB Go))))"),
        ("(TOP (VB Edit))", "(TOP (VB Edit))"),
        ("(VB Edit)", "(TOP (VB Edit))"),
        ("(S1 (S (VB a)) (S (VB b)))", "(TOP (S (VB a)) (S (VB b)))"),
        ("( (NP (NP (NN a))))", "(TOP (NP (NN a)))"),
        ("( (NP (NP-SBJ (NN a)) (NP (NN b))))", "(TOP (NP (NP (NN a)) (NP (NN b))))"),
        ("( (S (VP (S (VP (VB a))))))", "(TOP (S (VP (S (VP (VB a))))))"),
        (
            "( (S (NP-SBJ-1 (-NONE- *PRO*)) (VP (VB go) (SBAR (-NONE- 0) (S (NP (-NONE- *T*-1)))))))",
            "(TOP (S (VP (VB go))))",
        ),
        ("( (NP (NP (NN a)) (SBAR (-NONE- *))))", "(TOP (NP (NN a)))"),
        ("( (PRN (-LRB- -LRB-) (NN a) (-RRB- -RRB-)))", "(TOP (PRN (-LRB- -LRB-) (NN a) (-RRB- -RRB-)))"),
        ("( (S (WHADVP (WRB how)) ( (S (NN a)) (. .))))", "(TOP (S (WHADVP (WRB how)) (S (NN a)) (. .)))"),
        ("( ( (TOP (S (NN a)))))", "(TOP (S (NN a)))"),
        (
            "(S (@S (@S (NP (@NP (DT a) (JJ b)) (NN c))) (, ,)) (VP (@ d)))",
            "(TOP (S (NP (DT a) (JJ b) (NN c)) (, ,) (VP (@ d))))",
        ),
        ("(ROOT (S (S|<NP-VP> (NP (NN a)) (VP (VB b))) (. .)))", "(TOP (S (NP (NN a)) (VP (VB b)) (. .)))"),
        ("(S^<ROOT> (S|<> (NP^<S> (NN a))) (S|<NP,.>^<ROOT> (. .)))", "(TOP (S (NP (NN a)) (. .)))"),
        ("(NP (PRT|ADVP (RP a)) (WHNP|X (NN b)))", "(TOP (NP (PRT|ADVP (RP a)) (WHNP|X (NN b))))"),
    ],
)
def test_examples_of_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("( (S (NN a))", "unbalanced brackets", "1 not closed"),
        ("( (S (NN a))))", "unbalanced brackets", "without its"),
        (")", "unbalanced brackets", "without its"),
        ("The cat sat.", "not a tree", "text where a tree was expected: 'The cat sat.'"),
        ("", "not a tree", "empty"),
        ("(S (NP the cat) (VP sat))", "word without a tag", "'the' has no|'cat' has no"),
        ("(S (NN a) b)", "word without a tag", "'b' has no part of speech"),
        ("(S (NN a)) (S (NN b))", "more than one tree", "more than one"),
        ("(NN a) (NN b)", "more than one tree", "more than one"),
        ("(S (NN a)) # note", "more than one tree", "text after the tree"),
        ("()", "empty tree", "an empty tree"),
        ("( (S (NP )))", "empty tree", "an empty tree"),
        ("( (S (NP (-NONE- *))))", "no words", "without words"),
    ],
)
def test_text_that_is_not_one_tree_is_refused_with_a_reason(text: str, reason: str, message: str) -> None:
    with pytest.raises(MalformedTreeError, match=message) as caught:
        normalised(text)
    assert caught.value.reason == reason


def test_deep_trees_are_parsed() -> None:
    depth = 20_000
    text = "".join(f"({LABELS[i % 2]} " for i in range(depth)) + "(NN a)" + ")" * depth
    tree = parse_tree(text)
    assert len(tree.phrases) == depth
    assert format_tree(tree) == text
    assert len(normalise_tree(tree).phrases) == depth + 1
