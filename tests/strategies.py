"""Generate random sentences with trees, as token ids and oracle actions."""

import numpy as np
from hypothesis import strategies as st

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from storage.ragged import Ragged

NUM_LABELS = 6
VOCAB_SIZE = 23
EOS_ID = 1

Sentence = tuple[list[int], list[int]]
"""Token ids and oracle actions of a sentence."""


def actions_of(children: list) -> list[int]:
    """Return the oracle actions of a phrase's children. None is a token; (label, children) is a constituent."""
    actions = []
    for child in children:
        actions += [SHIFT] if child is None else [FIRST_NT + child[0], *actions_of(child[1]), REDUCE]
    return actions


def sentence(children: list, tokens: list[int] | None = None) -> Sentence:
    """Return a sentence made from the children of TOP. Without ``tokens``, the token ids count up from 2."""
    actions = [FIRST_NT, *actions_of(children), SHIFT, REDUCE]
    num_tokens = actions.count(SHIFT) - 1
    return (tokens or [2 + i % (VOCAB_SIZE - 2) for i in range(num_tokens)]), actions


def phrases() -> st.SearchStrategy:
    """Generate the children of a phrase. A phrase has at least one child."""
    return st.recursive(
        st.lists(st.none(), min_size=1, max_size=4),
        lambda inner: st.lists(st.none() | st.tuples(st.integers(1, NUM_LABELS - 1), inner), min_size=1, max_size=4),
        max_leaves=12,
    )


def sentences() -> st.SearchStrategy[Sentence]:
    """Generate sentences of any shape, including the sentence with one token."""
    return phrases().map(sentence)


UNARY_CHAIN = sentence([(1, [(2, [(3, [(4, [(5, [(1, [(2, [(3, [(4, [None])])])])])])])])])])
WIDE = sentence([(2, [None] * 40)])
ONE_TOKEN = sentence([None])
DEEP = sentence([(1, [None, (2, [None, (3, [None, (4, [None, (5, [None, None])])])])])])
CORNER_CASES = [UNARY_CHAIN, WIDE, ONE_TOKEN, DEEP]


def batch(some: list[Sentence]) -> tuple[Ragged, Ragged]:
    """Return the tokens and the actions of sentences."""
    return (
        Ragged.from_lists([tokens for tokens, _ in some], np.uint16),
        Ragged.from_lists([actions for _, actions in some], np.uint8),
    )
