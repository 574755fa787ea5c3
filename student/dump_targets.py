"""The soft targets of a split's sentences, read from a dump at one temperature, or, as a control, another position's.

A dump and a dataset that do not belong together are refused before the first step; that the gold tokens agree is
checked again in every batch, since targets of other positions would train without any other sign.
"""

import numpy as np
import torch

from pipeline.corpus.dataset import Split
from storage.errors import FingerprintMismatchError, StoreError
from storage.fingerprints import check_fingerprint
from storage.ragged import concatenated_ranges
from storage.reader import DumpReader
from student.loss import Divergence, Tail
from student.targets import DrawnTargets, SoftTargets, Targets


class DumpTargets:
    """A dump that belongs to a split, read at one temperature.

    Args:
        dump: The dump.
        split: The sentences that the student reads.
        tokenizer_sha256: Fingerprint of the tokenizer that made their tokens.
        eos_id: Of ``<eos>``, the gold token of a sentence's last position.
        temperature: T; the dump must have been made for it.
        tail: What becomes of the mass outside the top k; dumps with draws leave no choice.
        divergence: From what the dump holds; dumps with draws leave no choice.
        shuffle_seed: Where it is given, every position has the targets of another one, by one permutation of all
            positions of the split: the control that has the teacher's distributions and not what they are of.

    Raises:
        FingerprintMismatchError: If the dump is of another split, tokenizer or sentence boundaries.
        StoreError: If it was not made for this temperature, treatment of the tail or divergence.
    """

    def __init__(
        self,
        dump: DumpReader,
        split: Split,
        *,
        tokenizer_sha256: str,
        eos_id: int,
        temperature: float,
        tail: Tail = "bucket",
        divergence: Divergence = "kl",
        shuffle_seed: int | None = None,
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
        for option, value, default in (("--tail", tail, "bucket"), ("--divergence", divergence, "kl")):
            if dump.schema.num_draws and value != default:
                raise StoreError(
                    f"{dump.folder}: selection is {dump.schema.selection}, expected topk for {option} {value}: of "
                    f"draws there is the soft cross-entropy alone. Leave out {option}, or give a dump of the top k"
                )
        self._dump = dump
        self._split = split
        self._eos_id = eos_id
        self._temperature_index = dump.temperature_index(temperature)
        self._source = None
        if shuffle_seed is not None:
            self._source = np.random.default_rng([shuffle_seed]).permutation(split.num_positions)

    @property
    def have_draws(self) -> bool:
        """Whether the targets are estimates from draws."""
        return self._dump.schema.num_draws > 0

    def prefetch(self, sentences: np.ndarray) -> None:
        """Begin to fetch what ``read`` will want for these sentences, int64 ``[M]``; returns at once."""
        if self._source is None:  # else they need positions from everywhere
            self._dump.prefetch(sentences)

    def read(self, sentences: np.ndarray, num_positions: np.ndarray, device: torch.device) -> Targets:
        """Return the targets of the first positions of each of these sentences.

        Args:
            sentences: int64 ``[M]``.
            num_positions: int64 ``[M]``: how many of each; P in all.
            device: Where to.

        Raises:
            FingerprintMismatchError: If the dump has other gold tokens.
            CorruptStoreError: If a checksum is wrong.
        """
        offsets = self._dump.offsets
        index = concatenated_ranges(offsets[sentences], num_positions)
        if self._source is not None:
            index = self._source[index]
            positions = self._dump.read_positions(index)
        elif np.array_equal(num_positions, offsets[sentences + 1] - offsets[sentences]):
            positions = self._dump.read_sentences(sentences)
        else:
            positions = self._dump.read_positions(index)
        gold = self._gold(index)
        if not np.array_equal(positions.tokens, gold):
            position = int(np.argmax(positions.tokens != gold))
            raise FingerprintMismatchError(
                f"{self._dump.folder}: gold token {positions.tokens[position]} where split {self._split.name} has "
                f"{gold[position]}, though the fingerprints agree. Run verify on the dump and on the dataset"
            )
        if self.have_draws:
            return DrawnTargets.from_positions(positions, self._dump.schema, self._temperature_index, device)
        return SoftTargets.from_positions(positions, self._temperature_index, device)

    def _gold(self, positions: np.ndarray) -> np.ndarray:
        """Return the gold tokens of some positions of the split."""
        sentences = np.searchsorted(self._dump.offsets, positions, side="right") - 1
        is_last = positions + 1 == self._dump.offsets[sentences + 1]
        tokens = np.append(self._split.tokens.values, 0)[positions - sentences]
        return np.where(is_last, self._eos_id, tokens)
