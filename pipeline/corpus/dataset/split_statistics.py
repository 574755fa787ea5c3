"""Compute statistics of a split: lengths, tree heights, labels, branching, and how much text is from each source.

The statistics describe the stored trees. So for a dataset with right-branching trees, they describe these trees, and
not the trees of the treebank. Lengths are in tokens, except in the histogram ``words``. A histogram is a list. For
example, ``tokens[7]`` is the number of sentences of 7 tokens. Sizes above a limit are counted as the limit. For
example, a sentence of 300 tokens is counted in ``tokens[200]``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.corpus.text.documents import Document
from storage.fingerprints import Json

MAX_LENGTH: Final = 200
MAX_HEIGHT: Final = 60
MAX_CHILDREN: Final = 30
MAX_SOURCES: Final = 100
MAX_LICENCES: Final = 5
FIGURES: Final = ("mean_height", "max_height", "mean_children", "unary_share")
"""The names of the statistics that are a single number."""
NOT_KNOWN: Final = "not known"
OTHERS: Final = "others"
_ROWS: Final = 20_000


def split_statistics(
    arrays: Mapping[str, NDArray[Any]], labels: Sequence[str], documents: Sequence[Document]
) -> dict[str, Json]:
    """Return the statistics of a split.

    Args:
        arrays: The arrays of the split by name: ``tokens``, ``offsets``, ``actions``, ``action_offsets``,
            ``num_words`` and ``document_ids``.
        labels: The labels by number, TOP first.
        documents: The documents by number, document 1 first.

    Returns:
        For sentences: the histograms ``tokens``, ``words`` and ``heights``, and the mean and maximum of the height. The
        height of a sentence is the number of phrases above its deepest token, including TOP.
        For all phrases except TOP: ``labels``, the number of phrases of each label; ``children``, the histogram of the
        number of children, and its mean; and ``unary_share``, the share of phrases whose only child is a phrase.
        For each source, in ``sources``: the number of documents, sentences and tokens, and the licences. The source
        with the most tokens comes first. All sources after the first ``MAX_SOURCES`` are summed in one entry.
    """
    lengths, action_offsets = np.diff(arrays["offsets"]), arrays["action_offsets"]
    heights = [np.zeros(0, np.int64)]
    children = np.zeros(MAX_CHILDREN + 1, np.int64)
    by_label = np.zeros(len(labels), np.int64)
    num_unary, num_children_in_all = 0, 0
    for first in range(0, len(lengths), _ROWS):
        offsets = action_offsets[first : first + _ROWS + 1]
        actions = arrays["actions"][offsets[0] : offsets[-1]]
        by_label += np.bincount(actions[actions >= FIRST_NT] - FIRST_NT, minlength=len(labels))
        depths = _depths(actions)
        heights.append(np.maximum.reduceat(depths, offsets[:-1] - offsets[0]).astype(np.int64))
        num_children, is_unary = _children(actions, depths)
        children += _histogram(num_children, MAX_CHILDREN)
        num_unary += int(is_unary.sum())
        num_children_in_all += int(num_children.sum())
    height = np.concatenate(heights)
    num_phrases = int(by_label[1:].sum())
    return {
        "tokens": _trimmed(_histogram(lengths, MAX_LENGTH)),
        "words": _trimmed(_histogram(arrays["num_words"], MAX_LENGTH)),
        "heights": _trimmed(_histogram(height, MAX_HEIGHT)),
        "mean_height": float(height.mean()) if len(height) else None,
        "max_height": int(height.max(initial=0)),
        "labels": {label: int(n) for label, n in zip(labels[1:], by_label[1:], strict=True)},
        "children": _trimmed(children),
        "mean_children": num_children_in_all / num_phrases if num_phrases else None,
        "unary_share": num_unary / num_phrases if num_phrases else None,
        "sources": _sources(lengths, arrays["document_ids"], documents),
    }


def _depths(actions: NDArray[np.int16]) -> NDArray[np.int32]:
    """Return how many phrases are open after each action of consecutive sentences."""
    steps = (actions >= FIRST_NT).astype(np.int8) - (actions == REDUCE)
    return np.cumsum(steps, dtype=np.int32)


def _children(actions: NDArray[np.int16], depths: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each phrase except TOP, in any order, its number of children and whether its only child is a phrase.

    Each action belongs to one phrase: the innermost open phrase after the action. A stable sort by depth puts the
    actions of one phrase together: first its NT, then a SHIFT or REDUCE for each child. For example, in NT(X) NT(Y)
    SHIFT SHIFT REDUCE SHIFT REDUCE, X has the NT(X), the first REDUCE (its child Y) and the last SHIFT (a token).
    """
    inside = np.flatnonzero(depths > 1)
    # numpy sorts 16-bit integers by radix sort, which is faster.
    small = np.uint16 if depths.max(initial=0) < 1 << 16 else np.int32
    order = inside[np.argsort(depths[inside].astype(small), kind="stable")]
    actions = actions[order]
    opens = np.flatnonzero(actions >= FIRST_NT)
    num_children = np.diff(np.append(opens, len(actions))) - 1
    is_unary = num_children == 1
    is_unary[is_unary] = actions[opens[is_unary] + 1] != SHIFT
    return num_children, is_unary


def _sources(
    lengths: NDArray[np.int64], document_ids: NDArray[np.int32], documents: Sequence[Document]
) -> dict[str, Json]:
    num_sentences = np.bincount(document_ids, minlength=len(documents) + 1)
    num_tokens = np.bincount(document_ids, weights=lengths, minlength=len(documents) + 1)
    sums: dict[str, list[int]] = {}
    licences: dict[str, set[str]] = {}
    for number, document in enumerate((None, *documents)):
        if num_sentences[number]:
            name = (document.source if document else "") or NOT_KNOWN
            licences.setdefault(name, set()).add((document.licence if document else "") or NOT_KNOWN)
            more = (document is not None, num_sentences[number], num_tokens[number])
            sums[name] = [old + int(new) for old, new in zip(sums.get(name, [0, 0, 0]), more, strict=True)]
    largest = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))
    if rest := largest[MAX_SOURCES:]:
        others = [sum(column) for column in zip(*(counts for _, counts in rest), strict=True)]
        largest = [*largest[:MAX_SOURCES], (f"{len(rest)} {OTHERS}", others)]
    keys = ("num_documents", "num_sentences", "num_tokens")
    return {
        name: {**dict(zip(keys, counts, strict=True)), "licences": _shortened(sorted(licences.get(name, ())))}
        for name, counts in largest
    }


def _shortened(names: list[str]) -> str:
    """Return the first ``MAX_LICENCES`` names as one string, and how many more there are."""
    others = f", {len(names) - MAX_LICENCES} more" if len(names) > MAX_LICENCES else ""
    return ", ".join(names[:MAX_LICENCES]) + others


def _histogram(values: NDArray[Any], most: int) -> NDArray[np.int64]:
    return np.bincount(np.minimum(values, most), minlength=most + 1)


def _trimmed(histogram: NDArray[np.int64]) -> list[Json]:
    return [int(n) for n in np.trim_zeros(histogram, "b")]
