"""The level schedule: in which order the LSTM cells of a batch of trees can run together.

With the tree given, an RNNG needs no action loop.

1. A composition depends only on what is below it in the tree, so all constituents of height 1 in the batch are
   composed at once, then those of height 2, and so on.
2. Stack states form a trie: a push is a child of the state it is pushed onto, and sits exactly one element deeper.
   All pushes of depth 1 are computed at once, then those of depth 2, and so on.

This module is integer work only, in numpy, vectorised over all actions of a batch; it never loops over nodes.
What is not needed is left out: ``<eos>`` and the last REDUCE are the last two actions of a sentence, nothing is read
from the states after them, and what that REDUCE composes is never looked at.

Shape letters: M sentences, N tokens (``<eos>`` not counted), P = N + M positions, K composed constituents, O pushes
of nonterminals (with the binary strategy: of ``<bos>``), S rows: the pushes that matter, which are all actions but
the last two of each sentence. The state after push ``t`` is what action ``t + 1`` is decided from, so rows are also
the decisions.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.next_token import append_eos
from storage.ragged import Ragged
from teacher.derivation import Derivation


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositionLevel:
    """The constituents of one height, most children first; their values follow those of lower heights."""

    labels: np.ndarray
    """int64 ``[m]``: label of each constituent."""
    children: np.ndarray
    """int64 ``[2, c]``: where each child's value stands among N tokens followed by K constituents. Row 0 lists all
    first children, then all second children, and so on; row 1 does so counting from the right."""
    step_sizes: tuple[int, ...]
    """How many of the constituents have a first child, a second child, and so on; sums to c."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackLevel:
    """The pushes of one stack depth, in row order.

    Several things are pushed onto one state in the course of a derivation: a nonterminal and what it became, or all
    that grows from one left corner. First pushes come first, then second pushes, and so on; the states with most
    pushes come first in each, so that every group belongs to the first few of ``parents``.
    """

    parents: np.ndarray
    """int64 ``[q]``: rows (of S) pushed onto, each once; empty at depth 1."""
    group_sizes: tuple[int, ...]
    """How many of the parents have a first push, a second push, and so on; the first is q. Empty at depth 1."""
    size: int
    """Rows of this depth: the sum of ``group_sizes``, but the number of sentences at depth 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Everything a level-parallel pass over a batch needs besides the weights."""

    tokens: np.ndarray
    """int64 ``[N]``."""
    gold: np.ndarray
    """int64 ``[P]``: the token of each position, ``<eos>`` included."""
    compositions: tuple[CompositionLevel, ...]
    """Height 1 first."""
    nt_labels: np.ndarray
    """int64 ``[O]``: labels of the nonterminals pushed, TOP's included, in order of action."""
    inputs: np.ndarray
    """int64 ``[S]``: what each row pushes, among N tokens, K constituents and O nonterminals, in that order."""
    stack: tuple[StackLevel, ...]
    """Depth 1 first; their rows in order are the S rows."""
    position_rows: np.ndarray
    """int64 ``[P]``: the row whose state predicts each position's token."""
    next_actions: np.ndarray
    """int64 ``[S]``: the action decided from each row."""
    reduce_allowed: np.ndarray
    """bool ``[S]``: whether REDUCE is a valid action there."""
    action_index: np.ndarray
    """int64 ``[S]``: where that action stands among all actions of the batch."""
    actions: Ragged
    """int64: the actions scheduled, M rows."""

    @property
    def num_constituents(self) -> int:
        """K."""
        return sum(len(level.labels) for level in self.compositions)

    @property
    def num_rounds(self) -> int:
        """Sequential rounds of LSTM cells a layer of the stack and the composition need together."""
        return len(self.stack) + sum(1 + len(level.step_sizes) for level in self.compositions)


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeBatch:
    """This rank's slice of a batch of sentences with their trees."""

    schedule: Schedule
    num_positions_global: int


def build_schedule(tokens: Ragged, actions: Ragged, derivation: Derivation, *, eos_id: int) -> Schedule:
    """Return the schedule of a batch of sentences.

    Args:
        tokens: Token ids of M sentences, without ``<eos>``.
        actions: Their actions, complete: ``NT(TOP)`` … ``SHIFT`` of ``<eos>``, ``REDUCE``.
        derivation: Of these actions.
        eos_id: Id of ``<eos>``.
    """
    action, last, depth = derivation.action, derivation.last, derivation.depth
    is_nt, is_shift, is_reduce = action >= FIRST_NT, action == SHIFT, action == REDUCE
    is_row = np.ones(len(action), bool)
    is_row[last] = is_row[last - 1] = False
    words, composed = np.flatnonzero(is_shift & is_row), np.flatnonzero(is_reduce & is_row)

    num_children = np.bincount(derivation.owner[derivation.owner >= 0], minlength=len(action))
    height = _heights(derivation.owner, num_children, words)
    composed = composed[np.lexsort((composed, -num_children[composed], height[composed]))]
    # Where the value that an action pushes stands, among tokens, constituents and nonterminals.
    place = np.full(len(action), -1)
    place[words] = np.arange(len(words))
    place[composed] = len(words) + np.arange(len(composed))
    place[is_nt] = len(words) + len(composed) + np.arange(int(is_nt.sum()))

    rows, stack = _stack_levels(np.flatnonzero(is_row), depth)
    row_of = np.full(len(action), -1)
    row_of[rows] = np.arange(len(rows))
    return Schedule(
        tokens=tokens.values.astype(np.int64),
        gold=append_eos(tokens, eos_id).values,
        compositions=_composition_levels(derivation, composed, num_children, height, place),
        nt_labels=action[is_nt] - FIRST_NT,
        inputs=place[rows],
        stack=stack,
        position_rows=row_of[np.flatnonzero(is_shift) - 1],
        next_actions=action[rows + 1],
        reduce_allowed=derivation.reduce_allowed[rows],
        action_index=rows + 1,
        actions=actions,
    )


