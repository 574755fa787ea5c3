"""Predict the size and the hours of a dump before it is begun. Nothing is written.

The size follows from the schema; with ``--profile compact`` it is estimated, because it depends on how well the values
compress. The hours come from timing a few batches from different places of the split, because length and depth of
sentences change along the split. The speed of the disk is not measured, so a slow disk makes the dump take longer. The
hours for several processes assume that each process has its own cores or GPU and is as fast as this one. The hours are
those of whole shards, so more processes than shards do not help.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.dumping.dump_loop import DumpJob, batch_sentences, compute_shard, prepare_batch
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
"""Maximum number of batches to time."""
MEASURE_S = 20.0
"""Number of seconds after which no other batch is begun."""


def plan_dump(job: DumpJob, processes: Sequence[int]) -> dict[str, Any]:
    """Return size, rates and hours of a dump as JSON values. Hours are given for each number of ``processes``.

    Raises:
        ConfigError: If a number of processes is below 1.
    """
    if not processes or min(processes) < 1:
        raise ConfigError(f"--plan-processes is {','.join(map(str, processes))}, expected numbers of at least 1")
    schema = job.schema
    rows, seconds = _measure(job)
    chunk_bytes, seconds["encode"] = _encode(schema, rows) if rows is not None else (0.0, 0.0)
    size, rates = _size_bytes(schema, chunk_bytes), _rates(seconds, rows, job.config.threads)
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


def _measure(job: DumpJob) -> tuple[Positions | None, dict[str, float]]:
    """Compute a few batches; return their positions (None if the split is empty), and seconds per position by stage."""
    seconds = {"prepare": 0.0, "compute": 0.0}
    chosen = _places(job)
    parts = []
    start = time.perf_counter()
    with Progress("plan", total=len(chosen), unit="batches") as progress:
        # The first batch is computed twice. The first computation does not count, because it also touches new memory.
        for number, (shard, sentences) in enumerate(itertools.chain(chosen[:1], chosen)):
            begin = time.perf_counter()
            batch = prepare_batch(job, shard, sentences)
            prepared = time.perf_counter()
            resized = _resized(job.schema, len(batch.gold))
            batches = [replace(batch, shard=0, rows=np.arange(len(batch.gold)))]
            rows, _ = compute_shard(job.models, resized, 0, batches, device=job.device).finished()
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


def _places(job: DumpJob) -> list[tuple[int, np.ndarray]]:
    """Return up to `NUM_BATCHES` batches, (shard, sentences), spread evenly over the split."""
    shards = _spread(job.schema.layout.num_shards, NUM_BATCHES)
    places = []
    for shard in shards:
        batches = batch_sentences(job, shard)
        places += [(shard, batches[at]) for at in _spread(len(batches), -(-NUM_BATCHES // len(shards)))]
    return places


def _spread(total: int, number: int) -> list[int]:
    """Divide 0 to ``total`` - 1 into ``number`` equal parts; return the middle of each part, without repetitions."""
    return sorted({(2 * part + 1) * total // (2 * number) for part in range(number)}) if total else []


def _resized(schema: DumpSchema, num_positions: int) -> DumpSchema:
    """Return the schema of a dump with ``num_positions`` positions in one shard."""
    chunks = max(1, -(-num_positions // schema.chunk_positions))
    return replace(
        schema, num_positions=num_positions, num_sentences=1, shard_positions=chunks * schema.chunk_positions
    )


def _encode(schema: DumpSchema, rows: Positions) -> tuple[float, float]:
    """Encode positions; return the bytes per position of the chunks of all arrays, and the seconds per position."""
    whole_chunks = len(rows) - len(rows) % schema.chunk_positions
    kept = rows.slice(0, whole_chunks or len(rows))
    resized = _resized(schema, len(kept))
    begin = time.perf_counter()
    check_positions(kept, resized, num_positions=len(kept), where="plan")
    sizes = {spec: FileDigest.of_bytes(data).size_bytes for spec, data, _ in encoded(kept, resized, 0, where="plan")}
    shard_figures(kept, np.zeros(len(kept), np.bool_), schema.num_top)
    spent = time.perf_counter() - begin
    return sum(size - index_bytes(spec) for spec, size in sizes.items()) / len(kept), spent / len(kept)


def _size_bytes(schema: DumpSchema, chunk_bytes: float) -> int:
    """Return the bytes of all files except the manifest. ``chunk_bytes`` is the size of all chunks per position."""
    shards = range(schema.layout.num_shards)
    metadata = sum(map(len, schema.zarr_files().values())) + shard_bytes(schema.offsets_array, 0)
    if schema.profile == "exact":
        return metadata + sum(shard_bytes(spec, shard) for spec in schema.stored_arrays for shard in shards)
    indexes = sum(index_bytes(spec) for spec in schema.stored_arrays) * len(shards)
    return metadata + indexes + round(chunk_bytes * schema.num_positions)


def _rates(seconds: dict[str, float], rows: Positions | None, threads: int) -> dict[str, float | None]:
    """Return positions per second of each stage and of one process. Stages overlap if a core is free."""
    if rows is None:
        return dict.fromkeys((*seconds, "one_process"))
    background = seconds["prepare"] + seconds["encode"]
    overlaps = usable_cores() > threads
    whole = max(seconds["compute"], background) if overlaps else seconds["compute"] + background
    return {**{stage: 1 / spent for stage, spent in seconds.items()}, "one_process": 1 / whole}


def _hours(schema: DumpSchema, rates: dict[str, float | None], processes: int) -> float | None:
    """Return the hours of the process with the most shards; None if the rate is unknown."""
    rate = rates["one_process"]
    most = -(-schema.layout.num_shards // processes) * schema.shard_positions
    return min(schema.num_positions, most) / rate / 3600 if rate else None
