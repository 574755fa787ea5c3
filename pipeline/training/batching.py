"""Choose the sentences of each batch.

The choice depends only on the sentence lengths, the epoch, the seed, the batch budgets and the shuffle window. A rank
takes ``batch[rank::size]`` of every batch. Sentences of similar length share a batch, and the batches are visited in
random order. For a student, this module treats each row of input as a sentence. A row holds one sentence, or
consecutive sentences of one document.

A shuffle window is for dumps that are larger than memory or than the cache of remote files. The split is cut into
blocks of neighbouring sentences, and the blocks are shuffled. In the new order, consecutive blocks are joined into
windows of about ``config.shuffle_window`` positions. Batches are made inside one window at a time, so training reads
only a part of the dump at a time.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.runtime.distributed import World
from pipeline.runtime.train_config import TrainConfig
from storage.dump.layout import sentence_blocks
from storage.ragged import Ragged, concatenated_ranges

POOL_BATCHES = 50
"""Sentences are sorted by length within random pools of about this number of batches."""
SAMPLE_SIZE = 1000
"""Each evaluation measures the loss on dev, and also on this number of sentences of the training split. The error of
the loss on so few sentences is about 0.01 nats per position."""
BLOCK_POSITIONS = 4096
"""Positions per block of the split; fewer if the shuffle window is smaller."""


def plan_epoch(lengths: np.ndarray, config: TrainConfig, epoch: int) -> list[np.ndarray]:
    """Return the batches of an epoch in the order in which they are visited. Each sentence is in exactly one batch.

    A sentence with more than ``config.batch_tokens`` positions is a batch of its own.

    Args:
        lengths: int64 ``[M]``, the number of positions of each sentence (its tokens and ``<eos>``).
        config: The seed, the budgets of a batch and the shuffle window.
        epoch: Counted from 0.

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
    """Divide the sentences ``order`` into batches, and return the batches in random order."""
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

    ``lengths`` is int64 ``[M]``, and ``rows`` are the tokens of the sentences.
    """
    order = np.array(sorted(range(len(rows)), key=lambda i: rows[i].tobytes()), np.int64)
    return order[np.argsort(-lengths[order], kind="stable")]


def consecutive_batches(lengths: np.ndarray, batch_tokens: int, batch_sentences: int = 0) -> list[tuple[int, int]]:
    """Cut sentences, in their order, into batches; return the bounds ``(first, stop)`` of each batch.

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
        """Plan with the options of ``config``. ``lengths`` is int64 ``[M]``, the number of positions per sentence."""
        self._lengths = lengths
        self._config = config
        self._world = world
        self._newest: tuple[int, list[np.ndarray]] | None = None

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: the number of positions in each batch of an epoch, over all ranks."""
        return self.batch_sums(self._lengths, epoch)

    def batch_sums(self, values: np.ndarray, epoch: int) -> np.ndarray:
        """Return ``[B]``: for each batch of an epoch, the sum of ``values`` over its sentences, over all ranks.

        Args:
            values: ``[M]``, one integer or float per sentence. The sums are int64 or float64.
            epoch: Counted from 0.
        """
        dtype = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64
        return np.array([values[batch].sum(dtype=dtype) for batch in self.batches(epoch)], dtype)

    def slices(self, epoch: int, first: int = 0) -> Iterator[tuple[np.ndarray, int]]:
        """Yield this rank's sentences of each batch (there may be none) and the number of positions in the whole batch.

        Args:
            epoch: Counted from 0.
            first: Index of the first batch to yield.
        """
        for batch in self.batches(epoch)[first:]:
            yield batch[self._world.rank :: self._world.size], int(self._lengths[batch].sum())

    def sample_slices(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield what ``slices`` yields, for a fixed sample of at most ``SAMPLE_SIZE`` evenly spaced sentences."""
        sample = np.linspace(0, len(self._lengths) - 1, min(SAMPLE_SIZE, len(self._lengths))).astype(np.int64)
        sample = sample[np.argsort(-self._lengths[sample], kind="stable")]
        lengths = self._lengths[sample]
        for first, stop in consecutive_batches(lengths, self._config.batch_tokens, self._config.batch_sentences):
            yield sample[first:stop][self._world.rank :: self._world.size], int(lengths[first:stop].sum())

    def num_sampled(self) -> int:
        """Return about how many positions ``sample_slices`` yields, over all ranks."""
        return int(min(SAMPLE_SIZE, len(self._lengths)) * self._lengths.mean())

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the sentences of each batch of an epoch, over all ranks."""
        if self._newest is None or self._newest[0] != epoch:
            self._newest = epoch, plan_epoch(self._lengths, self._config, epoch)
        return self._newest[1]
