"""Define what the training loop needs from a model, and decide which batches make which step.

A step takes ``accumulate_batches`` consecutive batches of one epoch; the last step of an epoch may take fewer. Training
can begin at any step.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from pipeline.runtime.train_config import TrainConfig
from storage.errors import InputError


class Batch(Protocol):
    """This rank's slice of a global batch. The slice may be empty."""

    @property
    def num_positions_global(self) -> int:
        """Positions of the whole batch, over all ranks."""


class Task(Protocol):
    """A model, its loss and its batches. All counts are over all ranks."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained and saved."""

    @property
    def objective(self) -> nn.Module:
        """A module that contains the model. It maps a batch to a vector of sums over the batch's positions.

        The vector begins with the sums that ``parts`` names, in the same order. More sums may follow.
        """

    @property
    def parts(self) -> Sequence[str]:
        """Names of the sums that metrics.jsonl shows as means per position. The first is ``loss``."""

    @property
    def dev_parts(self) -> Sequence[str]:
        """The names in ``parts`` that are also computed on dev. They come first in ``parts``."""

    @property
    def num_evaluated(self) -> int:
        """The number of positions that an evaluation reads: those of dev and of a sample of the training split."""

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: the number of positions in each batch of an epoch."""

    def batch_words(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: the number of words in each batch of an epoch. Words are separated by white space."""

    def batch_flops(self, epoch: int) -> np.ndarray | None:
        """Return float64 ``[B]``: model FLOPs of each batch, without those on padding; None if not counted."""

    @property
    def peak_flops(self) -> float | None:
        """Peak floating-point operations per second of one rank's device; None if unknown."""

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Return int64 ``[M]``: the sentences of one batch, as indices into the training split."""

    def weights_metadata(self, epoch: int, num_batches: int) -> Mapping[str, str]:
        """Return what a weights file records next to the weights, after ``num_batches`` batches of an epoch."""

    def train_batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """Yield this rank's slices of the epoch's batches from ``first`` on, each made when it is needed."""

    def dev_batches(self) -> Iterable[Batch]:
        """Yield this rank's slices of the dev split."""

    def sample_batches(self) -> Iterable[Batch]:
        """Yield this rank's slices of a fixed sample of the training split, without soft targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """This rank's slice of a batch, and its place in training."""

    step: int
    """Counted from 1."""
    epoch: int
    """Counted from 0."""
    index: int
    """Index of the batch in its epoch, from 0."""
    batch: Batch
    opens_step: bool
    """Whether the batch is the first of its step."""
    closes_step: bool
    """Whether the batch is the last of its step."""
    num_positions_step: int
    """Positions of all batches of the step, over all ranks."""
    num_words: int
    """Words seen from the start of training to the end of this step, over all ranks."""
    num_flops: float
    """Model FLOPs of the batch, over all ranks; 0 if the task does not count them."""


class StepPlan:
    """The steps of a training run.

    With ``max_steps``, an epoch is planned when it is first needed. Without ``max_steps``, all epochs are planned
    before the first step, because the learning rate needs the number of steps.

    Args:
        task: The model and its batches.
        config: The options.
        planned: The constructor calls it each time it has planned an epoch.

    Raises:
        InputError: If the training split has no sentence.
    """

    def __init__(self, task: Task, config: TrainConfig, *, planned: Callable[[], None] = lambda: None) -> None:
        self._task = task
        self._config = config
        self._num_batches: list[int] = []
        self._epoch_ends: list[int] = []
        self._word_ends: list[int] = []
        for _ in range(1 if config.max_steps else config.num_epochs):
            self._plan_epoch()
            planned()

    def _plan_epoch(self) -> None:
        """Plan the next epoch. If ``max_steps`` is inside the epoch, the epoch ends there."""
        words = self._task.batch_words(len(self._epoch_ends))
        if not len(words):
            raise InputError(
                "training: split train of the dataset has no sentence, expected at least one. Run inspect on the "
                "dataset: it lists the sentences that build-dataset dropped, and why"
            )
        before_words, before_steps = (ends[-1] if ends else 0 for ends in (self._word_ends, self._epoch_ends))
        end = before_steps - (-len(words) // self._config.accumulate_batches)
        self._num_batches.append(len(words))
        self._word_ends.append(before_words + int(words.sum()))
        self._epoch_ends.append(min(end, self._config.max_steps or end))

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self._config.max_steps or self._epoch_ends[-1]

    def is_evaluated(self, step: int) -> bool:
        """Return whether dev is evaluated after a step."""
        if step == self.num_steps:
            return True
        every = self._config.eval_every
        return step % every == 0 if every else self._epoch_ends[self._epoch_of(step)] == step

    def place(self, step: int) -> tuple[int, range]:
        """Return the epoch of a step and its batches, as indices in that epoch."""
        epoch = self._epoch_of(step)
        num = self._config.accumulate_batches
        first = (step - 1 - (self._epoch_ends[epoch - 1] if epoch else 0)) * num
        return epoch, range(first, min(first + num, self._num_batches[epoch]))

    def words_after(self, step: int) -> int:
        """Return the number of words in the first ``step`` steps. Each pass over a sentence counts."""
        if step == 0:
            return 0
        epoch, indices = self.place(step)
        return int(self._words_seen(epoch)[indices.stop - 1])

    def steps_reaching(self, thresholds: Sequence[int]) -> dict[int, int]:
        """Return, for each threshold, the first step after which that many words were seen.

        Thresholds that training never reaches are not in the result.
        """
        found = {}
        for threshold in sorted(thresholds):
            while self._word_ends[-1] < threshold and self._epoch_ends[-1] < self.num_steps:
                self._plan_epoch()
            epoch = bisect.bisect_left(self._word_ends, threshold)
            if epoch == len(self._word_ends):
                break
            index = int(np.searchsorted(self._words_seen(epoch), threshold))
            step = (self._epoch_ends[epoch - 1] if epoch else 0) + index // self._config.accumulate_batches + 1
            if step > self.num_steps:
                break
            found[threshold] = step
        return found

    def batches(self, *, after_step: int) -> Iterator[StepBatch]:
        """Yield this rank's slices of the batches of all steps after ``after_step``, each made when it is needed."""
        done = after_step
        while done < self.num_steps:
            epoch, indices = self.place(done + 1)
            positions, words = self._task.batch_positions(epoch), self._words_seen(epoch)
            flops = self._task.batch_flops(epoch)
            batches = iter(self._task.train_batches(epoch, indices.start))
            first, done = done + 1, self._epoch_ends[epoch]
            for step in range(first, done + 1):
                _, indices = self.place(step)
                for index in indices:
                    yield StepBatch(
                        step=step,
                        epoch=epoch,
                        index=index,
                        batch=next(batches),
                        opens_step=index == indices.start,
                        closes_step=index == indices.stop - 1,
                        num_positions_step=int(positions[indices.start : indices.stop].sum()),
                        num_words=int(words[indices.stop - 1]),
                        num_flops=float(flops[index]) if flops is not None else 0.0,
                    )

    def _words_seen(self, epoch: int) -> np.ndarray:
        """Return int64 ``[B]``: words seen after each batch of an epoch, including words of earlier epochs."""
        return (self._word_ends[epoch - 1] if epoch else 0) + np.cumsum(self._task.batch_words(epoch))

    def _epoch_of(self, step: int) -> int:
        while self._epoch_ends[-1] < min(step, self.num_steps):
            self._plan_epoch()
        return bisect.bisect_left(self._epoch_ends, step)
