"""Dump a trained teacher's distributions over a split of a dataset, or say what that will take."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from pipeline.corpus.dataset.dataset import Dataset
from pipeline.dumping.dump_config import Condition, DumpConfig
from pipeline.dumping.dump_source import Dumped, dump_run, plan_run, verify_run
from pipeline.runtime.run_directory import RunInfo
from pipeline.training.model_files import ModelFiles, check_tokenizer
from storage.dump.dump_statistics import DumpSummary
from storage.dump.manifest import Manifest
from storage.errors import FingerprintMismatchError, StoreError
from storage.fingerprints import canonical_json, sha256_bytes
from storage.locations import Location, Place, as_folder
from teacher.beam import BeamTeacher
from teacher.teacher_config import BeamConfig
from teacher.train_teacher import load_teacher, open_teacher, teacher_fingerprint


class TeacherSource:
    """A teacher's run, whose distributions are given the tree or, by beam search, nothing: a ``DumpSource``.

    Raises:
        RunError: If ``path`` is no teacher's run.
    """

    conditions: tuple[Condition, ...] = ("tree", "beam")

    def __init__(self, path: Path, beam: BeamConfig | None = None) -> None:
        self.run = open_teacher(path)
        self._beam = beam or BeamConfig()

    def fingerprint(self) -> str:
        """Return the sha256 of weights, sizes and labels."""
        return teacher_fingerprint(self.run)

    def check_reads(self, dataset: Dataset, split: str) -> None:  # noqa: ARG002  a teacher reads sentences of any length
        """Refuse a dataset whose tokens or labels are not those the teacher knows."""
        check_reads(self.run, dataset)

    def load(self, condition: Condition, device: torch.device) -> Dumped:
        """Return the teacher, or under the condition ``beam`` the mixtures of ``teacher.beam``."""
        model, _ = load_teacher(self.run.path, device)
        if condition == "tree":
            model.cache_inputs()
            return Dumped(model=model)
        return Dumped(model=BeamTeacher(model, self._beam), search=asdict(self._beam))


def dump_teacher(
    data: Place, teacher: Path, out: Location, config: DumpConfig, beam: BeamConfig | None = None
) -> DumpSummary | None:
    """Write a distribution of every position of a split into the store ``out``; see ``dump_run``.

    It is ``p(w | x_<t, y_<t, SHIFT)`` given the tree, or under the condition ``beam`` the mixture of ``teacher.beam``.

    Raises:
        FingerprintMismatchError: If teacher and dataset differ in tokenizer or labels.
    """
    return dump_run(data, TeacherSource(teacher, beam), out, config)


def plan_teacher_dump(
    data: Place, teacher: Path, config: DumpConfig, processes: Sequence[int], beam: BeamConfig | None = None
) -> dict[str, Any]:
    """Return what the dump of the same options will take; see `pipeline.dumping.dump_source.plan_run`."""
    return plan_run(data, TeacherSource(teacher, beam), config, processes)


def check_reads(run: RunInfo, dataset: Dataset) -> None:
    """Refuse a dataset whose tokens or labels are not those the teacher knows.

    Raises:
        FingerprintMismatchError: Naming both sides.
    """
    check_tokenizer(ModelFiles.of_run(run), dataset)
    known = tuple(run.model["labels"])
    if dataset.labels != known:
        unknown = sorted(set(dataset.labels) ^ set(known))
        raise FingerprintMismatchError(
            f"{dataset.location}: labels are {_digest(dataset.labels)}, but {run.path} was trained with "
            f"{_digest(known)}: they differ in {', '.join(unknown) or 'their order'}; "
            "give the dataset the teacher was trained on, or one built from the same training trees"
        )


def _digest(labels: tuple[str, ...]) -> str:
    return sha256_bytes(canonical_json(list(labels)))[:12]


def verify_recomputing(
    dump: Place, data: Place, teacher: Path, *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump, then recompute some shards; see `pipeline.dumping.dump_source.verify_run`."""
    source = TeacherSource(teacher, _searched_with(dump))
    return verify_run(dump, data, source, num_shards=num_shards, seed=seed, device=device)


def _searched_with(dump: Location) -> BeamConfig | None:
    """Return the sizes of the search that a dump was made by, if one was."""
    schema = Manifest.read(as_folder(dump)).schema
    if schema.condition != "beam":
        return None
    sizes = {field.name: schema.computation.get(field.name) for field in fields(BeamConfig)}
    if not all(type(size) is int for size in sizes.values()):
        raise StoreError(
            f"{dump}: computation says {', '.join(f'{name} {size!r}' for name, size in sizes.items())}, expected whole "
            "numbers. It was not written by dump-teacher: it cannot be recomputed"
        )
    return BeamConfig(**sizes)  # type: ignore[arg-type]
