"""Train a student on a dataset, with the soft targets of a dump or without.

``pipeline.training.training_loop`` takes the steps. This module builds the model, the batches and the description of
the run. It can start from the weights of another student's run (``--init``), and compile the Transformer
(``--compile``).
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.runtime import options
from pipeline.runtime.distributed import World, device_model, joined
from pipeline.runtime.run_directory import RunDescription
from pipeline.runtime.run_start import Resume, training_run
from pipeline.training.batching import BatchPlan
from pipeline.training.model_files import ModelFiles, check_tokenizer
from pipeline.training.training_loop import train
from storage.dump.reader import DumpReader
from storage.errors import ConfigError, RunError
from storage.fingerprints import sha256_bytes
from storage.locations import Location, Place
from student.flops import peak_flops, training_flops
from student.loss import NUM_PARTS, DistillationRows, part_names
from student.model import Student
from student.rows import Rows
from student.stream import StudentBatch, student_batches
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import TRAINED_POSITIONS, num_trained_positions, open_student, student_config
from student.targets import DumpTargets

log = logging.getLogger(__name__)


class DistillationObjective(nn.Module):
    """A student and its loss. A call with a batch returns the three sums that ``part_names`` names."""

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

    Args:
        model: The student, on its device.
        dataset: Its splits train and dev are read.
        rows: The rows of both splits, by name.
        targets: The soft targets of train. None: the loss is the cross-entropy, as on dev.
        config: How to train.
        world: The processes.
        num_initial_positions: Position embeddings that were trained before this run, in the weights it starts from.
            None if that is not known.
    """

    def __init__(
        self,
        model: Student,
        dataset: Dataset,
        rows: Mapping[str, Rows],
        targets: DumpTargets | None,
        config: StudentTrainConfig,
        world: World,
        *,
        num_initial_positions: int | None = 0,
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
        self._num_initial_positions = num_initial_positions

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return the number of positions of each batch of an epoch."""
        return self._plans["train"].batch_positions(epoch)

    def batch_words(self, epoch: int) -> np.ndarray:
        """Return the number of words of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._num_words, epoch)

    def batch_flops(self, epoch: int) -> np.ndarray:
        """Return the model FLOPs of each batch of an epoch."""
        return self._plans["train"].batch_sums(self._flops, epoch)

    def batch_sentences(self, epoch: int, index: int) -> np.ndarray:
        """Return the sentences of a batch."""
        return self._rows["train"].sentences(self._plans["train"].batches(epoch)[index])[0]

    def weights_metadata(self, epoch: int, num_batches: int) -> Mapping[str, str]:
        """Return the number of position embeddings that have had a gradient, as the checkpoint records it.

        A row of n positions gives a gradient to the first n embeddings. So the number is the length of the longest row
        so far, or that of the initial weights if it is larger.
        """
        if self._num_initial_positions is None:
            return {}
        lengths = self._rows["train"].lengths
        if epoch == 0:  # later epochs have read every row at least once
            lengths = lengths[np.concatenate(self._plans["train"].batches(0)[:num_batches])]
        return {TRAINED_POSITIONS: str(max(self._num_initial_positions, int(lengths.max())))}

    def train_batches(self, epoch: int, first: int) -> Iterable[StudentBatch]:
        """Return this rank's slices of an epoch, from batch ``first`` on."""
        return self._batches("train", epoch, first, self._targets)

    def dev_batches(self) -> Iterable[StudentBatch]:
        """Return this rank's slices of dev."""
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
    """Train a student into the run directory ``out``; return the best dev cross-entropy in nats per position.

    Args:
        data: A dataset.
        dump: A dump of its training split, or None for the baseline.
        out: The run directory to make.
        sizes: Fields of ``StudentConfig``. The dataset decides ``vocab_size``.
        training: How to train.
        resume: ``auto``: an existing run continues from its checkpoint (`pipeline.runtime.run_start`). ``never``: it is
            refused.
        init: A student's run of the same sizes, to start from its best weights. A run that continues from a checkpoint
            of its own takes that checkpoint instead.

    Raises:
        ConfigError: If the run ``init`` has other sizes, or targets are to be shuffled and there is no dump.
        FingerprintMismatchError: If the dump was made from another dataset, or the run ``init`` has another tokenizer.
        StoreError: If the dump is incomplete, damaged, or was not made for the temperature, tail or divergence.
        InputError: If a sentence is longer than ``max_length``.
    """
    with joined(training.device, threads=training.threads, deterministic=training.deterministic) as (world, device):
        dataset = load_dataset(data)
        tokenizer = dataset.tokenizer
        config = options.build(StudentConfig, sizes, vocab_size=tokenizer.vocab_size)
        rows = {
            name: Rows(
                dataset.split(name),
                context=training.context,
                max_length=config.max_length,
                truncate=training.long_sentences == "truncate",
            )
            for name in ("train", "dev")
        }
        if world.is_main:
            _warn_of_truncation(rows, config)
        if dump is None and training.targets == "shuffled":
            raise ConfigError("--targets shuffled: there is no dump with targets to shuffle; give --dump")
        if dump is None or training.targets == "none":
            dump, training = None, dataclasses.replace(training, targets="none")
        reader = targets = None
        if dump is not None:
            reader = DumpReader(dump)
            targets = DumpTargets(
                reader,
                dataset.split("train"),
                tokenizer_sha256=tokenizer.sha256,
                eos_id=tokenizer.eos_id,
                temperature=training.temperature,
                tail=training.tail,
                divergence=training.divergence,
                shuffle_seed=training.seed if training.targets == "shuffled" else None,
            )
        initial = InitialWeights.read(init, config, dataset) if init is not None else None
        num_initial_positions = initial.num_trained_positions if initial is not None else 0
        model = Student(config, bos_id=tokenizer.bos_id, seed=training.seed)
        if initial is not None:
            initial.fill(model)
        model = model.to(device)
        if training.compile:
            compile_transformer(model, device)
        run = RunDescription(
            kind="student",
            configuration=options.to_json(config, training),
            model={"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id},
            fingerprints=dataset.fingerprints
            | ({"manifest": reader.manifest_sha256} if reader is not None else {})
            | ({"initial weights": initial.sha256} if initial is not None else {}),
            tokenizer=dataset.tokenizer_path,
            dump=_dump_description(reader) if reader is not None else None,
            init={"run": str(initial.run), "sha256": initial.sha256} if initial is not None else None,
            truncated={
                name: {"num_sentences": each.num_truncated, "num_positions": each.num_lost}
                for name, each in rows.items()
                if each.num_truncated
            },
        )
        del initial  # its weights take as much memory as the model
        task = StudentTask(model, dataset, rows, targets, training, world, num_initial_positions=num_initial_positions)
        with training_run(out, run, resume=resume, device=device, world=world):
            return train(task, training, run=out, world=world)


def _warn_of_truncation(rows: Mapping[str, Rows], config: StudentConfig) -> None:
    for name, each in rows.items():
        if each.num_truncated:
            log.warning(
                "split %s: %s sentences have more than %d positions; their last positions, %s in all, are left out",
                name,
                f"{each.num_truncated:,}",
                config.max_length,
                f"{each.num_lost:,}",
            )


def _dump_description(reader: DumpReader) -> dict[str, Any]:
    """Return what ``run.json`` records of the dump."""
    return {
        "path": str(reader.folder),
        "schema": reader.schema.to_json(),
        "statistics": reader.summary.to_json(),
    }


_SIZES = {
    "embed_dim": "embed_dim",
    "num_blocks": "num_blocks",
    "num_heads": "num_heads",
    "ff_dim": "inner_dim",
    "max_length": "max_length",
}
"""The options that decide the shapes of the weights, and the property of ``StudentConfig`` that has the final value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialWeights:
    """The best weights of another student's run, to start from. The file is read once, so the digest is of these."""

    run: Path
    sha256: str
    num_trained_positions: int | None
    """See ``student.student_run.num_trained_positions``."""
    _weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, config: StudentConfig, dataset: Dataset) -> "InitialWeights":
        """Return the weights of the run ``path``, for a student of the sizes ``config`` that reads ``dataset``.

        Raises:
            RunError: If ``path`` is not a student's run, or its checkpoint is missing or damaged.
            FingerprintMismatchError: If its tokenizer is not the dataset's.
            ConfigError: If its sizes are others. The message names each option and the value to give.
        """
        run = open_student(path)
        check_tokenizer(ModelFiles.of_run(run), dataset)
        theirs = student_config(run)
        wrong = {
            "--" + option.replace("_", "-"): (getattr(config, size), getattr(theirs, size))
            for option, size in _SIZES.items()
            if getattr(config, size) != getattr(theirs, size)
            # Where both runs leave --ff-dim to --embed-dim, no value of --ff-dim has to be given.
            and not (option == "ff_dim" and config.ff_dim == theirs.ff_dim == 0)
        }
        if wrong:
            found = "; ".join(f"{option} is {mine}, expected {other}" for option, (mine, other) in wrong.items())
            give = " ".join(f"{option} {other}" for option, (_, other) in wrong.items())
            raise ConfigError(f"{path}: --init needs the sizes of the run it starts from: {found}. Give {give}")
        checkpoint = run.checkpoint()
        try:
            data = checkpoint.read_bytes()
            weights = safetensors.torch.load(data)
        except OSError as error:
            raise RunError(
                f"{checkpoint}: cannot be read ({error.strerror}); the run may have ended before its first evaluation"
            ) from error
        except safetensors.SafetensorError as error:
            raise RunError(f"{checkpoint}: not a checkpoint ({error}); restore it, or train that run again") from error
        num_trained = num_trained_positions(run, "best")
        return cls(run=path, sha256=sha256_bytes(data), num_trained_positions=num_trained, _weights=weights)

    def fill(self, model: Student) -> None:
        """Copy the weights into a student.

        Raises:
            RunError: If the parameters in the file do not fit the sizes in the run's ``run.json``.
        """
        try:
            model.load_state_dict(self._weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise RunError(
                f"{self.run}: its best checkpoint does not have the sizes in its run.json ({reason}); restore it, or "
                "train that run again"
            ) from error


def compile_transformer(model: Student, device: torch.device) -> None:
    """Compile the model's Transformer, by ``torch.compile``, when it is first called.

    Only the embeddings, the blocks and the last normalisation are compiled, in place. Parameters keep their names, so
    a compiled run can continue from a checkpoint of a run that is not compiled, and the reverse. The loss over the
    vocabulary has a backward pass of its own, so it stays outside.

    Shapes are dynamic from the first batch on, because row lengths differ from batch to batch. There is a graph for
    training and a graph for dev, and one more of each for a batch of a single row.

    Compiled code adds numbers in another order, so losses differ by rounding. With dropout they differ more, because
    compiled code draws other random numbers from the same seeds.

    Raises:
        ConfigError: If torch cannot compile a function of one line for ``device`` on this machine.
    """
    try:
        torch.compile(torch.neg, dynamic=True)(torch.zeros(3, device=device))
    except TorchDynamoException as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        needed = (
            "a C++ compiler (g++, or the one that CXX names)" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise ConfigError(
            f"--compile: torch compiles nothing for {device.type} on this machine ({reason}); it needs {needed}: "
            "install that, or leave --compile out"
        ) from error
    model.transformer.compile(dynamic=True)
