"""Train a teacher on a dataset, and load a trained teacher from its run directory."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset_store import Dataset, Split, load_dataset
from pipeline.corpus.dataset.folds import without_fold
from pipeline.corpus.text.word_budget import renamed, to_json
from pipeline.runtime import options
from pipeline.runtime.distributed import World, available_bytes, check_fits, joined
from pipeline.runtime.run_directory import RunDescription, RunInfo, Which, check_size, load_weights, open_run
from pipeline.runtime.run_start import Resume, training_run
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.batching import BatchPlan
from pipeline.training.training_loop import train
from pipeline.training.training_plan import plan_training
from storage.errors import InputError, RunError
from storage.json_files import Count
from storage.locations import Place
from teacher.levels import TreeBatch
from teacher.rnng import PARTS, Rnng
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig

_COMPOSITION_FLOATS = 28
_STACK_LAYER_FLOATS = 10
"""Estimates of how many float32 numbers training holds in memory for each action and each dimension of a vector. The
composition holds ``_COMPOSITION_FLOATS``, and each layer of the stack holds ``_STACK_LAYER_FLOATS``. With 1, 2 and 4
layers the sum is 38, 48 and 68 numbers per action and dimension. The measured peaks are 37, 46 and 64, in training on
64 to 512 sentences with real trees."""


class TeacherTask:
    """A teacher and its batches, for ``pipeline.training.training_loop``.

    ``leave_out`` is the fold of the training split to leave out. 0: leave nothing out.

    Raises:
        ConfigError: If the dataset has no such fold.
    """

    parts = dev_parts = PARTS
    peak_flops = None

    def __init__(self, model: Rnng, dataset: Dataset, config: TrainConfig, world: World, *, leave_out: int = 0) -> None:
        self.model = self.objective = model
        train, self._sentences = without_fold(dataset, leave_out)
        self._splits = {"train": train, "dev": dataset.split("dev")}
        self._plans = {
            name: BatchPlan(np.diff(split.position_offsets), config, world) for name, split in self._splits.items()
        }

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return the number of positions of each batch of an epoch."""
        return self._plans["train"].batch_positions(epoch)

    @property
    def num_evaluated(self) -> int:
        """The number of positions that an evaluation reads: the positions of dev and of a sample of train."""
        return self._splits["dev"].num_positions + self._plans["train"].num_sampled()

    def batch_words(self, epoch: int) -> np.ndarray:
        """Return the number of words of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._splits["train"].num_words, epoch)

    def batch_flops(self, epoch: int) -> None:
        """Return None: FLOPs are not counted, because many results are computed once and used several times."""

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Return the sentences of a batch, as they are numbered in the dataset."""
        sentences: np.ndarray = self._sentences[self._plans["train"].batches(epoch)[index]]
        return sentences

    def weights_metadata(self, epoch: int, num_batches: int) -> dict[str, str]:  # noqa: ARG002  required by the protocol
        """Return an empty mapping: a teacher has no position embeddings to record."""
        return {}

    def train_batches(self, epoch: int, first: int) -> Iterable[TreeBatch]:
        """Return this rank's slices of an epoch, from batch ``first`` on."""
        return self._batches("train", self._plans["train"].slices(epoch, first))

    def dev_batches(self) -> Iterable[TreeBatch]:
        """Return this rank's slices of dev."""
        return self._batches("dev", self._plans["dev"].slices(0))

    def sample_batches(self) -> Iterable[TreeBatch]:
        """Return this rank's slices of a fixed sample of train."""
        return self._batches("train", self._plans["train"].sample_slices())

    def _batches(self, name: str, slices: Iterable[tuple[np.ndarray, int]]) -> Iterator[TreeBatch]:
        split = self._splits[name]
        for rows, num_positions in slices:
            schedule = self.model.prepare(split.tokens.take(rows), split.actions.take(rows))
            yield TreeBatch(schedule=schedule, num_positions_global=num_positions)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherModel:
    """Properties of the model that come from the dataset, as ``run.json`` records them."""

    vocab_size: Count
    labels: list[str]
    eos_id: Count


def train_teacher(
    data: Place, out: Path, config: TeacherConfig, training: TeacherTrainConfig, *, resume: Resume = "auto"
) -> float:
    """Train an RNNG into the run directory ``out``; return the best joint dev loss in nats per position.

    If the run exists, training continues from its checkpoint (`pipeline.runtime.run_start`). If ``resume`` is
    ``never``, an existing run is an error.

    Raises:
        ConfigError: If ``training.leave_out`` is not a fold of the dataset.
        InputError: If a sentence does not fit into memory.
    """
    with _prepared(data, config, training) as (world, device, model, dataset, complete):
        task = TeacherTask(model, dataset, complete, world, leave_out=complete.leave_out)
        run = RunDescription(
            kind="teacher",
            configuration=options.to_json(config, complete),
            model=asdict(_described(dataset)),
            fingerprints=dataset.fingerprints,
            tokenizer=dataset.tokenizer_path,
            trained_on=to_json(renamed(dataset.trained_on, "teacher")),
        )
        with training_run(out, run, resume=resume, device=device, world=world):
            return train(task, complete, run=out, world=world)


