"""Batches for the student: tokens from the dataset and, position by position, soft targets from a dump.

What makes which batch is decided by ``pipeline.batching``; that batches are read in the background, by
``pipeline.read_ahead``.

A dump and a dataset that do not belong together are refused before the first step; that the gold tokens agree is
checked again in every batch, since targets of other positions would train without any other sign.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset import Split
from pipeline.next_token import append_eos
from storage.errors import FingerprintMismatchError, StoreError
from storage.fingerprints import check_fingerprint
from storage.ragged import Ragged
from storage.reader import DumpReader
from student.loss import Divergence, Tail
from student.targets import DrawnTargets, SoftTargets, Targets

BATCHES_AHEAD = 32
"""Batches that a dump hears of before they are read: seconds, in which a shard comes over a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentBatch:
    """This process's share of a batch; it may have no sentences."""

    tokens: Ragged
    """Token ids of its sentences, without ``<bos>`` and ``<eos>``."""
    gold: Tensor
    """int64 ``[P]``: the tokens of its positions, sentence by sentence, each sentence's then ``<eos>``."""
    targets: Targets | None
    """The teacher's distributions for the same P positions, if there is a dump."""
    num_positions: int
    """P."""
    num_positions_global: int
    """Positions of the whole batch, over all processes: what sums of the loss are divided by."""


class DumpTargets:
    """A dump that belongs to a split, read at one temperature.

    Args:
        dump: The dump.
        split: The sentences that the student reads.
        tokenizer_sha256: Fingerprint of the tokenizer that made their tokens.
        temperature: T; the dump must have been made for it.
        tail: What becomes of the mass outside the top k; other dumps than of the top k leave no choice.
        divergence: From what the dump holds; the same.

    Raises:
        FingerprintMismatchError: If the dump is of another split, tokenizer or sentence boundaries.
        StoreError: If it was not made for this temperature or treatment of the tail.
    """

    def __init__(
        self,
        dump: DumpReader,
        split: Split,
        *,
        tokenizer_sha256: str,
        temperature: float,
        tail: Tail = "bucket",
        divergence: Divergence = "kl",
    ) -> None:
        fingerprints = dump.schema.fingerprints
        remedy = "Give the dump of this dataset, or run dump-teacher on it"
        check_fingerprint(
            f"{dump.folder}: tokenizer", found=fingerprints["tokenizer"], expected=tokenizer_sha256, remedy=remedy
        )
        check_fingerprint(
            f"{dump.folder}: split {split.name}", found=fingerprints["split"], expected=split.sha256, remedy=remedy
        )
        if not np.array_equal(dump.offsets, split.position_offsets):
            raise FingerprintMismatchError(
                f"{dump.folder}: the boundaries of its {len(dump)} sentences are not those of the "
                f"{len(split.tokens)} of split {split.name}. {remedy}"
            )
        if dump.schema.num_draws:
            for option, value, default in (("--tail", tail, "bucket"), ("--divergence", divergence, "kl")):
                if value != default:
                    raise StoreError(
                        f"{dump.folder}: selection is {dump.schema.selection}, expected topk for {option} {value}: of "
                        f"draws there is the soft cross-entropy alone. Leave out {option}, or give a dump of the top k"
                    )
        self._dump = dump
        self._split_name = split.name
        self._temperature_index = dump.temperature_index(temperature)

    @property
    def have_draws(self) -> bool:
        """Whether the targets are estimates from draws: the loss then has ``student.loss.DRAWN_PARTS``."""
        return self._dump.schema.num_draws > 0

    def prefetch(self, sentences: np.ndarray) -> None:
        """Begin to fetch what ``read`` will want for these sentences, int64 ``[M]``; returns at once."""
        self._dump.prefetch(sentences)

    def read(self, sentences: np.ndarray, gold: np.ndarray, device: torch.device | None = None) -> Targets:
        """Return the targets of all positions of these sentences, whose gold tokens must be ``gold``.

        Args:
            sentences: int64 ``[M]``.
            gold: int64 ``[P]``.
            device: Where to; None: the CPU.

        Raises:
            FingerprintMismatchError: If the dump has other gold tokens.
            CorruptStoreError: If a checksum is wrong.
        """
        positions = self._dump.read_sentences(sentences)
        if not np.array_equal(positions.tokens, gold):
            position = int(np.argmax(positions.tokens != gold))
            raise FingerprintMismatchError(
                f"{self._dump.folder}: gold token {positions.tokens[position]} where split {self._split_name} has "
                f"{gold[position]}, though the fingerprints agree. Run verify on the dump and on the dataset"
            )
        if self.have_draws:
            return DrawnTargets.from_positions(positions, self._dump.schema, self._temperature_index, device)
        return SoftTargets.from_positions(positions, self._temperature_index, device)


def _announced(slices: Iterable[tuple[np.ndarray, int]], targets: DumpTargets) -> Iterator[tuple[np.ndarray, int]]:
    """Yield slices, each announced to the dump some batches before, so that it can fetch what it does not have here."""
    coming: deque[tuple[np.ndarray, int]] = deque()
    for each in slices:
        targets.prefetch(each[0])
        coming.append(each)
        if len(coming) > BATCHES_AHEAD:
            yield coming.popleft()
    yield from coming


def student_batches(
    slices: Iterable[tuple[np.ndarray, int]],
    split: Split,
    *,
    eos_id: int,
    targets: DumpTargets | None = None,
    device: torch.device | None = None,
) -> Iterator[StudentBatch]:
    """Yield a batch for each slice, empty ones included.

    Args:
        slices: This process's sentences of each batch and the positions of the whole batch, as
            ``pipeline.batching.BatchPlan.slices`` yields them.
        split: The sentences.
        eos_id: ``<eos>``.
        targets: The dump, if there is one.
        device: Where gold tokens and targets go; None: the CPU.

    Raises:
        FingerprintMismatchError, CorruptStoreError: As ``DumpTargets.read`` says.
    """
    for sentences, num_positions_global in slices if targets is None else _announced(slices, targets):
        tokens = split.tokens.take(sentences)
        gold = append_eos(tokens, eos_id).values
        yield StudentBatch(
            tokens=tokens,
            gold=torch.from_numpy(gold).to(device),
            targets=targets.read(sentences, gold, device) if targets else None,
            num_positions=len(gold),
            num_positions_global=num_positions_global,
        )
