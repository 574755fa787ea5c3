"""Compare the speed of reading and writing dumps with that of other libraries and of memory maps of the same arrays.

    python -m benchmarks.storage [--quick] [--json FILE] [--dump DUMP] [--positions N]

The benchmark writes a dump of random rows with k = 64 into a temporary folder. Times are medians over interleaved
rounds, with checksums on. All files are in the page cache, so no reader waits for a disk. "memmap" copies ranges of a
`numpy.memmap` of contiguous files that hold the same arrays. tensorstore is measured if it is installed. The figure
A_vs_B is the time of B / the time of A.

"window" reads the dump in the same way as ``train-student --shuffle-window``: it shuffles blocks of sentences, takes
some blocks at a time, and reads their sentences in random order. "memmap window" reads each of these blocks as one
range, and then puts the sentences into the same random order. "take window" reads the same sentences from the memory
maps with `numpy.take`, 512 sentences at a time.
"""

import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import interleaved, keep_freed_memory, parser, ratio, report
from storage.dump.compact import decode_rows, encode_rows
from storage.dump.layout import sentence_blocks
from storage.dump.positions import Positions
from storage.dump.profiles import encoded
from storage.dump.reader import DumpReader
from storage.dump.schema import FINGERPRINTS, DumpSchema
from storage.dump.writer import DumpWriter
from storage.ragged import concatenated_ranges

K = 64
VOCAB_SIZE = 12_000
NAMES = ("tokens", "ids", "logp", "gold_logp", "tail", "logz")
SENTENCE = 20
"""Number of positions of every sentence."""
BATCH = 512
"""Number of sentences that a batched read gathers."""
BLOCK_POSITIONS = 4096
"""Number of positions per block, in a sequential read and in a shuffled window."""
WINDOW_BLOCKS = 16
"""Number of blocks that are shuffled together."""
NUM_RANDOM = 4000
"""Number of random sentences that are read one by one."""
NUM_FEW = 20
"""How many of these sentences zarr and tensorstore read."""


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--dump", type=Path, help="a dump with --profile exact; the figures compact_* use its rows")
    options.add_argument("--positions", type=int, default=1_000_000, help="number of positions in the store")
    given = options.parse_args()
    keep_freed_memory()
    num_positions = 200_000 if given.quick else given.positions
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), num_positions, rounds=5 if given.quick else 15)
        figures |= compact(DumpReader(given.dump) if given.dump else None)
        figures |= memory(Path(folder), small=1_000_000, large=4_000_000 if given.quick else 50_000_000)
    report(figures, given)


def measure(folder: Path, num_positions: int, *, rounds: int) -> dict[str, float]:
    """Return the ratios and rates of writing and reading a store of ``num_positions``."""
    num_positions -= num_positions % SENTENCE
    schema = make_schema(num_positions)
    offsets = np.arange(0, num_positions + 1, SENTENCE)
    rows = random_rows(schema)
    figures = writing(folder, schema, offsets, rows, rounds)
    write_store(folder / "dump", schema, offsets, rows)
    for name in NAMES:
        getattr(rows, name).tofile(folder / f"{name}.raw")
    figures |= first_pass(folder, schema, rounds)
    return figures | reading(folder, schema, offsets, rounds)


def make_schema(num_positions: int) -> DumpSchema:
    """Return the schema of a store of random rows."""
    return DumpSchema(
        num_positions=num_positions,
        num_sentences=num_positions // SENTENCE,
        vocab_size=VOCAB_SIZE,
        k=K,
        temperatures=(1.0,),
        tree_source="none",
        split="train",
        fingerprints=dict.fromkeys(FINGERPRINTS, "0" * 64),
        computation={},
    )


def random_rows(schema: DumpSchema) -> Positions:
    """Return random rows that a writer accepts."""
    generator = np.random.default_rng(1)
    size = schema.num_positions
    falling = -np.sort(generator.random((size, K), np.float32) * 12, axis=1)
    return Positions(
        tokens=generator.integers(0, VOCAB_SIZE, size, np.uint16),
        ids=generator.integers(0, VOCAB_SIZE, (size, K), np.uint16),
        logp=falling.astype(np.float16),
        gold_logp=-generator.random(size, np.float32),
        tail=-generator.random((size, 1), np.float32),
        logz=np.zeros((size, 1), np.float32),
    )


