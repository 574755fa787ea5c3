"""Keep the hypotheses of a beam search as vectors, and find the best of each sentence, with numpy on the host.

A hypothesis is a sequence of words and actions so far, with its probability. Hypotheses are grouped by sentence. The
hypotheses of a sentence are consecutive, so ``Hypotheses.sentence`` has one run of equal values per sentence.

Shape letters: n hypotheses, M sentences, A actions.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """n hypotheses of some sentences, grouped by sentence unless a method says otherwise."""

    sentence: np.ndarray
    """int64 ``[n]``: the number of the sentence in the batch."""
    score: np.ndarray
    """float64 ``[n]``: the log-probability of the words and actions so far."""
    node: np.ndarray
    """int64 ``[n]``: the stack, as a node of ``StackPool``."""
    event: np.ndarray
    """int64 ``[n]``: the last action, as an event of ``History``."""

    def __len__(self) -> int:
        return len(self.sentence)

    def take(self, index: np.ndarray) -> "Hypotheses":
        """Return a copy of some hypotheses."""
        return Hypotheses(self.sentence[index], self.score[index], self.node[index], self.event[index])

    def best(self, num: int) -> "Hypotheses":
        """Return the ``num`` best of each sentence, best first. In a tie the earlier hypothesis wins."""
        order = np.lexsort((-self.score, self.sentence))
        return self.take(order[ranks(self.sentence[order]) < num])

    def and_then(self, others: "Hypotheses") -> "Hypotheses":
        """Return these hypotheses followed by others. The result is not grouped by sentence."""
        return Hypotheses(
            np.concatenate([self.sentence, others.sentence]),
            np.concatenate([self.score, others.score]),
            np.concatenate([self.node, others.node]),
            np.concatenate([self.event, others.event]),
        )


class History:
    """The actions of all hypotheses ever made.

    An event is an action with a link to the event before it, so it stands for all actions up to this one. Event 0 is
    NT(TOP) or ``<bos>``.
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
    """Return the best successors of each sentence's hypotheses, and the columns of their actions.

    The actions are not executed: a successor has its new score, and the node and event of the hypothesis that it
    succeeds.

    Args:
        hypotheses: n hypotheses of some of M sentences.
        totals: ``[n, A]``: the scores of the successors; -inf if the action is not valid.
        to_beat: ``[M]``: a successor must have a higher score than this.
        beam: Number of successors per sentence. In a tie the earlier hypothesis wins, then the earlier column.
    """
    sentence, rank = hypotheses.sentence, ranks(hypotheses.sentence)
    # Most successors are not among the best. A partition finds the ``beam``-th best score, and only successors with at
    # least this score are sorted.
    edge = np.full(len(to_beat), -np.inf)
    rivals = np.full((len(to_beat), int(rank.max()) + 1, totals.shape[1]), -np.inf)
    if rivals[0].size > beam:
        rivals[sentence, rank] = totals
        edge = -np.partition(-rivals.reshape(len(to_beat), -1), beam - 1, axis=1)[:, beam - 1]
    row, column = np.nonzero((totals >= edge[sentence, None]) & (totals > to_beat[sentence, None]))
    score, sentence = totals[row, column], sentence[row]
    order = np.lexsort((-score, sentence))
    order = order[ranks(sentence[order]) < beam]
    row = row[order]
    successors = Hypotheses(sentence[order], score[order], hypotheses.node[row], hypotheses.event[row])
    return successors, column[order]


def run_starts(sentence: np.ndarray) -> np.ndarray:
    """Return the start of each run of equal values; int64."""
    return np.flatnonzero(np.diff(sentence, prepend=-1))


def ranks(sentence: np.ndarray) -> np.ndarray:
    """Return the index of each element in its run of equal values, from 0; int64 ``[n]``."""
    starts = run_starts(sentence)
    places: np.ndarray = np.arange(len(sentence)) - np.repeat(starts, np.diff(starts, append=len(sentence)))
    return places


def log_sums(scores: np.ndarray, sentence: np.ndarray) -> np.ndarray:
    """Return log Σ exp of the scores of each run of equal values in ``sentence``; float64, one value per run."""
    sums: np.ndarray = np.logaddexp.reduceat(scores, run_starts(sentence))
    return sums
