"""DumpReader: positions of a complete dump, by sentence or by range, straight from mapped files.

Opening checks the manifest, the metadata and the size of every file; a shard's index is checked when it is first mapped
and each chunk's checksum when one of its rows is first read. That every byte is right from the start is what
`verify_dump` is for. zarr is not needed: its own API takes about a millisecond an access, 200 times as long as this.
"""

import mmap
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.fingerprints import Json
from storage.manifest import (
    Manifest,
    describe_array,
    entry_path,
    metadata_paths,
    refuse_foreign_files,
)
from storage.positions import Positions
from storage.ragged import concatenated_ranges
from storage.schema import ArraySpec, DumpSchema, check_offsets
from storage.shards import REMEDY, ShardView
from storage.statistics import DumpSummary, summarise


class DumpReader:
    """A complete dump, open for reading.

    Attributes:
        path: Folder of the store.
        schema: What it holds.
        offsets: ``[M + 1]`` int64: sentence m is positions ``offsets[m]:offsets[m + 1]``.
        summary: Its figures.
    """

    def __init__(self, path: Path) -> None:
        """Open a dump.

        Raises:
            StoreError: If there is no dump, or it is of a format, codec or layout that is not ours.
            IncompleteStoreError: If it is still being written.
            CorruptStoreError: If its manifest or metadata are damaged, or a shard is missing or truncated.
        """
        self.path = path
        manifest = Manifest.read(path)
        self.summary: DumpSummary = manifest.require_complete(path)
        self.schema: DumpSchema = manifest.schema
        self.offsets: NDArray[np.int64] = _read_metadata(path, manifest)
        self._arrays = self.schema.position_arrays
        _check_sizes(path, manifest)
        self._views: OrderedDict[tuple[str, int], ShardView] = OrderedDict()
        self._verified: dict[tuple[str, int], NDArray[np.bool_]] = {}
        # A mapped file keeps a descriptor open; half of those allowed are left to others.
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_views = 1 << 16 if allowed == resource.RLIM_INFINITY else max(len(self._arrays), allowed // 2)

    @property
    def num_sentences(self) -> int:
        """M."""
        return self.schema.num_sentences

    def temperature_index(self, temperature: float) -> int:
        """Return the column of ``tail`` and ``logz`` that belongs to a temperature.

        Raises:
            StoreError: If the dump was not made for it.
        """
        declared = self.schema.temperatures
        if temperature not in declared:
            listed = ", ".join(f"{declared_one:g}" for declared_one in declared)
            wanted = ",".join(f"{declared_one:g}" for declared_one in (*declared, temperature))
            raise StoreError(
                f"{self.path}: temperature {temperature:g} is not declared, expected one of {listed}: the mass outside "
                f"the top k is not known at others. Dump again with dump-teacher --temperatures {wanted}"
            )
        return declared.index(temperature)

    def read_sentences(self, indices: ArrayLike, k: int | None = None) -> Positions:
        """Return the positions of some sentences, one sentence after the other.

        Args:
            indices: ``[R]`` int64 in ``[0, M)``, any order, repeats allowed.
            k: Read only the first k ids; the others' mass is moved into the tail.

        Returns:
            Copies; ``n`` is the sum of the sentences' positions.

        Raises:
            IndexError: If there is no such sentence.
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        sentences = np.asarray(indices, dtype=np.int64).reshape(-1)
        if sentences.size and not 0 <= sentences.min() <= sentences.max() < self.num_sentences:
            raise IndexError(f"sentences {sentences.min()} to {sentences.max()}: not all in [0, {self.num_sentences})")
        starts, stops = self.offsets[sentences], self.offsets[sentences + 1]
        if sentences.size and np.array_equal(starts[1:], stops[:-1]):
            return self.read_range(int(starts[0]), int(stops[-1]), k)
        return self._gather(concatenated_ranges(starts, stops - starts), k)

    def read_range(self, start: int, stop: int, k: int | None = None) -> Positions:
        """Return the positions from ``start`` to ``stop``, as copies; ``k`` as in `read_sentences`.

        Raises:
            IndexError: If the range is not inside ``[0, N]``.
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        if not 0 <= start <= stop <= self.schema.num_positions:
            raise IndexError(f"positions {start} to {stop} are not a range in [0, {self.schema.num_positions}]")
        width = self.schema.shard_positions
        arrays = [self._empty(spec, stop - start, k) for spec in self._arrays]
        for shard in range(start // width, -(-stop // width) if stop > start else 0):
            rows = self.schema.layout.rows_of(shard)
            low, high = max(start, rows.start), min(stop, rows.stop)
            for spec, out in zip(self._arrays, arrays, strict=True):
                self._view(spec, shard).read(low - rows.start, high - rows.start, out[low - start : high - start])
        return self._positions(arrays, k)

    def _gather(self, positions: NDArray[np.int64], k: int | None) -> Positions:
        shards, rows = np.divmod(positions, self.schema.shard_positions)
        order: NDArray[np.int64] | None = None
        if (shards[1:] < shards[:-1]).any():
            order = np.argsort(shards, kind="stable")
            shards, rows = shards[order], rows[order]
        arrays = [self._empty(spec, len(positions), k) for spec in self._arrays]
        for shard, low, high in _runs(shards):
            target = slice(low, high) if order is None else order[low:high]
            for spec, out in zip(self._arrays, arrays, strict=True):
                columns = out.shape[1] if out.ndim > 1 else None
                part = self._view(spec, shard).gather(rows[low:high], columns)
                # As opaque items, whole rows are scattered by one index, twice as fast as by element.
                item = np.dtype((np.void, part.dtype.itemsize * part[0].size))
                out.reshape(-1).view(item)[target] = part.reshape(-1).view(item)
        return self._positions(arrays, k)

    def _empty(self, spec: ArraySpec, num_rows: int, k: int | None) -> NDArray[Any]:
        if k is not None and not 1 <= k <= self.schema.k:
            raise StoreError(f"{self.path}: k is {k}, expected 1 to {self.schema.k}. Dump again with a larger --k")
        if k not in (None, self.schema.k) and self.schema.num_draws:
            raise StoreError(
                f"{self.path}: k is {k}, expected {self.schema.k}: a {self.schema.selection} dump is read whole, since "
                f"leaving out the rarer draws biases what is left. Dump again with --k {k}"
            )
        row_shape = (k,) if spec.name == "ids" and k is not None else spec.row_shape
        return np.empty((num_rows, *row_shape), spec.dtype)

    def _positions(self, arrays: list[NDArray[Any]], k: int | None) -> Positions:
        positions = Positions(*arrays)
        return positions if k is None or k == self.schema.k else positions.with_fewer(k, self.schema.temperatures)

    def _view(self, spec: ArraySpec, shard: int) -> ShardView:
        key = (spec.name, shard)
        view = self._views.get(key)
        if view is not None:
            self._views.move_to_end(key)
            return view
        path = self.path / spec.file(shard)
        verified = self._verified.setdefault(key, np.zeros(spec.layout.num_chunks(shard), np.bool_))
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise CorruptStoreError(
                f"{path}: array {spec.name}, shard {shard}: unreadable: {error}. {REMEDY}"
            ) from error
        view = ShardView(data, spec, shard, where=str(path), verified=verified)
        self._views[key] = view
        if len(self._views) > self._max_views:
            self._views.popitem(last=False)
        return view


def verify_dump(path: Path, progress: Callable[[int], object] | None = None) -> DumpSummary:
    """Check every byte of a complete dump against its manifest, and that nothing else lies in it.

    Args:
        path: Folder of the store.
        progress: Called with 1 after each shard.

    Returns:
        The dump's figures.

    Raises:
        StoreError: As `DumpReader`; also if there are foreign files.
        CorruptStoreError: Naming array, shard and remedy.
    """
    manifest = Manifest.read(path)
    summary = manifest.require_complete(path)
    _read_metadata(path, manifest)
    for entry in manifest.shards:
        problem = entry.problem_with(path, manifest.schema)
        if problem:
            raise CorruptStoreError(f"{problem}. {REMEDY}")
        if progress:
            progress(1)
    if summary != summarise(manifest.schema, [entry.sums for entry in manifest.shards], manifest.size_bytes()):
        raise CorruptStoreError(f"{path}: the statistics are not those of the shards. Delete the store and dump again")
    refuse_foreign_files(path, manifest.schema, is_complete=True)
    return summary


def inspect_dump(path: Path) -> dict[str, Json]:
    """Return what a dump is, complete or not, as JSON values; the shards are not read.

    Raises:
        StoreError: If there is no dump.
        CorruptStoreError: If its manifest is damaged.
    """
    manifest = Manifest.read(path)
    schema = manifest.schema
    shards = range(schema.layout.num_shards)
    finished = len(shards) if manifest.is_complete else sum(entry_path(path, shard).exists() for shard in shards)
    return {
        "kind": "dump",
        "path": str(path),
        "state": manifest.state,
        "num_shards": len(shards),
        "num_finished_shards": finished,
        "arrays": {spec.name: describe_array(spec) for spec in (*schema.position_arrays, schema.offsets_array)},
        "schema": schema.to_json(),
        "statistics": manifest.statistics.to_json() if manifest.statistics else None,
    }


def _read_metadata(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Check every metadata file and return the offsets."""
    for name, expected in manifest.schema.zarr_files().items():
        problem = manifest.metadata[name].problem_with(path / name)
        if problem:
            raise CorruptStoreError(f"{path / name}: metadata of array {name.partition('/')[0]}: {problem}. {REMEDY}")
        if (path / name).read_bytes() != expected:
            raise StoreError(
                f"{path / name}: not the metadata that this program writes: another layout, data type or codec than "
                "sharding_indexed, bytes and crc32c. Use the program that wrote it, or dump again"
            )
    spec = manifest.schema.offsets_array
    offsets = np.empty(spec.shape, np.int64)
    for name in metadata_paths(manifest.schema)[-spec.layout.num_shards :]:
        shard = int(name.rpartition("/")[2])
        problem = manifest.metadata[name].problem_with(path / name)
        if problem:
            raise CorruptStoreError(f"{path / name}: array offsets, shard {shard}: {problem}. {REMEDY}")
        rows = spec.layout.rows_of(shard)
        view = ShardView((path / name).read_bytes(), spec, shard, where=str(path / name))
        view.read(0, len(rows), offsets[rows.start : rows.stop])
    try:
        check_offsets(offsets, manifest.schema)
    except ConfigError as error:
        raise CorruptStoreError(f"{path}: {error}. Delete the store and dump again") from error
    return offsets


def _check_sizes(path: Path, manifest: Manifest) -> None:
    """Find missing and truncated shards at the start instead of hours into a training run."""
    for entry in manifest.shards:
        for spec in manifest.schema.position_arrays:
            file, expected = path / spec.file(entry.shard), entry.files[spec.name].size_bytes
            found = file.stat().st_size if file.is_file() else None
            if found != expected:
                what = "the file is missing" if found is None else f"{found} bytes, expected {expected}"
                raise CorruptStoreError(f"{file}: array {spec.name}, shard {entry.shard}: {what}. {REMEDY}")


def _runs(sorted_values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield (value, start, stop) of each run of equal values."""
    edges = np.flatnonzero(np.diff(sorted_values)) + 1
    bounds = [0, *edges.tolist(), len(sorted_values)]
    for low, high in pairwise(bounds):
        if high > low:
            yield int(sorted_values[low]), low, high


__all__ = ["DumpReader", "DumpSummary", "Positions", "inspect_dump", "verify_dump"]
