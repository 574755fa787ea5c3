"""Which batches make which step: arithmetic, so that training can begin at any step.

A step takes ``accumulate_batches`` consecutive batches of one epoch; an epoch's last step takes what is left.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.runtime.train_config import TrainConfig
from pipeline.training_task import Batch, Task


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


class StepPlan:
    """The steps of a training run."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self._task = task
        self._config = config
        self._num_batches: list[int] = []
        self._epoch_ends: list[int] = []
        while len(self._epoch_ends) < config.num_epochs or config.max_steps:
            self._num_batches.append(len(task.batch_positions(len(self._epoch_ends))))
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

    def batches(self, *, after_step: int) -> Iterator[StepBatch]:
        """Yield this rank's slices of the batches of all steps after one, made as they are asked for."""
        done = after_step
        while done < self.num_steps:
            epoch, indices = self.place(done + 1)
            positions = self._task.batch_positions(epoch)
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
                    )

    def _epoch_of(self, step: int) -> int:
        return bisect.bisect_left(self._epoch_ends, step)
