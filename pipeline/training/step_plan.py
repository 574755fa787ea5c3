"""Which batches make which step: arithmetic, so that training can begin at any step.

A step takes ``accumulate_batches`` consecutive batches of one epoch; an epoch's last step takes what is left.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.runtime.train_config import TrainConfig
from pipeline.training.training_task import Batch, Task
from storage.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """This rank's slice of a batch, and its place in training."""

    step: int
    """From 1."""
    epoch: int
    index: int
    """Of the batch in its epoch, from 0."""
    batch: Batch
    opens_step: bool
    closes_step: bool
    num_positions_step: int
    """Positions of all batches of the step, over all ranks."""
    num_words: int
    """Words seen when the step is done: of the sentences of all its batches and of all steps before, over all ranks."""
    num_flops: float
    """Model FLOPs of the batch, over all ranks; 0 where the task does not count them."""


class StepPlan:
    """The steps of a training run.

    Raises:
        InputError: If train has no sentence.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self._task = task
        self._config = config
        self._num_batches: list[int] = []
        self._epoch_ends: list[int] = []
        self._word_ends: list[int] = []
        while len(self._epoch_ends) < config.num_epochs or config.max_steps:
            words = task.batch_words(len(self._epoch_ends))
            if not len(words):
                raise InputError(
                    "training: split train of the dataset has no sentence, expected at least one; inspect says what "
                    "build-dataset dropped, and why"
                )
            self._num_batches.append(len(words))
            self._word_ends.append((self._word_ends[-1] if self._word_ends else 0) + int(words.sum()))
            before = self._epoch_ends[-1] if self._epoch_ends else 0
            self._epoch_ends.append(before + -(-self._num_batches[-1] // config.accumulate_batches))
            if config.max_steps and self._epoch_ends[-1] >= config.max_steps:
                self._epoch_ends[-1] = config.max_steps
                break

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self._epoch_ends[-1]

    @property
    def epoch_ends(self) -> list[int]:
        """The step each epoch ends with; the last one is cut where ``max_steps`` says."""
        return list(self._epoch_ends)

    def is_evaluated(self, step: int) -> bool:
        """Whether dev is evaluated after a step."""
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
        """Return how many words the first steps have seen, over all ranks; a sentence counts each time it is seen."""
        if step == 0:
            return 0
        epoch, indices = self.place(step)
        return int(self._words_seen(epoch)[indices.stop - 1])

    def steps_reaching(self, thresholds: Sequence[int]) -> dict[int, int]:
        """Return, by number of words, the first step after which as many were seen; only of those that ever are."""
        found = {}
        for threshold in sorted(thresholds):
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
        """Yield this rank's slices of the batches of all steps after one, made as they are asked for."""
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
        """Return int64 ``[B]``: words seen when each batch of an epoch is done, those of the epochs before included."""
        return (self._word_ends[epoch - 1] if epoch else 0) + np.cumsum(self._task.batch_words(epoch))

    def _epoch_of(self, step: int) -> int:
        return bisect.bisect_left(self._epoch_ends, step)
