"""A trained run as the source of a dump: dumped, planned and verified in the same way whatever its model is.

What a run's distributions may be given beside the words before is its own business; see ``condition`` in
`storage.dump.schema`. Teachers say theirs in ``teacher.teacher_commands``, students in
``student.student_commands``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pipeline.corpus.dataset.dataset import Dataset, load_dataset
from pipeline.dumping.dump_config import Condition, DumpConfig
from pipeline.dumping.dump_description import verify_dump_files
from pipeline.dumping.dump_loop import dump
from pipeline.dumping.dump_plan import plan_dump
from pipeline.dumping.next_token import NextTokenModel
from pipeline.dumping.recompute import check_origin, computed_with, recompute
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import RunInfo
from storage.dump.dump_statistics import DumpSummary
from storage.errors import ConfigError, RunError
from storage.locations import Location, Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Dumped:
    """The model whose distributions are dumped."""

    model: NextTokenModel
    """In evaluation mode, on its device."""
    search: Mapping[str, int] | None = None
    """Sizes of the beam search that it makes, if it makes one."""


class DumpSource(Protocol):
    """A trained run, before its weights are read."""

    @property
    def run(self) -> RunInfo:
        """What the run says."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What its distributions can be given; the usual one first."""

    def fingerprint(self) -> str:
        """Return the sha256 of what makes its distributions, as its files are now."""

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Refuse a split that the model cannot read.

        Raises:
            FingerprintMismatchError: If its token ids or labels are others.
            InputError: If a sentence is too long.
        """

    def load(self, condition: Condition, device: torch.device) -> Dumped:
        """Return the model of the distributions that are asked for."""


def dump_run(data: Place, source: DumpSource, out: Location, config: DumpConfig) -> DumpSummary | None:
    """Write a distribution of every position of a split into the store ``out``; see `pipeline.dumping.dump_loop`.

    Returns:
        The finished dump's figures on the main rank, None on the others.

    Raises:
        ConfigError: If the run has no distributions of this condition.
        FingerprintMismatchError, InputError: As ``DumpSource.check_reads``.
    """
    check_condition(source, config.condition)
    with joined(config.device, threads=config.threads) as (world, device):
        dataset = load_dataset(data)
        source.check_reads(dataset, config.split)
        dumped, fingerprint = _loaded(source, config.condition, device)
        return dump(
            dumped.model,
            dataset,
            config,
            out=out,
            teacher=fingerprint,
            world=world,
            device=device,
            search=dumped.search,
        )


def plan_run(data: Place, source: DumpSource, config: DumpConfig, processes: Sequence[int]) -> dict[str, Any]:
    """Return what the dump of the same options will take, as `pipeline.dumping.dump_plan` says; nothing is written.

    Raises:
        ConfigError: Under more than one process, or if the run has no distributions of this condition.
        FingerprintMismatchError, InputError: As ``DumpSource.check_reads``.
    """
    check_condition(source, config.condition)
    with joined(config.device, threads=config.threads) as (world, device):
        world.refuse_several("dump-teacher --plan")
        dataset = load_dataset(data)
        source.check_reads(dataset, config.split)
        dumped, fingerprint = _loaded(source, config.condition, device)
        return plan_dump(
            dumped.model,
            dataset,
            config,
            teacher=fingerprint,
            device=device,
            processes=processes,
            search=dumped.search,
        )


def verify_run(
    dump: Place, data: Place, source: DumpSource, *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump, then recompute some shards; return its figures and, ``recomputed``, what came of it.

    Computed with the dump's own options and threads; see `pipeline.dumping.recompute`.

    Raises:
        FingerprintMismatchError: If the dump was made from another run or dataset; before anything is read.
        CorruptStoreError: Naming what is damaged or not what the model computes.
    """
    config = computed_with(dump)
    with joined(device, threads=config.threads) as (world, chosen):
        world.refuse_several("verify --recompute")
        dataset = load_dataset(data)
        check_origin(dump, dataset, source.fingerprint())
        check_condition(source, config.condition)
        source.check_reads(dataset, config.split)
        summary = verify_dump_files(dump)
        dumped, fingerprint = _loaded(source, config.condition, chosen)
        found = recompute(
            dumped.model,
            dataset,
            dump,
            num_shards=num_shards,
            seed=seed,
            teacher=fingerprint,
            device=chosen,
            search=dumped.search,
        )
        return {**summary, "recomputed": found.to_json()}


def _loaded(source: DumpSource, condition: Condition, device: torch.device) -> tuple[Dumped, str]:
    """Return the model and the fingerprint of just what was loaded, though the run may still be training."""
    fingerprint = source.fingerprint()
    dumped = source.load(condition, device)
    if source.fingerprint() != fingerprint:
        raise RunError(f"{source.run.path}: its best checkpoint was replaced while it was read; run the command again")
    return dumped, fingerprint


def check_condition(source: DumpSource, condition: Condition) -> None:
    """Refuse a condition that the run's distributions cannot have.

    Raises:
        ConfigError: Naming those it has.
    """
    if condition not in source.conditions:
        raise ConfigError(
            f"{source.run.path}: --condition is {condition}, but the run is a {source.run.kind}'s, expected "
            f"{' or '.join(source.conditions)}; leave --condition out, or give another run with --teacher"
        )
