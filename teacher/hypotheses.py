"""Keep the hypotheses of a beam search in numpy arrays on the host, and find the best hypotheses of each group.

A hypothesis is a sequence of tokens and actions so far, with its probability. A group is all hypotheses with the same
tokens. The hypotheses of a group are neighbours, so ``Hypotheses.group`` has one run of equal values per group.

Shape letters: n hypotheses, G groups, A actions.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """n hypotheses, sorted by group unless a method says otherwise."""

    group: np.ndarray
    """int64 ``[n]``: the number of the group."""
    score: np.ndarray
    """float64 ``[n]``: the log-probability of the tokens and actions so far."""
    node: np.ndarray
    """int64 ``[n]``: the top node of the stack, in a ``teacher.stack_pool.StackPool``."""
    event: np.ndarray
    """int64 ``[n]``: the last action, as an event of ``History``."""

    def __len__(self) -> int:
        return len(self.group)

    def take(self, index: np.ndarray) -> "Hypotheses":
        """Return a copy of some hypotheses."""
        return Hypotheses(self.group[index], self.score[index], self.node[index], self.event[index])

    def best(self, num: int) -> "Hypotheses":
        """Return the ``num`` best of each group, best first. In a tie the earlier hypothesis wins."""
        order = np.lexsort((-self.score, self.group))
        return self.take(order[ranks(self.group[order]) < num])

    def and_then(self, others: "Hypotheses") -> "Hypotheses":
        """Return these hypotheses followed by others, not sorted."""
        return Hypotheses(
            np.concatenate([self.group, others.group]),
            np.concatenate([self.score, others.score]),
            np.concatenate([self.node, others.node]),
            np.concatenate([self.event, others.event]),
        )


class History:
    """The actions of all hypotheses ever made.

    An event is an action with a link to the event before it. Event 0 is NT(TOP) or ``<bos>``.
    """

    def __init__(self) -> None:
        self._before = [np.full(1, -1)]
        self._action = [np.full(1, -1)]
        self._size = 1

    def add(self, before: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Add ``n`` events; return their numbers."""
        self._before.append(before)
        self._action.append(actions)
        self._size += len(before)
        return np.arange(self._size - len(before), self._size)

    def actions(self, event: int) -> list[int]:
        """Return the actions that lead to an event, first to last, without event 0."""
        self._before, self._action = [np.concatenate(self._before)], [np.concatenate(self._action)]
        found = []
        while event:
            found.append(int(self._action[0][event]))
            event = int(self._before[0][event])
        return found[::-1]


def best_successors(
    hypotheses: Hypotheses, totals: np.ndarray, to_beat: np.ndarray, beam: int
) -> tuple[Hypotheses, np.ndarray]:
    """Return the best successors of each group's hypotheses, and the columns of their actions in ``totals``.

    The actions are not executed: a successor has a new score, but the node and the event of the old hypothesis.

    Args:
        hypotheses: n hypotheses of G groups. A group may have none.
        totals: ``[n, A]``: the scores of the successors; -inf if the action is not valid.
        to_beat: ``[G]``: the score that a successor in each group must exceed.
        beam: Number of successors per group. In a tie the earlier hypothesis wins, then the earlier column.
    """
    group, rank = hypotheses.group, ranks(hypotheses.group)
    # ``np.partition`` finds the ``beam``-th best score. Only successors with at least this score are sorted.
    edge = np.full(len(to_beat), -np.inf)
    rivals = np.full((len(to_beat), int(rank.max()) + 1, totals.shape[1]), -np.inf)
    if rivals[0].size > beam:
        rivals[group, rank] = totals
        edge = -np.partition(-rivals.reshape(len(to_beat), -1), beam - 1, axis=1)[:, beam - 1]
    row, column = np.nonzero((totals >= edge[group, None]) & (totals > to_beat[group, None]))
    score, group = totals[row, column], group[row]
    order = np.lexsort((-score, group))
    order = order[ranks(group[order]) < beam]
    row = row[order]
    successors = Hypotheses(group[order], score[order], hypotheses.node[row], hypotheses.event[row])
    return successors, column[order]


def run_starts(group: np.ndarray) -> np.ndarray:
    """Return the start of each run of equal values; int64."""
    return np.flatnonzero(np.diff(group, prepend=-1))


def ranks(group: np.ndarray) -> np.ndarray:
    """Return the index of each element in its run of equal values, from 0; int64 ``[n]``."""
    starts = run_starts(group)
    places: np.ndarray = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return places


def log_sums(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return log Σ exp of the scores of each run of equal values in ``group``; float64, one value per run."""
    sums: np.ndarray = np.logaddexp.reduceat(scores, run_starts(group))
    return sums
