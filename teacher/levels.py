"""Turn a batch of action sequences into a level schedule: which LSTM cells can run together, and in which order.

**Strategies.** The actions of a sentence are ``NT(TOP)``, the actions of its tree, SHIFT of ``<eos>``, REDUCE. There
are two ways to generate a tree, called strategies:

top-down   Constituents have labels. ``NT(X)`` opens a constituent; REDUCE composes all elements that are on the stack
           above the last open ``NT(X)`` (Dyer et al. 2016). The dataset holds these actions.
binary     Constituents have no labels. REDUCE composes the top two elements of the stack (Kim et al. 2019).
           ``NT(TOP)`` at the start means the push of ``<bos>``. There is no other NT. The last REDUCE joins the tree
           and ``<eos>``. ``binarise`` makes these actions from those of the dataset.

**Schedule.** With the tree given, an RNNG need not execute the actions one after the other.

1. A composition depends only on what is below it in the tree. So all constituents of height 1 in the batch are
   composed at once, then those of height 2, and so on.
2. A push puts an element onto a stack. The new stack state depends only on this element and on the state below it.
   After a REDUCE, another push can go onto the same state. The depth of a push is the number of elements that are then
   on the stack. So all pushes of depth 1 are computed at once, then those of depth 2, and so on.

The schedule leaves out the last two actions of each sentence, SHIFT of ``<eos>`` and REDUCE, because nothing reads the
states after them. Every other action has a row, which stands for its push. The next action is decided from the state
after this push.

Shape letters: M sentences, T actions of the batch, N tokens (without ``<eos>``), P = N + M positions, K composed
constituents, O pushes of nonterminals (binary strategy: of ``<bos>``), S rows. The time of an action is its index among
the T actions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.next_token import append_eos
from storage.ragged import Ragged

Branching = Literal["left", "right"]
"""How ``binarise`` joins more than two children. left: ((c1 c2) c3). right: (c1 (c2 c3))."""
NO_TIME = -1
"""The value for "no such action" in an array of times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """What each action of a batch does to the stack. Every array except ``last`` has T entries, one per action."""

    action: np.ndarray
    """int64: SHIFT 0, REDUCE 1, NT(label i) 2 + i."""
    last: np.ndarray
    """int64 ``[M]``: the time of the last action of each sentence."""
    depth: np.ndarray
    """int64: the number of elements on the stack after the action."""
    owner: np.ndarray
    """int64: an action pushes an element, which becomes a child of a constituent. This is the time of the REDUCE that
    composes the constituent. ``NO_TIME`` for a nonterminal, and for a child of a sentence's last REDUCE."""
    label: np.ndarray
    """int64: the label of the constituent, at a REDUCE. 0 at other actions and with the binary strategy."""
    reduce_allowed: np.ndarray
    """bool: whether REDUCE is valid after this action. Meaningless after ``<eos>``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositionLevel:
    """The m constituents of one height, sorted by the number of children, largest first. They have c children in all.

    The K constituents of a batch are numbered in this order, from height 1 up.
    """

    labels: np.ndarray
    """int64 ``[m]``: the label of each constituent."""
    children: np.ndarray
    """int64 ``[2, c]``: the children. In a schedule, i < N means token i, and N + k means constituent k. Row 0
    lists all first children, then all second children, and so on. Row 1 does the same, counting from the right."""
    step_sizes: tuple[int, ...]
    """The number of constituents with a first child, with a second child, and so on. The sum is c."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackLevel:
    """The pushes of one stack depth, in row order.

    A derivation can push several elements onto one state: for example, first a nonterminal and later the constituent
    that it becomes. The first pushes onto all states form group 1, the second pushes form group 2, and so on.
    ``parents`` is sorted by the number of pushes onto each state, largest first. So the n pushes of a group go onto the
    first n of ``parents``.
    """

    parents: np.ndarray
    """int64 ``[q]``: the distinct rows (of S) onto which these pushes go. Empty at depth 1."""
    group_sizes: tuple[int, ...]
    """The number of pushes in each group. Empty at depth 1."""
    size: int
    """The number of pushes of this depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Everything that a level-parallel pass over a batch needs, except the weights."""

    tokens: np.ndarray
    """int64 ``[N]``."""
    gold: np.ndarray
    """int64 ``[P]``: the token of each position, ``<eos>`` included."""
    compositions: tuple[CompositionLevel, ...]
    """Height 1 first."""
    nt_labels: np.ndarray
    """int64 ``[O]``: the labels of the pushed nonterminals, with TOP, in the order of the actions."""
    inputs: np.ndarray
    """int64 ``[S]``: the element that each row pushes: an index into N tokens, then K constituents, then O NTs."""
    stack: tuple[StackLevel, ...]
    """Depth 1 first. The rows of all levels, in order, are the S rows."""
    position_rows: np.ndarray
    """int64 ``[P]``: the row whose state predicts the token of each position."""
    next_actions: np.ndarray
    """int64 ``[S]``: the action that is decided from each row."""
    reduce_allowed: np.ndarray
    """bool ``[S]``: whether REDUCE is valid as the next action."""
    action_index: np.ndarray
    """int64 ``[S]``: the time of the next action."""
    actions: Ragged
    """int64, M rows: the actions of the sentences."""

    @property
    def num_rounds(self) -> int:
        """The number of LSTM steps that must run one after the other, in one stack layer and in the composition."""
        return len(self.stack) + sum(1 + len(level.step_sizes) for level in self.compositions)


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeBatch:
    """This rank's slice of a batch of sentences with their trees."""

    schedule: Schedule
    num_positions_global: int


