"""Train a teacher or a student: run the steps, evaluate on dev, write metrics and checkpoints.

A `Task` provides the model and its batches. The model sums its loss over the positions of a batch. The loop divides by
the number of positions in the step, over all its batches and all ranks. So, without dropout and except for rounding, a
step is the same at any world size, and N accumulated batches equal one batch of N times the size.

A training that is resumed from a checkpoint takes bit for bit the steps of an uninterrupted training, if world size and
threads are the same. On a GPU this also needs the option ``--deterministic``. The random generators are seeded from
(seed, step, rank).
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.runtime.background import ReadAhead
from pipeline.runtime.checkpoint import TrainingState, load_state, repair_weights, save_checkpoint
from pipeline.runtime.distributed import World
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_end import StoppedBySignal, StopRequest, recorded_end, stop_request
from pipeline.runtime.train_config import DECAY_SHARE, TrainConfig, lr_factor, word_thresholds, words_name
from pipeline.training.finite_check import REMEDY, DivergenceWatch
from pipeline.training.metrics import TRAIN_SAMPLE, Metrics, Tally, perplexity
from pipeline.training.step_plan import Batch, StepBatch, StepPlan, Task
from pipeline.training.trackers import tracker_of
from storage.errors import RunError

log = logging.getLogger(__name__)

_SHOWN_AFTER_S = 5.0
"""Seconds after which planning shows its progress."""


def train(task: Task, config: TrainConfig, *, run: Path, world: World) -> float:
    """Train to the end, from the run's checkpoint if it has one; return the best dev loss in nats per position.

    The checkpoint ``last`` is written at each evaluation and every ``checkpoint_every`` steps, and ``best`` when an
    evaluation finds the lowest dev loss so far. Word checkpoints, such as ``words_1M``, are written together with
    ``last``, after the first step that has seen that number of words.

    On SIGTERM on any rank, the current step ends and ``last`` is written. The run's history records how training ended.

    Raises:
        RunError: If a loss, gradient or weight is NaN or infinite; earlier checkpoints stay. Also if the run's state is
            damaged.
        StoreError: If a checkpoint cannot be written; the previous one stays.
        StoppedBySignal: On all ranks, after SIGTERM on one of them.
    """
    # The handlers of `stop_request` stay in place until `recorded_end` has written its record. Without them, a SIGTERM
    # after the last checkpoint could end the process before the record is written.
    with stop_request() as stop, recorded_end(run, world) as ending:
        training = Training(task, config, run, world, stop)
        training.resume()
        ending.step = training.step
        if training.end is None:
            try:
                training.take_remaining_steps(stop)
            finally:
                ending.step = training.step
        assert training.end is not None, "training continues to its end"
        ending.reason = training.end
        if world.is_main:
            best = f"best dev loss {training.best_loss:.4f} nats per position, after step {training.best_step}"
            log.info("%s: finished: %s; %s", run, training.end, best)
    return training.best_loss


def evaluate(task: Task, batches: Iterable[Batch], world: World) -> dict[str, float]:
    """Return nats per position for each of the task's ``dev_parts``, over all ranks, without dropout or autocast."""
    parts = task.dev_parts
    total = torch.zeros(len(parts), dtype=torch.float64, device=_device(task.model))
    positions = 0
    task.objective.eval()
    with torch.no_grad():
        for batch in batches:
            total += task.objective(batch)[: len(parts)]
            positions += batch.num_positions_global
    task.objective.train()
    means = (world.sum(total) / positions).tolist()
    return dict(zip(parts, means, strict=True))


