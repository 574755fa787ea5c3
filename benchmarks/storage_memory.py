"""Measure the memory of one process that writes or reads a whole dump. `benchmarks.storage` starts this module.

    python -m benchmarks.storage_memory {writer|reader} FOLDER POSITIONS

The process prints the peak of its anonymous memory in MB. All rows are zero and the files are sparse, so only checksums
and indexes take room on the disk, even for 50 million positions. Still, every shard is encoded, hashed, entered into
the manifest and verified.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.storage import BLOCK_POSITIONS, SENTENCE, make_schema
from storage.dump.positions import Positions
from storage.dump.reader import DumpReader
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter
from storage.folder import LocalFolder

_STATUS = Path("/proc/self/status")
_BLOCK, _HOLE = 4096, bytes(4096)


def main() -> None:
    """Write or read a dump, and print the peak of anonymous memory."""
    role, path, num_positions = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    schema = make_schema(num_positions - num_positions % SENTENCE)
    print(read(path) if role == "reader" else write(path, schema))


def read(path: Path) -> float:
    """Read all of a dump in order, then random sentences. Return the peak of anonymous memory in MB."""
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
    """Write a dump of zeros as sparse files. Return the peak of anonymous memory in MB."""
    offsets = _mapped_offsets(path.with_name(f"{path.name}-offsets"), schema)
    peak = 0.0
    with DumpWriter.open(SparseFolder(path), schema, offsets, main=True) as writer:
        for shard in writer.pending():
            num_rows = len(schema.layout.rows_of(shard))
            arrays = {spec.name: np.zeros((num_rows, *spec.row_shape), spec.dtype) for spec in schema.position_arrays}
            writer.write_shard(shard, Positions(**arrays))
            peak = max(peak, _anonymous_mb())
        writer.finish()
    return max(peak, _anonymous_mb())


class SparseFolder(LocalFolder):
    """A local folder whose files have holes where their bytes are zero."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._root = path

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, leaving out the blocks that are all zero."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(len(data))
            for start in range(0, len(data), _BLOCK):
                block = data[start : start + _BLOCK]
                if block != _HOLE[: len(block)]:
                    file.seek(start)
                    file.write(block)


def _mapped_offsets(path: Path, schema: DumpSchema) -> np.memmap[tuple[int], np.dtype[np.int64]]:
    np.arange(0, schema.num_positions + 1, SENTENCE).tofile(path)
    return np.memmap(path, np.int64, "r")


def _anonymous_mb() -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
