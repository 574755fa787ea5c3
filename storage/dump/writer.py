"""Write a dump shard by shard, from any number of processes, which may be interrupted at any time.

A shard is a range of positions. It is finished when the files of all its arrays, and then its entry (a file with their
digests), were renamed into place. Until then it is pending.

The store is the folder that holds the dump's files. When the dump is finished, the bytes of these files depend only on
the schema (`DumpSchema`), the lengths of the sentences and the values of all positions. Hosts, times and commands go to
the history file PATH.history.jsonl next to the store. For a local store, this file is also the lock file.

One process, the main one, holds the lock, writes the metadata and finishes the dump. The other processes only write
shards, after the main process has opened the store and before it finishes the dump.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from storage.dump.dump_statistics import DumpSummary, ShardFigures, shard_figures, summarise
from storage.dump.layout import sentences_of_range
from storage.dump.manifest import MANIFEST, Manifest, ShardEntry, entry_name, metadata_paths, refuse_foreign_files
from storage.dump.positions import Positions, check_positions
from storage.dump.profiles import encoded
from storage.dump.schema import DumpSchema, check_offsets
from storage.dump.shards import REMEDY, encode_shard
from storage.errors import IncompleteStoreError, StoreError
from storage.files import PARTIAL_SUFFIX
from storage.fingerprints import FileDigest, Json, canonical_json
from storage.folder import Folder, WriterLock
from storage.locations import Location, as_folder


class DumpWriter:
    """A dump that is open for writing; a context manager. Create it with `DumpWriter.open`."""

    def __init__(
        self,
        folder: Folder,
        schema: DumpSchema,
        offsets: NDArray[np.int64],
        *,
        lock: WriterLock | None,
        manifest: Manifest,
    ) -> None:
        self.folder = folder
        self.schema = schema
        self._offsets = offsets
        self._lock = lock
        self._manifest = manifest
        self._summary = manifest.statistics

    @classmethod
    def open(cls, location: Location, schema: DumpSchema, offsets: NDArray[np.int64], *, main: bool) -> "DumpWriter":
        """Create a dump, or continue one that was begun with the same schema and offsets.

        The main process takes the lock, removes partial files, and rewrites missing or damaged metadata. If the dump
        is already complete, the main process hashes all shards again. If a shard is damaged, the main process sets the
        state in the manifest back to ``writing``.

        Args:
            location: Location of the store.
            schema: The schema of the dump.
            offsets: ``[M + 1]`` int64: sentence m is positions ``offsets[m]:offsets[m + 1]``.
            main: Whether this is the process that holds the lock (rank 0). The others must open the store after it.

        Raises:
            ConfigError: If the offsets do not match the schema.
            StoreBusyError: If another process is writing the store.
            StoreError: If the store was begun with other options, holds foreign files, or cannot be written. If the
                teacher, dataset or tokenizer differs, the error is a `FingerprintMismatchError`.
            CorruptStoreError: If the manifest is damaged.
        """
        check_offsets(offsets, schema)
        folder = as_folder(location)
        if not main:
            manifest = Manifest.read(folder)
            manifest.require_schema(folder, schema)
            return cls(folder, schema, offsets, lock=None, manifest=manifest)
        lock = folder.lock()
        try:
            manifest = _prepare(folder, schema, offsets)
        except BaseException:
            lock.close()
            raise
        return cls(folder, schema, offsets, lock=lock, manifest=manifest)

    @property
    def is_complete(self) -> bool:
        """Whether every shard is written and verified."""
        return self._summary is not None

    def pending(self) -> list[int]:
        """Return the numbers of the pending shards.

        The entry or a file of a pending shard is missing, truncated or altered.

        This hashes every finished shard (1.5 GB/s). If there are several processes, call it in one of them and send the
        result to the others.
        """
        if self.is_complete:
            return []
        return [shard for shard in range(self.schema.layout.num_shards) if isinstance(self._check(shard), str)]

    def write_shard(self, shard: int, positions: Positions, num_effective: NDArray[np.float32] | None = None) -> None:
        """Write one shard, replacing its earlier files. When the method returns, the shard is finished and on the disk.

        Args:
            shard: Number of the shard.
            positions: All positions of the shard, ``schema.layout.rows_of(shard)``.
            num_effective: ``[n]``: the effective number of hypotheses of each row, if beam search computed the rows.

        Raises:
            StoreError: If the rows do not match the schema, or cannot be written. The shard stays pending.
        """
        if self.is_complete:
            raise StoreError(f"{self.folder}: the dump is complete and cannot be changed. Give another folder")
        rows = self.schema.layout.rows_of(shard)
        where = f"{self.folder}: shard {shard}"
        check_positions(positions, self.schema, num_positions=len(rows), where=where)
        if self._lock is None and Manifest.read(self.folder).identity != self._manifest.identity:
            raise StoreError(f"{where}: the store was replaced by another dump. Start again")
        files, checksums = {}, {}
        for spec, data, checksums[spec.name] in encoded(positions, self.schema, shard, where=where):
            self.folder.write(spec.file(shard), data)
            files[spec.name] = FileDigest.of_bytes(data)
        figures = figures_of_shard(positions, self.schema, self._offsets, shard, num_effective)
        entry = ShardEntry(shard=shard, files=files, figures=figures, checksums=checksums)
        entry.write(self.folder, self._manifest.identity)

    def finish(
        self,
        progress: Callable[[int], object] | None = None,
        companions: Callable[[DumpSummary], Mapping[str, bytes]] = lambda _: {},
    ) -> DumpSummary:
        """Verify every byte and write the final manifest. Then readers can open the dump. Only for the main process.

        Args:
            progress: Called with 1 after each shard.
            companions: A function that takes the dump's statistics and returns the content of each companion file, such
                as ``README.md``, by file name. If the dump is already complete, missing and damaged companion files are
                written again, but only if the function returns the same content as before.

        Returns:
            The statistics of the dump.

        Raises:
            IncompleteStoreError: If a shard is not finished or is damaged.
            StoreError: If the store holds foreign files, or the manifest cannot be written.
        """
        if self._lock is None and self._summary is None:
            raise RuntimeError("only the main process finishes a dump")
        if self._summary is not None:
            known = self._manifest.companions.items()
            made = companions(self._summary) if any(self.folder.problem_with(*each) for each in known) else {}
            _restore(self.folder, {name: made[name] for name, digest in known if _is(made.get(name), digest)})
            return self._summary
        entries, problems = [], []
        for shard in range(self.schema.layout.num_shards):
            entry = self._check(shard)
            if isinstance(entry, str):
                problems.append(entry)
            else:
                entries.append(entry)
            if progress:
                progress(1)
        if problems:
            raise IncompleteStoreError(
                f"{self.folder}: not all shards are finished (missing {len(problems)}; first: {problems[0]}). {REMEDY}"
            )
        digests = self._manifest.metadata
        if any(self.folder.problem_with(name, digest) for name, digest in digests.items()):
            _restore(self.folder, _metadata(self.schema, self._offsets))
        refuse_foreign_files(self.folder, self.schema, is_complete=False)
        self._summary = _complete(self.folder, self.schema, digests, entries, companions)
        return self._summary

    def log(self, event: Mapping[str, Json]) -> None:
        """Append one line, with the time, to the history file. Only for the main process."""
        if self._lock is None:
            raise RuntimeError("only the main process writes the history")
        now = datetime.now(tz=UTC).isoformat(timespec="seconds")
        self._lock.log(canonical_json({"time": now, **event}))

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, shard: int) -> ShardEntry | str:
        """Return the entry of a finished shard, or the problem with the shard as text."""
        entry = ShardEntry.read(self.folder, shard, self._manifest)
        if entry is None:
            return f"shard {shard} has no valid entry"
        return entry.problem_with(self.folder, self.schema) or entry


def figures_of_shard(
    positions: Positions,
    schema: DumpSchema,
    offsets: NDArray[np.int64],
    shard: int,
    num_effective: NDArray[np.float32] | None = None,
) -> ShardFigures:
    """Return the figures of a shard: sums over its rows, such as ``gold_nats``, and a histogram of the rows' entropies.

    ``positions`` holds all rows of the shard. ``num_effective`` is described in `DumpWriter.write_shard`.
    """
    rows = schema.layout.rows_of(shard)
    sentences = sentences_of_range(offsets, rows)
    last_positions = offsets[sentences.start + 1 : sentences.stop + 1] - 1
    is_eos = np.zeros(len(rows), np.bool_)
    is_eos[last_positions[last_positions < rows.stop] - rows.start] = True
    return shard_figures(positions, is_eos, schema.num_top, num_effective)


def _prepare(folder: Folder, schema: DumpSchema, offsets: NDArray[np.int64]) -> Manifest:
    """Prepare a store so that shards can be written, and return its manifest."""
    metadata = _metadata(schema, offsets)
    digests = {name: FileDigest.of_bytes(data) for name, data in metadata.items()}
    present = folder.sizes()
    if MANIFEST in present:
        manifest = Manifest.read(folder)
        manifest.require_schema(folder, schema)
        altered = sorted(name for name in digests if manifest.metadata[name] != digests[name])
        if altered:
            raise StoreError(f"{folder}: was begun with other sentences ({altered[0]} differs). Give another folder")
        folder.sweep()
        refuse_foreign_files(folder, schema, is_complete=False)
        _restore(folder, metadata)
        return _reopen(folder, manifest) if manifest.is_complete else manifest
    # Without a manifest, the folder must hold nothing except the leftovers of an interrupted creation of this store.
    own = set(metadata_paths(schema))
    foreign = [name for name in present if name not in own and not name.endswith(PARTIAL_SUFFIX)]
    if foreign:
        raise StoreError(f"{folder}: is not empty (it holds {foreign[0]}) and is not a dump. Give another folder")
    folder.sweep()
    _restore(folder, metadata)
    manifest = Manifest(state="writing", schema=schema, metadata=digests)
    manifest.write(folder)
    return manifest


def _reopen(folder: Folder, manifest: Manifest) -> Manifest:
    """Verify the shards of a complete store, and return its manifest.

    If shards are damaged, set the state back to ``writing``, and write entries for the undamaged shards.
    """
    damaged = {entry.shard for entry in manifest.shards if entry.problem_with(folder, manifest.schema)}
    if not damaged:
        _remove_entries(folder, manifest.schema)
        return manifest
    for entry in manifest.shards:
        if entry.shard not in damaged:
            entry.write(folder, manifest.identity)
    begun_again = Manifest(state="writing", schema=manifest.schema, metadata=manifest.metadata)
    begun_again.write(folder)
    return begun_again


def _complete(
    folder: Folder,
    schema: DumpSchema,
    metadata: dict[str, FileDigest],
    entries: list[ShardEntry],
    companions: Callable[[DumpSummary], Mapping[str, bytes]],
) -> DumpSummary:
    size_bytes = Manifest(state="writing", schema=schema, metadata=metadata, shards=tuple(entries)).size_bytes()
    summary = summarise(schema, [entry.figures for entry in entries], size_bytes)
    files = companions(summary)
    _restore(folder, files)
    manifest = Manifest(
        state="complete",
        schema=schema,
        metadata=metadata,
        shards=tuple(entries),
        statistics=summary,
        companions={name: FileDigest.of_bytes(data) for name, data in files.items()},
    )
    manifest.write(folder)
    _remove_entries(folder, schema)
    return summary


def _remove_entries(folder: Folder, schema: DumpSchema) -> None:
    folder.remove(entry_name(shard) for shard in range(schema.layout.num_shards))


def _metadata(schema: DumpSchema, offsets: NDArray[np.int64]) -> dict[str, bytes | memoryview]:
    """Return the content, by relative path, of the files that depend only on schema and offsets."""
    spec = schema.offsets_array
    return {**schema.zarr_files(), spec.file(0): encode_shard(spec, 0, offsets).data}


def _is(data: bytes | None, digest: FileDigest) -> bool:
    return data is not None and FileDigest.of_bytes(data) == digest


def _restore(folder: Folder, metadata: Mapping[str, bytes | memoryview]) -> None:
    """Write each file that is missing in the folder or has other content there."""
    for name, data in metadata.items():
        if folder.problem_with(name, FileDigest.of_bytes(data)):
            folder.write(name, data)
