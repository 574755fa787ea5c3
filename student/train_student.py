"""Train a student on a dataset, with or without the soft targets of a dump.

This module builds the model, the batches and the description of the run. ``pipeline.training.training_loop`` takes the
steps.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.text.word_budget import PARSER, from_json, renamed, to_json
from pipeline.dumping.dump_description import trained_on_of_dump
from pipeline.runtime import options
from pipeline.runtime.distributed import World, check_fits, device_model, joined
from pipeline.runtime.run_directory import InitialWeights, RunDescription, load_weights, open_run
from pipeline.runtime.run_start import Resume, training_run
from pipeline.training.batching import BatchPlan
from pipeline.training.model_files import ModelFiles, check_tokenizer
from pipeline.training.training_loop import train
from pipeline.training.training_plan import plan_training
from storage.dump.reader import DumpReader
from storage.errors import ConfigError
from storage.fingerprints import canonical_json, sha256_bytes
from storage.locations import Location, Place
from student.flops import peak_flops, training_flops
from student.loss import NUM_PARTS, DistillationRows, part_names
from student.mixed_targets import AnyTargets, mixture_weights, open_targets
from student.model import Student
from student.rows import Rows
from student.stream import StudentBatch, student_batches
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import TRAINED_POSITIONS, num_trained_positions
from student.targets import TargetOptions

log = logging.getLogger(__name__)


class DistillationObjective(nn.Module):
    """A student and its loss. See `forward` for what a call with a batch returns."""

    def __init__(self, student: Student, config: StudentTrainConfig) -> None:
        super().__init__()
        self.student = student
        self._config = config

    def forward(self, batch: StudentBatch) -> Tensor:
        """Return three sums over the batch's positions, ``[3]``, in nats. Only the first has a gradient.

        They are the sums of the loss, of the cross-entropy with the gold tokens, and of the term for the soft targets
        without its factor T^2, such as the KL divergence. Without soft targets, the third sum is 0.
        """
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

    In every evaluation, the loss is the cross-entropy. In training it is the cross-entropy if ``targets`` is None.
    ``num_initial_positions`` is the number of position embeddings that were trained before this training begins. It is
    0 if all initial weights are random, and None if the number is not known.
    """

    def __init__(
        self,
        model: Student,
        dataset: Dataset,
        rows: Mapping[str, Rows],
        targets: AnyTargets | None,
        config: StudentTrainConfig,
        world: World,
        *,
        num_initial_positions: int | None,
    ) -> None:
        self.model = model
        self.dev_parts = part_names("none")
        self.parts = part_names("none" if targets is None else "draws" if targets.have_draws else config.divergence)
        self.objective = DistillationObjective(model, config)
        self._splits = {name: dataset.split(name) for name in ("train", "dev")}
        self._rows = rows
        self._plans = {name: BatchPlan(each.lengths, config, world) for name, each in rows.items()}
        self._num_words = rows["train"].sums(self._splits["train"].num_words)
        self._flops = training_flops(model.config, rows["train"].lengths)
        device = device_model(model.head_weight.device)
        self.peak_flops = peak_flops(device, config.dtype, given_tflops=config.peak_tflops)
        self._targets = targets
        self._tokenizer = dataset.tokenizer
        self._num_initial_positions = num_initial_positions

    def batch_positions(self, epoch: int) -> np.ndarray:
        """Return the number of positions of each batch of an epoch."""
        return self._plans["train"].batch_positions(epoch)

    @property
    def num_evaluated(self) -> int:
        """The number of positions that an evaluation reads: the positions of dev and of a sample of train."""
        return int(self._rows["dev"].lengths.sum()) + self._plans["train"].num_sampled()

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
        """Return the metadata of a checkpoint: the number of position embeddings that have had a gradient.

        It is the length of the longest row so far, or the number recorded with the initial weights if that is larger.
        """
        if self._num_initial_positions is None:
            return {}
        lengths = self._rows["train"].lengths
        if epoch == 0:  # after epoch 0, every row has been read
            lengths = lengths[np.concatenate(self._plans["train"].batches(0)[:num_batches])]
        return {TRAINED_POSITIONS: str(max(self._num_initial_positions, int(lengths.max())))}

    def train_batches(self, epoch: int, first: int) -> Iterable[StudentBatch]:
        """Return this process's share of each batch of an epoch, beginning with batch number ``first``."""
        return self._batches("train", self._plans["train"].slices(epoch, first), self._targets)

    def dev_batches(self) -> Iterable[StudentBatch]:
        """Return this process's share of each batch of dev."""
        return self._batches("dev", self._plans["dev"].slices(0), None)

    def sample_batches(self) -> Iterable[StudentBatch]:
        """Return this process's share of each batch of a fixed sample of train."""
        return self._batches("train", self._plans["train"].sample_slices(), None)

    def _batches(
        self, name: str, slices: Iterator[tuple[np.ndarray, int]], targets: AnyTargets | None
    ) -> Iterator[StudentBatch]:
        return student_batches(
            slices,
            self._splits[name],
            self._rows[name],
            bos_id=self._tokenizer.bos_id,
            eos_id=self._tokenizer.eos_id,
            device=self.model.head_weight.device,
            targets=targets,
        )


