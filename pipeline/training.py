"""The training loop of teacher and student: batches in, checkpoints and figures out. Knows neither model.

A model sums its loss over the positions of a batch; the loop divides by the positions of the batch over all ranks,
so that a step is the same step at any world size. Dropout is seeded from (seed, step, rank).
"""

import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.read_ahead import ReadAhead
from pipeline.runtime.distributed import World
from pipeline.runtime.lr_schedule import lr_factor
from pipeline.runtime.metrics import Metrics
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import checkpoint_path, save_weights
from pipeline.runtime.train_config import TrainConfig
from storage.errors import RunError

log = logging.getLogger(__name__)


class Batch(Protocol):
    """This rank's slice of a global batch; may be empty."""

    @property
    def num_positions_global(self) -> int:
        """Positions of the batch over all ranks."""


class Task(Protocol):
    """What a model brings to the loop."""

    @property
    def model(self) -> nn.Module:
        """Whose parameters are trained and saved."""

    @property
    def objective(self) -> nn.Module:
        """Holds the model; called with a batch, it returns ``[num_parts]`` sums over its positions, the loss first."""

    @property
    def parts(self) -> Sequence[str]:
        """Names of the sums, ``loss`` first, as they stand in metrics.jsonl."""

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch, the same on every rank."""

    def train_batches(self, epoch: int) -> Iterable[Batch]:
        """This rank's slices of the epoch's batches, made as they are asked for."""

    def dev_batches(self) -> Iterable[Batch]:
        """This rank's slices of the dev split, always the same."""


def train(task: Task, config: TrainConfig, *, run: Path, world: World) -> float:
    """Train to the end; return the best dev loss in nats a position.

    ``RUN/checkpoints/best`` is the best by dev loss so far, ``last`` the newest, both written at each evaluation.

    Raises:
        RunError: If the loss stops being a number; the checkpoints written before stay.
    """
    epoch_ends = _epoch_ends(task, config)
    num_steps = epoch_ends[-1]
    eval_steps = {
        *(range(config.eval_every, num_steps, config.eval_every) if config.eval_every else epoch_ends),
        num_steps,
    }
    optimizer = _optimizer(task.model, config)
    objective = DistributedDataParallel(task.objective) if world.size > 1 else task.objective
    metrics = Metrics(run) if world.is_main else None
    tally = _Tally(task.parts, _device(task.model))
    best = math.inf
    positions = epoch = 0

    batches = itertools.chain.from_iterable(task.train_batches(e) for e in range(len(epoch_ends)))
    with (
        Progress("training", total=num_steps, unit="steps", shown=world.is_main) as progress,
        ReadAhead(itertools.islice(batches, num_steps)) as stream,
    ):
        for step, batch in enumerate(stream, start=1):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(
                    step - 1, num_steps=num_steps, warmup_steps=config.warmup_steps, schedule=config.schedule
                )
            torch.manual_seed(_step_seed(config.seed, step, world.rank))
            sums: Tensor = objective(batch)
            # DistributedDataParallel averages gradients over ranks; the loss is a mean over all their positions.
            (sums[0] * (world.size / batch.num_positions_global)).backward()
            gradient_norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

            tally.add(sums.detach(), batch.num_positions_global)
            positions += batch.num_positions_global
            progress.update(1)
            at = {"epoch": epoch, "positions": positions}
            if step % config.log_every == 0 or step == num_steps:
                figures = tally.close(world, step=step, wait_s=stream.wait_s)
                if metrics is not None:
                    more = {"lr": optimizer.param_groups[0]["lr"], "grad_norm": float(gradient_norm)}
                    metrics.row("train", step=step, figures=at | figures | more)
                    progress.figures(loss=figures["loss"], **{"positions/s": figures["positions_per_s"]})
            if step in eval_steps:
                dev = evaluate(task, world)
                _refuse_if_diverged(dev["loss"], step)
                tally.skip_time()
                if metrics is not None:
                    metrics.row("dev", step=step, figures=at | dev)
                    _checkpoint(task.model, run, is_best=dev["loss"] < best)
                    log.info("step %d: dev loss %.4f nats a position", step, dev["loss"])
                best = min(best, dev["loss"])
            epoch += step == epoch_ends[epoch]
    if metrics is not None:
        metrics.close()
        log.info("%s: best dev loss %.4f nats a position", run, best)
    return best


def evaluate(task: Task, world: World) -> dict[str, float]:
    """Return nats a position of the dev split, by part, over all ranks."""
    total = torch.zeros(len(task.parts), dtype=torch.float64, device=_device(task.model))
    positions = 0
    task.objective.eval()
    with torch.no_grad():
        for batch in task.dev_batches():
            total += task.objective(batch)
            positions += batch.num_positions_global
    task.objective.train()
    means = (world.sum(total) / positions).tolist()
    return dict(zip(task.parts, means, strict=True))


class _Tally:
    """Sums and times since the last row of figures."""

    def __init__(self, parts: Sequence[str], device: torch.device) -> None:
        self._parts = parts
        self._sums = torch.zeros(len(parts), dtype=torch.float64, device=device)
        self._positions = 0
        self._waited_s = 0.0
        self._start = time.perf_counter()
        self._skipped_from = self._start

    def add(self, sums: Tensor, positions: int) -> None:
        self._sums += sums
        self._positions += positions
        self._skipped_from = time.perf_counter()

    def skip_time(self) -> None:
        """Leave the time since the last step out of the rates."""
        self._start += time.perf_counter() - self._skipped_from

    def close(self, world: World, *, step: int, wait_s: float) -> dict[str, float]:
        means = (world.sum(self._sums) / self._positions).tolist()
        _refuse_if_diverged(means[0], step)
        now = time.perf_counter()
        figures = dict(zip(self._parts, means, strict=True)) | {
            "positions_per_s": round(self._positions / (now - self._start), 1),
            "data_wait_s": round(wait_s - self._waited_s, 4),
        }
        self._sums.zero_()
        self._positions, self._waited_s, self._start = 0, wait_s, now
        return figures


def _refuse_if_diverged(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise RunError(
            f"the loss is {loss} at step {step}; earlier checkpoints are kept; try a lower --lr or more --warmup-steps"
        )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _epoch_ends(task: Task, config: TrainConfig) -> list[int]:
    """Return the step each epoch ends with; the last one is cut where ``max_steps`` says."""
    ends: list[int] = []
    while len(ends) < config.num_epochs or config.max_steps:
        ends.append((ends[-1] if ends else 0) + task.num_batches(len(ends)))
        if config.max_steps and ends[-1] >= config.max_steps:
            ends[-1] = config.max_steps
            break
    return ends


def _step_seed(seed: int, step: int, rank: int) -> int:
    """One seed for each (seed, step, rank): far apart, and the same whenever the step is taken."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_plain = parameter.dim() < 2 or any(part in name for part in ("bias", "embedding", ".wte.", ".wpe."))
        (plain if is_plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-9)


def _checkpoint(model: nn.Module, run: Path, *, is_best: bool) -> None:
    save_weights(checkpoint_path(run, "last"), model)
    if is_best:
        save_weights(checkpoint_path(run, "best"), model)
