"""Recompute shards of a dump with the model that made it, and compare bytes or values.

The schema of a dump has a field ``computation``. It records what can change the bytes, such as threads, batch size,
device and versions. If all of these are the same when a shard is recomputed, every file must be identical, byte for
byte. Otherwise `recompute` compares values, and the log-probabilities of the gold tokens must agree within a bound.

Shards are chosen at random. If one shard of S is wrong, a choice of N shards contains it with probability N / S.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import DumpJob, ShardBatch, compute_shard, fingerprints, shard_batches
from pipeline.runtime import options
from pipeline.runtime.progress import Progress
from storage.dump.manifest import Manifest, ShardEntry
from storage.dump.positions import Positions
from storage.dump.profiles import as_read, encoded
from storage.dump.reader import DumpReader
from storage.dump.schema import DumpSchema, num_folds
from storage.dump.writer import figures_of_shard
from storage.errors import CorruptStoreError, FingerprintMismatchError, StoreError
from storage.fingerprints import FileDigest
from storage.locations import Location, as_folder

MAX_GOLD_DIFFERENCE = 0.01
"""Largest allowed difference of a gold token's log-probability, in nats. With a trained teacher of 128 dimensions,
another order of summation makes a difference of at most 1e-6, TF32 weights 7e-4, and bfloat16 weights 6e-3."""
_REMEDY = "The dump was altered after it was computed, or its writer failed. Delete it and dump again"


def recompute(job: DumpJob, dump: Location, *, num_shards: int, seed: int) -> dict[str, Any]:
    """Recompute shards of a complete dump, and compare.

    The caller must have verified the dump's files before (`storage.dump.reader.verify_dump`).

    Args:
        job: The models and dataset of the dump, with the configuration and the threads that `computed_with` returns.
        dump: The location of the dump.
        num_shards: Maximum number of shards to recompute.
        seed: Seed of the choice of shards.

    Returns:
        ``shards``: the recomputed shards. ``num_positions``: positions in these shards. ``is_identical``: whether all
        their files are identical, byte for byte. ``computation_differences``: the entries of ``computation`` that
        differ, each with its values in the dump (``dump``) and in the recomputation (``here``). ``max_differences``:
        the largest absolute differences, in nats, of ``gold_logp``, ``tail``, ``logz`` and ``logp``. Values of ``logp``
        are compared only for ids that a position has both in the dump and in the recomputation.
        ``share_of_ids_that_agree``: the share of the dump's ids that the recomputed row also has; None without
        positions.

    Raises:
        FingerprintMismatchError: If the dump was made from another dataset or other teachers.
        StoreError: If a field of the dump's schema, other than ``computation``, does not match the dataset and the
            model.
        CorruptStoreError: If bytes differ although ``computation_differences`` is empty, or if log-probabilities of
            gold tokens differ by more than `MAX_GOLD_DIFFERENCE`.
    """
    manifest = Manifest.read(as_folder(dump))
    schema = manifest.schema
    check_origin(dump, job.dataset, job.teachers)
    differences = _differences(dump, schema, job.schema)
    reader, offsets = DumpReader(dump), job.split.position_offsets
    if not np.array_equal(reader.offsets, offsets):
        raise CorruptStoreError(f"{dump}: array offsets: does not match the dataset's sentences. {_REMEDY}")
    generator = np.random.default_rng(seed)
    total = schema.layout.num_shards
    shards = sorted(generator.choice(total, min(num_shards, total), replace=False).tolist())
    num_positions = sum(len(schema.layout.rows_of(shard)) for shard in shards)
    is_identical, compared = True, _Compared(schema.vocab_size)
    with Progress("recompute", total=num_positions, unit="positions") as progress:

        def counted(batches: Iterable[ShardBatch]) -> Iterator[ShardBatch]:
            for batch in batches:
                yield batch
                progress.update(len(batch.gold))

        for shard in shards:
            batches = counted(shard_batches(job, shard))
            computed = compute_shard(job.models, schema, shard, batches, device=job.device)
            rows, num_effective = computed.finished()
            where, entry = f"{dump}: shard {shard}", manifest.shards[shard]
            altered = _altered(rows, num_effective, schema, entry, offsets, where=where)
            if altered and not differences:
                raise CorruptStoreError(
                    f"{where}, {altered}, although everything that can change the bytes is the same. {_REMEDY}"
                )
            is_identical &= not altered
            positions = schema.layout.rows_of(shard)
            compared.add(reader.read_range(positions.start, positions.stop), as_read(rows, schema, where=where), where)
    return {
        "shards": shards,
        "num_positions": num_positions,
        "is_identical": is_identical,
        "computation_differences": differences,
        "max_differences": compared.largest,
        "share_of_ids_that_agree": compared.num_agreeing / compared.num_ids if compared.num_ids else None,
    }


def computed_with(dump: Location) -> DumpConfig:
    """Return those options of a complete dump on which its bytes depend. The option ``device`` is set to auto.

    Raises:
        StoreError: If the dump is missing or incomplete, or does not record its ``threads`` and ``batch_tokens``.
    """
    folder = as_folder(dump)
    manifest = Manifest.read(folder)
    manifest.require_complete(folder)
    schema = manifest.schema
    threads, batch_tokens = (schema.computation.get(name) for name in ("threads", "batch_tokens"))
    if not isinstance(threads, int) or not isinstance(batch_tokens, int) or min(threads, batch_tokens) < 1:
        raise StoreError(
            f"{dump}: computation has threads {threads!r}, batch_tokens {batch_tokens!r}, expected whole numbers of "
            "at least 1. The dump was not written by dump-teacher, so it cannot be recomputed"
        )
    values = {field.name: getattr(schema, field.name) for field in fields(schema)}
    if schema.selection != "stratified":
        del values["num_top"]  # DumpConfig refuses it without --selection stratified
    return options.build(DumpConfig, values, threads=threads, batch_tokens=batch_tokens)


def check_origin(dump: Location, dataset: Dataset, teachers: Sequence[str]) -> None:
    """Refuse a dump that was made from another dataset or other teachers.

    Args:
        dump: The location of the dump.
        dataset: The dataset that was given.
        teachers: The fingerprint of the teacher that was given, or one for each fold.

    Raises:
        FingerprintMismatchError: If a fingerprint or the number of teachers differs.
        InputError: If the dataset does not have the split of the dump.
    """
    schema = Manifest.read(as_folder(dump)).schema
    here = fingerprints(dataset, schema.split, teachers)
    if (expected := num_folds(schema.fingerprints) or 1) != len(teachers):
        raise FingerprintMismatchError(
            f"{dump}: number of teachers is {expected}, but {len(teachers)} runs were given. Give every run that the "
            "dump was made from, each with --teacher"
        )
    wrong = [
        f"{name} of the dump is {found[:12]}, but {here[name][:12]} was given"
        for name, found in schema.fingerprints.items()
        if found != here[name]
    ]
    if wrong:
        raise FingerprintMismatchError(
            f"{dump}: {'; '.join(wrong)}. Give the teacher and the dataset that the dump was made from"
        )


def _differences(dump: Location, schema: DumpSchema, here: DumpSchema) -> dict[str, dict[str, Any]]:
    """Return how ``computation`` in a dump's schema differs from ``computation`` in the schema ``here``.

    Raises:
        StoreError: If the schemas differ in anything else.
    """
    prefix = "computation."
    differences = schema.differences(here)
    others = {key: pair for key, pair in differences.items() if not key.startswith(prefix)}
    if others:
        named = "; ".join(f"{key} is {found!r}, expected {expected!r}" for key, (found, expected) in others.items())
        raise StoreError(f"{dump}: {named}. The dump was made from another dataset or teacher. Dump again")
    return {key.removeprefix(prefix): {"dump": found, "here": mine} for key, (found, mine) in differences.items()}


def _altered(
    rows: Positions,
    num_effective: NDArray[np.float32] | None,
    schema: DumpSchema,
    entry: ShardEntry,
    offsets: NDArray[np.int64],
    *,
    where: str,
) -> str | None:
    """Return the first difference of a shard from the recomputed rows; None if there is no difference."""
    for spec, data, _ in encoded(rows, schema, entry.shard, where=where):
        digest = FileDigest.of_bytes(data)
        if digest != entry.files[spec.name]:
            found = entry.files[spec.name].sha256
            return f"array {spec.name}: sha256 is {found[:12]}, but {digest.sha256[:12]} when recomputed"
    if "num_effective" not in entry.figures.sums:
        num_effective = None  # an older version wrote the entry
    if figures_of_shard(rows, schema, offsets, entry.shard, num_effective) != entry.figures:
        return "its sums or its histogram in the manifest do not match its rows"
    return None


class _Compared:
    """Compare rows of the dump with recomputed rows, shard by shard."""

    def __init__(self, vocab_size: int) -> None:
        self.largest = dict.fromkeys(("gold_logp", "tail", "logz", "logp"), 0.0)
        self.num_ids = self.num_agreeing = 0
        self._vocab_size = vocab_size

    def add(self, dump: Positions, here: Positions, where: str) -> None:
        if not np.array_equal(dump.tokens, here.tokens):
            raise CorruptStoreError(f"{where}, array tokens: not the dataset's gold tokens. {_REMEDY}")
        differences = {name: _largest(getattr(dump, name), getattr(here, name)) for name in ("tail", "logz")}
        gold = differences["gold_logp"] = _largest(dump.gold_logp, here.gold_logp)
        if gold > MAX_GOLD_DIFFERENCE:
            raise CorruptStoreError(
                f"{where}, array gold_logp: differs by {gold:.3g} nats from the recomputed values, expected at most "
                f"{MAX_GOLD_DIFFERENCE}; another machine or version cannot explain this. {_REMEDY}"
            )
        mine, mine_logp = self._used(dump)
        other, other_logp = self._used(here)
        _, at_mine, at_other = np.intersect1d(mine, other, assume_unique=True, return_indices=True)
        differences["logp"] = _largest(mine_logp[at_mine], other_logp[at_other])
        self.largest = {name: max(found, differences[name]) for name, found in self.largest.items()}
        self.num_ids += len(mine)
        self.num_agreeing += len(at_mine)

    def _used(self, rows: Positions) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return ``position * V + id`` and the log-probability of each entry that holds a token.

        In a dump with random draws, entries may hold no token. Their id is at least V.
        """
        is_used = rows.ids < self._vocab_size
        numbers = np.arange(len(rows), dtype=np.int64)[:, None] * self._vocab_size + rows.ids
        return numbers[is_used], rows.logp[is_used]


def _largest(values: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest absolute difference. An infinity counts as ±10,000, NaN as 10,000."""
    a, b = (np.nan_to_num(x.astype(np.float64), nan=1e4, posinf=1e4, neginf=-1e4) for x in (values, expected))
    return float(np.abs(a - b).max(initial=0))
