"""The level schedule: in which order the LSTM cells of a batch of trees can run together.

With the tree given, an RNNG needs no action loop.

1. A composition depends only on what is below it in the tree, so all constituents of height 1 in the batch are
   composed at once, then those of height 2, and so on.
2. Stack states form a trie: a push is a child of the state it is pushed onto, and sits exactly one element deeper.
   All pushes of depth 1 are computed at once, then those of depth 2, and so on.

This module is integer work only, in numpy, vectorised over all actions of a batch; it never loops over nodes.
What is not needed is left out: ``<eos>`` and the REDUCE of TOP are the last two actions of a sentence, nothing is
read from the states after them, and TOP itself is never composed.

Shape letters: M sentences, N tokens (``<eos>`` not counted), P = N + M positions, K constituents other than TOP,
S rows: the pushes that matter, which are all actions but the last two of each sentence. The state after push ``t``
is what action ``t + 1`` is decided from, so rows are also the decisions that are not forced.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.corpus.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.next_token import append_eos
from storage.ragged import Ragged


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
    """The pushes of one stack depth, in row order: SHIFTs, then NTs, then the constituents those NTs became.

    A constituent is pushed onto the state that its NT was pushed onto, so ``parents`` lists each state once.
    """

    parents: np.ndarray
    """int64 ``[num_shifts + num_nts]``: rows of the level above, each at most once; empty at depth 1."""
    num_shifts: int
    num_nts: int
    size: int
    """``num_shifts + 2 * num_nts``, but the number of sentences at depth 1, where only ``NT(TOP)`` stands."""


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
    """int64 ``[K + M]``: labels of the NT pushes, TOP's included, in order of action."""
    inputs: np.ndarray
    """int64 ``[S]``: what each row pushes, among N tokens, K constituents and K + M NTs, in that order."""
    stack: tuple[StackLevel, ...]
    """Depth 1 first; their rows in order are the S rows."""
    position_rows: np.ndarray
    """int64 ``[P]``: the row whose state predicts each position's token."""
    next_actions: np.ndarray
    """int64 ``[S]``: the action decided from each row."""
    reduce_allowed: np.ndarray
    """bool ``[S]``: whether REDUCE is a valid action there: the open nonterminal has a child and is not TOP."""
    action_index: np.ndarray
    """int64 ``[S]``: where that action stands among all actions of the batch."""
    num_actions: int

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


@dataclass(frozen=True, slots=True)
class _Constituents:
    """All constituents of a batch, TOP's included, sorted by how many are open around them, then by time."""

    opened: np.ndarray
    closed: np.ndarray
    nesting: np.ndarray
    parent: np.ndarray
    height: np.ndarray
    num_children: np.ndarray


def build_schedule(tokens: Ragged, actions: Ragged, *, eos_id: int) -> Schedule:
    """Return the schedule of a batch of sentences.

    Args:
        tokens: Token ids of M sentences, without ``<eos>``.
        actions: Their oracle actions, complete: ``NT(TOP)`` … ``SHIFT`` of ``<eos>``, ``REDUCE``.
        eos_id: Id of ``<eos>``.
    """
    action = actions.values.astype(np.int64)
    is_nt, is_shift = action >= FIRST_NT, action == SHIFT
    num_open = np.cumsum(is_nt.astype(np.int64) - (action == REDUCE))
    last = actions.offsets[1:] - 1
    is_word = is_shift.copy()
    is_word[last - 1] = False
    word_times = np.flatnonzero(is_word)
    found, word_parent = _constituents(is_nt, is_shift, num_open, word_times)

    below_top = np.flatnonzero(found.nesting > 1)
    composed = below_top[np.lexsort((found.opened[below_top], -found.num_children[below_top], found.height[below_top]))]
    place = np.full(len(found.opened), -1)
    place[composed] = np.arange(len(composed))

    num_words, num_composed = len(word_times), len(composed)
    word_of = np.cumsum(is_word) - 1
    nt_of = np.cumsum(is_nt) - 1

    # What each push pushes, among tokens, constituents and NTs; and the state it is pushed onto.
    source = np.where(is_shift, word_of, num_words + num_composed + nt_of)
    source[found.closed] = num_words + place
    parent = np.arange(-1, len(action) - 1)
    parent[found.closed] = found.opened - 1
    beginning = np.arange(len(action))
    beginning[found.closed] = found.opened

    change = np.ones(len(action), np.int64)
    change[found.closed] = -found.num_children
    # After the last action of a sentence the next one starts from an empty stack.
    change[last] = -found.num_children[: len(last)] - 1
    depth = np.cumsum(change)

    is_row = np.ones(len(action), bool)
    is_row[last] = is_row[last - 1] = False
    pushes = np.flatnonzero(is_row)
    kind = np.where(is_shift, 0, np.where(is_nt, 1, 2))
    rows = pushes[np.lexsort((beginning[pushes], kind[pushes], depth[pushes]))]
    row_of = np.full(len(action), -1)
    row_of[rows] = np.arange(len(rows))

    decided = rows + 1
    return Schedule(
        tokens=tokens.values.astype(np.int64),
        gold=append_eos(tokens, eos_id).values,
        compositions=_composition_levels(found, composed, place, word_times, word_parent, action),
        nt_labels=action[is_nt] - FIRST_NT,
        inputs=source[rows],
        stack=_stack_levels(depth[rows], kind[rows], row_of[parent[rows]]),
        position_rows=row_of[np.flatnonzero(is_shift) - 1],
        next_actions=action[decided],
        reduce_allowed=(num_open[rows] > 1) & (kind[rows] != 1),
        action_index=decided,
        num_actions=len(action),
    )