def plan_teacher(
    data: Place, out: Path, config: TeacherConfig, training: TeacherTrainConfig, processes: Sequence[int]
) -> dict[str, Any]:
    """Predict what ``train_teacher`` will cost, as `pipeline.training.training_plan` describes. Nothing is written.

    Raises:
        ConfigError: If the command itself runs in several processes, or if ``training.leave_out`` is not a fold of the
            dataset.
        InputError: If a sentence does not fit into memory.
    """
    with _prepared(data, config, training) as (world, device, model, dataset, complete):
        world.refuse_several("train-teacher --plan")

        def task_for(world: World) -> TeacherTask:
            return TeacherTask(model, dataset, complete, world, leave_out=complete.leave_out)

        return plan_training(task_for, complete, run=out, device=device, processes=processes)


@contextlib.contextmanager
def _prepared(
    data: Place, config: TeacherConfig, training: TeacherTrainConfig
) -> Iterator[tuple[World, torch.device, Rnng, Dataset, TeacherTrainConfig]]:
    """Join the other processes, read the dataset, check that everything fits into memory, and make a new teacher.

    The last value is ``training`` with the number of epochs, even if ``training`` leaves it open.
    """
    with joined(training.device, threads=training.threads, deterministic=training.deterministic) as (world, device):
        dataset = load_dataset(data)
        torch.manual_seed(training.seed)
        described = _described(dataset)
        for name in ("train", "dev"):
            check_longest(dataset.split(name), config, available_bytes=available_bytes(device))
        check_fits(config.least_weights(vocab_size=described.vocab_size, num_labels=len(described.labels)), device)
        train, _ = without_fold(dataset, training.leave_out)
        complete = training.for_positions(train.num_positions)
        yield world, device, _build(config, described).to(device), dataset, complete


def _described(dataset: Dataset) -> TeacherModel:
    tokenizer = dataset.tokenizer
    return TeacherModel(vocab_size=tokenizer.vocab_size, labels=list(dataset.labels), eos_id=tokenizer.eos_id)


def training_bytes(config: TeacherConfig, num_actions: int) -> int:
    """Return about how many bytes a training step over ``num_actions`` actions holds, without the weights."""
    stack = _STACK_LAYER_FLOATS * config.num_layers * config.hidden_dim
    return 4 * num_actions * (_COMPOSITION_FLOATS * config.embed_dim + stack)


def check_longest(split: Split, config: TeacherConfig, *, available_bytes: int) -> None:
    """Check before training that the longest sentence fits into memory.

    Raises:
        InputError: If it does not fit.
    """
    if not split.num_sentences:
        return
    longest = int(np.argmax(split.actions.lengths))
    needed = training_bytes(config, int(split.actions.lengths[longest]))
    if needed > available_bytes:
        raise InputError(
            f"split {split.name}, sentence {longest}: {split.tokens.lengths[longest]} tokens and "
            f"{split.actions.lengths[longest]} actions need about {needed / 1e9:.1f} GB in a step, but "
            f"{available_bytes / 1e9:.1f} GB are free; divide the sentence, leave it out, or train a smaller model"
        )


def load_teacher(path: Path, device: torch.device, which: Which = "best") -> tuple[Rnng, RunInfo]:
    """Return a trained teacher in evaluation mode, and the description of its run.

    Raises:
        RunError: If ``path`` is not a teacher's run, or has no such checkpoint.
    """
    run = open_run(path, "teacher")
    config, described = run.options(TeacherConfig), described_model(run)
    least = config.least_weights(vocab_size=described.vocab_size, num_labels=len(described.labels))
    check_size(run.checkpoint(which), least)
    model = _build(config, described)
    run = load_weights(run, which, model)
    return model.to(device).eval(), run


def described_model(run: RunInfo) -> TeacherModel:
    """Return what a teacher's run records about the model.

    Raises:
        RunError: If something is missing or impossible.
    """
    found = run.model_as(TeacherModel)
    if found.eos_id >= found.vocab_size or not found.labels:
        raise RunError(
            f"{run.path}: the model has {len(found.labels)} labels and eos_id {found.eos_id}, expected at least one "
            f"label and an eos_id below vocab_size, which is {found.vocab_size}. Train again"
        )
    return found


def _build(config: TeacherConfig, described: TeacherModel) -> Rnng:
    return Rnng(config, vocab_size=described.vocab_size, num_labels=len(described.labels), eos_id=described.eos_id)
