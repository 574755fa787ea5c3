"""Predict the size, the memory and the hours of a dump before it is begun. Nothing is written.

A few batches from different places of the split are computed, with the same threads as in a dump. The hours are
extrapolated from the times of these batches. The size follows from the schema or, with ``--profile compact``, is
estimated from these batches. The hours include the last step of a dump, in which one process reads and checks every
byte. A process computes whole shards. So once there is a process for every shard, further processes do not lower the
hours.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.dumping.dump_loop import DumpJob, ShardBatch, ShardRows, batch_sentences, compute_shard, prepare_batch
from pipeline.runtime.background import ReadAhead, WriteBehind
from pipeline.runtime.plan import MEASURE_S, peak_memory, spread, write_rate
from pipeline.runtime.progress import Progress
from storage.dump.dump_statistics import shard_figures
from storage.dump.positions import Positions, check_positions, joined_positions
from storage.dump.profiles import encoded
from storage.dump.schema import DumpSchema
from storage.dump.shards import index_bytes, shard_bytes
from storage.fingerprints import FileDigest
from storage.locations import Place

NUM_BATCHES = 8
"""About how many batches to time."""
LEAST_BATCHES = 2
"""Minimum number of batches to time, even if this takes longer than `MEASURE_S`."""


def plan_dump(job: DumpJob, out: Place | None, processes: Sequence[int]) -> dict[str, Any]:
    """Return size, memory, rates and hours of a dump as JSON values.

    There is one entry of hours for each number of processes that ``processes`` lists.

    The speed of the disk is measured at ``out``. Without ``out``, the disk counts as infinitely fast.
    """
    schema = job.schema
    seconds, rows = _measure(job)
    chunk_bytes, seconds["check"] = _chunks(schema, rows) if rows is not None else (0.0, 0.0)
    size, num_positions = _size_bytes(schema, chunk_bytes), schema.num_positions
    rate = write_rate(out) if out is not None else None
    seconds["write"] = size / num_positions / rate if rate is not None and num_positions else 0.0
    memory = peak_memory(job.device)
    memory["memory_bytes"] += _shard_memory(schema)
    # One thread both encodes and writes. It may be slower than the model.
    seconds["one_process"] = max(seconds["one_process"], seconds["encode"] + seconds["write"])
    return {
        "split": schema.split,
        "num_positions": num_positions,
        "num_sentences": schema.num_sentences,
        "num_shards": schema.layout.num_shards,
        "size_bytes": size,
        "bytes_per_position": size / num_positions if num_positions else None,
        "size_is": "exact" if schema.profile == "exact" else "estimated from the measured positions",
        "measured_positions": len(rows) if rows is not None else 0,
        "positions_per_s": {stage: 1 / spent if spent else None for stage, spent in seconds.items()},
        "write_bytes_per_s": rate,
        **memory,
        "hours_by_processes": {str(number): _hours(schema, seconds, number) for number in processes},
    }


def _measure(job: DumpJob) -> tuple[dict[str, float], Positions | None]:
    """Compute and encode a few batches; return seconds per position by stage, and the rows (None for an empty split).

    ``one_process`` is the time from the end of one batch to the end of the next. It includes waiting for other threads.
    """
    spent = dict.fromkeys(("prepare", "compute", "encode", "one_process"), 0.0)
    places = _places(job)
    if not places:
        return spent, None
    parts: list[Positions] = []
    timed = 0

    def prepared() -> Iterator[tuple[ShardBatch, float]]:
        for shard, sentences in places:
            begin = time.perf_counter()
            batch = prepare_batch(job, shard, sentences)
            yield batch, time.perf_counter() - begin

    def encode(kept: ShardRows, schema: DumpSchema) -> None:
        begin = time.perf_counter()
        rows, _ = kept.finished()
        check_positions(rows, schema, num_positions=len(rows), where="plan")
        for _, data, _ in encoded(rows, schema, 0, where="plan"):
            FileDigest.of_bytes(data)
        shard_figures(rows, np.zeros(len(rows), np.bool_), schema.num_top)
        parts.append(rows)
        spent["encode"] += time.perf_counter() - begin

    with (
        Progress("plan", total=len(places) - 1, unit="batches") as progress,
        ReadAhead(prepared()) as stream,
        WriteBehind() as behind,
    ):
        start = mark = time.perf_counter()
        for number, (batch, prepare_s) in enumerate(stream):
            begin = time.perf_counter()
            schema = _resized(job.schema, len(batch.gold))
            batches = [replace(batch, shard=0, rows=np.arange(len(batch.gold)))]
            kept = compute_shard(job.models, schema, 0, batches, device=job.device)
            computed = time.perf_counter()
            behind.submit(functools.partial(encode, kept, schema))
            now = time.perf_counter()
            if number:  # the first batch is slow, because it touches new memory
                spent["prepare"] += prepare_s
                spent["compute"] += computed - begin
                spent["one_process"] += now - mark
                timed += len(batch.gold)
                progress.update(1)
            else:
                start = now
            mark = now
            if number >= LEAST_BATCHES and now - start > MEASURE_S:
                break
        behind.wait()
    rows = joined_positions(parts)
    spent["encode"] *= timed / len(rows)
    return {stage: seconds / timed for stage, seconds in spent.items()}, rows


def _shard_memory(schema: DumpSchema) -> int:
    """Return how many bytes of memory the shards of a dump need. `pipeline.dumping.dump_loop` explains this memory.

    The number is calculated, because the plan itself computes only parts of shards. The additional copy that a
    cross-fitted dump needs is not counted.
    """
    sizes = {spec.name: spec.row_bytes for spec in schema.position_arrays}
    rows = sum(sizes.values()) - sizes["ids"] + 4 * schema.k
    return (2 * rows + sizes["ids"] + max(sizes.values())) * min(schema.shard_positions, schema.num_positions)


def _places(job: DumpJob) -> list[tuple[int, np.ndarray]]:
    """Return about `NUM_BATCHES` batches from all parts of the split, in random order, each as (shard, sentences).

    A small part of the first batch comes before the first batch, as a warm-up.
    """
    shards = spread(job.schema.layout.num_shards, NUM_BATCHES)
    places = []
    for shard in shards:
        batches = batch_sentences(job, shard)
        places += [(shard, batches[at]) for at in spread(len(batches), -(-NUM_BATCHES // len(shards)))]
    order = np.random.default_rng(1).permutation(len(places))  # the first ones are a fair sample if time runs out
    places = [places[at] for at in order]
    return [(shard, sentences[: 1 + len(sentences) // 16]) for shard, sentences in places[:1]] + places


def _resized(schema: DumpSchema, num_positions: int) -> DumpSchema:
    """Return the schema of a dump with ``num_positions`` positions in one shard."""
    chunks = max(1, -(-num_positions // schema.chunk_positions))
    return replace(
        schema, num_positions=num_positions, num_sentences=1, shard_positions=chunks * schema.chunk_positions
    )


def _chunks(schema: DumpSchema, rows: Positions) -> tuple[float, float]:
    """Return the bytes of all chunks and the seconds to check all files, both divided by the number of positions.

    A file holds a part of an array. It consists of chunks, which hold the rows, and an index of the chunks.
    """
    whole_chunks = len(rows) - len(rows) % schema.chunk_positions
    kept = rows.slice(0, whole_chunks or len(rows))
    resized = _resized(schema, len(kept))
    files = [(spec, bytes(data)) for spec, data, _ in encoded(kept, resized, 0, where="plan")]
    begin = time.perf_counter()
    sizes = [FileDigest.of_bytes(data).size_bytes - index_bytes(spec) for spec, data in files]
    return sum(sizes) / len(kept), (time.perf_counter() - begin) / len(kept)


def _size_bytes(schema: DumpSchema, chunk_bytes: float) -> int:
    """Return the bytes of all files except ``manifest.json``, ``tokenizer.json`` and ``README.md``.

    ``chunk_bytes`` is the first result of ``_chunks``.
    """
    shards = range(schema.layout.num_shards)
    metadata = sum(map(len, schema.zarr_files().values())) + shard_bytes(schema.offsets_array, 0)
    if schema.profile == "exact":
        return metadata + sum(shard_bytes(spec, shard) for spec in schema.stored_arrays for shard in shards)
    indexes = sum(index_bytes(spec) for spec in schema.stored_arrays) * len(shards)
    return metadata + indexes + round(chunk_bytes * schema.num_positions)


def _hours(schema: DumpSchema, seconds: dict[str, float], processes: int) -> float | None:
    """Return the hours that the process with the most shards needs, plus the hours of the check at the end.

    All processes share the speed of one disk. The result is None if nothing could be measured.
    """
    most = min(schema.num_positions, -(-schema.layout.num_shards // processes) * schema.shard_positions)
    compute_s = max(most * seconds["one_process"], schema.num_positions * seconds["write"])
    return (compute_s + schema.num_positions * seconds["check"]) / 3600 if seconds["one_process"] else None