class Training:
    """One training run in this process: its current state, and how it takes a step."""

    def __init__(self, task: Task, config: TrainConfig, run: Path, world: World, stop: StopRequest) -> None:
        self._task, self._config, self._run, self._world = task, config, run, world
        self.plan = self._planned(stop)
        self._optimizer = adamw(task.model, config)
        self._word_checkpoints = self._planned_word_checkpoints()
        peak_flops = task.peak_flops * world.size if task.peak_flops is not None else None
        self._tally = Tally(task.parts, _device(task.model), peak_flops=peak_flops)
        self._watch = DivergenceWatch(task, self.plan)
        self.step = self.positions = 0
        self.best_loss, self.best_step, self.num_worse = math.inf, 0, 0
        self.elapsed_s = 0.0
        self._parallel: DistributedDataParallel | None = None
        self._arranges_buckets = False
        """Whether the first backward pass of ``DistributedDataParallel`` in this process is still to come."""
        self._metrics: Metrics | None = None

    def resume(self) -> None:
        """Continue from the run's checkpoint if it has one, and prepare for training in several processes.

        Raises:
            RunError: If the run's state is damaged or belongs to another model.
        """
        state = load_state(self._run, self._task.model, self._optimizer, self._world)
        if state is not None:
            self._restore(state)
        # After loading, because DistributedDataParallel copies the main rank's weights to all ranks.
        if self._world.size > 1:
            self._parallel = DistributedDataParallel(self._task.objective)
            self._arranges_buckets = True

    def _planned(self, stop: StopRequest) -> StepPlan:
        """Return the plan of the steps. With many epochs this takes long, so SIGTERM can stop it."""
        with contextlib.ExitStack() as stack:
            progress: Progress | None = None
            start = time.monotonic()

            def planned() -> None:
                nonlocal progress
                if stop.requested:
                    log.warning("%s: stopped by a signal before the first step. Run the same command again", self._run)
                    raise StoppedBySignal
                if progress is None and self._world.is_main and time.monotonic() - start > _SHOWN_AFTER_S:
                    progress = Progress("planning", total=self._config.num_epochs, unit="epochs")
                    stack.enter_context(progress)
                if progress is not None:
                    progress.update(1)

            return StepPlan(self._task, self._config, planned=planned)

    @property
    def end(self) -> str | None:
        """Why training is over; None if it is not over."""
        if self.step >= self.plan.num_steps:
            return f"all {self.step} steps are done"
        if self._config.patience and self.num_worse >= self._config.patience:
            return (
                f"no better dev loss in {self.num_worse} evaluations, after {self.step} of {self.plan.num_steps} steps"
            )
        return None

    def take_remaining_steps(self, stop: StopRequest) -> None:
        """Take the remaining steps, or stop earlier if any rank gets SIGTERM."""
        world = self._world
        with contextlib.ExitStack() as stack:
            if world.is_main:
                tracker = tracker_of(self._config, self._run)
                self._metrics = Metrics(
                    self._run,
                    after_step=self.step,
                    elapsed_s=self.elapsed_s,
                    expected_rows=self.step // self._config.log_every,
                    tracker=tracker,
                )
                stack.callback(self._metrics.close)
            progress = stack.enter_context(
                Progress("training", total=self.plan.num_steps, unit="steps", shown=world.is_main, initial=self.step)
            )
            stream = stack.enter_context(ReadAhead(self.plan.batches(after_step=self.step)))
            for place in stream:
                self.backward(place)
                if not place.closes_step:
                    continue
                gradient_norm = self.update(place)
                progress.update(1)
                # All ranks must stop after the same step.
                stopping = world.any(stop.requested)
                self._after_step(place, gradient_norm, progress, wait_s=stream.wait_s, stopping=stopping)
                if self.end is not None:
                    break
                if stopping:
                    if world.is_main:
                        where = f"after step {self.step} of {self.plan.num_steps}"
                        log.warning("%s: stopped by a signal %s. Run the same command to continue", self._run, where)
                    raise StoppedBySignal

    def backward(self, place: StepBatch) -> None:
        """Compute the gradient of a batch and add it to the gradient of the step."""
        if self._arranges_buckets:
            # After its first backward pass, DistributedDataParallel puts the gradients into buckets in another order.
            # With three or more ranks, this changes the rounding of their sum. So the first pass after each start or
            # resume is not used.
            self._differentiate(place)
            self._optimizer.zero_grad()
            self._arranges_buckets = False
        if place.opens_step:
            torch.manual_seed(_step_seed(self._config.seed, place.step, self._world.rank))
        parallel = self._parallel
        with parallel.no_sync() if parallel is not None and not place.closes_step else contextlib.nullcontext():
            sums = self._differentiate(place)
        self._watch.see_loss(sums[0], step=place.step, index=place.index)
        self._tally.add(sums, place.batch.num_positions_global, flops=place.num_flops)

    def _differentiate(self, place: StepBatch) -> Tensor:
        """Add the gradient of a batch to the gradients of the weights; return the sums of ``Task.objective``."""
        with torch.autocast(_device(self._task.model).type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"):
            sums: Tensor = (self._parallel or self._task.objective)(place.batch)
        # DistributedDataParallel averages gradients over ranks. The factor world.size turns this mean into a sum.
        with self._world.reducing_gradients():
            (sums[0] * (self._world.size / place.num_positions_step)).backward()
        return sums.detach()

    def update(self, place: StepBatch) -> Tensor:
        """Update the weights with the gradient of the step; return the gradient's norm before clipping."""
        config = self._config
        factor = lr_factor(
            place.step - 1,
            num_steps=self.plan.num_steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
            decay_share=config.decay_share or DECAY_SHARE,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr * factor
        gradient_norm = nn.utils.clip_grad_norm_(self._task.model.parameters(), config.clip_norm)
        self._watch.see_gradient(gradient_norm, step=place.step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step = place.step
        self.positions += place.num_positions_step
        return gradient_norm

    def _after_step(
        self, place: StepBatch, gradient_norm: Tensor, progress: Progress, *, wait_s: float, stopping: bool
    ) -> None:
        """Write metrics, evaluate dev and write a checkpoint, each if it is due. Before a stop, a checkpoint is due."""
        step, every = self.step, self._config.checkpoint_every
        has_row = step % self._config.log_every == 0 or step == self.plan.num_steps
        is_evaluated = self.plan.is_evaluated(step)
        is_due = (every > 0 and step % every == 0) or step in self._word_checkpoints
        is_saved = is_evaluated or stopping or is_due
        if has_row or is_saved:
            self._watch.check(self._world)
        at = {"epoch": place.epoch, "positions": self.positions, "words": place.num_words}
        if has_row:
            figures = self._tally.close(self._world, wait_s=wait_s)
            if self._metrics is not None:
                more = {"lr": self._optimizer.param_groups[0]["lr"], "grad_norm": float(gradient_norm)}
                self._metrics.row("train", step=step, figures=at | figures | perplexity(figures) | more)
                shown = {"positions/s": figures["positions_per_s"], "data wait share": figures["data_wait_share"]}
                progress.figures(loss=figures["loss"], **shown)
        if is_evaluated:
            self._evaluate(at)
        if is_saved:
            self._save()
            self._tally.skip_time()

    def _evaluate(self, at: dict[str, int]) -> None:
        self._watch.check_weights(self.step)
        dev = evaluate(self._task, self._task.dev_batches(), self._world)
        sample = evaluate(self._task, self._task.sample_batches(), self._world)
        loss = dev["loss"]
        if not math.isfinite(loss):
            raise RunError(f"the dev loss is {loss} after step {self.step}. {REMEDY}")
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.num_worse = loss, self.step, 0
        else:
            self.num_worse += 1
        if self._metrics is not None:
            self._metrics.row(TRAIN_SAMPLE, step=self.step, figures=at | sample | perplexity(sample))
            self._metrics.row("dev", step=self.step, figures=at | dev | perplexity(dev))
            patience = f" of {self._config.patience}" if self._config.patience else ""
            worse = f"; evaluation {self.num_worse}{patience} without a new best" if self.num_worse else ""
            log.info(
                "step %d: dev loss %.4f nats per position, %.4f on a sample of train%s",
                self.step,
                loss,
                sample["loss"],
                worse,
            )

    def _save(self) -> None:
        self._watch.check_weights(self.step)
        row_sums, row_positions = self._tally.saved(self._world)
        self._world.on_main(lambda: self._write(row_sums, row_positions))

    def state(self, elapsed_s: float, row_sums: Tensor, row_positions: int) -> TrainingState:
        """Return what a checkpoint holds. ``row_sums`` and ``row_positions`` belong to the next row of metrics."""
        return TrainingState(
            step=self.step,
            positions=self.positions,
            best_loss=self.best_loss,
            best_step=self.best_step,
            num_worse=self.num_worse,
            elapsed_s=elapsed_s,
            row_sums=row_sums,
            row_positions=row_positions,
            model=self._task.model.state_dict(),
            optimizer=self._optimizer.state_dict(),
        )

    def _write(self, row_sums: Tensor, row_positions: int) -> None:
        assert self._metrics is not None, "only the main rank writes, and it has a Metrics"
        self._metrics.sync()
        state = self.state(self._metrics.elapsed_s, row_sums, row_positions)
        also = self._word_checkpoints.get(self.step, ())
        save_checkpoint(self._run, state, self._task.model, also=also, metadata=self._weights_metadata())

    def _restore(self, state: TrainingState) -> None:
        if state.step > self.plan.num_steps or state.row_sums.shape[1:] != (len(self._task.parts),):
            raise RunError(
                f"{self._run}: the training state is of step {state.step} of {self.plan.num_steps} and has sums of "
                f"shape {list(state.row_sums.shape)}, so it is damaged or of another training. Restore "
                "checkpoints/last/training_state.pt from a copy, or train again into another --out"
            )
        self.step, self.positions = state.step, state.positions
        self.best_loss, self.best_step, self.num_worse = state.best_loss, state.best_step, state.num_worse
        self.elapsed_s = state.elapsed_s
        self._tally.restore(state.row_sums, state.row_positions, self._world)
        # A process may have been killed after it wrote the state and before it wrote the weight files.
        also = self._word_checkpoints.get(state.step, ())
        metadata = self._weights_metadata()
        self._world.on_main(lambda: repair_weights(self._run, state, self._task.model, also=also, metadata=metadata))
        if self._world.is_main and self.end is None:
            log.info("%s: continuing after step %d of %d", self._run, self.step, self.plan.num_steps)

    def _weights_metadata(self) -> Mapping[str, str]:
        epoch, batches = self.plan.place(self.step)
        return self._task.weights_metadata(epoch, batches.stop)

    def _planned_word_checkpoints(self) -> dict[int, list[str]]:
        """Return the names of the word checkpoints by step. Log those that training never reaches."""
        thresholds = word_thresholds(self._config.word_checkpoints)
        reached = self.plan.steps_reaching(thresholds)
        missed = [words_name(threshold) for threshold in thresholds if threshold not in reached]
        if missed and self._world.is_main:
            seen = self.plan.words_after(self.plan.num_steps)
            log.info(
                "%s: training ends after %s words, so it will not write %s", self._run, f"{seen:,}", ", ".join(missed)
            )
        found: dict[int, list[str]] = {}
        for threshold, step in reached.items():
            found.setdefault(step, []).append(words_name(threshold))
        return found


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW over a model's parameters. Biases, gains and embeddings do not decay."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_plain = parameter.dim() < 2 or any(part in name for part in ("bias", "embedding", ".wte.", ".wpe."))
        (plain if is_plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    # Some gradients are pure rounding noise (the bias of attention's keys). With an eps far below 1e-9, Adam would
    # move these parameters at full speed. With an eps of 1e-9, 1e-8 or 1e-7, losses agree to 1e-3 nats.
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-8)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the generator seed of (seed, step, rank)."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