def train_student(
    data: Place,
    dump: Location | Sequence[Location] | None,
    out: Path,
    sizes: Mapping[str, Any],
    training: StudentTrainConfig,
    *,
    resume: Resume = "auto",
    init: Path | None = None,
    dump_weights: Sequence[float] = (),
) -> float:
    """Train a student into the run directory ``out``; return the best dev cross-entropy in nats per position.

    Args:
        data: A dataset.
        dump: A dump of its training split, or several dumps to mix (`student.mixed_targets`). None: train without soft
            targets.
        out: The run directory to make.
        sizes: Fields of ``StudentConfig``. The dataset decides ``vocab_size``.
        training: The options of training.
        resume: ``auto``: an existing run continues from its checkpoint (`pipeline.runtime.run_start`). ``never``: an
            existing run is an error.
        init: A student's run of the same sizes, whose best weights are the initial weights.
        dump_weights: The weight of each dump in the mixture, above 0. Empty: equal weights.

    Raises:
        ConfigError: If the run ``init`` has other sizes, if the targets are ``shuffled`` without a dump, if a dump was
            given twice, or if the number of ``dump_weights`` is neither 0 nor the number of dumps.
        FingerprintMismatchError: If the dump was made from another dataset, or the run ``init`` has another tokenizer.
        StoreError: If the dump is incomplete or damaged, was not made for the temperature, or has draws and the tail or
            the divergence is not the default.
        InputError: If a sentence is longer than ``max_length``.
    """
    with _prepared(data, dump, sizes, training, init, dump_weights) as prepared:
        task, world = prepared.task_for(prepared.world), prepared.world
        with training_run(out, prepared.run, resume=resume, device=prepared.device, world=world):
            return train(task, prepared.training, run=out, world=world)


