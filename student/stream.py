"""Make the student's batches: tokens from the dataset and, position by position, soft targets from dumps.

A row (``student.rows``) is a sequence that the student reads: one sentence, or consecutive sentences of a document.
``pipeline.training.batching`` chooses the rows of each batch. ``pipeline.runtime.background`` runs this module in a
background thread.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.dumping.next_token import append_eos
from pipeline.runtime.distributed import on_device
from storage.ragged import Ragged, concatenated_ranges
from student.mixed_targets import AnyTargets
from student.rows import Rows, StudentInputs
from student.targets import Targets

BATCHES_AHEAD = 32
"""Number of batches whose targets are fetched ahead. This leaves some seconds to download a shard of a remote dump."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentBatch:
    """This process's share of a batch. It may have no sentences."""

    inputs: StudentInputs
    """The rows of this share."""
    gold: Tensor
    """int64 ``[P]``: the gold tokens, sentence by sentence. Each sentence ends with ``<eos>``."""
    targets: Targets | None
    """The soft targets of the same P positions, if there is a dump."""
    num_positions_global: int
    """Positions of the whole batch, over all processes."""


def student_batches(
    slices: Iterable[tuple[np.ndarray, int]],
    split: Split,
    rows: Rows,
    *,
    bos_id: int,
    eos_id: int,
    device: torch.device,
    targets: AnyTargets | None = None,
) -> Iterator[StudentBatch]:
    """Yield one batch for each slice, also for an empty slice. Copies to a GPU are asynchronous.

    A slice is this process's rows of a batch, and the number of positions in the whole batch; see
    ``pipeline.training.batching.BatchPlan.slices``.

    Raises:
        FingerprintMismatchError, CorruptStoreError: See ``DumpTargets.read``.
    """
    parts = ((*rows.sentences(numbers), total) for numbers, total in slices)
    for sentences, row_offsets, num_positions_global in parts if targets is None else _announced(parts, targets):
        tokens, num_positions = split.tokens.take(sentences), rows.num_positions[sentences]
        gold = append_eos(tokens, eos_id)
        if len(gold.values) > num_positions.sum():
            gold, tokens = _heads(gold, num_positions), _heads(tokens, num_positions - 1)
        yield StudentBatch(
            inputs=StudentInputs.of(tokens, row_offsets, bos_id=bos_id).to(device),
            gold=on_device(gold.values, device),
            targets=targets.read(sentences, num_positions, device) if targets else None,
            num_positions_global=num_positions_global,
        )


def _heads(rows: Ragged, lengths: np.ndarray) -> Ragged:
    """For each sentence i, return its first ``lengths[i]`` values."""
    return Ragged.from_lengths(rows.values[concatenated_ranges(rows.offsets[:-1], lengths)], lengths)


def _announced(
    parts: Iterable[tuple[np.ndarray, np.ndarray, int]], targets: AnyTargets
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield ``parts`` unchanged, and prefetch the targets of their sentences ``BATCHES_AHEAD`` batches ahead."""
    coming: deque[tuple[np.ndarray, np.ndarray, int]] = deque()
    for each in parts:
        targets.prefetch(each[0])
        coming.append(each)
        if len(coming) > BATCHES_AHEAD:
            yield coming.popleft()
    yield from coming
