"""Controls on structure: other trees over the sentences of a split, since a claim about syntax needs them."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.oracle import right_branching, tree_to_actions
from storage.ragged import Ragged

RIGHT_LABEL: Final = "X"
"""The one label, besides TOP, of right-branching trees."""
_ROWS: Final = 20_000


def shuffled_trees(lengths: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return whose tree each sentence gets: another sentence's of its length, each tree used once.

    Sentences of one length are put in a random circle, and each takes its neighbour's tree, so the trees of a split
    stay the same all together. Where there is no other sentence of that length, a sentence keeps its own.

    Args:
        lengths: int64 ``[M]``.
        generator: Source of randomness.

    Returns:
        int64 ``[M]``, a permutation.
    """
    order = generator.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    source = np.empty_like(order)
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        source[group] = np.roll(group, 1)
    return source


def shuffle(arrays: dict[str, NDArray[Any]], generator: np.random.Generator) -> int:
    """Permute the actions of a split; return how many sentences kept their own."""
    source = shuffled_trees(np.diff(arrays["offsets"]), generator)
    actions = Ragged(arrays["actions"], arrays["action_offsets"])
    taken = [actions.take(source[i : i + _ROWS]).values for i in range(0, len(source), _ROWS)]  # indices take 8 bytes
    of_rows = Ragged.from_lengths(np.concatenate(taken), actions.lengths[source])
    arrays["actions"], arrays["action_offsets"] = of_rows.values, of_rows.offsets
    return int((source == np.arange(len(source))).sum())


def make_right_branching(arrays: dict[str, NDArray[Any]]) -> None:
    """Replace the actions of a split by those of right-branching trees, their label number 1."""
    lengths = np.diff(arrays["offsets"])
    made = {n: np.array(tree_to_actions(right_branching(n), n), np.int16) for n in np.unique(lengths).tolist()}
    actions = Ragged.from_lists([made[n] for n in lengths.tolist()], np.int16)
    arrays["actions"], arrays["action_offsets"] = actions.values, actions.offsets
