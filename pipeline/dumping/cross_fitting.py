"""Check that the runs for a cross-fitted dump belong together, and put them in the order of their folds.

``build-dataset --folds`` divides the training sentences into folds, and ``train-teacher --leave-out K`` trains on all
folds except fold K. A cross-fitted dump is made by one run per fold. The distributions of a sentence come from the run
that was not trained on the sentence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.runtime.options import flag
from pipeline.runtime.run_directory import RunInfo
from pipeline.runtime.train_config import TrainConfig
from storage.errors import ConfigError, FingerprintMismatchError, RunError
from storage.json_files import convert


class _OfRun(Protocol):
    @property
    def path(self) -> Path: ...

    @property
    def run(self) -> RunInfo | None: ...


Source = TypeVar("Source", bound=_OfRun)


def in_order_of_folds(sources: Sequence[Source], dataset: Dataset, split: str) -> list[Source]:
    """Return the sources of a dump in the order of the folds that their runs left out.

    A single source is returned as it is. Several runs may differ in their training options, such as the seed.

    Raises:
        ConfigError: If a single run left out a fold of the split. With several runs: if the split has no folds, a run
            left out no fold, two runs left out the same fold, a fold is missing, or the models' options differ.
        FingerprintMismatchError: If one of several runs was trained on another dataset.
        InputError: If the dataset has no such split.
    """
    num_folds = dataset.split(split).num_folds
    runs = [source.run for source in sources if source.run is not None]
    if len(sources) == 1:
        run = sources[0].run
        if run is not None and num_folds and _fold(run) and run.fingerprints["dataset"] == dataset.sha256:
            raise ConfigError(
                f"{run.path}: left out fold {_fold(run)} of {num_folds}, so it was trained on some sentences of "
                f"{split} and not on others. Give --teacher once for each fold, or give a run without --leave-out"
            )
        return [*sources]
    if not num_folds:
        no_training = "No teacher is trained on this split, so it needs no folds:"
        remedy = "Build the dataset with build-dataset --folds, or" if split == "train" else no_training
        raise ConfigError(
            f"{dataset.location}: {len(runs)} runs were given, but split {split} has no folds. {remedy} give one "
            "--teacher"
        )
    for run in runs:
        _check_dataset(run, dataset)
    by_fold: dict[int, Source] = {}
    for source in sources:
        if not (fold := _fold(source.run)):
            raise ConfigError(
                f"{source.path}: is one of {len(runs)} runs, but left out no fold. Give runs of train-teacher "
                f"--leave-out 1 to {num_folds}, or give this run alone"
            )
        if (other := by_fold.setdefault(fold, source)) is not source:
            raise ConfigError(
                f"{source.path} and {other.path}: both left out fold {fold}, expected one run for each of "
                f"{num_folds} folds. Give only one of the two runs"
            )
    if missing := [str(fold) for fold in range(1, num_folds + 1) if fold not in by_fold]:
        raise ConfigError(
            f"{dataset.location}: no run left out fold {', '.join(missing)} of {num_folds}. Train one with "
            "train-teacher --leave-out, and give it with --teacher"
        )
    ordered = [by_fold[fold] for fold in range(1, num_folds + 1)]
    for run in runs[1:]:
        _check_sizes(run, runs[0])
    return ordered


def _fold(run: RunInfo | None) -> int:
    """Return the fold that a run left out; 0 if it left out none."""
    if run is None:
        return 0
    found = run.configuration.get("leave_out", 0)
    return convert(found, int, where=f"{run.path}: leave_out", remedy="train the teacher again", error=RunError)


def _check_dataset(run: RunInfo, dataset: Dataset) -> None:
    wrong = [
        f"{name} is {run.fingerprints.get(name, 'unknown')[:12]}, but {expected[:12]} was given"
        for name, expected in dataset.fingerprints.items()
        if run.fingerprints.get(name) != expected
    ]
    if wrong:
        raise FingerprintMismatchError(
            f"{run.path}: {'; '.join(wrong)}. If several runs are given, each must have been trained on the given "
            "dataset, because the dataset's folds decide which run computes a sentence"
        )


def _check_sizes(run: RunInfo, first: RunInfo) -> None:
    mine, expected = dict(_sizes(run)), dict(_sizes(first))
    wrong = [
        f"{name} is {mine.get(name)}, but {expected.get(name)} in {first.path}"
        for name in {**expected, **mine}
        if mine.get(name) != expected.get(name)
    ]
    if wrong:
        raise ConfigError(f"{run.path}: {'; '.join(wrong)}. Give runs with the same options of the model")


def _sizes(run: RunInfo) -> Iterator[tuple[str, Any]]:
    """Yield the options of a run's model, most of which are sizes."""
    of_training = {field.name for field in fields(TrainConfig)} | {"leave_out"}
    for name, value in run.configuration.items():
        if name not in of_training:
            yield flag(name), value