def write_store(path: Path, schema: DumpSchema, offsets: NDArray[np.int64], rows: Positions) -> None:
    """Write a whole dump."""
    with DumpWriter.open(path, schema, offsets, main=True) as writer:
        for shard in writer.pending():
            span = schema.layout.rows_of(shard)
            writer.write_shard(shard, rows.slice(span.start, span.stop))
        writer.finish()


def writing(
    folder: Path, schema: DumpSchema, offsets: NDArray[np.int64], rows: Positions, rounds: int
) -> dict[str, float]:
    """Compare the time to encode and write shards with that of ``ndarray.tofile``. Neither waits for the disk."""
    num_shards = min(4, schema.layout.num_shards)
    parts = [rows.slice(span.start, span.stop) for span in map(schema.layout.rows_of, range(num_shards))]

    def ours() -> None:
        shutil.rmtree(folder / "written", ignore_errors=True)
        with DumpWriter.open(folder / "written", schema, offsets, main=True) as writer:
            for shard, part in enumerate(parts):
                writer.write_shard(shard, part)

    def raw() -> None:
        for shard, part in enumerate(parts):
            for name in NAMES:
                getattr(part, name).tofile(folder / f"{name}.{shard}.raw")

    with without_fsync():
        seconds = interleaved({"ours": ours, "tofile": raw}, max(3, rounds // 3))
    positions = sum(map(len, parts))
    shutil.rmtree(folder / "written")
    return {
        "write_vs_tofile": ratio(seconds, "ours", "tofile"),
        "write_positions_per_s": positions / statistics.median(seconds["ours"]),
    }


@contextlib.contextmanager
def without_fsync() -> Iterator[None]:
    """Switch fsync off, because the benchmark measures the program and not the disk."""
    kept, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = kept


def memmaps(folder: Path, schema: DumpSchema) -> list[np.memmap[Any, Any]]:
    """Return a memory map of each raw file."""
    return [
        np.memmap(folder / f"{spec.name}.raw", spec.dtype, "r", shape=spec.shape) for spec in schema.position_arrays
    ]


def first_pass(folder: Path, schema: DumpSchema, rounds: int) -> dict[str, float]:
    """Compare the first reading of a dump in order, which checks every checksum, with reading memory maps in order."""

    def ours() -> None:
        read_all(DumpReader(folder / "dump"))

    def raw() -> None:
        maps = memmaps(folder, schema)
        for start in range(0, schema.num_positions, BLOCK_POSITIONS):
            for each in maps:
                np.array(each[start : start + BLOCK_POSITIONS])

    seconds = interleaved({"ours": ours, "memmap": raw}, max(3, rounds // 3))
    return {"first_pass_vs_memmap": ratio(seconds, "ours", "memmap")}


def reading(folder: Path, schema: DumpSchema, offsets: NDArray[np.int64], rounds: int) -> dict[str, float]:
    """Compare the ways of reading a dump whose chunks are all verified already."""
    reader, maps = DumpReader(folder / "dump"), memmaps(folder, schema)
    read_all(reader)
    generator = np.random.default_rng(2)
    sentences = generator.integers(0, schema.num_sentences, NUM_RANDOM).tolist()
    batches = [generator.integers(0, schema.num_sentences, BATCH) for _ in range(40)]
    windows = shuffled_windows(offsets, generator)
    window_batches = [batch for window in windows for batch in np.split(window, range(BATCH, len(window), BATCH))]
    blocks = range(0, schema.num_positions, BLOCK_POSITIONS)
    few = sentences[:NUM_FEW]
    ways: list[dict[str, Callable[[], object]]] = [
        {
            "sequential": lambda: read_all(reader),
            "memmap sequential": lambda: [_copies(maps, at, at + BLOCK_POSITIONS) and None for at in blocks],
        },
        {
            "window": lambda: [reader.read_sentences(batch) and None for batch in window_batches],
            "memmap window": lambda: [_window(maps, offsets, chosen) and None for chosen in windows],
            "take window": lambda: [_take(maps, offsets, batch) and None for batch in window_batches],
        },
        {
            "sentence": lambda: [reader[m] and None for m in sentences],
            "memmap sentence": lambda: [_copies(maps, m * SENTENCE, (m + 1) * SENTENCE) and None for m in sentences],
            "zarr sentence": zarr_sentences(folder / "dump", few),
            **tensorstore_sentences(folder / "dump", few),
        },
        {
            "gather": lambda: [reader.read_sentences(batch) and None for batch in batches],
            "take": lambda: [_take(maps, offsets, batch) and None for batch in batches],
        },
    ]
    seconds = {name: values for runs in ways for name, values in interleaved(runs, rounds).items()}
    figures = {
        "window_vs_memmap": ratio(seconds, "window", "memmap window"),
        "window_vs_take": ratio(seconds, "window", "take window"),
        "sequential_vs_memmap": ratio(seconds, "sequential", "memmap sequential"),
        "random_sentence_vs_memmap": ratio(seconds, "sentence", "memmap sentence"),
        "batched_gather_vs_take": ratio(seconds, "gather", "take"),
    }
    for name in seconds:
        other = name.removesuffix(" sentence")
        if other not in (name, "memmap"):
            figures[f"random_sentence_vs_{other}"] = ratio(seconds, "sentence", name) * NUM_RANDOM / NUM_FEW
    sizes = {"sequential": schema.num_positions, "window": schema.num_positions}
    sizes |= {"sentence": NUM_RANDOM * SENTENCE, "gather": len(batches) * BATCH * SENTENCE}
    return figures | {
        f"{name}_positions_per_s": size / statistics.median(seconds[name]) for name, size in sizes.items()
    }


def read_all(reader: DumpReader) -> None:
    """Read all positions in order, a block at a time."""
    num_positions = reader.schema.num_positions
    for start in range(0, num_positions, BLOCK_POSITIONS):
        reader.read_range(start, min(start + BLOCK_POSITIONS, num_positions))


def shuffled_windows(offsets: NDArray[np.int64], generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the sentences of each shuffled window, in random order, as `pipeline.training.batching` chooses them."""
    edges = sentence_blocks(offsets, BLOCK_POSITIONS)
    blocks = generator.permutation(len(edges) - 1)
    windows = []
    for first in range(0, len(blocks), WINDOW_BLOCKS):
        chosen = blocks[first : first + WINDOW_BLOCKS]
        windows.append(generator.permutation(concatenated_ranges(edges[chosen], edges[chosen + 1] - edges[chosen])))
    return windows


def _copies(maps: list[np.memmap[Any, Any]], start: int, stop: int) -> list[NDArray[Any]]:
    return [np.array(each[start:stop]) for each in maps]


def _take(maps: list[np.memmap[Any, Any]], offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> list[NDArray[Any]]:
    rows = concatenated_ranges(offsets[chosen], offsets[chosen + 1] - offsets[chosen])
    return [np.take(each, rows, axis=0) for each in maps]


def _window(
    maps: list[np.memmap[Any, Any]], offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> list[NDArray[Any]]:
    """Read each block of a window as one range, and put the sentences into the order of ``chosen``."""
    ordered = np.sort(chosen)
    edges = np.flatnonzero(np.diff(ordered) > 1) + 1
    runs = [(part[0], part[-1] + 1) for part in np.split(ordered, edges)]
    lengths = offsets[chosen + 1] - offsets[chosen]
    begins = np.concatenate([[0], np.cumsum(offsets[ordered + 1] - offsets[ordered])[:-1]])
    rows = concatenated_ranges(begins[np.searchsorted(ordered, chosen)], lengths)
    found = []
    for each in maps:
        block = np.concatenate([each[offsets[first] : offsets[stop]] for first, stop in runs])
        found.append(np.take(block, rows, axis=0))
    return found


def zarr_sentences(path: Path, sentences: list[int]) -> Callable[[], None]:
    """Return a function that reads sentences through zarr-python's own API."""
    import zarr

    group = zarr.open_group(path, mode="r")
    arrays = [group[name] for name in NAMES]

    def run() -> None:
        for m in sentences:
            for array in arrays:
                array[m * SENTENCE : (m + 1) * SENTENCE]  # type: ignore[index]

    return run


def tensorstore_sentences(path: Path, sentences: list[int]) -> dict[str, Callable[[], object]]:
    """Return a dictionary with a function that reads sentences through tensorstore; {} if it is not installed."""
    if not find_spec("tensorstore"):
        return {}
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 200_000_000}})
    arrays = [
        tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}, context=context, read=True
        ).result()
        for name in NAMES
    ]
    return {
        "tensorstore sentence": lambda: [
            array[m * SENTENCE : (m + 1) * SENTENCE].read().result() for m in sentences for array in arrays
        ]
    }


