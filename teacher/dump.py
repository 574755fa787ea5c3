"""Dump a trained teacher's distributions over a split of a dataset, or say what that will take."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import Dataset, load_dataset
from pipeline.dump import dump
from pipeline.dump_config import DumpConfig
from pipeline.evaluation.recording import check_tokenizer
from pipeline.next_token import NextTokenModel
from pipeline.plan import plan_dump
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import RunInfo
from storage.errors import FingerprintMismatchError
from storage.fingerprints import canonical_json, sha256_bytes
from storage.locations import Location, Place
from storage.statistics import DumpSummary
from teacher.beam import BeamTeacher
from teacher.beam_config import BeamConfig
from teacher.rnng import Rnng
from teacher.train import load_teacher, teacher_fingerprint


def dump_teacher(
    data: Place, teacher: Path, out: Location, config: DumpConfig, beam: BeamConfig | None = None
) -> DumpSummary | None:
    """Write a distribution of every position of a split into the store ``out``; see ``pipeline.dump``.

    It is ``p(w | x_<t, y_<t, SHIFT)`` given the tree, or under the condition ``beam`` the mixture of ``teacher.beam``.

    Returns:
        The finished dump's figures on the main rank, None on the others.

    Raises:
        FingerprintMismatchError: If teacher and dataset differ in tokenizer or labels.
    """
    with joined(config.device, threads=config.threads) as (world, device):
        dataset = load_dataset(data)
        model, run = load_teacher(teacher, device)
        check_reads(run, dataset)
        fingerprint = teacher_fingerprint(run)
        dumped, search = conditioned(model, config, beam)
        return dump(dumped, dataset, config, out=out, teacher=fingerprint, world=world, device=device, search=search)


def plan_teacher_dump(
    data: Place, teacher: Path, config: DumpConfig, processes: Sequence[int], beam: BeamConfig | None = None
) -> dict[str, Any]:
    """Return what the dump of the same options will take, as `pipeline.plan` says; nothing is written.

    Raises:
        ConfigError: Under more than one process.
        FingerprintMismatchError: If teacher and dataset differ in tokenizer or labels.
    """
    with joined(config.device, threads=config.threads) as (world, device):
        world.refuse_several("dump-teacher --plan")
        dataset = load_dataset(data)
        model, run = load_teacher(teacher, device)
        check_reads(run, dataset)
        fingerprint = teacher_fingerprint(run)
        dumped, search = conditioned(model, config, beam)
        return plan_dump(
            dumped, dataset, config, teacher=fingerprint, device=device, processes=processes, search=search
        )


def conditioned(
    model: Rnng, config: DumpConfig, beam: BeamConfig | None
) -> tuple[NextTokenModel, dict[str, int] | None]:
    """Return the model of the distributions that are asked for, and the sizes of its search, if it makes one."""
    if config.condition == "tree":
        model.cache_inputs()
        return model, None
    beam = beam or BeamConfig()
    return BeamTeacher(model, beam), asdict(beam)


def check_reads(run: RunInfo, dataset: Dataset) -> None:
    """Refuse a dataset whose tokens or labels are not those the teacher knows.

    Raises:
        FingerprintMismatchError: Naming both sides.
    """
    check_tokenizer(run, dataset)
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
