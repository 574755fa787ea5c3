"""Divide the training sentences into folds, so that a teacher can leave one fold out of its training.

A teacher is overconfident on the sentences that it was trained on. If K teachers each leave out one of K folds, every
sentence has a teacher that left it out (cross-fitting; Chernozhukov et al. 2018, Double/debiased machine learning).

A document is never divided, because its sentences resemble each other. Sentences with the same text may be in different
folds if they are in different documents. If equal sentences had to be in the same fold, most documents would be in
the same fold, because most documents contain the sentence "Yes.".
"""

import heapq
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Dataset, Split
from storage.errors import ConfigError, InputError

_STREAM: Final = 3
"""The random seed of the folds is the pair (seed of the dataset, this number). The numbers 0, 1 and 2 belong to
``build-dataset --trees shuffled``, one for each split."""


def assign_folds(
    document_ids: NDArray[np.int32],
    num_tokens: NDArray[np.int64],
    text_hashes: NDArray[np.uint64],
    *,
    num_folds: int,
    seed: int,
    where: str,
) -> NDArray[np.uint8]:
    """Return the fold of each of M sentences. The same arguments give the same folds.

    Sentences are assigned in groups. All sentences of a document are one group. Sentences whose document is not known
    are grouped by their text. Large groups are assigned first, and groups of similar size (within a factor of two) in
    random order. Each group goes to the fold with the fewest tokens so far. So the sizes of two folds differ by at most
    the size of the largest group, in tokens.

    Args:
        document_ids: ``[M]``, numbered from 1; 0 if the document is not known.
        num_tokens: ``[M]``, at least 1.
        text_hashes: ``[M]``, equal for sentences with the same text.
        num_folds: K, at least 2 and at most 255.
        seed: Seed of the random order.
        where: The files of the sentences, for messages.

    Returns:
        ``[M]``, numbered from 1 to K. No fold is empty.

    Raises:
        InputError: If there are fewer groups than folds.
    """
    groups = document_ids.astype(np.int64)
    is_alone = groups == 0
    groups[is_alone] = -1 - np.unique(text_hashes[is_alone], return_inverse=True)[1]
    numbers, groups = np.unique(groups, return_inverse=True)
    if len(numbers) < num_folds:
        raise InputError(
            f"{where}: {np.count_nonzero(numbers > 0)} documents and {np.count_nonzero(numbers < 0)} different "
            f"sentences without a document, expected at least {num_folds} together for --folds {num_folds}; give fewer "
            "folds, because a document is never divided"
        )
    sizes = np.bincount(groups, weights=num_tokens).astype(np.int64)
    order = np.random.default_rng([seed, _STREAM]).permutation(len(sizes))
    order = order[np.argsort(-np.frexp(sizes[order])[1], kind="stable")]
    folds_of_groups = np.empty(len(sizes), np.uint8)
    lightest = [(0, fold) for fold in range(1, num_folds + 1)]
    for group, size in zip(order, map(int, sizes[order]), strict=True):
        total, fold = lightest[0]
        folds_of_groups[group] = fold
        heapq.heapreplace(lightest, (total + size, fold))
    return folds_of_groups[groups]


def without_fold(dataset: Dataset, fold: int) -> tuple[Split, NDArray[np.int64]]:
    """Return ``train`` without a fold, and the indices of the remaining sentences in ``train``, int64 ``[M']``.

    Args:
        dataset: The dataset.
        fold: Number of the fold, from 1; 0: leave out no fold.

    Raises:
        ConfigError: If the dataset has no such fold.
    """
    train = dataset.split("train")
    if fold == 0:
        return train, np.arange(train.num_sentences)
    if not train.num_folds:
        raise ConfigError(
            f"{dataset.location}: the dataset has no folds, but --leave-out is {fold}. Build a dataset with "
            "build-dataset --folds, or do not give --leave-out"
        )
    if not 1 <= fold <= train.num_folds:
        raise ConfigError(
            f"{dataset.location}: --leave-out is {fold}, expected 1 to {train.num_folds}, the folds of the dataset"
        )
    sentences = np.flatnonzero(train.folds != fold)
    return train.take(sentences), sentences
