"""Train a student on a dataset, with a dump's soft targets or without; load one from its run directory."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.corpus.dataset.dataset import Dataset, Split, load_dataset
from pipeline.runtime import options
from pipeline.runtime.distributed import World, device_model, joined
from pipeline.runtime.run_directory import RunDescription, RunInfo, Which, load_weights
from pipeline.runtime.run_start import Resume, training_run
from pipeline.training.batching import BatchPlan
from pipeline.training.training_loop import train
from storage.dump.reader import DumpReader
from storage.errors import ConfigError
from storage.locations import Location, Place
from student.compilation import compile_transformer
from student.dump_targets import DumpTargets
from student.flops import peak_flops, training_flops
from student.loss import NUM_PARTS, DistillationRows, part_names
from student.model import Student
from student.rows import Rows
from student.stream import StudentBatch, student_batches
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import InitialWeights, open_student, student_config

log = logging.getLogger(__name__)


class DistillationObjective(nn.Module):
    """A student and its loss; called with a batch, it returns three sums, as ``student.loss`` names them."""

    def __init__(self, student: Student, config: StudentTrainConfig) -> None:
        super().__init__()
        self.student = student
        self._config = config

    def forward(self, batch: StudentBatch) -> Tensor:
        """Return ``[3]`` sums over the batch's positions, in nats; the first is differentiable."""
        rows = DistillationRows(
            batch.gold,
            batch.targets,
            alpha=self._config.alpha,
            temperature=self._config.temperature,
            tail=self._config.tail,
            divergence=self._config.divergence,
        )
        sums: Tensor = self.student(batch.inputs, rows, num_parts=NUM_PARTS)
        return sums


class StudentTask:
    """A student and its batches, for ``pipeline.training.training_loop``.

    Without soft targets, as on dev and without a dump, the loss is the cross-entropy.
    """

    def __init__(
        self,
        model: Student,
        dataset: Dataset,
        rows: Mapping[str, Rows],
        targets: DumpTargets | None,
        config: StudentTrainConfig,
        world: World,
    ) -> None:
        self.model = model
        self.dev_parts = part_names("none")
        self.parts = part_names("none" if targets is None else "draws" if targets.have_draws else config.divergence)
        self.objective = DistillationObjective(model, config)
        self._splits = {name: dataset.split(name) for name in ("train", "dev")}
        self._rows = rows
        self._plans = {name: BatchPlan(each.lengths, config, world) for name, each in rows.items()}
        self._num_words = self._rows["train"].sums(self._splits["train"].num_words)
        self._flops = training_flops(model.config, self._rows["train"].lengths)
        device = device_model(model.head_weight.device)
        self.peak_flops = peak_flops(device, config.dtype, given_tflops=config.peak_tflops)
        self._targets = targets
        self._tokenizer = dataset.tokenizer

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Positions of each batch of an epoch."""
        return self._plans["train"].batch_positions(epoch)

    def batch_words(self, epoch: int) -> np.ndarray:
        """Words of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._num_words, epoch)

    def batch_flops(self, epoch: int) -> np.ndarray:
        """Model FLOPs of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._flops, epoch)

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Sentences of a batch."""
        return self._rows["train"].sentences(self._plans["train"].batches(epoch)[index])[0]

    def train_batches(self, epoch: int, first: int) -> Iterable[StudentBatch]:
        """This rank's slices of an epoch."""
        return self._batches("train", epoch, first, self._targets)

    def dev_batches(self) -> Iterable[StudentBatch]:
        """This rank's slices of dev."""
        return self._batches("dev", 0, 0, None)

    def _batches(self, name: str, epoch: int, first: int, targets: DumpTargets | None) -> Iterator[StudentBatch]:
        return student_batches(
            self._plans[name].slices(epoch, first),
            self._splits[name],
            self._rows[name],
            bos_id=self._tokenizer.bos_id,
            eos_id=self._tokenizer.eos_id,
            device=self.model.head_weight.device,
            targets=targets,
        )