def build_schedule(tokens: Ragged, actions: Ragged, derivation: Derivation, *, eos_id: int) -> Schedule:
    """Return the schedule of M sentences, from their tokens without ``<eos>`` and their complete actions."""
    action, last, depth = derivation.action, derivation.last, derivation.depth
    is_nt, is_shift, is_reduce = action >= FIRST_NT, action == SHIFT, action == REDUCE
    is_row = np.ones(len(action), bool)
    is_row[last] = is_row[last - 1] = False
    words, composed = np.flatnonzero(is_shift & is_row), np.flatnonzero(is_reduce & is_row)

    num_children = np.bincount(derivation.owner[derivation.owner >= 0], minlength=len(action))
    height = _heights(derivation.owner, num_children, words)
    composed = composed[np.lexsort((composed, -num_children[composed], height[composed]))]
    # The index of the value that an action pushes, among tokens, constituents and nonterminals.
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
    """Return the height of the element that each action pushes: 0 for a token, else one more than its highest child."""
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
    """Return the levels. ``composed`` has the times of the REDUCEs of all constituents, in the order of the levels."""
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
    """Return the times of the pushes in row order, and their levels."""
    if not len(pushes):
        return pushes, ()
    # The parent of a push is the last push before it that is one element less deep.
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


def derive_top_down(actions: Ragged) -> Derivation:
    """Return the derivation of M complete sentences, given by their labelled top-down actions."""
    action = actions.values.astype(np.int64)
    is_nt, is_reduce = action >= FIRST_NT, action == REDUCE
    last = actions.offsets[1:] - 1
    num_open = np.cumsum(is_nt.astype(np.int64) - is_reduce)

    # NT(TOP) and its REDUCE have nesting level 1, the brackets of TOP's children level 2, and so on. Among the brackets
    # of one level, every NT is followed by its REDUCE. So a stable sort by level puts each pair side by side.
    brackets = np.flatnonzero(action != SHIFT)
    level = num_open[brackets] + ~is_nt[brackets]
    by_level = np.argsort(level, kind="stable")
    opened, closed = brackets[by_level[0::2]], brackets[by_level[1::2]]
    nesting = level[by_level[0::2]]

    # The parent of a token that is pushed while n constituents are open has level n. The parent of a constituent of
    # level n has level n - 1. Of all constituents of the parent's level, the parent is the one that was opened last
    # before the token or constituent. ``key`` sorts constituents by level, then by opening time.
    stride = len(action) + 1
    key = nesting * stride + opened
    shifts = np.flatnonzero(action == SHIFT)
    closed_by = np.full(len(action), NO_TIME)
    closed_by[shifts] = closed[np.searchsorted(key, num_open[shifts] * stride + shifts) - 1]
    inner = nesting > 1
    closed_by[closed[inner]] = closed[np.searchsorted(key, (nesting[inner] - 1) * stride + opened[inner]) - 1]

    num_children = np.bincount(closed_by[closed_by >= 0], minlength=len(action))
    label = np.zeros(len(action), np.int64)
    label[closed] = action[opened] - FIRST_NT
    change = np.where(is_reduce, -num_children, 1)
    change[last] -= 1  # take TOP off, because the next sentence starts from an empty stack
    return Derivation(
        action=action,
        last=last,
        depth=np.cumsum(change),
        owner=_without_last(closed_by, last),
        label=label,
        reduce_allowed=(num_open > 1) & ~is_nt,
    )


