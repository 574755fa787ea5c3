"""Train a student on a dataset, with a dump's soft targets or without; load one from its run directory."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.batching import BatchPlan
from pipeline.corpus.dataset import Dataset, load_dataset
from pipeline.runtime import config as options
from pipeline.runtime.distributed import World, device_model, joined
from pipeline.runtime.peak_rates import peak_flops
from pipeline.runtime.run_directory import RunDescription, RunInfo, Which, load_weights, open_run
from pipeline.runtime.run_start import training_run
from pipeline.training import train
from storage.errors import RunError
from storage.locations import Location, Place
from storage.reader import DumpReader
from student.compilation import compile_transformer
from student.config import StudentConfig
from student.flops import training_flops
from student.loss import DRAWN_PARTS, NUM_GOLD_PARTS, PARTS, distillation_rows
from student.model import Student
from student.stream import DumpTargets, StudentBatch, student_batches
from student.train_config import StudentTrainConfig


class DistillationObjective(nn.Module):
    """A student and its loss; called with a batch, it returns three sums, as ``student.loss`` names them."""

    def __init__(self, student: Student, config: StudentTrainConfig) -> None:
        super().__init__()
        self.student = student
        self._config = config

    def forward(self, batch: StudentBatch) -> Tensor:
        """Return ``[3]`` sums over the batch's positions, in nats; the first is differentiable."""
        rows = distillation_rows(
            batch.gold,
            batch.targets,
            alpha=self._config.alpha,
            temperature=self._config.temperature,
            tail=self._config.tail,
        )
        sums: Tensor = self.student(batch.tokens, rows, num_parts=len(PARTS))
        return sums


class StudentTask:
    """A student and its batches, for ``pipeline.training``.

    Without soft targets, as on dev and without a dump, the loss is the cross-entropy.
    """

    def __init__(
        self, model: Student, dataset: Dataset, targets: DumpTargets | None, config: StudentTrainConfig, world: World
    ) -> None:
        self.model = model
        self.dev_parts = PARTS[:NUM_GOLD_PARTS]
        self.parts = self.dev_parts if targets is None else DRAWN_PARTS if targets.have_draws else PARTS
        self.objective = DistillationObjective(model, config)
        self._splits = {name: dataset.split(name) for name in ("train", "dev")}
        self._plans = {
            name: BatchPlan(np.diff(split.position_offsets), config, world) for name, split in self._splits.items()
        }
        lengths = np.diff(self._splits["train"].position_offsets)
        self._flops = training_flops(model.config, lengths)
        device = device_model(model.head_weight.device)
        self.peak_flops = peak_flops(device, config.dtype, given_tflops=config.peak_tflops)
        self._targets = targets
        self._eos_id = dataset.tokenizer.eos_id

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Positions of each batch of an epoch."""
        return self._plans["train"].batch_positions(epoch)

    def batch_words(self, epoch: int) -> np.ndarray:
        """Words of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._splits["train"].num_words, epoch)

    def batch_flops(self, epoch: int) -> np.ndarray:
        """Model FLOPs of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._flops, epoch)

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Sentences of a batch."""
        return self._plans["train"].batches(epoch)[index]

    def train_batches(self, epoch: int, first: int) -> Iterable[StudentBatch]:
        """This rank's slices of an epoch."""
        return self._batches("train", epoch, first, self._targets)

    def dev_batches(self) -> Iterable[StudentBatch]:
        """This rank's slices of dev."""
        return self._batches("dev", 0, 0, None)

    def _batches(self, name: str, epoch: int, first: int, targets: DumpTargets | None) -> Iterator[StudentBatch]:
        slices, device = self._plans[name].slices(epoch, first), self.model.head_weight.device
        return student_batches(slices, self._splits[name], eos_id=self._eos_id, targets=targets, device=device)


def train_student(
    data: Place,
    dump: Location | None,
    out: Path,
    sizes: Mapping[str, Any],
    training: StudentTrainConfig,
    *,
    resume: bool = False,
) -> float:
    """Train a student on ``data``, into the run directory ``out``; return the best dev cross-entropy, nats a position.

    Args:
        data: A dataset.
        dump: A dump of its training split, or None for the baseline.
        out: The run directory to make.
        sizes: Fields of ``StudentConfig`` but the vocabulary's size, which the dataset decides.
        training: How to train.
        resume: Whether a run that is there goes on from its checkpoint, as `pipeline.runtime.run_start` says.

    Raises:
        FingerprintMismatchError: If the dump is not of this dataset.
        StoreError: If the dump is incomplete, damaged, or is not for the temperature or the tail.
        InputError: If a sentence is longer than ``max_length``.
    """
    with joined(training.device, threads=training.threads) as (world, device):
        dataset = load_dataset(data)
        config = options.build(StudentConfig, sizes, vocab_size=dataset.tokenizer.vocab_size)
        for name in ("train", "dev"):
            config.check_length(int(dataset.split(name).tokens.lengths.max(initial=0)))
        reader = DumpReader(dump) if dump is not None else None
        targets = None
        if reader is not None:
            targets = DumpTargets(
                reader,
                dataset.split("train"),
                tokenizer_sha256=dataset.tokenizer.sha256,
                temperature=training.temperature,
                tail=training.tail,
            )
        model = Student(config, bos_id=dataset.tokenizer.bos_id, seed=training.seed).to(device)
        if training.compile:
            compile_transformer(model, device)
        run = RunDescription(
            kind="student",
            configuration=options.to_json(config, training),
            model={"bos_id": dataset.tokenizer.bos_id, "eos_id": dataset.tokenizer.eos_id},
            fingerprints=dataset.fingerprints | ({"manifest": reader.manifest_sha256} if reader is not None else {}),
            tokenizer=dataset.tokenizer_path,
            dump=_described(reader) if reader is not None else None,
        )
        with training_run(out, run, resume=resume, device=device, world=world):
            return train(StudentTask(model, dataset, targets, training, world), training, run=out, world=world)


def load_student(path: Path, device: torch.device, which: Which = "best") -> tuple[Student, RunInfo]:
    """Return a trained student in evaluation mode, and what its run says.

    Raises:
        RunError: If ``path`` is no student's run, or has no such checkpoint.
    """
    run = open_run(path)
    if run.kind != "student":
        raise RunError(f"{path}: this run is a {run.kind}'s, expected a student's; give the output of train-student")
    model = Student(options.build(StudentConfig, run.configuration), bos_id=run.model["bos_id"], seed=0)
    load_weights(run.checkpoint(which), model)
    return model.to(device).eval(), run


def _described(reader: DumpReader) -> dict[str, Any]:
    """What a run remembers of the dump it learned from."""
    return {
        "path": str(reader.folder),
        "schema": reader.schema.to_json(),
        "statistics": reader.summary.to_json(),
    }