def train_student(
    data: Place,
    dump: Location | None,
    out: Path,
    sizes: Mapping[str, Any],
    training: StudentTrainConfig,
    *,
    resume: Resume = "auto",
    init: Path | None = None,
) -> float:
    """Train a student on ``data``, into the run directory ``out``; return the best dev cross-entropy, nats a position.

    Args:
        data: A dataset.
        dump: A dump of its training split, or None for the baseline.
        out: The run directory to make.
        sizes: Fields of ``StudentConfig`` but the vocabulary's size, which the dataset decides.
        training: How to train.
        resume: Whether a run that is there goes on from its checkpoint, as `pipeline.runtime.run_start` says, or is
            refused.
        init: A student's run of the same sizes whose best weights to start from; a checkpoint to go on from is newer.

    Raises:
        ConfigError: If the run ``init`` has other sizes, or targets are to be shuffled and there is no dump.
        FingerprintMismatchError: If the dump is not of this dataset, or the run ``init`` reads other tokens.
        StoreError: If the dump is incomplete, damaged, or is not for the temperature, tail or divergence.
        InputError: If a sentence is longer than ``max_length``.
    """
    with joined(training.device, threads=training.threads, deterministic=training.deterministic) as (world, device):
        dataset = load_dataset(data)
        config = options.build(StudentConfig, sizes, vocab_size=dataset.tokenizer.vocab_size)
        rows = {name: rows_of(dataset.split(name), config, training) for name in ("train", "dev")}
        if world.is_main:
            _warn_of_truncation(rows, config)
        if dump is None and training.targets == "shuffled":
            raise ConfigError("--targets shuffled: no dump whose targets could be shuffled; give --dump")
        if dump is None or training.targets == "none":
            dump, training = None, dataclasses.replace(training, targets="none")
        reader = DumpReader(dump) if dump is not None else None
        targets = None
        if reader is not None:
            targets = DumpTargets(
                reader,
                dataset.split("train"),
                tokenizer_sha256=dataset.tokenizer.sha256,
                eos_id=dataset.tokenizer.eos_id,
                temperature=training.temperature,
                tail=training.tail,
                divergence=training.divergence,
                shuffle_seed=training.seed if training.targets == "shuffled" else None,
            )
        initial = InitialWeights.read(init, config, dataset) if init is not None else None
        model = Student(config, bos_id=dataset.tokenizer.bos_id, seed=training.seed)
        if initial is not None:
            initial.fill(model)
        model = model.to(device)
        if training.compile:
            compile_transformer(model, device)
        run = RunDescription(
            kind="student",
            configuration=options.to_json(config, training),
            model={"bos_id": dataset.tokenizer.bos_id, "eos_id": dataset.tokenizer.eos_id},
            fingerprints=dataset.fingerprints
            | ({"manifest": reader.manifest_sha256} if reader is not None else {})
            | ({"initial weights": initial.sha256} if initial is not None else {}),
            tokenizer=dataset.tokenizer_path,
            dump=_described(reader) if reader is not None else None,
            init=initial.described() if initial is not None else None,
            truncated={
                name: {"num_sentences": each.num_truncated, "num_positions": each.num_lost}
                for name, each in rows.items()
                if each.num_truncated
            },
        )
        del initial
        with training_run(out, run, resume=resume, device=device, world=world):
            return train(StudentTask(model, dataset, rows, targets, training, world), training, run=out, world=world)


def rows_of(split: Split, config: StudentConfig, training: StudentTrainConfig) -> Rows:
    """Return the rows a student reads a split in."""
    truncate = training.long_sentences == "truncate"
    return Rows(split, context=training.context, max_length=config.max_length, truncate=truncate)


def _warn_of_truncation(rows: Mapping[str, Rows], config: StudentConfig) -> None:
    for name, each in rows.items():
        if each.num_truncated:
            log.warning(
                "split %s: %s sentences have more than %d positions; their last ones, %s in all, are left out",
                name,
                f"{each.num_truncated:,}",
                config.max_length,
                f"{each.num_lost:,}",
            )


def load_student(path: Path, device: torch.device, which: Which = "best") -> tuple[Student, RunInfo]:
    """Return a trained student in evaluation mode, and what its run says.

    Raises:
        RunError: If ``path`` is no student's run, or has no such checkpoint.
    """
    run = open_student(path)
    model = Student(student_config(run), bos_id=run.model["bos_id"], seed=0)
    load_weights(run.checkpoint(which), model)
    return model.to(device).eval(), run


def _described(reader: DumpReader) -> dict[str, Any]:
    """What a run remembers of the dump it learned from."""
    return {
        "path": str(reader.folder),
        "schema": reader.schema.to_json(),
        "statistics": reader.summary.to_json(),
    }
