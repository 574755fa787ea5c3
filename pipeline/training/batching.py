"""Choose the sentences of each batch. The choice depends only on the sentence lengths, the epoch and the options.

These options are the seed, the batch budgets and the shuffle window. World size does not matter: a rank takes
``batch[rank::size]`` of every batch. Sentences of similar length share a batch, because a student pads the rows of a
batch to equal length, and the longest sentence of a batch decides how many computations a teacher must do one after
another. Batches are then visited in random order. For a student, a row of input takes the place of a sentence in this
module: a row is one sentence, or several sentences of one document.

With a shuffle window, the next batches come from a limited part of the split. The split is cut into blocks of
neighbouring sentences, and the blocks are put in random order. A window is a number of blocks that follow one another
in this order, and the batches described above are made inside one window at a time. Windows are for dumps that are
larger than memory or than the cache of remote files. Without a window, training would need every file of the dump all
the time.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.runtime.distributed import World
from pipeline.runtime.train_config import TrainConfig
from storage.dump.layout import sentence_blocks
from storage.ragged import Ragged, concatenated_ranges

POOL_BATCHES = 50
"""Sentences are sorted by length within random pools of about this number of batches. So there is little padding, and
the batches of each epoch are different."""
SAMPLE_SIZE = 1000
"""Number of sentences (or rows) of the training split that each evaluation on dev also evaluates. They are enough to
know the loss to about 0.01 nats per position, and few compared with an epoch."""
BLOCK_POSITIONS = 4096
"""Positions per block of the split; fewer if the shuffle window is smaller. Windows consist of whole blocks."""


def plan_epoch(lengths: np.ndarray, config: TrainConfig, epoch: int) -> list[np.ndarray]:
    """Return the batches of an epoch in the order in which they are visited. Each sentence is in exactly one batch.

    A sentence with more than ``config.batch_tokens`` positions is a batch of its own.

    Args:
        lengths: int64 ``[M]``, positions of each sentence (its tokens and ``<eos>``).
        config: The seed, the budgets of a batch and the shuffle window.
        epoch: Counted from 0. Each epoch has its own permutation.

    Returns:
        One int64 array of sentence indices per batch, longest sentence first.
    """
    generator = np.random.default_rng([config.seed, epoch])
    if not len(lengths):
        return []
    if not config.shuffle_window:
        return _shuffled_batches(generator.permutation(len(lengths)), lengths, generator, config)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    edges = sentence_blocks(offsets, min(BLOCK_POSITIONS, config.shuffle_window))
    blocks = generator.permutation(len(edges) - 1)
    per_window = max(1, config.shuffle_window // BLOCK_POSITIONS)
    batches = []
    for first in range(0, len(blocks), per_window):
        chosen = blocks[first : first + per_window]
        window = concatenated_ranges(edges[chosen], edges[chosen + 1] - edges[chosen])
        batches += _shuffled_batches(generator.permutation(window), lengths, generator, config)
    return batches


def _shuffled_batches(
    order: np.ndarray, lengths: np.ndarray, generator: np.random.Generator, config: TrainConfig
) -> list[np.ndarray]:
    """Return batches of the sentences in ``order``, which is random. The batches are in random order too."""
    mean = float(lengths[order].mean())
    per_batch = max(1, int(config.batch_tokens / mean))
    if config.batch_sentences:
        per_batch = min(per_batch, config.batch_sentences)
    batches = []
    for pool in np.array_split(order, max(1, round(len(order) / (per_batch * POOL_BATCHES)))):
        by_length = pool[np.argsort(-lengths[pool], kind="stable")]
        runs = consecutive_batches(lengths[by_length], config.batch_tokens, config.batch_sentences)
        batches += [by_length[first:stop] for first, stop in runs]
    return [batches[i] for i in generator.permutation(len(batches))]


def longest_first(lengths: np.ndarray, rows: Ragged) -> np.ndarray:
    """Return the order of M sentences, longest first. Sentences of equal length that begin alike are neighbours.

    Args:
        lengths: int64 ``[M]``.
        rows: M rows of tokens.
    """
    order = np.array(sorted(range(len(rows)), key=lambda i: rows[i].tobytes()), np.int64)
    return order[np.argsort(-lengths[order], kind="stable")]


def consecutive_batches(lengths: np.ndarray, batch_tokens: int, batch_sentences: int = 0) -> list[tuple[int, int]]:
    """Cut sentences, in their order, into batches; return the bounds ``(first, stop)`` of each.

    A batch has at most ``batch_tokens`` positions and ``batch_sentences`` sentences (0: any number). A sentence with
    more than ``batch_tokens`` positions is a batch of its own.
    """
    ends = np.cumsum(lengths)
    runs = []
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + batch_tokens, side="right")))
        if batch_sentences:
            stop = min(stop, first + batch_sentences)
        runs.append((first, stop))
        first = stop
    return runs


class BatchPlan:
    """The batches of a split, and the slices of one rank."""

    def __init__(self, lengths: np.ndarray, config: TrainConfig, world: World) -> None:
        """Plan with the budgets and the seed of ``config``. ``lengths``, int64 ``[M]``, are positions per sentence."""
        self._lengths = lengths
        self._config = config
        self._world = world
        self._newest: tuple[int, list[np.ndarray]] | None = None

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: the positions of each batch of an epoch, over all ranks."""
        return self.batch_sums(self._lengths, epoch)

    def batch_sums(self, values: np.ndarray, epoch: int) -> np.ndarray:
        """Return ``[B]``: for each batch of an epoch, the sum of ``values`` over its sentences, over all ranks.

        Args:
            values: ``[M]``, one integer or float per sentence. Sums of integers are int64, sums of floats float64.
            epoch: Counted from 0.
        """
        dtype = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64
        return np.array([values[batch].sum(dtype=dtype) for batch in self.batches(epoch)], dtype)

    def slices(self, epoch: int, first: int = 0) -> Iterator[tuple[np.ndarray, int]]:
        """Yield this rank's sentences of each batch (there may be none) and the number of positions in the whole batch.

        A rank gets every ``size``-th sentence of a batch that is sorted by length, so all ranks get about equal work.

        Args:
            epoch: Counted from 0.
            first: Index of the first batch to yield. Earlier batches are skipped.
        """
        for batch in self.batches(epoch)[first:]:
            yield batch[self._world.rank :: self._world.size], int(self._lengths[batch].sum())

    def sample_slices(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield what ``slices`` yields, for a fixed sample: at most ``SAMPLE_SIZE`` sentences, evenly spaced."""
        sample = np.linspace(0, len(self._lengths) - 1, min(SAMPLE_SIZE, len(self._lengths))).astype(np.int64)
        sample = sample[np.argsort(-self._lengths[sample], kind="stable")]
        lengths = self._lengths[sample]
        for first, stop in consecutive_batches(lengths, self._config.batch_tokens, self._config.batch_sentences):
            yield sample[first:stop][self._world.rank :: self._world.size], int(lengths[first:stop].sum())

    def num_sampled(self) -> int:
        """Return about how many positions ``sample_slices`` yields, over all ranks."""
        return int(min(SAMPLE_SIZE, len(self._lengths)) * self._lengths.mean())

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the sentences of each batch of an epoch, over all ranks. The result of the latest epoch is cached."""
        if self._newest is None or self._newest[0] != epoch:
            self._newest = epoch, plan_epoch(self._lengths, self._config, epoch)
        return self._newest[1]
