"""Test the statistics of a split against a slow walk over its trees."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset import split_statistics
from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT, tree_to_actions
from pipeline.corpus.text.documents import Document
from pipeline.corpus.trees.trees import Tree, normalise_tree
from storage.ragged import Ragged
from tests.pipeline.corpus.strategies import trees

LABELS = ("TOP", "NP", "PP", "S", "VP", "X")


def arrays_of(found: list[Tree], document_ids: list[int]) -> dict[str, Any]:
    rows = [
        tree_to_actions([(LABELS.index(label), start, stop) for label, start, stop in tree.phrases], len(tree.words))
        for tree in found
    ]
    actions = Ragged.from_lists(rows, np.int16)
    tokens = Ragged.from_lists([[5] * len(tree.words) for tree in found], np.uint16)
    return {
        "tokens": tokens.values,
        "offsets": tokens.offsets,
        "actions": actions.values,
        "action_offsets": actions.offsets,
        "num_words": np.array([len(tree.words) for tree in found], np.int32),
        "document_ids": np.array(document_ids, np.int32),
    }


def walk(row: list[int]) -> tuple[int, list[tuple[str, list[str]]]]:
    """Return the height, and for each phrase except TOP its label and the kinds of its children."""
    stack: list[tuple[str, list[str]]] = []
    found, height = [], 0
    for action in row:
        if action == SHIFT:
            stack[-1][1].append("token")
        elif action == REDUCE:
            done = stack.pop()
            if stack:
                found.append(done)
                stack[-1][1].append("phrase")
        else:
            stack.append((LABELS[action - FIRST_NT], []))
            height = max(height, len(stack))
    return height, found


def histogram(counts: Counter[int], most: int) -> list[int]:
    capped: Counter[int] = Counter()
    for size, count in counts.items():
        capped[min(size, most)] += count
    return [capped[i] for i in range(max(capped, default=-1) + 1)]


@given(st.lists(trees(max_leaves=12).map(normalise_tree), min_size=1, max_size=8))
def test_histograms_equal_the_counts_of_a_slow_walk_over_the_trees(found: list[Tree]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_statistics, "_ROWS", 3)
        patch.setattr(split_statistics, "MAX_CHILDREN", 3)
        patch.setattr(split_statistics, "MAX_LENGTH", 9)
        arrays = arrays_of(found, [0] * len(found))
        statistics = split_statistics.split_statistics(arrays, LABELS, ())
    actions = Ragged(arrays["actions"], arrays["action_offsets"])
    walked = [walk(row.tolist()) for row in actions]
    phrases = [phrase for _, of_tree in walked for phrase in of_tree]
    assert statistics["heights"] == histogram(Counter(height for height, _ in walked), 99)
    assert statistics["max_height"] == max(height for height, _ in walked)
    assert statistics["children"] == histogram(Counter(len(children) for _, children in phrases), 3)
    assert statistics["mean_height"] == pytest.approx(np.mean([height for height, _ in walked]))
    if phrases:
        assert statistics["mean_children"] == pytest.approx(np.mean([len(children) for _, children in phrases]))
        assert statistics["unary_share"] == pytest.approx(np.mean([kinds == ["phrase"] for _, kinds in phrases]))
    assert statistics["labels"] == {label: sum(each == label for each, _ in phrases) for label in LABELS[1:]}
    lengths = histogram(Counter(len(tree.words) for tree in found), 9)
    assert statistics["tokens"] == statistics["words"] == lengths


def test_sources_are_sorted_by_size_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = normalise_tree(Tree(("a", "b"), ("X", "X"), (("S", 0, 2),)))
    arrays = arrays_of([tree] * 6, [1, 1, 2, 3, 0, 5])
    documents = [Document("a", "x", "L"), Document("b"), Document("c", "x"), Document("d", "lost"), Document("e", "y")]
    found = split_statistics.split_statistics(arrays, LABELS, documents)["sources"]
    assert found == {
        "x": {"num_documents": 2, "num_sentences": 3, "num_tokens": 6, "licences": "L, not known"},
        "not known": {"num_documents": 1, "num_sentences": 2, "num_tokens": 4, "licences": "not known"},
        "y": {"num_documents": 1, "num_sentences": 1, "num_tokens": 2, "licences": "not known"},
    }
    monkeypatch.setattr(split_statistics, "MAX_SOURCES", 1)
    found = split_statistics.split_statistics(arrays, LABELS, documents)["sources"]
    assert list(found) == ["x", "2 others"]  # type: ignore[arg-type]
    assert found["2 others"] == {"num_documents": 2, "num_sentences": 3, "num_tokens": 6, "licences": ""}  # type: ignore[call-overload, index]
