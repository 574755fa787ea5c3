"""What a dump will take, before it is begun: bytes by arithmetic, hours by timing a few batches. Writes nothing.

Batches come from different places of the split, since length and depth of sentences change along it. What is not
measured is the disk: a dump that it holds up takes longer. The hours of several processes suppose that each computes as
fast as this one alone, on cores or a GPU of its own, and count whole shards: more processes than shards do not help.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset import Dataset, Split
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import batch_sentences, compute_shard, dump_schema, prepare_batch
from pipeline.dumping.next_token import NextTokenModel
from pipeline.runtime.progress import Progress
from pipeline.runtime.workers import usable_cores
from storage.dump.dump_statistics import shard_figures
from storage.dump.positions import Positions, check_positions
from storage.dump.profiles import encoded
from storage.dump.schema import DumpSchema
from storage.dump.shards import index_bytes, shard_bytes
from storage.errors import ConfigError
from storage.fingerprints import FileDigest

NUM_BATCHES = 8
"""Batches that are timed."""
MEASURE_S = 20.0
"""No further batch is begun after so many seconds."""


def plan_dump(
    model: NextTokenModel,
    dataset: Dataset,
    config: DumpConfig,
    *,
    teacher: str,
    device: torch.device,
    processes: Sequence[int],
    search: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return sizes, rates and hours of the dump that the same options would write, as JSON values.

    Args:
        model: On ``device``, in evaluation mode.
        dataset: As for `pipeline.dumping.dump_loop.dump`.
        config: What would be written.
        teacher: Fingerprint of the model.
        device: Where the model is.
        processes: For how many processes to give the hours.
        search: As for `pipeline.dumping.dump_loop.dump`.

    Raises:
        ConfigError: If a number of processes is below 1.
    """
    if not processes or min(processes) < 1:
        raise ConfigError(f"--plan-processes is {','.join(map(str, processes))}, expected numbers of at least 1")
    schema = dump_schema(model, dataset, config, teacher=teacher, device=device, search=search)
    rows, seconds = _measure(model, dataset, schema, device)
    chunk_bytes, seconds["encode"] = _encode(schema, rows) if rows is not None else (0.0, 0.0)
    size, rates = _size_bytes(schema, chunk_bytes), _rates(seconds, rows, config.threads)
    num_positions = schema.num_positions
    return {
        "split": schema.split,
        "num_positions": num_positions,
        "num_sentences": schema.num_sentences,
        "num_shards": schema.layout.num_shards,
        "size_bytes": size,
        "bytes_per_position": size / num_positions if num_positions else None,
        "size_is": "exact" if schema.profile == "exact" else "estimated from the measured positions",
        "measured_positions": len(rows) if rows is not None else 0,
        "positions_per_s": rates,
        "hours_by_processes": {str(number): _hours(schema, rates, number) for number in processes},
    }


def _measure(
    model: NextTokenModel, dataset: Dataset, schema: DumpSchema, device: torch.device
) -> tuple[Positions | None, dict[str, float]]:
    """Compute a few batches; return their rows (None of an empty split) and seconds a position of each stage."""
    split, seconds = dataset.split(schema.split), {"prepare": 0.0, "compute": 0.0}
    chosen = _places(split, schema)
    parts = []
    start = time.perf_counter()
    with Progress("plan", total=len(chosen), unit="batches") as progress:
        # The first is computed twice: what happens once only, as memory is first touched, is not counted.
        for number, (shard, sentences) in enumerate(itertools.chain(chosen[:1], chosen)):
            begin = time.perf_counter()
            batch = prepare_batch(model, split, schema, shard, sentences, eos_id=dataset.tokenizer.eos_id)
            prepared = time.perf_counter()
            alone = _of_positions(schema, len(batch.gold))
            rows = compute_shard(model, alone, 0, [replace(batch, shard=0, first=0)], device=device).positions()
            computed = time.perf_counter()
            if not number:
                continue
            seconds["prepare"] += prepared - begin
            seconds["compute"] += computed - prepared
            parts.append(rows.arrays())
            progress.update(1)
            if computed - start > MEASURE_S:
                break
    if not parts:
        return None, seconds
    rows = Positions(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return rows, {stage: spent / len(rows) for stage, spent in seconds.items()}


def _places(split: Split, schema: DumpSchema) -> list[tuple[int, range]]:
    """Return up to `NUM_BATCHES` batches, (shard, sentences), spread over the split."""
    num_shards = schema.layout.num_shards
    shards = _spread(num_shards, NUM_BATCHES)
    places = []
    for shard in shards:
        batches = batch_sentences(split, schema, shard)
        places += [(shard, batches[at]) for at in _spread(len(batches), -(-NUM_BATCHES // len(shards)))]
    return places


def _spread(total: int, number: int) -> list[int]:
    """Return up to ``number`` of 0 to ``total`` - 1, each in the middle of its part."""
    return sorted({(2 * part + 1) * total // (2 * number) for part in range(number)}) if total else []


def _of_positions(schema: DumpSchema, num_positions: int) -> DumpSchema:
    """Return the schema of a dump of so many positions in one shard."""
    chunks = max(1, -(-num_positions // schema.chunk_positions))
    return replace(
        schema, num_positions=num_positions, num_sentences=1, shard_positions=chunks * schema.chunk_positions
    )


def _encode(schema: DumpSchema, rows: Positions) -> tuple[float, float]:
    """Return bytes a position of the chunks of all arrays, and the seconds a position that it takes to make them."""
    whole_chunks = len(rows) - len(rows) % schema.chunk_positions
    kept = rows.slice(0, whole_chunks or len(rows))
    alone = _of_positions(schema, len(kept))
    begin = time.perf_counter()
    check_positions(kept, alone, num_positions=len(kept), where="plan")
    sizes = {spec: FileDigest.of_bytes(data).size_bytes for spec, data in encoded(kept, alone, 0, where="plan")}
    shard_figures(kept, np.zeros(len(kept), np.bool_), schema.num_top)
    spent = time.perf_counter() - begin
    return sum(size - index_bytes(spec) for spec, size in sizes.items()) / len(kept), spent / len(kept)


def _size_bytes(schema: DumpSchema, chunk_bytes: float) -> int:
    """Return the bytes of all files but the manifest; of compressed chunks, given their bytes a position."""
    shards = range(schema.layout.num_shards)
    metadata = sum(map(len, schema.zarr_files().values())) + shard_bytes(schema.offsets_array, 0)
    if schema.profile == "exact":
        return metadata + sum(shard_bytes(spec, shard) for spec in schema.stored_arrays for shard in shards)
    indexes = sum(index_bytes(spec) for spec in schema.stored_arrays) * len(shards)
    return metadata + indexes + round(chunk_bytes * schema.num_positions)


def _rates(seconds: dict[str, float], rows: Positions | None, threads: int) -> dict[str, float | None]:
    """Return positions a second of each stage, and of a process, in which stages overlap where a core is to spare."""
    if rows is None:
        return dict.fromkeys((*seconds, "one_process"))
    beside = seconds["prepare"] + seconds["encode"]
    overlaps = usable_cores() > threads
    whole = max(seconds["compute"], beside) if overlaps else seconds["compute"] + beside
    return {**{stage: 1 / spent for stage, spent in seconds.items()}, "one_process": 1 / whole}


def _hours(schema: DumpSchema, rates: dict[str, float | None], processes: int) -> float | None:
    """Return how long the process with the most shards computes."""
    rate = rates["one_process"]
    most = -(-schema.layout.num_shards // processes) * schema.shard_positions
    return min(schema.num_positions, most) / rate / 3600 if rate else None
