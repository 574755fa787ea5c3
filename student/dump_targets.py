"""The soft targets of a split's sentences, read from a dump at one temperature, or, as a control, another position's.

A dump and a dataset that do not belong together are refused before the first step; that the gold tokens agree is
checked again in every batch, since targets of other positions would train without any other sign.
"""

import numpy as np
import torch

from pipeline.corpus.dataset.dataset import Split
from storage.dump.reader import DumpReader
from storage.errors import FingerprintMismatchError, StoreError
from storage.fingerprints import check_fingerprint
from storage.ragged import concatenated_ranges
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
        shuffle_seed: Where it is given, positions have each other's targets, by one random permutation of all of the
            split: the control that has the teacher's distributions and not what they are of. A batch then reads from
            everywhere: for dumps that fit into memory.

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
            # Of the seed's streams, one that no epoch's batches have.
            generator = np.random.default_rng([shuffle_seed, 0, 1])
            dtype = np.uint32 if split.num_positions < 2**32 else np.int64
            self._source = generator.permutation(np.arange(split.num_positions, dtype=dtype))

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
            index = self._source[index].astype(np.int64)
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
        is_token = positions + 1 != self._dump.offsets[sentences + 1]
        gold = np.full(len(positions), self._eos_id, np.int64)
        gold[is_token] = self._split.tokens.values[(positions - sentences)[is_token]]
        return gold