def derive_binary(actions: Ragged) -> Derivation:
    """Return the derivation of M complete sentences, given by their binary actions (see ``binarise``)."""
    action = actions.values.astype(np.int64)
    is_reduce = action == REDUCE
    last = actions.offsets[1:] - 1
    # The last action of a sentence leaves elements on the stack. The depths of later sentences must not count them.
    change = np.where(is_reduce, -1, 1)
    depth = np.cumsum(change)
    leftover = depth[last]
    depth -= np.repeat(np.concatenate([[0], leftover])[:-1], actions.lengths)

    owner = np.full(len(action), NO_TIME)
    reduces = np.flatnonzero(is_reduce)
    owner[reduces - 1] = reduces
    # A constituent has the depth of its left child: the left child is the last push at this depth before the REDUCE.
    by_depth = np.lexsort((np.arange(len(action)), depth))
    before = np.full(len(action), NO_TIME)
    before[by_depth[1:]] = by_depth[:-1]
    owner[before[reduces]] = reduces
    owner[action >= FIRST_NT] = NO_TIME
    return Derivation(
        action=action,
        last=last,
        depth=depth,
        owner=_without_last(owner, last),
        label=np.zeros(len(action), np.int64),
        reduce_allowed=depth > 2,
    )


def binarise(actions: Ragged, branching: Branching) -> Ragged:
    """Return the binary actions, int64, for labelled top-down actions.

    A sentence of ``n > 0`` tokens has ``2n + 2`` binary actions. Labels and unary constituents are dropped. ``<eos>``
    is joined last.
    """
    found = derive_top_down(actions)
    action, last = found.action, found.last
    is_last = np.zeros(len(action), bool)
    is_last[last] = True
    # In the derivation the children of TOP have no owner. Here their owner is the REDUCE of TOP.
    top = np.repeat(last, actions.lengths)
    owner = np.where((found.owner < 0) & (action < FIRST_NT) & ~is_last, top, found.owner)
    is_eos = np.zeros(len(action), bool)
    is_eos[last - 1] = True
    is_child = (owner >= 0) & ~is_eos

    children = np.flatnonzero(is_child)
    by_owner = children[np.argsort(owner[children], kind="stable")]
    is_first = np.ones(len(by_owner), bool)
    is_first[1:] = owner[by_owner[1:]] != owner[by_owner[:-1]]
    reduces_after = np.zeros(len(action), np.int64)
    if branching == "left":
        reduces_after[by_owner[~is_first]] = 1
    else:
        is_final = np.ones(len(by_owner), bool)
        is_final[:-1] = is_first[1:]
        ends = by_owner[is_final]
        reduces_after[ends] = np.bincount(owner[children], minlength=len(action))[owner[ends]] - 1
    reduces_after[last - 1] = 1

    keeps = (action == SHIFT) | (action == FIRST_NT)
    counts = keeps + reduces_after
    made = np.full(int(counts.sum()), REDUCE, np.int64)
    begins = np.cumsum(counts) - counts
    made[begins[keeps]] = action[keeps]
    sentence = np.add.reduceat(counts, actions.offsets[:-1]) if len(last) else counts
    return Ragged(made, np.concatenate([[0], np.cumsum(sentence)]))


def _without_last(owner: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return ``owner`` with ``NO_TIME`` for the children of each sentence's last REDUCE."""
    is_last = np.zeros(len(owner), bool)
    is_last[last] = True
    return np.where((owner >= 0) & ~is_last[owner], owner, NO_TIME)
