"""Batches of action sequences as arrays: what each action pushes, how deep, and which constituent takes it up.

Two strategies share one alphabet: a sentence is ``NT(TOP)``, its actions, SHIFT of ``<eos>``, REDUCE.

top-down   labelled; ``NT(X)`` opens a constituent, REDUCE composes what stands above it (Dyer et al. 2016). What the
           dataset holds.
binary     unlabelled; REDUCE composes the top two elements (Kim et al. 2019). The ``NT(TOP)`` in front stands for the
           push of ``<bos>``, and the REDUCE at the end joins the tree and ``<eos>``; no other NT occurs. Made from
           the dataset's actions by ``binarise``.

Integer work only, in numpy, vectorised over the batch.

Shape letters: M sentences, T actions of the batch. Times are indices into the T actions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from storage.ragged import Ragged

Branching = Literal["left", "right"]
"""Which way the children of a constituent with more than two are paired."""
NO_TIME = -1
"""Where an array of times has none to name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """A batch of action sequences; every array but ``last`` has T entries, one an action."""

    action: np.ndarray
    """int64: SHIFT 0, REDUCE 1, NT(label i) 2 + i."""
    last: np.ndarray
    """int64 ``[M]``: time of the last action of each sentence."""
    depth: np.ndarray
    """int64: elements on the stack after the action."""
    owner: np.ndarray
    """int64: the REDUCE that takes up what this action pushed as a child, or ``NO_TIME``: nonterminals have none, nor
    has what only the last REDUCE of a sentence takes up, since nobody looks at what that one composes."""
    label: np.ndarray
    """int64: of the constituent, at a REDUCE; 0 elsewhere and with the binary strategy."""
    reduce_allowed: np.ndarray
    """bool: whether REDUCE is valid after this action, except that after ``<eos>`` it is the only valid one."""


def derive_top_down(actions: Ragged) -> Derivation:
    """Return the derivation of labelled top-down actions, M complete sentences."""
    action = actions.values.astype(np.int64)
    is_nt, is_reduce = action >= FIRST_NT, action == REDUCE
    last = actions.offsets[1:] - 1
    num_open = np.cumsum(is_nt.astype(np.int64) - is_reduce)

    # At one nesting level NT and REDUCE alternate, over the whole batch: sorting by level pairs them up.
    brackets = np.flatnonzero(action != SHIFT)
    level = num_open[brackets] + ~is_nt[brackets]
    by_level = np.argsort(level, kind="stable")
    opened, closed = brackets[by_level[0::2]], brackets[by_level[1::2]]
    nesting = level[by_level[0::2]]

    # Sorted by (nesting, opened), the constituent around anything is the last one opened before it, one level out.
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
    # After the last action of a sentence the next one starts from an empty stack.
    change[last] -= 1
    return Derivation(
        action=action,
        last=last,
        depth=np.cumsum(change),
        owner=_without_last(closed_by, last),
        label=label,
        reduce_allowed=(num_open > 1) & ~is_nt,
    )


def derive_binary(actions: Ragged) -> Derivation:
    """Return the derivation of binary actions, M complete sentences as ``binarise`` makes them."""
    action = actions.values.astype(np.int64)
    is_reduce = action == REDUCE
    last = actions.offsets[1:] - 1
    # An empty sentence ends with a REDUCE of <bos> and <eos>; others leave <bos> and one tree. Neither is looked at.
    change = np.where(is_reduce, -1, 1)
    depth = np.cumsum(change)
    leftover = depth[last]
    depth -= np.repeat(np.concatenate([[0], leftover])[:-1], actions.lengths)

    owner = np.full(len(action), NO_TIME)
    reduces = np.flatnonzero(is_reduce)
    owner[reduces - 1] = reduces
    # The left child is what was pushed last at the depth that the REDUCE leaves.
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
    """Return binary actions for labelled top-down ones: int64, ``2n + 2`` for a sentence of ``n > 0`` tokens.

    Labels and unary constituents go. Of children c1 c2 c3 ``left`` makes ((c1 c2) c3), ``right`` (c1 (c2 c3));
    ``<eos>`` is joined last.
    """
    found = derive_top_down(actions)
    action, last = found.action, found.last
    is_reduce = action == REDUCE
    is_last = np.zeros(len(action), bool)
    is_last[last] = True
    # TOP's children have no owner there: here its REDUCE takes them up like any other.
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
    assert not is_reduce[keeps].any()
    sentence = np.add.reduceat(counts, actions.offsets[:-1]) if len(last) else counts
    return Ragged(made, np.concatenate([[0], np.cumsum(sentence)]))


def _without_last(owner: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return ``owner`` without the children of each sentence's last REDUCE."""
    is_last = np.zeros(len(owner), bool)
    is_last[last] = True
    return np.where((owner >= 0) & ~is_last[owner], owner, NO_TIME)
