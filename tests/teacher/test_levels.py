"""The schedule has every push exactly once, after everything that it depends on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from teacher.levels import Branching, Schedule, binarise, build_schedule, derive_binary, derive_top_down
from tests.reference import binarised
from tests.strategies import CORNER_CASES, DEEP, EOS_ID, UNARY_CHAIN, WIDE, batch, sentences

STRATEGIES: list[Branching | None] = [None, "left", "right"]
"""The top-down strategy, and the binary strategy with both branchings."""


def schedule_of(some: list, branching: Branching | None = None) -> Schedule:
    tokens, actions = batch(some)
    if branching is None:
        return build_schedule(tokens, actions, derive_top_down(actions), eos_id=EOS_ID)
    actions = binarise(actions, branching)
    return build_schedule(tokens, actions, derive_binary(actions), eos_id=EOS_ID)


def depths_and_parents(actions: list[int], *, binary: bool) -> tuple[list[int], list[int]]:
    """Return the stack depth after each action and the push below it (-1: the empty stack), by keeping a stack."""
    stack: list[tuple[int, bool]] = []  # the push, and whether it is an open nonterminal
    depths, parents = [], []
    for time, action in enumerate(actions):
        if action == REDUCE and binary:
            stack = stack[:-2]
        elif action == REDUCE:
            while not stack.pop()[1]:
                pass
        parents.append(stack[-1][0] if stack else -1)
        stack.append((time, action >= FIRST_NT))
        depths.append(len(stack))
    return depths, parents


@pytest.mark.parametrize("branching", STRATEGIES)
@given(some=st.lists(sentences(), min_size=1, max_size=6))
def test_rows_are_sorted_by_depth_and_point_one_level_up(branching, some):
    schedule = schedule_of(some, branching)
    start_of = schedule.actions.offsets
    expected_depth, expected_parent = {}, {}
    for m, sentence_actions in enumerate(schedule.actions):
        depths, parents = depths_and_parents(list(sentence_actions), binary=branching is not None)
        for time in range(len(sentence_actions) - 2):
            expected_depth[int(start_of[m]) + time] = depths[time]
            expected_parent[int(start_of[m]) + time] = int(start_of[m]) + parents[time] if parents[time] >= 0 else -1

    pushes = schedule.action_index - 1
    assert sorted(pushes.tolist()) == sorted(expected_depth)
    first = 0
    for depth, level in enumerate(schedule.stack, start=1):
        here = pushes[first : first + level.size].tolist()
        first += level.size
        assert all(expected_depth[push] == depth for push in here)
        assert len(set(level.parents.tolist())) == len(level.parents)
        assert list(level.group_sizes) == sorted(level.group_sizes, reverse=True)
        parents = [row for size in level.group_sizes for row in level.parents[:size].tolist()]
        if depth > 1:
            assert [expected_parent[push] for push in here] == pushes[parents].tolist()
    assert first == len(pushes)


@pytest.mark.parametrize("branching", ["left", "right"])
@given(some=st.lists(sentences(), min_size=1, max_size=6))
def test_binarised_trees_equal_those_made_node_by_node(branching, some):
    _, actions = batch([*some, ([], [2, SHIFT, REDUCE])])
    made = binarise(actions, branching)
    assert [list(row) for row in made] == [binarised(list(map(int, row)), branching) for row in actions]


@pytest.mark.parametrize("branching", STRATEGIES)
@given(some=st.lists(sentences(), min_size=1, max_size=6))
def test_every_child_is_composed_once_from_each_side_and_after_its_own_children(branching, some):
    schedule = schedule_of(some, branching)
    known = len(schedule.tokens)
    seen = [[], []]
    for level in schedule.compositions:
        assert level.children.max() < known
        assert sum(level.step_sizes) == level.children.shape[1]
        assert list(level.step_sizes) == sorted(level.step_sizes, reverse=True)
        assert level.step_sizes[0] == len(level.labels)
        for side in (0, 1):
            seen[side] += level.children[side].tolist()
        known += len(level.labels)
    assert sorted(seen[0]) == sorted(seen[1])
    assert len(set(seen[0])) == len(seen[0])


@pytest.mark.parametrize("branching", STRATEGIES)
@given(some=st.lists(sentences(), min_size=1, max_size=6))
def test_each_position_is_predicted_from_the_state_before_its_shift(branching, some):
    schedule = schedule_of(some, branching)
    assert len(schedule.position_rows) == len(schedule.gold) == len(schedule.tokens) + len(some)
    assert (schedule.next_actions[schedule.position_rows] == SHIFT).all()
    decided = schedule.action_index[schedule.position_rows]
    assert (np.diff(decided) > 0).all()
    assert schedule.gold.tolist() == [t for sentence_tokens, _ in some for t in [*sentence_tokens, EOS_ID]]


def test_reduce_needs_a_child_and_never_closes_top():
    schedule = schedule_of([DEEP])
    actions = DEEP[1]
    allowed = dict(zip(schedule.action_index.tolist(), schedule.reduce_allowed.tolist(), strict=True))
    num_open = 0
    for time, action in enumerate(actions[:-1]):
        if time in allowed:
            assert allowed[time] == (num_open > 1 and actions[time - 1] < FIRST_NT), time
        num_open += (action >= FIRST_NT) - (action == REDUCE)


def test_rounds_are_far_fewer_than_actions_in_a_batch():
    some = CORNER_CASES * 8
    schedule = schedule_of(some)
    longest = max(len(actions) for _, actions in some)
    assert schedule.num_rounds < 3 * longest < sum(len(actions) for _, actions in some)


def test_a_chain_is_composed_bottom_up_and_a_wide_phrase_in_one_level():
    chain = schedule_of([UNARY_CHAIN])
    assert [level.labels.tolist() for level in chain.compositions] == [[4], [3], [2], [1], [5], [4], [3], [2], [1]]
    wide = schedule_of([WIDE])
    assert [level.step_sizes for level in wide.compositions] == [(1,) * 40]
    assert wide.compositions[0].children.tolist() == [list(range(40)), list(range(39, -1, -1))]


def test_a_chain_of_two_thousand_constituents_has_two_thousand_levels():
    actions = [FIRST_NT, *[FIRST_NT + 1] * 2000, SHIFT, *[REDUCE] * 2000, SHIFT, REDUCE]
    schedule = schedule_of([([5], actions)])
    assert len(schedule.compositions) == 2000
    assert len(schedule.stack) == 2002
