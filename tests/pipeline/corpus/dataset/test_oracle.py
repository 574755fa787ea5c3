"""Test that trees and actions convert into each other exactly."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT, actions_to_tree, right_branching, tree_to_actions
from pipeline.corpus.trees.trees import Tree
from tests.pipeline.corpus.strategies import LABELS, trees


def numbered(tree: Tree) -> list[tuple[int, int, int]]:
    numbers = {"TOP": 0} | {label: i + 1 for i, label in enumerate(LABELS)}
    return [(numbers[label], start, stop) for label, start, stop in tree.phrases]


@given(trees(st.just("a"), max_leaves=60))
def test_actions_to_tree_inverts_tree_to_actions(tree: Tree) -> None:
    phrases, n = numbered(tree), len(tree.words)
    actions = tree_to_actions(phrases, n)
    assert actions_to_tree(actions) == (phrases, n)
    assert actions.count(SHIFT) == n + 1
    assert actions.count(REDUCE) == len(phrases)
    assert len(actions) == n + 1 + 2 * len(phrases)
    assert actions[0] == FIRST_NT
    assert actions[-2:] == [SHIFT, REDUCE]


@given(st.lists(st.integers(-1, 4), max_size=14))
def test_any_sequence_of_actions_is_refused_or_equals_the_oracle_of_its_tree(actions: list[int]) -> None:
    try:
        phrases, n = actions_to_tree(actions)
    except ValueError:
        return
    assert tree_to_actions(phrases, n) == actions


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)), max_size=4), st.integers(0, 4))
def test_any_phrases_are_refused_or_restored(phrases: list[tuple[int, int, int]], n: int) -> None:
    phrases = [(0, 0, n), *phrases]
    try:
        actions = tree_to_actions(phrases, n)
    except ValueError:
        return
    assert actions_to_tree(actions) == (phrases, n)


def test_the_oracle_gives_the_sequence_of_the_literature() -> None:
    # (TOP (S (NP the cat) (VP sleeps)))
    phrases = [(0, 0, 3), (1, 0, 3), (2, 0, 2), (3, 2, 3)]
    assert tree_to_actions(phrases, 3) == [2, 3, 4, 0, 0, 1, 5, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "actions",
    [
        [],
        [2],
        [2, 0],
        [3, 0, 1],
        [2, 1],
        [2, 3, 1, 0, 1],
        [2, 0, 2, 0, 1, 0, 1],
        [2, 3, 0, 1, 1],
        [2, 3, 0, 1],
        [2, 0, 1, 0],
        [2, 0, 1, 3],
        [2, -1, 0, 1],
    ],
)
def test_invalid_sequences_are_refused(actions: list[int]) -> None:
    with pytest.raises(ValueError, match=r"valid|end"):
        actions_to_tree(actions)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "end with nothing (phrases still open: 0), expected"),
        ([2, 3, 0, 1], "end with SHIFT, REDUCE (phrases still open: 1), expected SHIFT of <eos>, then REDUCE of TOP"),
        ([2, 3, 0, 1, 1], "end with REDUCE, REDUCE (phrases still open: 0), expected"),
        ([2, 0, 1, 3], "action 3 is NT(1), which is not valid"),
        ([2, -1, 0, 1], "action 1 is -1, which is not valid"),
    ],
)
def test_a_refusal_names_the_actions_and_says_how_many_phrases_are_open(actions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        actions_to_tree(actions)


@pytest.mark.parametrize(
    "phrases",
    [[], [(1, 0, 3)], [(0, 0, 2)], [(0, 0, 3), (0, 0, 3)], [(0, 0, 3), (1, 2, 2)], [(0, 0, 3), (1, 2, 4)],
     [(0, 0, 3), (1, 1, 2), (2, 0, 1)], [(0, 0, 3), (1, 0, 2), (1, 1, 3)]],
)  # fmt: skip
def test_phrases_that_are_not_a_tree_are_refused(phrases: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match="phrase"):
        tree_to_actions(phrases, 3)


@given(st.integers(0, 40))
def test_right_branching_trees_have_a_phrase_over_every_suffix_of_two_or_more_tokens(n: int) -> None:
    phrases, found = actions_to_tree(tree_to_actions(right_branching(n), n))
    assert found == n
    assert phrases[1:] == [(1, start, n) for start in range(n - 1)]
