"""Measure the memory of one process that reads or writes a whole store; `benchmarks.storage` runs this.

    python -m benchmarks.storage_memory {sparse|reader|writer} FOLDER POSITIONS

It prints the peak of anonymous memory in MB. ``sparse`` writes the store to read: all rows are zero and only the
checksums take room on the disk, so 50 million positions take little room and every checksum is right. ``writer``
discards the content of the files, but every shard is encoded, hashed, entered and verified.
"""

import sys
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

import numpy as np

from benchmarks.storage import BLOCK_POSITIONS, SENTENCE, make_schema, random_rows
from storage.dump.dump_statistics import shard_figures, summarise
from storage.dump.manifest import Manifest, ShardEntry
from storage.dump.reader import DumpReader
from storage.dump.schema import DumpSchema
from storage.dump.shards import encode_shard, shard_bytes
from storage.dump.writer import DumpWriter
from storage.fingerprints import FileDigest
from storage.folder import LocalFolder, WriterLock

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Write a sparse store, or read or write a store and print the peak of anonymous memory."""
    role, path, num_positions = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    schema = make_schema(num_positions - num_positions % SENTENCE)
    if role == "sparse":
        write_sparse(path, schema)
    else:
        print(read(path) if role == "reader" else write(path, schema))


def read(path: Path) -> float:
    """Read all of a sparse store in order, then random sentences of it."""
    reader, peak = DumpReader(path), 0.0
    for number, start in enumerate(range(0, reader.schema.num_positions, BLOCK_POSITIONS)):
        reader.read_range(start, min(start + BLOCK_POSITIONS, reader.schema.num_positions))
        if number % 16 == 0:
            peak = max(peak, _anonymous_mb())
    for number, m in enumerate(np.random.default_rng(1).integers(0, len(reader), 20_000).tolist()):
        reader[m]
        if number % 100 == 0:
            peak = max(peak, _anonymous_mb())
    return peak


def write(path: Path, schema: DumpSchema) -> float:
    """Write every shard of a store into a folder that keeps digests only."""
    offsets = _mapped_offsets(path, schema)
    rows = random_rows(schema, min(schema.shard_positions, schema.num_positions))
    peak = 0.0
    with DumpWriter.open(DigestsOnly(), schema, offsets, main=True) as writer:
        for shard in writer.pending():
            writer.write_shard(shard, rows.slice(0, len(schema.layout.rows_of(shard))))
            peak = max(peak, _anonymous_mb())
        writer.finish()
    return max(peak, _anonymous_mb())


class DigestsOnly:
    """A folder that keeps the content of JSON files and the digests of all others."""

    def __init__(self) -> None:
        self._digests: dict[str, FileDigest] = {}
        self._json: dict[str, bytes] = {}

    def __str__(self) -> str:
        return "nowhere"

    def sizes(self) -> dict[str, int]:
        """Return name → bytes."""
        return {name: digest.size_bytes for name, digest in self._digests.items()}

    def read(self, name: str) -> bytes:
        """Return a JSON file's content."""
        if name not in self._json:
            raise FileNotFoundError(name)
        return self._json[name]

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Remember a file's digest."""
        self._digests[name] = FileDigest.of_bytes(data)
        if name.endswith(".json"):
            self._json[name] = bytes(data)

    def remove(self, names: Iterable[str]) -> None:
        """Forget files."""
        for name in names:
            self._digests.pop(name, None)
            self._json.pop(name, None)

    def problem_with(self, name: str, digest: FileDigest) -> str | None:
        """Compare digests."""
        return None if self._digests.get(name) == digest else "another file"

    def open(self, name: str, digest: FileDigest) -> FileIO:  # noqa: ARG002
        """Raise: no content was kept."""
        raise FileNotFoundError(name)

    max_open_bytes = None

    def prefetch(self, names: Iterable[tuple[str, FileDigest]]) -> None:
        """Do nothing."""

    def history(self) -> bytes:
        """Return nothing."""
        return b""

    def sweep(self) -> None:
        """Do nothing."""

    def lock(self) -> WriterLock:
        """Return the folder itself, as a lock that locks nothing."""
        return self

    def log(self, line: bytes) -> None:
        """Discard a line."""

    def close(self) -> None:
        """Do nothing."""


def write_sparse(path: Path, schema: DumpSchema) -> None:
    """Write a complete store of zeros as sparse files: only checksums and indexes take room."""
    folder = LocalFolder(path)
    offsets = np.arange(0, schema.num_positions + 1, SENTENCE)
    files = {**schema.zarr_files(), schema.offsets_array.file(0): encode_shard(schema.offsets_array, 0, offsets)}
    metadata = {name: FileDigest.of_bytes(data) for name, data in files.items()}
    for name, data in files.items():
        folder.write(name, data)
    zeros = random_rows(schema, 1)
    figures = shard_figures(zeros, np.zeros(1, np.bool_), schema.num_top)
    entries = []
    for shard in range(schema.layout.num_shards):
        digests = {}
        for spec in schema.position_arrays:
            size = shard_bytes(spec, shard)
            digests[spec.name] = FileDigest(sha256="0" * 64, size_bytes=size)
            _write_holes(path / spec.file(shard), encode_zeros(spec, shard, schema))
        entries.append(ShardEntry(shard=shard, files=digests, figures=figures))
    shards = tuple(entries)
    size = Manifest(state="writing", schema=schema, metadata=metadata, shards=shards).size_bytes()
    summary = summarise(schema, [entry.figures for entry in entries], size)
    Manifest(state="complete", schema=schema, metadata=metadata, shards=shards, statistics=summary).write(folder)


_ENCODED: dict[tuple[str, int], bytes] = {}


def encode_zeros(spec, shard: int, schema: DumpSchema) -> bytes:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Return a shard of zeros. All full shards of an array are equal, so each is encoded once."""
    rows = len(schema.layout.rows_of(shard))
    if (spec.name, rows) not in _ENCODED:
        _ENCODED[spec.name, rows] = encode_shard(spec, shard, np.zeros((rows, *spec.row_shape), spec.dtype)).tobytes()
    return _ENCODED[spec.name, rows]


def _write_holes(path: Path, data: bytes) -> None:
    """Write a file, leaving out the blocks that are all zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block, empty = 4096, bytes(4096)
    with path.open("wb") as file:
        file.truncate(len(data))
        for start in range(0, len(data), block):
            part = data[start : start + block]
            if part != empty[: len(part)]:
                file.seek(start)
                file.write(part)


def _mapped_offsets(path: Path, schema: DumpSchema) -> np.memmap[tuple[int], np.dtype[np.int64]]:
    path.mkdir(parents=True)
    np.arange(0, schema.num_positions + 1, SENTENCE).tofile(path / "offsets")
    return np.memmap(path / "offsets", np.int64, "r")


def _anonymous_mb() -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