def _heights(owner: np.ndarray, num_children: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the height of what each action composes: 0 for a word, else one more than its highest child."""
    height = np.zeros(len(owner), np.int64)
    missing = num_children.copy()
    reached = words
    round_ = 0
    while len(reached):
        round_ += 1
        owners, arrived = np.unique(owner[reached][owner[reached] >= 0], return_counts=True)
        missing[owners] -= arrived
        reached = owners[missing[owners] == 0]
        height[reached] = round_
    return height


def _composition_levels(
    derivation: Derivation, composed: np.ndarray, num_children: np.ndarray, height: np.ndarray, place: np.ndarray
) -> tuple[CompositionLevel, ...]:
    """Return the levels of the constituents ``composed``, times of their REDUCEs in the order of their values."""
    order = np.full(len(place), -1)
    order[composed] = np.arange(len(composed))
    children = np.flatnonzero(derivation.owner >= 0)
    children = children[np.lexsort((children, order[derivation.owner[children]]))]
    owner = order[derivation.owner[children]]

    sizes, heights = num_children[composed], height[composed]
    starts = np.cumsum(sizes) - sizes
    from_left = np.arange(len(owner)) - starts[owner]
    from_right = sizes[owner] - 1 - from_left
    forward = np.lexsort((owner, from_left, heights[owner]))
    backward = np.lexsort((owner, from_right, heights[owner]))
    value = place[children]
    both = np.stack([value[forward], value[backward]])
    step, step_height = from_left[forward], heights[owner][forward]

    levels = []
    labels = derivation.label[composed]
    max_height = int(heights[-1]) if len(heights) else 0
    ends = np.searchsorted(heights, np.arange(max_height + 1), side="right")
    child_ends = np.searchsorted(step_height, np.arange(max_height + 1), side="right")
    for h in range(max_height):
        at = slice(child_ends[h], child_ends[h + 1])
        levels.append(
            CompositionLevel(
                labels=labels[ends[h] : ends[h + 1]],
                children=both[:, at],
                step_sizes=tuple(np.bincount(step[at]).tolist()),
            )
        )
    return tuple(levels)


def _stack_levels(pushes: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, tuple[StackLevel, ...]]:
    """Return the times of pushes in row order, and their levels."""
    if not len(pushes):
        return pushes, ()
    # A push lands on the last one before it that is one element less deep.
    stride = len(depth) + 1
    by_depth = pushes[np.lexsort((pushes, depth[pushes]))]
    key = depth[by_depth] * stride + by_depth
    below = np.searchsorted(key, (depth[pushes] - 1) * stride + pushes) - 1
    parent = np.where(depth[pushes] > 1, by_depth[below], -1)

    deep = parent >= 0
    num_pushes = np.bincount(parent[deep], minlength=len(depth))
    by_parent = np.lexsort((pushes, parent))
    turn = np.arange(len(pushes))
    begins = np.searchsorted(parent[by_parent], parent[by_parent])
    turn[by_parent] = np.arange(len(pushes)) - begins
    turn[~deep] = 0
    order = np.lexsort((np.where(deep, parent, pushes), -np.where(deep, num_pushes[parent], 0), turn, depth[pushes]))
    rows, parent, turn, depths = pushes[order], parent[order], turn[order], depth[pushes][order]

    row_of = np.full(len(depth), -1)
    row_of[rows] = np.arange(len(rows))
    starts = np.searchsorted(depths, np.arange(1, int(depths[-1]) + 2))
    levels = [StackLevel(parents=rows[:0], group_sizes=(), size=int(starts[1]))]
    for first, stop in zip(starts[1:-1].tolist(), starts[2:].tolist(), strict=True):
        sizes = tuple(np.bincount(turn[first:stop]).tolist())
        levels.append(
            StackLevel(parents=row_of[parent[first : first + sizes[0]]], group_sizes=sizes, size=stop - first)
        )
    return rows, tuple(levels)
