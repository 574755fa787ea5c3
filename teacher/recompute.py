"""Verify a dump against the teacher that it was made with."""

from pathlib import Path
from typing import Any

from pipeline.corpus.dataset import load_dataset
from pipeline.inspection import verify_path
from pipeline.recompute import check_origin, computed_with, recompute
from pipeline.runtime.distributed import joined
from storage.locations import Place
from teacher.dump import check_reads, refuse_several
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
    with joined(device, threads=config.threads) as (world, chosen):
        refuse_several(world, "verify --recompute")
        dataset = load_dataset(data)
        model, run = load_teacher(teacher, chosen)
        fingerprint = teacher_fingerprint(run)
        check_origin(dump, dataset, fingerprint)
        check_reads(run, dataset)
        summary = verify_path(dump)
        found = recompute(model, dataset, dump, num_shards=num_shards, seed=seed, teacher=fingerprint, device=chosen)
        return {**summary, "recomputed": found.to_json()}
