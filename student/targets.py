"""Read the soft targets of a batch from a dump: the teacher's distributions at one temperature.

The teacher's distribution is p at T = 1, and p_T at the temperature T. A dump of the top k has the teacher's own
probabilities (``SoftTargets``). A dump with draws holds some of the most probable tokens. They are called the top
tokens, and all other tokens are called the rest. In addition, the dump holds n tokens drawn at random from the rest.
With ``dump-teacher --selection sampled`` there are no top tokens, and the rest is the whole vocabulary. From the draws
this module computes estimates p^_T of p_T (``DrawnTargets``). For the top tokens p^_T is p_T. For a token w of the rest
that was drawn c_w times,

    p^_T(w) = (c_w / n) (p(rest) / p(w)) p_T(w)

The expectation of p^_T is p_T. This is importance sampling with p as the proposal (for T = 1 see Anshumann et al. 2025,
Sparse Logit Sampling). p^_T need not sum to 1. Normalising it would make it biased.

A dump of another dataset is an error. In addition, the gold tokens of dump and dataset are compared in every batch.

Shape letters: R rows (positions), k columns. A dump with draws has one column for each top token and each draw.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.runtime.distributed import on_device
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.errors import FingerprintMismatchError, StoreError
from storage.fingerprints import check_fingerprint
from storage.ragged import concatenated_ranges
from student.student_config import Divergence, Tail

if TYPE_CHECKING:  # so that the loss can be computed without zarr
    from pipeline.corpus.dataset.dataset_store import Split
    from storage.dump.reader import DumpReader


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftTargets:
    """The teacher's distributions for R rows, at one temperature T."""

    ids: Tensor
    """int64 ``[R, k]``: distinct in each row, in any order."""
    log_probs: Tensor
    """float ``[R, k]``: log p(w) at T = 1, normalised over the whole vocabulary."""
    tail: Tensor
    """float ``[R]``: log of the sum of p_T over all tokens not in ``ids``; -inf if the sum is 0. Not read if k = V."""
    logz: Tensor
    """float ``[R]``: log of the sum over w of p(w)^(1/T); 0 at T = 1."""

    def __getitem__(self, rows: slice) -> Self:
        """Return some of the rows."""
        return type(self)(**{name: getattr(self, name)[rows] for name in self.__slots__})

    @classmethod
    def from_positions(cls, positions: Positions, temperature_index: int, device: torch.device) -> Self:
        """Return the targets of some positions of a dump, at the temperature with this index."""
        arrays: dict[str, np.ndarray] = {
            "ids": positions.ids.astype(np.int64),
            "log_probs": positions.logp,
            "tail": positions.tail[:, temperature_index].copy(),
            "logz": positions.logz[:, temperature_index].copy(),
        }
        return cls(**{name: on_device(array, device) for name, array in arrays.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnTargets:
    """Estimates of the teacher's distributions for R rows, at one temperature T."""

    ids: Tensor
    """int64 ``[R, k]``: the top tokens, then the drawn ones. Equal draws share a column, so some columns can be unused.
    An unused column has an arbitrary id."""
    weights: Tensor
    """float ``[R, k]``: p^_T(w); 0 in an unused column."""

    def __getitem__(self, rows: slice) -> Self:
        """Return some of the rows."""
        return type(self)(ids=self.ids[rows], weights=self.weights[rows])

    @classmethod
    def from_positions(
        cls, positions: Positions, schema: DumpSchema, temperature_index: int, device: torch.device
    ) -> Self:
        """Return the targets of positions of a dump with draws; see ``SoftTargets.from_positions``."""
        assert positions.counts is not None, "a dump without draws has SoftTargets"
        arrays = (
            positions.ids.astype(np.int64),
            positions.logp,
            positions.counts,
            positions.tail[:, 0].copy(),
            positions.logz[:, temperature_index].copy(),
        )
        ids, logp, counts, tail, logz = (on_device(array, device) for array in arrays)
        return cls(
            ids=ids.masked_fill(logp.isnan(), 0),
            weights=estimated_probabilities(
                logp.float(),
                counts,
                tail,
                logz,
                num_top=schema.num_top,
                temperature=schema.temperatures[temperature_index],
            ),
        )


def estimated_probabilities(
    log_probs: Tensor, counts: Tensor, tail: Tensor, logz: Tensor, *, num_top: int, temperature: float
) -> Tensor:
    """Return p^_T, ``[R, k]`` of the dtype of ``log_probs``; 0 in unused columns.

    Args:
        log_probs: float ``[R, k]``: log p(w) at T = 1; NaN in unused columns.
        counts: ``[R, k]``: how often each id was drawn. The first ``num_top`` columns, which hold the top tokens, and
            all unused columns have 0.
        tail: float ``[R]``: log of the mass outside the top tokens at T = 1.
        logz: float ``[R]``: log of the sum over w of p(w)^(1/T).
        num_top: Number of top tokens.
        temperature: T.
    """
    # A dump in float16 has -inf for numbers below -65,504. Such a number becomes -65,504 here. Otherwise tail - drawn
    # would be NaN below if both are -inf.
    log_probs = log_probs.clamp(min=torch.finfo(torch.float16).min)
    log_weights = log_probs / temperature - logz.to(log_probs.dtype)[:, None]
    drawn = log_probs[:, num_top:]
    share = counts[:, num_top:].to(log_probs.dtype) / drawn.shape[1]
    # The ratio p(rest) / p(w) is computed from logarithms, because both probabilities can be too small for float32.
    log_weights[:, num_top:] += share.log() + (tail.to(log_probs.dtype)[:, None] - drawn)
    weights = log_weights.exp()
    weights[:, num_top:].masked_fill_(share == 0, 0.0)
    return weights


Targets = SoftTargets | DrawnTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetOptions:
    """The options of ``DumpTargets``."""

    tokenizer_sha256: str
    """Fingerprint of the dataset's tokenizer."""
    eos_id: int
    """Id of ``<eos>``, the gold token of the last position of a sentence."""
    temperature: float
    """T. The dump must have been made for it."""
    tail: Tail = "bucket"
    """Treatment of the mass outside the top k. With draws it must be the default."""
    divergence: Divergence = "kl"
    """The divergence from the soft targets. With draws it must be the default."""
    shuffle_seed: int | None = None
    """If given, a random permutation of the whole split gives each position the targets of another position, as a
    control. A batch then reads from the whole dump, so the dump should fit into memory."""


class DumpTargets:
    """The soft targets of a split, from a dump that was made from this split.

    Raises:
        FingerprintMismatchError: If the dump was made from another split or tokenizer, or has other sentences.
        StoreError: If the dump was not made for this temperature, or if the dump has draws and ``options`` has
            another ``tail`` or ``divergence`` than the default.
    """

    def __init__(self, dump: "DumpReader", split: "Split", options: TargetOptions) -> None:
        found = dump.schema.fingerprints
        remedy = "Give a dump of this dataset, or run dump-teacher on the dataset"
        check_fingerprint(
            f"{dump.folder}: tokenizer",
            found=found["tokenizer"],
            expected=options.tokenizer_sha256,
            remedy=remedy,
        )
        check_fingerprint(
            f"{dump.folder}: split {split.name}", found=found["split"], expected=split.sha256, remedy=remedy
        )
        if not np.array_equal(dump.offsets, split.position_offsets):
            raise FingerprintMismatchError(
                f"{dump.folder}: the boundaries of its {len(dump)} sentences differ from those of the "
                f"{len(split.tokens)} sentences of split {split.name}. {remedy}"
            )
        for option, value, default in (("--tail", options.tail, "bucket"), ("--divergence", options.divergence, "kl")):
            if dump.schema.num_draws and value != default:
                raise StoreError(
                    f"{dump.folder}: selection is {dump.schema.selection}, expected topk for {option} {value}: "
                    f"a dump with draws works only with the default. Leave out {option}, or give a dump of the top k"
                )
        self._dump = dump
        self._split = split
        self._eos_id = options.eos_id
        self._temperature_index = dump.temperature_index(options.temperature)
        self._source = None
        if options.shuffle_seed is not None:
            # ``0, 1`` selects a random stream of this seed that the order of the batches does not use.
            generator = np.random.default_rng([options.shuffle_seed, 0, 1])
            dtype = np.uint32 if split.num_positions < 2**32 else np.int64
            self._source = generator.permutation(np.arange(split.num_positions, dtype=dtype))

    @property
    def have_draws(self) -> bool:
        """Whether the targets are estimates from draws."""
        return self._dump.schema.num_draws > 0

    def prefetch(self, sentences: np.ndarray) -> None:
        """Begin to fetch the targets of sentences for a later ``read``. Returns at once."""
        if self._source is None:  # shuffled targets come from the whole dump
            self._dump.prefetch(sentences)

    def read(self, sentences: np.ndarray, num_positions: np.ndarray, device: torch.device) -> Targets:
        """Return the targets of the first ``num_positions[i]`` positions of each sentence ``sentences[i]``.

        Both arrays are int64 ``[M]``.

        Raises:
            FingerprintMismatchError: If the dump has other gold tokens than the split.
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
                f"{gold[position]}, although the fingerprints agree. Run verify on the dump and on the dataset"
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
