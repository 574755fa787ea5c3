"""Predict the hours, the memory and the bytes of a training before it is begun. No run is written.

To predict them, this module times some training steps and the evaluation of some batches of dev. It encodes one
checkpoint in memory to know its size. With ``--patience`` a training may end earlier than predicted. For N processes,
the steps of one process are timed, with its share of each batch. The time in which processes add up their gradients is
not included.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.background import ReadAhead
from pipeline.runtime.checkpoint import encoded_state
from pipeline.runtime.distributed import World, wait_for
from pipeline.runtime.plan import MEASURE_S, peak_memory, write_rate
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_end import StopRequest
from pipeline.runtime.train_config import TrainConfig, word_thresholds
from pipeline.training.step_plan import Batch, StepBatch, StepPlan, Task
from pipeline.training.training_loop import Training, evaluate

NUM_STEPS = 20
"""Maximum number of steps to time for each number of processes."""
LEAST_STEPS = 2
"""Minimum number of steps to time, even if they take longer than `MEASURE_S` allows."""
NUM_DEV_BATCHES = 8
_ROW_BYTES = 1_200
"""Bytes of a row of metrics in metrics.jsonl and TensorBoard together, measured."""


def plan_training(
    task_for: Callable[[World], Task], config: TrainConfig, *, run: Path, device: torch.device, processes: Sequence[int]
) -> dict[str, Any]:
    """Return counts, rates, memory, bytes and hours of a training as JSON values.

    Args:
        task_for: Given the number of processes (in a ``World``), returns the task of one process: its model, its loss
            and its batches. The tasks may share a model.
        config: The options of the training.
        run: The run directory that would be written.
        device: Where the model is.
        processes: Numbers of processes to predict the hours for.
    """
    budget_s = MEASURE_S / (1 + len(processes))
    with Progress("plan", total=len(processes) + 1, unit="measurements") as progress:
        task = task_for(World())
        training = Training(task, config, run, World(), StopRequest())
        steps = training.plan
        step_s = {1: _step_seconds(training, device, budget_s)}
        _take_largest_step(training, task)
        position_s = _evaluation_seconds(task)
        state = encoded_state(training.state(0.0, torch.zeros(1, len(task.parts)), 0), None).nbytes
        memory = peak_memory(device)  # measured now, because each further Training makes another optimiser
        progress.update(1)
        for number in processes:
            if number not in step_s:
                training = Training(task_for(World(size=number)), config, run, World(), StopRequest())
                step_s[number] = _step_seconds(training, device, budget_s)
            progress.update(1)
    size = _Size.of(steps, config, state=state, weights=sum(each.nbytes for each in task.model.state_dict().values()))
    rate = write_rate(run)
    of_epoch = task.batch_positions(0)
    per_step = float(of_epoch.sum()) / math.ceil(len(of_epoch) / config.accumulate_batches)
    evaluation_s = size.num_evaluations * task.num_evaluated * position_s
    return {
        "num_steps": steps.num_steps,
        "num_positions": round(steps.num_steps * per_step),
        "num_evaluations": size.num_evaluations,
        "num_checkpoints": size.num_checkpoints,
        "positions_per_s": {str(number): per_step / step_s[number] for number in processes},
        "evaluated_positions_per_s": 1 / position_s,
        "write_bytes_per_s": rate,
        **memory,
        "size_bytes": size.kept,
        "written_bytes": size.written,
        "hours_by_processes": {
            str(number): (steps.num_steps * step_s[number] + evaluation_s / number + size.written / rate) / 3600
            for number in processes
        },
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """What a training writes, in bytes."""

    num_evaluations: int
    num_checkpoints: int
    kept: int
    """Bytes of the finished run directory."""
    written: int
    """Bytes written during the whole training, including replaced checkpoints."""

    @classmethod
    def of(cls, plan: StepPlan, config: TrainConfig, *, state: int, weights: int) -> "_Size":
        """Count evaluations and checkpoints. Every evaluation is assumed to find a new best."""
        steps, every, saved_every = plan.num_steps, config.eval_every, config.checkpoint_every
        evaluations = math.ceil(steps / every) if every else plan.place(steps)[0] + 1
        words = len(plan.steps_reaching(word_thresholds(config.word_checkpoints)))
        more = steps // saved_every if saved_every else 0
        if every and saved_every:
            more -= steps // math.lcm(every, saved_every)
        checkpoints = evaluations + more + words
        rows = _ROW_BYTES * (steps // config.log_every + 2 * evaluations)
        return cls(
            num_evaluations=evaluations,
            num_checkpoints=checkpoints,
            kept=state + (2 + words) * weights + rows,
            written=checkpoints * (state + weights) + (evaluations + words) * weights + rows,
        )


def _step_seconds(training: Training, device: torch.device, budget_s: float) -> float:
    """Take some steps; return the median of their seconds.

    The first step is not counted, because it touches new memory. Among the next steps, some can take several times as
    long as usual, if their batches have a new shape. In a long training such steps are rare, so the mean would mislead.
    """
    seconds: list[float] = []
    begin = mark = time.perf_counter()
    with ReadAhead(training.plan.batches(after_step=0)) as stream:
        for place in stream:
            training.backward(place)
            if not place.closes_step:
                continue
            training.update(place)
            wait_for(device)
            now = time.perf_counter()
            seconds.append(now - mark)
            mark = now
            if len(seconds) > NUM_STEPS or (len(seconds) > LEAST_STEPS and now - begin > budget_s):
                break
    return statistics.median(seconds[1:] or seconds)


def _take_largest_step(training: Training, task: Task) -> None:
    """Take a step with the largest batch of the first epoch, because it needs the most memory."""
    batch = next(iter(task.train_batches(0, int(task.batch_positions(0).argmax()))))
    place = StepBatch(
        step=1, epoch=0, index=0, batch=batch, opens_step=True, closes_step=True,
        num_positions_step=batch.num_positions_global, num_words=0, num_flops=0.0,
    )  # fmt: skip
    training.backward(place)
    training.update(place)


def _evaluation_seconds(task: Task) -> float:
    """Evaluate some batches of dev; return the seconds per position."""
    evaluate(task, itertools.islice(task.dev_batches(), 1), World())
    num_positions = 0

    def counted() -> Iterator[Batch]:
        nonlocal num_positions
        for batch in itertools.islice(task.dev_batches(), NUM_DEV_BATCHES):
            num_positions += batch.num_positions_global
            yield batch

    begin = time.perf_counter()
    evaluate(task, counted(), World())
    return (time.perf_counter() - begin) / num_positions
