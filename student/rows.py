"""Lay out rows: the sequences that the student reads.

With ``--context sentence`` a row is one sentence. With ``--context document`` a row is consecutive sentences of one
document, as many as the position embeddings allow, and each sentence sees the sentences before it in the row. In both
cases a sentence has the inputs ``<bos> w1 .. wn`` and the gold tokens ``w1 .. wn <eos>``.

Shape letters: M sentences, R rows of a split, B rows of a batch, L positions of the longest row of the batch, P
positions (n + 1 for a sentence of n tokens).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.runtime.distributed import on_device
from storage.errors import InputError
from storage.ragged import Ragged, concatenated_ranges
from student.student_config import Context

if TYPE_CHECKING:  # this import loads zarr, which a student does not need
    from pipeline.corpus.dataset.dataset_store import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentInputs:
    """Rows of token ids, as the student reads them."""

    input_ids: Tensor
    """int64 ``[B, L]``, with at least one row and one position. Padding is ``<bos>``."""
    valid: Tensor
    """int64 ``[P]``: the indices of the positions among the B · L entries of ``input_ids``, sentence by sentence."""

    @classmethod
    def of(cls, tokens: Ragged, row_offsets: np.ndarray, *, bos_id: int) -> Self:
        """Return the rows of M sentences.

        Args:
            tokens: The token ids of the sentences, without ``<bos>`` and ``<eos>``.
            row_offsets: int64 ``[B + 1]``: row b has sentences ``row_offsets[b]:row_offsets[b + 1]``, at least one.
            bos_id: Id of ``<bos>``.
        """
        flat = np.insert(tokens.values.astype(np.int64), tokens.offsets[:-1], bos_id)
        num_positions = np.diff((tokens.offsets + np.arange(len(tokens.offsets)))[row_offsets])
        length = int(num_positions.max(initial=1))
        is_valid = np.arange(length) < num_positions[:, None]
        input_ids = np.full((max(1, len(num_positions)), length), bos_id, np.int64)
        input_ids[: len(num_positions)][is_valid] = flat
        return cls(input_ids=torch.from_numpy(input_ids), valid=torch.from_numpy(np.flatnonzero(is_valid)))

    def to(self, device: torch.device) -> Self:
        """Return the rows on a device. Copying does not wait for the device."""
        if self.input_ids.device == device:
            return self
        input_ids, valid = (on_device(each.numpy(), device) for each in (self.input_ids, self.valid))
        return type(self)(input_ids=input_ids, valid=valid)


class Rows:
    """The rows of a split.

    Args:
        split: The sentences.
        context: ``sentence`` or ``document``.
        max_length: Largest number of positions of a row.
        truncate: Whether a sentence with more than ``max_length`` positions keeps its first ``max_length`` positions.
            If False, such a sentence is an error.

    Raises:
        InputError: If a sentence is too long, or if the context is ``document`` and the split has no documents.
    """

    def __init__(self, split: "Split", *, context: Context, max_length: int, truncate: bool = False) -> None:
        whole = split.tokens.lengths + 1
        is_long = whole > max_length
        self.num_truncated = int(is_long.sum())
        """Number of sentences that lost positions."""
        self.num_lost = int((whole - max_length)[is_long].sum())
        """Number of positions that these sentences lost."""
        if self.num_truncated and not truncate:
            longest = int(np.argmax(whole))
            raise InputError(
                f"split {split.name}: {self.num_truncated:,} of {len(whole):,} sentences have more than {max_length:,} "
                f"positions, sentence {longest} has {whole[longest]:,}; give --max-length {whole[longest]}, or "
                "--long-sentences truncate to keep the first positions of each"
            )
        self.num_positions = np.minimum(whole, max_length)
        """int64 ``[M]``: the number of positions of each sentence."""
        self._offsets = np.arange(len(whole) + 1)
        if context == "document":
            if not split.has_documents:
                raise InputError(
                    f"split {split.name}: the dataset has no documents, expected documents for --context document; "
                    "build the dataset from trees with a STEM.docs (import-trees --documents)"
                )
            self._offsets = _document_rows(split.document_ids, self.num_positions, max_length)
        self.lengths = self.sums(self.num_positions)
        """int64 ``[R]``: the number of positions of each row of the split."""

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return int64 ``[R]``: the sum of the values in each row. There is one integer value per sentence."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
        return np.diff(ends[self._offsets])

    def sentences(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices ``[M]`` of the sentences of B rows, row after row, and ``[B + 1]`` offsets.

        The sentences of the row ``rows[b]`` are ``indices[offsets[b]:offsets[b + 1]]``.
        """
        starts, counts = self._offsets[rows], self._offsets[rows + 1] - self._offsets[rows]
        return concatenated_ranges(starts, counts), np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _document_rows(document_ids: np.ndarray, num_positions: np.ndarray, max_length: int) -> np.ndarray:
    """Return int64 ``[R + 1]`` offsets: row r has the sentences ``offsets[r]`` to ``offsets[r + 1] - 1``."""
    ends = np.cumsum(num_positions)
    document_ends = np.append(np.flatnonzero(np.diff(document_ids)) + 1, len(document_ids))
    offsets = [0]
    while offsets[-1] < len(document_ids):
        first = offsets[-1]
        before = ends[first - 1] if first else 0
        stop = int(np.searchsorted(ends, before + max_length, side="right"))
        offsets.append(min(stop, int(document_ends[np.searchsorted(document_ends, first, side="right")])))
    return np.array(offsets, np.int64)
