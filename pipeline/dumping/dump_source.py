"""Write, plan or verify a dump of any source: a run, the grammar of a sample corpus, or a language model.

A condition says what the distributions depend on besides the previous words. With condition ``tree`` they also depend
on the tree so far. `storage.dump.schema` explains all conditions. The sources are defined in
``teacher.teacher_commands``, ``student.student_commands``, ``grammar_source`` and ``causal_lm_source``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.text.word_budget import PARSER, from_json, not_known, to_json
from pipeline.dumping.cross_fitting import in_order_of_folds
from pipeline.dumping.dump_config import Condition, DumpConfig
from pipeline.dumping.dump_description import verify_dump_files
from pipeline.dumping.dump_loop import DumpJob, dump
from pipeline.dumping.dump_plan import plan_dump
from pipeline.dumping.next_token import NextTokenModel
from pipeline.dumping.recompute import check_origin, computed_with, recompute
from pipeline.runtime import options
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import RunInfo, Which, weights_sha256
from storage.dump.dump_statistics import DumpSummary
from storage.errors import ConfigError, RunError
from storage.fingerprints import Json, canonical_json, sha256_bytes
from storage.locations import Location, Place

ModelAndSearch: TypeAlias = tuple[NextTokenModel, Mapping[str, int | str]]
"""A model, and the settings that the dump records: the sizes of a beam search, or the version of a library."""


class DumpSource(Protocol):
    """What a dump is made from: a trained run, a language model or a grammar. Only ``load`` reads weights."""

    @property
    def path(self) -> Path:
        """The folder that the user gave with ``--teacher``."""

    @property
    def kind(self) -> str:
        """What the folder holds, for messages: ``a teacher's run``, ``a sample corpus`` and so on."""

    @property
    def run(self) -> RunInfo | None:
        """The content of the run's ``run.json``; None if there is no run."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions that the distributions can have. The first is the default."""

    def fingerprint(self) -> str:
        """Return the sha256 of everything that decides the distributions, from the files as they are now."""

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Check that the model can read a split.

        Raises:
            FingerprintMismatchError: If the dataset has other token ids or labels than the model.
            InputError: If the model cannot give a sentence of the split a probability, for example because the sentence
                is too long.
        """

    def load(self, dataset: Dataset, condition: Condition, device: torch.device) -> ModelAndSearch:
        """Return the model for the tokens of a dataset, in evaluation mode on the device."""


def run_fingerprint(run: RunInfo, sizes: type[Any], which: Which = "best") -> str:
    """Return the sha256 of a run's weights, model description and model options (the fields of ``sizes``)."""
    described = {
        "weights": weights_sha256(run, which),
        "model": run.model,
        "configuration": options.to_json(run.options(sizes)),
    }
    return sha256_bytes(canonical_json(described))


def dump_run(data: Place, sources: Sequence[DumpSource], out: Location, config: DumpConfig) -> DumpSummary | None:
    """Write the distributions of sources at all positions of a split into the store ``out``.

    ``sources`` usually holds one source. For a cross-fitted dump, it holds one run per fold of the split, in any order.
    Each run was trained on all folds but its own (`pipeline.dumping.cross_fitting`).

    Returns:
        The statistics of the finished dump on the main rank, None on the other ranks.

    Raises:
        ConfigError: If a source cannot have this condition, or ``sources`` are several runs, but not one per fold.
        FingerprintMismatchError, InputError: If a model cannot read the split; see ``DumpSource.check_reads``.
    """
    _check_condition(sources, config.condition)
    with joined(config.device, threads=config.threads) as (world, device):
        return dump(_job(load_dataset(data), sources, config, device), out, world)


def plan_run(
    data: Place, sources: Sequence[DumpSource], out: Place | None, config: DumpConfig, processes: Sequence[int]
) -> dict[str, Any]:
    """Predict size, memory and hours of a dump, as `pipeline.dumping.dump_plan` describes. Nothing is written.

    Raises:
        ConfigError: If the command itself runs in several processes, and in the cases in which ``dump_run`` raises it.
        FingerprintMismatchError, InputError: In the cases in which ``dump_run`` raises them.
    """
    _check_condition(sources, config.condition)
    with joined(config.device, threads=config.threads) as (world, device):
        world.refuse_several("dump-teacher --plan")
        return plan_dump(_job(load_dataset(data), sources, config, device), out, processes)


def verify_run(
    dump: Place, data: Place, sources: Sequence[DumpSource], *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump, then recompute some shards with the options and threads of the dump.

    Returns:
        The dump's statistics and, under ``recomputed``, the result of `pipeline.dumping.recompute`.

    Raises:
        ConfigError: If ``sources`` are several runs, but not one per fold.
        FingerprintMismatchError: If the dump was made from other sources or another dataset. This is checked before
            any shard is read.
        CorruptStoreError: If a file is damaged or differs from what the model computes.
    """
    config = computed_with(dump)
    with joined(device, threads=config.threads) as (world, chosen):
        world.refuse_several("verify --recompute")
        dataset = load_dataset(data)
        sources = in_order_of_folds(sources, dataset, config.split)
        check_origin(dump, dataset, [source.fingerprint() for source in sources])
        _check_condition(sources, config.condition)
        for source in sources:
            source.check_reads(dataset, config.split)
        summary = verify_dump_files(dump)
        found = recompute(_job(dataset, sources, config, chosen), dump, num_shards=num_shards, seed=seed)
        return {**summary, "recomputed": found}


def _job(dataset: Dataset, sources: Sequence[DumpSource], config: DumpConfig, device: torch.device) -> DumpJob:
    """Check the dataset and the runs, load the models, and return the job.

    Raises:
        RunError: If a checkpoint was replaced while it was read, by a run that is still training.
    """
    models, teachers = [], []
    search: Mapping[str, int | str] = {}
    for source in in_order_of_folds(sources, dataset, config.split):
        source.check_reads(dataset, config.split)
        fingerprint = source.fingerprint()
        model, search = source.load(dataset, config.condition, device)
        if source.fingerprint() != fingerprint:
            raise RunError(f"{source.path}: its best checkpoint was replaced while it was read. Run the command again")
        models.append(model)
        teachers.append(fingerprint)
    return DumpJob(
        models=models,
        dataset=dataset,
        config=config,
        teachers=teachers,
        device=device,
        search=search,
        trained_on=_trained_on(dataset, sources, config),
    )


def _trained_on(dataset: Dataset, sources: Sequence[DumpSource], config: DumpConfig) -> list[Json]:
    """Return the training texts of the sources and, with condition ``tree``, of the parser that made the trees."""
    texts = [
        text
        for source in sources
        if source.run is not None
        for text in from_json(source.run.trained_on, of=source.run.kind, name=source.path.name, where=str(source.path))
    ]
    texts += [
        not_known("teacher", source.path.name)
        for source in sources
        if source.run is None and source.kind != "a sample corpus"  # the grammar is hand-written
    ]
    given_trees = [text for text in dataset.trained_on if text.of == PARSER and config.condition == "tree"]
    return to_json([*texts, *given_trees])


def _check_condition(sources: Sequence[DumpSource], condition: Condition) -> None:
    """Check that sources can give distributions with a condition."""
    for source in sources:
        if condition not in source.conditions:
            raise ConfigError(
                f"{source.path}: --condition is {condition}, expected {' or '.join(source.conditions)} because this is "
                f"{source.kind}. Leave --condition out, or give another --teacher"
            )
