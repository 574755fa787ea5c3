"""Recompute shards of a dump with the model it was made with, and compare: bytes, or where these may differ, values.

Digests tell that a dump is what its writer wrote; this tells that what it wrote is what the model computes. Where all
that can change bits is as it was (the dump's ``computation`` is this machine's), every file must be the same, byte for
byte. Elsewhere last bits differ and with them near ties, draws and roundings to float16, so values are compared, and
the log-probabilities of the gold tokens must agree within a bound.

Shards are drawn at random. N of S find a writer that was wrong throughout; one wrong shard they find in N / S of cases.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset import Dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import ShardBatch, compute_shard, dump_schema, fingerprints, shard_batches
from pipeline.dumping.next_token import NextTokenModel
from pipeline.runtime.progress import Progress
from storage.dump.manifest import Manifest, ShardEntry
from storage.dump.positions import Positions
from storage.dump.profiles import as_read, encoded
from storage.dump.reader import DumpReader
from storage.dump.schema import DumpSchema
from storage.dump.writer import figures_of_shard
from storage.errors import CorruptStoreError, FingerprintMismatchError, StoreError
from storage.fingerprints import FileDigest
from storage.locations import Location, as_folder

MAX_GOLD_DIFFERENCE = 0.01
"""Nats. On a trained teacher of 128 dimensions another order of sums moves the log-probability of a gold token by 1e-6
at most, weights cut to the 10 bits that TF32 reads by 7e-4, to the 7 of bfloat16 by 6e-3. Neither draws nor float16
touch gold_logp, so they need no room in it."""
_REMEDY = "It was altered after it was computed, or its writer failed: delete it and dump again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputation:
    """What came of recomputing some shards of a dump."""

    shards: list[int]
    """Which ones."""
    num_positions: int
    is_identical: bool
    """Whether all their files are the same, byte for byte."""
    computation_differences: dict[str, dict[str, Any]]
    """What can change bits and is not as it was: key → ``dump``, ``here``."""
    max_differences: dict[str, float]
    """Largest absolute differences in nats: ``gold_logp``, ``tail``, ``logz``, and ``logp`` of ids that agree."""
    share_of_ids_that_agree: float | None
    """Of the dump's ids, how many are also in the same position's row here; None where there are no positions."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def recompute(
    model: NextTokenModel,
    dataset: Dataset,
    dump: Location,
    *,
    num_shards: int,
    seed: int,
    teacher: str,
    device: torch.device,
    search: Mapping[str, int] | None = None,
) -> Recomputation:
    """Recompute shards of a complete dump, whose own digests were found right, and compare.

    Args:
        model: On ``device``, in evaluation mode; with as many threads as `computed_with` says.
        dataset: The dataset that was dumped.
        dump: Where the dump lies.
        num_shards: How many shards; all, if there are no more.
        seed: Seed of their choice.
        teacher: Fingerprint of the model.
        device: Compared with the dump's by its model name.
        search: As for `pipeline.dumping.dump_loop.dump`.

    Raises:
        FingerprintMismatchError: As `check_origin`.
        StoreError: If the dump's other attributes are not those of the dataset and the model.
        CorruptStoreError: Naming shard and array, if bytes differ though nothing that can change them does, or values
            differ by more than `MAX_GOLD_DIFFERENCE` says.
    """
    manifest = Manifest.read(as_folder(dump))
    schema = manifest.schema
    check_origin(dump, dataset, teacher)
    differences = _differences(dump, schema, model, dataset, teacher=teacher, device=device, search=search)
    reader, split = DumpReader(dump), dataset.split(schema.split)
    if not np.array_equal(reader.offsets, split.position_offsets):
        raise CorruptStoreError(f"{dump}: array offsets: not those of the dataset's sentences. {_REMEDY}")
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
            batches = shard_batches(model, split, schema, shard, eos_id=dataset.tokenizer.eos_id)
            computed = compute_shard(model, schema, shard, counted(batches), device=device)
            rows, num_effective = computed.positions(), computed.num_effective()
            where, entry = f"{dump}: shard {shard}", manifest.shards[shard]
            altered = _altered(rows, num_effective, schema, entry, split.position_offsets, where=where)
            if altered and not differences:
                raise CorruptStoreError(f"{where}, {altered}, though all that can change bits is the same. {_REMEDY}")
            is_identical &= not altered
            positions = schema.layout.rows_of(shard)
            compared.add(reader.read_range(positions.start, positions.stop), as_read(rows, schema, where=where), where)
    return Recomputation(
        shards=shards,
        num_positions=num_positions,
        is_identical=is_identical,
        computation_differences=differences,
        max_differences=compared.largest,
        share_of_ids_that_agree=compared.num_agreeing / compared.num_ids if compared.num_ids else None,
    )