def plan_student(
    data: Place,
    dump: Location | Sequence[Location] | None,
    out: Path,
    sizes: Mapping[str, Any],
    training: StudentTrainConfig,
    *,
    processes: Sequence[int],
    init: Path | None = None,
    dump_weights: Sequence[float] = (),
) -> dict[str, Any]:
    """Predict what ``train_student`` will cost, as `pipeline.training.training_plan` describes. Nothing is written.

    For each number in ``processes``, the hours of a training in that many processes are predicted. The other arguments
    and the errors are those of ``train_student``. There is one more error:

    Raises:
        ConfigError: If this prediction is itself run in several processes.
    """
    with _prepared(data, dump, sizes, training, init, dump_weights) as prepared:
        prepared.world.refuse_several("train-student --plan")
        return plan_training(prepared.task_for, prepared.training, run=out, device=prepared.device, processes=processes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """A student that is ready to be trained."""

    world: World
    device: torch.device
    run: RunDescription
    training: StudentTrainConfig
    """The options. Without a dump, ``targets`` is ``none``."""
    task_for: Callable[[World], StudentTask]
    """Returns the task of a process. All tasks share the model."""


@contextlib.contextmanager
def _prepared(
    data: Place,
    dump: Location | Sequence[Location] | None,
    sizes: Mapping[str, Any],
    training: StudentTrainConfig,
    init: Path | None,
    dump_weights: Sequence[float],
) -> Iterator[_Prepared]:
    """Join the other processes, read dataset and dumps, and make the student, as ``train_student`` describes."""
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
        dumps = _as_list(dump)
        weights = mixture_weights(dump_weights, len(dumps))
        if not dumps and training.targets == "shuffled":
            raise ConfigError("--targets shuffled: there is no dump with targets to shuffle; give --dump")
        if not dumps or training.targets == "none":
            dumps, training = [], dataclasses.replace(training, targets="none")
        fingerprints, targets = dict(dataset.fingerprints), None
        readers = [DumpReader(each) for each in dumps]
        # A student reads no trees. So the text on which the dataset's parser was trained counts as training text only
        # if the teacher of a dump read the parser's trees. Then the dump records this text.
        trained_on = renamed((text for text in dataset.trained_on if text.of != PARSER), "student")
        trained_on += [text for reader in readers for text in trained_on_of_dump(reader.folder)]
        if readers:
            options_of_targets = TargetOptions(
                tokenizer_sha256=tokenizer.sha256,
                eos_id=tokenizer.eos_id,
                temperature=training.temperature,
                tail=training.tail,
                divergence=training.divergence,
                shuffle_seed=training.seed if training.targets == "shuffled" else None,
            )
            targets = open_targets(readers, weights, dataset.split("train"), options_of_targets)
            fingerprints["manifest"] = _manifest_sha256(readers)
        check_fits(config.num_weights, device)
        model = Student(config, bos_id=tokenizer.bos_id, seed=training.seed)
        num_initial_positions: int | None = 0
        about_init: InitialWeights | None = None
        if init is not None:
            sha256, num_initial_positions = load_initial_weights(model, init, dataset)
            fingerprints["initial weights"] = sha256
            about_init = {"run": str(init), "sha256": sha256}
            trained_on += from_json(
                open_run(init).trained_on, of="student", name=init.name, where=str(init / "run.json")
            )
        model = model.to(device)
        if training.compile:
            compile_transformer(model, device)
        run = RunDescription(
            kind="student",
            # A run with one dump records no weights, as in older versions, which knew only one dump.
            configuration=options.to_json(config, training) | ({"dump_weights": weights} if len(readers) > 1 else {}),
            model={"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id},
            fingerprints=fingerprints,
            tokenizer=dataset.tokenizer_path,
            trained_on=to_json(trained_on),
            dump=_about_dumps(readers, weights),
            init=about_init,
            truncated={
                name: {"num_sentences": each.num_truncated, "num_positions": each.num_lost}
                for name, each in rows.items()
                if each.num_truncated
            }
            or None,
        )

        def task_for(world: World) -> StudentTask:
            return StudentTask(
                model, dataset, rows, targets, training, world, num_initial_positions=num_initial_positions
            )

        yield _Prepared(world=world, device=device, run=run, training=training, task_for=task_for)


def _as_list(dump: Location | Sequence[Location] | None) -> Sequence[Location]:
    if isinstance(dump, list | tuple):
        return dump
    return [] if dump is None else [cast("Location", dump)]


def _manifest_sha256(dumps: Sequence[DumpReader]) -> str:
    """Return the sha256 of the dump's manifest or, for a mixture, of the list of the manifests' sha256.

    Raises:
        ConfigError: If one dump was given twice.
    """
    found = [dump.manifest_sha256 for dump in dumps]
    if repeated := [str(dump.folder) for dump in dumps if found.count(dump.manifest_sha256) > 1]:
        raise ConfigError(f"--dump: {' and '.join(repeated)} are the same dump. Give it once, with a larger weight")
    return found[0] if len(found) == 1 else sha256_bytes(canonical_json(found))


def _about_dumps(dumps: Sequence[DumpReader], weights: Sequence[float]) -> dict[str, Any] | None:
    """Return what ``run.json`` records about the dumps."""
    about: list[dict[str, Any]] = [
        {"path": str(dump.folder), "schema": dump.schema.to_json(), "statistics": dump.summary.to_json()}
        for dump in dumps
    ]
    if len(about) < 2:
        return about[0] if about else None
    own = [{"weight": w, "manifest": dump.manifest_sha256} for dump, w in zip(dumps, weights, strict=True)]
    return {"mixture": [each | more for each, more in zip(about, own, strict=True)]}


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


_SIZES = ("embed_dim", "num_blocks", "num_heads", "ff_dim", "max_length")
"""The options that decide the shapes of the weights."""


def load_initial_weights(model: Student, path: Path, dataset: Dataset) -> tuple[str, int | None]:
    """Load the best weights of another student's run into ``model``.

    Returns:
        The sha256 of the weights file, and the result of ``num_trained_positions``.

    Raises:
        RunError: If ``path`` is not a student's run, or its checkpoint is missing, damaged, or of other sizes than its
            ``run.json``.
        FingerprintMismatchError: If the run has another tokenizer than the dataset.
        ConfigError: If the run has other sizes than ``model``.
    """
    run = open_run(path, "student")
    check_tokenizer(ModelFiles.of_run(run), dataset)
    ours, theirs = model.config, run.options(StudentConfig)
    # ff_dim 0 means four times embed_dim. If it is 0 in both, it stays 0, so that an error names only --embed-dim.
    if ours.ff_dim or theirs.ff_dim:
        ours, theirs = (dataclasses.replace(each, ff_dim=each.inner_dim) for each in (ours, theirs))
    wrong = {
        options.flag(option): (getattr(ours, option), getattr(theirs, option))
        for option in _SIZES
        if getattr(ours, option) != getattr(theirs, option)
    }
    if wrong:
        found = "; ".join(f"{option} is {our}, expected {their}" for option, (our, their) in wrong.items())
        give = " ".join(f"{option} {their}" for option, (_, their) in wrong.items())
        raise ConfigError(f"{path}: --init needs the sizes of the run it starts from: {found}. Give {give}")
    run = load_weights(run, "best", model)
    assert run.weights_sha256 is not None, "the weights were just loaded"
    return run.weights_sha256, num_trained_positions(run, "best")


def compile_transformer(model: Student, device: torch.device) -> None:
    """Make ``torch.compile`` compile the model's Transformer at its first call.

    Parameters keep their names, so a run with ``--compile`` can continue from a checkpoint of a run without it, and the
    other way round. The loss over the vocabulary is not compiled, because it has a backward pass of its own.

    Shapes are dynamic from the first batch on, because row lengths differ from batch to batch. torch makes one graph
    for training and one for dev, and two more for batches of a single row.

    Compiled code adds numbers in another order, so losses differ by rounding. With dropout they differ more, because
    compiled code draws other random numbers from the same seeds.

    Raises:
        ConfigError: If torch cannot compile even a single operation for ``device`` on this machine.
    """
    try:
        torch.compile(torch.neg, dynamic=True)(torch.zeros(3, device=device))
    except TorchDynamoException as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        needed = (
            "a C++ compiler (g++, or the one that CXX names)" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise ConfigError(
            f"--compile: torch cannot compile for {device.type} on this machine ({reason}), expected {needed}; "
            "install that, or leave --compile out"
        ) from error
    model.transformer.compile(dynamic=True)
