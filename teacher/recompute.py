"""Verify a dump against the teacher that it was made with."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import load_dataset
from pipeline.inspection import verify_path
from pipeline.recompute import check_origin, computed_with, recompute
from pipeline.runtime.distributed import joined
from storage.errors import StoreError
from storage.locations import Location, Place, as_folder
from storage.manifest import Manifest
from teacher.beam_config import BeamConfig
from teacher.dump import check_reads, conditioned
from teacher.train import load_teacher, teacher_fingerprint


def verify_recomputing(
    dump: Place, data: Place, teacher: Path, *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump, then recompute some shards; return its figures and, ``recomputed``, what came of it.

    Computed with the dump's own options and threads; see `pipeline.recompute`.

    Raises:
        FingerprintMismatchError: If the dump was made from another teacher or dataset; before anything is read.
        CorruptStoreError: Naming what is damaged or not what the teacher computes.
    """
    config = computed_with(dump)
    beam = _searched_with(dump) if config.condition == "beam" else None
    with joined(device, threads=config.threads) as (world, chosen):
        world.refuse_several("verify --recompute")
        dataset = load_dataset(data)
        model, run = load_teacher(teacher, chosen)
        fingerprint = teacher_fingerprint(run)
        check_origin(dump, dataset, fingerprint)
        check_reads(run, dataset)
        summary = verify_path(dump)
        dumped, search = conditioned(model, config, beam)
        found = recompute(
            dumped,
            dataset,
            dump,
            num_shards=num_shards,
            seed=seed,
            teacher=fingerprint,
            device=chosen,
            search=search,
        )
        return {**summary, "recomputed": found.to_json()}


def _searched_with(dump: Location) -> BeamConfig:
    computation = Manifest.read(as_folder(dump)).schema.computation
    sizes = {field.name: computation.get(field.name) for field in fields(BeamConfig)}
    if not all(type(size) is int for size in sizes.values()):
        raise StoreError(
            f"{dump}: computation says {', '.join(f'{name} {size!r}' for name, size in sizes.items())}, expected whole "
            "numbers. It was not written by dump-teacher: it cannot be recomputed"
        )
    return BeamConfig(**sizes)  # type: ignore[arg-type]