def computed_with(dump: Location) -> DumpConfig:
    """Return the options that a complete dump was made with, as far as its bytes depend on them; ``device`` is auto.

    Raises:
        StoreError: If there is no complete dump, or it does not say with how many threads and what batches it was made.
    """
    folder = as_folder(dump)
    manifest = Manifest.read(folder)
    manifest.require_complete(folder)
    return _config(dump, manifest.schema)


def check_origin(dump: Location, dataset: Dataset, teacher: str) -> None:
    """Refuse a dump that was made from something else.

    Raises:
        FingerprintMismatchError: Naming every fingerprint that differs, with both values.
        InputError: If the dataset has no such split.
    """
    schema = Manifest.read(as_folder(dump)).schema
    here = fingerprints(dataset, schema.split, teacher)
    wrong = [
        f"{name} is {found[:12]}, but what was given is {here[name][:12]}"
        for name, found in schema.fingerprints.items()
        if found != here[name]
    ]
    if wrong:
        raise FingerprintMismatchError(
            f"{dump}: {'; '.join(wrong)}. Give the teacher and the dataset that the dump was made from"
        )


def _config(dump: Location, schema: DumpSchema) -> DumpConfig:
    threads, batch_tokens = (schema.computation.get(name) for name in ("threads", "batch_tokens"))
    if not isinstance(threads, int) or not isinstance(batch_tokens, int) or min(threads, batch_tokens) < 1:
        raise StoreError(
            f"{dump}: computation says threads {threads!r}, batch_tokens {batch_tokens!r}, expected whole numbers of "
            "at least 1. It was not written by dump-teacher: it cannot be recomputed"
        )
    return DumpConfig(
        split=schema.split,
        condition=schema.condition,  # type: ignore[arg-type]
        k=schema.k,
        select=schema.selection,  # type: ignore[arg-type]
        num_top=schema.num_top if schema.selection == "stratified" else 0,
        draw_seed=schema.draw_seed,
        profile=schema.profile,  # type: ignore[arg-type]
        temperatures=schema.temperatures,
        shard_positions=schema.shard_positions,
        batch_tokens=batch_tokens,
        threads=threads,
    )


def _differences(
    dump: Location,
    schema: DumpSchema,
    model: NextTokenModel,
    dataset: Dataset,
    *,
    teacher: str,
    device: torch.device,
    search: Mapping[str, int] | None,
) -> dict[str, dict[str, Any]]:
    here = dump_schema(model, dataset, _config(dump, schema), teacher=teacher, device=device, search=search)
    prefix = "computation."
    differences = schema.differences(here)
    others = {key: pair for key, pair in differences.items() if not key.startswith(prefix)}
    if others:
        named = "; ".join(f"{key} is {found!r}, expected {expected!r}" for key, (found, expected) in others.items())
        raise StoreError(f"{dump}: {named}. Its attributes are not those of this dataset and teacher: dump again")
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
    """Return which file of a shard is not what was recomputed, or None."""
    for spec, data in encoded(rows, schema, entry.shard, where=where):
        digest = FileDigest.of_bytes(data)
        if digest != entry.files[spec.name]:
            found = entry.files[spec.name].sha256
            return f"array {spec.name}: sha256 is {found[:12]}, recomputed it is {digest.sha256[:12]}"
    if "num_effective" not in entry.figures.sums:
        num_effective = None  # an older program wrote the entry
    if figures_of_shard(rows, schema, offsets, entry.shard, num_effective) != entry.figures:
        return "its figures in the manifest: not those of the rows"
    return None


class _Compared:
    """What is found, shard by shard, where the dump's rows and those computed here are set side by side."""

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
                f"{where}, array gold_logp: differs by {gold:.3g} nats from what the teacher computes here, expected "
                f"at most {MAX_GOLD_DIFFERENCE}, which another machine or version explains. {_REMEDY}"
            )
        mine, mine_logp = self._used(dump)
        other, other_logp = self._used(here)
        _, at_mine, at_other = np.intersect1d(mine, other, assume_unique=True, return_indices=True)
        differences["logp"] = _largest(mine_logp[at_mine], other_logp[at_other])
        self.largest = {name: max(found, differences[name]) for name, found in self.largest.items()}
        self.num_ids += len(mine)
        self.num_agreeing += len(at_mine)

    def _used(self, rows: Positions) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return the ids that are there, each a number of its own in each position, and their log-probabilities."""
        is_used = rows.ids < self._vocab_size
        numbers = np.arange(len(rows), dtype=np.int64)[:, None] * self._vocab_size + rows.ids
        return numbers[is_used], rows.logp[is_used]


def _largest(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the largest absolute difference; what is no number is taken for e^±10,000, so that it counts as one."""
    a, b = (np.nan_to_num(x.astype(np.float64), nan=1e4, posinf=1e4, neginf=-1e4) for x in (one, other))
    return float(np.abs(a - b).max(initial=0))