def compact(reader: DumpReader | None) -> dict[str, float]:
    """Return the costs of the profile ``compact``, which stores a log-probability as one byte.

    The costs are bytes per position, and KL(exact || decoded) in nats per position. Without a dump the rows are
    synthetic. In rows of a teacher the ids repeat more from position to position, so they compress better.
    """
    if reader is None:
        schema, rows = make_schema(16_384), zipf_rows(16_384)
    else:
        num_positions = min(reader.schema.num_positions, 1 << 18)
        rows = reader.read_range(0, num_positions)
        schema = dataclasses.replace(reader.schema, num_positions=num_positions)
    schema = dataclasses.replace(schema, profile="compact", shard_positions=1 << 16)
    size = 0
    nats = 0.0
    for shard in range(schema.layout.num_shards):
        span = schema.layout.rows_of(shard)
        part = rows.slice(span.start, span.stop)
        size += sum(len(data) for _, data, _ in encoded(part, schema, shard, where="benchmark"))
        decoded, _ = decode_rows(
            encode_rows(part, schema.temperatures, where="benchmark")["gaps"], part.tail, schema.temperatures
        )
        exact = part.logp.astype(np.float64)
        # Because logp is float16, the probabilities of a row and its tail sum to 1 with an error of up to 1e-3. This
        # error must not count as divergence.
        exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True) / -np.expm1(part.tail[:, :1].astype(np.float64)))
        nats += float((np.exp(exact) * (exact - decoded)).sum())
    return {
        "compact_bytes_per_position": size / schema.num_positions,
        "compact_added_kl_nats": nats / schema.num_positions,
        "exact_bytes_per_position": float(sum(spec.row_bytes for spec in schema.position_arrays)),
    }


