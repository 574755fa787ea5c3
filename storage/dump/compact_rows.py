"""The rows of a compact dump: chunks are decompressed when one of their rows is read, and rows then decoded.

A chunk's checksum is looked at each time it is decompressed. Decompressed chunks are kept, but not many, so reading
runs and windows costs little and reading single sentences at random much: that is the price of half the bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.addresses import mapped_file
from storage.dump.compact import decode_positions
from storage.dump.compressed_shards import BloscCodec, ChunkCache, CompressedShardView
from storage.dump.mapped import Runs, cannot_map
from storage.dump.positions import Positions
from storage.dump.schema import ArraySpec, DumpSchema
from storage.dump.shards import REMEDY
from storage.errors import CorruptStoreError
from storage.fingerprints import FileDigest
from storage.folder import Folder


class CompactRows:
    """All positions of a dump of profile ``compact``.

    Args:
        folder: Where the dump lies.
        schema: What it holds.
        digests: For each shard, array → digest of its file.
        check_store: Called when a file was mapped; raises if the store is another by now.
    """

    def __init__(
        self,
        folder: Folder,
        schema: DumpSchema,
        digests: Sequence[Mapping[str, FileDigest]],
        check_store: Callable[[], None],
    ) -> None:
        self._check_store = check_store
        self._folder, self._schema, self._digests = folder, schema, digests
        self._chunks = ChunkCache()
        self._views: dict[tuple[str, int], CompressedShardView] = {}
        self.open_bytes = 0

    def run(self, start: int, stop: int) -> None:
        """Return None: no way is quicker than ``read``."""

    def read(self, start: int, stop: int, num_ids: int | None) -> Positions:
        """Return positions, as `storage.dump.profiles.Rows` says."""
        return self._decoded(self._stored([(start, stop)]), num_ids)

    def windows(self, parts: Iterable[tuple[Runs, NDArray[np.int64]]]) -> Iterator[Positions]:
        """Yield positions, as `storage.dump.profiles.Rows` says."""
        for runs, order in parts:
            arrays = self._stored(runs)
            yield self._decoded({name: np.take(array, order, axis=0) for name, array in arrays.items()}, None)

    def _stored(self, runs: Runs) -> dict[str, NDArray[Any]]:
        """Return the rows of some runs as they are stored."""
        arrays = {}
        for spec in self._schema.stored_arrays:
            out = np.empty((sum(stop - start for start, stop in runs), *spec.row_shape), spec.dtype)
            at = 0
            for start, stop in runs:
                self._read_run(spec, start, stop, out[at : at + stop - start])
                at += stop - start
            arrays[spec.name] = out
        return arrays

    def _read_run(self, spec: ArraySpec, start: int, stop: int, out: NDArray[Any]) -> None:
        width = self._schema.shard_positions
        for shard in range(start // width, -(-stop // width) if stop > start else 0):
            begin = shard * width
            low, high = max(start, begin), min(stop, begin + width)
            self._view(spec, shard).read(low - begin, high - begin, out[low - start : high - start])

    def gather(self, positions: NDArray[np.int64], num_ids: int | None) -> Positions:
        """Return positions, as `storage.dump.profiles.Rows` says."""
        shards, rows = np.divmod(positions, self._schema.shard_positions)
        arrays = {}
        for spec in self._schema.stored_arrays:
            out = arrays[spec.name] = np.empty((len(positions), *spec.row_shape), spec.dtype)
            for shard in np.unique(shards).tolist():
                inside = np.flatnonzero(shards == shard)
                out[inside] = self._view(spec, shard).gather(rows[inside])
        return self._decoded(arrays, num_ids)

    def release(self, start: int, stop: int) -> None:
        """Do nothing: few chunks are kept anyway."""

    def _decoded(self, arrays: dict[str, NDArray[Any]], num_ids: int | None) -> Positions:
        # All of a row is needed to decode it, however few ids are wanted.
        found = decode_positions(arrays, self._schema.temperatures)
        if num_ids is None:
            return found
        return Positions(**found.arrays() | {"ids": found.ids[:, :num_ids]})

    def _view(self, spec: ArraySpec, shard: int) -> CompressedShardView:
        view = self._views.get((spec.name, shard))
        if view is None:
            name = spec.file(shard)
            where = f"{self._folder}/{name}: array {spec.name}, shard {shard}"
            try:
                with self._folder.open(name, self._digests[shard][spec.name]) as file:
                    data = mapped_file(file.fileno())
            except FileNotFoundError as error:
                raise CorruptStoreError(f"{where}: the file is missing. {REMEDY}") from error
            except OSError as error:
                raise cannot_map(where, error) from error
            self._check_store()
            view = CompressedShardView(
                data, spec, shard, BloscCodec.of(spec), where=f"{self._folder}/{name}", cache=self._chunks
            )
            self._views[spec.name, shard] = view
            self.open_bytes += len(data)
        return view
