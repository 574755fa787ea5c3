"""What a model brings to the training loop."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import nn


class Batch(Protocol):
    """This rank's slice of a global batch; may be empty."""

    @property
    def num_positions_global(self) -> int:
        """Positions of the batch over all ranks."""


class Task(Protocol):
    """A model, its loss and its batches."""

    @property
    def model(self) -> nn.Module:
        """Whose parameters are trained and saved."""

    @property
    def objective(self) -> nn.Module:
        """Holds the model; called with a batch, it returns sums over its positions, ``parts`` first."""

    @property
    def parts(self) -> Sequence[str]:
        """Names of the sums, ``loss`` first, as they stand in metrics.jsonl."""

    @property
    def dev_parts(self) -> Sequence[str]:
        """The first of ``parts``: those that dev has."""

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: positions of each batch of an epoch over all ranks, the same on every rank."""

    def batch_words(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: white-space-separated words of each batch, over all ranks, the same on every rank."""

    def batch_flops(self, epoch: int) -> np.ndarray | None:
        """Return float64 ``[B]``: model FLOPs of each batch, over all ranks; None if nobody counts them.

        They are what forward and backward of the model need, whatever a program spends.
        """

    @property
    def peak_flops(self) -> float | None:
        """Floating-point operations a second that the device of one rank can at most do; None if it is not known."""

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Return int64 ``[M]``: the sentences of one batch over all ranks, as numbers in the training split."""

    def weights_metadata(self, epoch: int, num_batches: int) -> Mapping[str, str]:
        """Return what a weights file records next to the weights.

        Args:
            epoch: The epoch of the last step that was taken, from 0.
            num_batches: How many batches of that epoch have been trained on.
        """

    def train_batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """This rank's slices of the epoch's batches from ``first`` on, made as they are asked for."""

    def dev_batches(self) -> Iterable[Batch]:
        """This rank's slices of the dev split, always the same."""