def zipf_rows(num_positions: int) -> Positions:
    """Return synthetic rows. Their logits are Zipf's log-frequencies plus normal noise."""
    generator = np.random.default_rng(5)
    frequency = -np.log(np.arange(1, VOCAB_SIZE + 1, dtype=np.float32))
    parts = []
    for _ in range(num_positions // 1024):
        logits = frequency + generator.normal(0, 2, (1024, VOCAB_SIZE)).astype(np.float32)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        top = np.argpartition(-logits, K, axis=1)[:, :K]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(logits, top, 1), axis=1), 1)
        logp = np.take_along_axis(logits, top, 1)
        parts.append((top.astype(np.uint16), logp.astype(np.float16), np.log1p(-np.exp(logp).sum(axis=1))))
    ids, logp, tail = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Positions(
        tokens=ids[:, 0].copy(),
        ids=ids,
        logp=logp,
        gold_logp=logp[:, 0].astype(np.float32),
        tail=tail[:, None].astype(np.float32),
        logz=np.zeros((num_positions, 1), np.float32),
    )


def memory(folder: Path, *, small: int, large: int) -> dict[str, float]:
    """Return the anonymous memory of reader and writer with a small dump, and how much a large dump adds, in MB.

    Pages of mapped files are not anonymous memory: they belong to the page cache.
    """
    peaks: dict[str, list[float]] = {"reader": [], "writer": []}
    for num_positions in (small, large):
        for role in ("writer", "reader"):  # each in a process of its own
            arguments = [role, str(folder / "zeros"), str(num_positions)]
            command = [sys.executable, "-m", "benchmarks.storage_memory", *arguments]
            peaks[role].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        shutil.rmtree(folder / "zeros")
    return {
        name: figure
        for role, (before, after) in peaks.items()
        for name, figure in ((f"{role}_anonymous_mb_small", before), (f"{role}_anonymous_growth_mb", after - before))
    }


if __name__ == "__main__":
    main()