def _constituents(
    is_nt: np.ndarray, is_shift: np.ndarray, num_open: np.ndarray, word_times: np.ndarray
) -> tuple[_Constituents, np.ndarray]:
    """Match each NT with its REDUCE; also return the constituent each word (not ``<eos>``) is a child of."""
    # At one nesting level NT and REDUCE alternate, over the whole batch: sorting by level pairs them up.
    brackets = np.flatnonzero(~is_shift)
    level = num_open[brackets] + ~is_nt[brackets]
    by_level = np.argsort(level, kind="stable")
    opened, closed = brackets[by_level[0::2]], brackets[by_level[1::2]]
    nesting = level[by_level[0::2]]

    stride = len(is_nt) + 1
    key = nesting * stride + opened
    word_parent = np.searchsorted(key, num_open[word_times] * stride + word_times) - 1
    parent = np.searchsorted(key, (nesting - 1) * stride + opened) - 1

    inner = parent[nesting > 1]
    num_children = np.bincount(word_parent, minlength=len(key)) + np.bincount(inner, minlength=len(key))
    num_children[nesting == 1] += 1  # <eos>
    height = np.ones(len(key), np.int64)
    max_nesting = int(nesting[-1]) if len(nesting) else 0
    starts = np.searchsorted(nesting, np.arange(max_nesting + 2))
    for n in range(max_nesting, 1, -1):
        at = slice(starts[n], starts[n + 1])
        np.maximum.at(height, parent[at], height[at] + 1)
    found = _Constituents(opened, closed, nesting, parent, height, num_children)
    return found, word_parent


def _composition_levels(
    found: _Constituents,
    composed: np.ndarray,
    place: np.ndarray,
    word_times: np.ndarray,
    word_parent: np.ndarray,
    action: np.ndarray,
) -> tuple[CompositionLevel, ...]:
    num_words = len(word_times)
    owner = place[np.concatenate([word_parent, found.parent[composed]])]
    value = np.arange(num_words + len(composed))
    time = np.concatenate([word_times, found.opened[composed]])
    inner = owner >= 0
    owner, value, time = owner[inner], value[inner], time[inner]

    in_order = np.lexsort((time, owner))
    owner, value = owner[in_order], value[in_order]
    num_children = found.num_children[composed]
    height = found.height[composed]
    starts = np.cumsum(num_children) - num_children
    from_left = np.arange(len(owner)) - starts[owner]
    from_right = num_children[owner] - 1 - from_left
    forward = np.lexsort((owner, from_left, height[owner]))
    backward = np.lexsort((owner, from_right, height[owner]))
    children = np.stack([value[forward], value[backward]])
    step, step_height = from_left[forward], height[owner][forward]

    levels = []
    labels = action[found.opened[composed]] - FIRST_NT
    max_height = int(height[-1]) if len(height) else 0
    ends = np.searchsorted(height, np.arange(max_height + 1), side="right")
    child_ends = np.searchsorted(step_height, np.arange(max_height + 1), side="right")
    for h in range(max_height):
        at = slice(child_ends[h], child_ends[h + 1])
        levels.append(
            CompositionLevel(
                labels=labels[ends[h] : ends[h + 1]],
                children=children[:, at],
                step_sizes=tuple(np.bincount(step[at]).tolist()),
            )
        )
    return tuple(levels)


def _stack_levels(depth: np.ndarray, kind: np.ndarray, parent_row: np.ndarray) -> tuple[StackLevel, ...]:
    max_depth = int(depth[-1]) if len(depth) else 0
    starts = np.searchsorted(depth, np.arange(max_depth + 2))
    num_shifts, num_nts = (np.bincount(depth[kind == k], minlength=max_depth + 1).tolist() for k in (0, 1))
    levels = []
    for d in range(1, max_depth + 1):
        first, stop = int(starts[d]), int(starts[d + 1])
        onto_empty = d == 1
        parents = parent_row[first : first + num_shifts[d] + num_nts[d]] - starts[d - 1]
        levels.append(
            StackLevel(
                parents=parents[:0] if onto_empty else parents,
                num_shifts=num_shifts[d],
                num_nts=num_nts[d],
                size=stop - first,
            )
        )
    return tuple(levels)
