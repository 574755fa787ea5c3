"""DumpWriter: whole shards, each written once, by any number of processes, interrupted at any time.

A shard is finished when the file of every array and then its entry were renamed into place; until then it is to be done
again. So what is pending can be read off the disk, under any number of processes, and the finished store's bytes
depend only on the schema, the offsets and the rows. One process, the main one, holds the lock, writes the metadata and
ends the dump; the others only write shards, after main has opened the store and before it finishes. What cannot change
bits (hosts, times, commands) goes to PATH.history.jsonl beside the store, which is also the lock file.
"""

import fcntl
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from storage.errors import IncompleteStoreError, StoreBusyError, StoreError
from storage.files import (
    cannot_write,
    fsync_directory,
    list_files,
    make_directory,
    remove_partial_files,
    write_atomically,
)
from storage.fingerprints import FileDigest, Json, canonical_json
from storage.layout import sentences_of_range
from storage.manifest import (
    FINISHED,
    MANIFEST,
    Manifest,
    ShardEntry,
    metadata_paths,
    refuse_foreign_files,
)
from storage.positions import Positions, check_positions
from storage.schema import DumpSchema, check_offsets
from storage.shards import REMEDY, encode_shard
from storage.statistics import DumpSummary, shard_sums, summarise


class DumpWriter:
    """A dump open for writing; a context manager. Opened by `DumpWriter.open`."""

    def __init__(
        self,
        path: Path,
        schema: DumpSchema,
        offsets: NDArray[np.int64],
        *,
        history: FileIO | None,
        summary: DumpSummary | None,
    ) -> None:
        self.path = path
        self.schema = schema
        self._offsets = offsets
        self._history = history
        self._summary = summary

    @classmethod
    def open(cls, path: Path, schema: DumpSchema, offsets: NDArray[np.int64], *, main: bool) -> "DumpWriter":
        """Create a dump, or go on with one begun with the same schema and offsets.

        The main process takes the lock, removes what interrupted writers left behind, and rewrites missing or damaged
        metadata. It also rehashes a dump that was complete, and takes it back to ``writing`` if a shard is damaged.

        Args:
            path: Folder of the store.
            schema: What is dumped.
            offsets: ``[M + 1]`` int64: sentence m is positions ``offsets[m]:offsets[m + 1]``.
            main: Whether this is the one process that holds the lock (rank 0). The others open the store after it.

        Raises:
            ConfigError: If the offsets do not fit the schema.
            StoreBusyError: If another process is writing the store.
            StoreError: If the store was begun with other options (a `FingerprintMismatchError` if with another teacher,
                dataset or tokenizer), holds foreign files, or cannot be written.
            CorruptStoreError: If the manifest is damaged.
        """
        check_offsets(offsets, schema)
        if not main:
            manifest = Manifest.read(path)
            manifest.require_schema(path, schema)
            return cls(path, schema, offsets, history=None, summary=manifest.statistics)
        make_directory(path.absolute().parent)
        history = _lock(path)
        try:
            summary = _prepare(path, schema, offsets)
        except BaseException:
            history.close()
            raise
        return cls(path, schema, offsets, history=history, summary=summary)

    @property
    def is_complete(self) -> bool:
        """Whether every shard is written and verified, and readers may open the dump."""
        return self._summary is not None

    @property
    def summary(self) -> DumpSummary | None:
        """The figures of a complete dump, else None."""
        return self._summary

    def pending(self) -> list[int]:
        """Return the shards still to be written: those whose entry or a file is missing, truncated or altered.

        Every finished shard is rehashed (1.5 GB/s): under several processes call it in one and tell the others.
        """
        if self.is_complete:
            return []
        return [shard for shard in range(self.schema.layout.num_shards) if isinstance(self._check(shard), str)]

    def write_shard(self, shard: int, positions: Positions) -> None:
        """Write one shard, replacing what is there; when this returns it is on the disk, finished.

        Args:
            shard: Which shard.
            positions: All its positions, ``schema.layout.rows_of(shard)``.

        Raises:
            StoreError: If the rows are not what the schema says, or cannot be written. The shard stays pending.
        """
        if self.is_complete:
            raise StoreError(f"{self.path}: complete, nothing may be written. Name another folder for another dump")
        rows = self.schema.layout.rows_of(shard)
        check_positions(positions, self.schema, num_positions=len(rows), where=f"{self.path}: shard {shard}")
        digests = {}
        for spec in self.schema.position_arrays:
            data = encode_shard(spec, shard, getattr(positions, spec.name)).data
            target = self.path / spec.file(shard)
            make_directory(target.parent)
            write_atomically(target, data)
            digests[spec.name] = FileDigest.of_bytes(data)
        sentences = sentences_of_range(self._offsets, rows)
        last_positions = self._offsets[sentences.start + 1 : sentences.stop + 1] - 1
        is_eos = np.zeros(len(rows), np.bool_)
        is_eos[last_positions[last_positions < rows.stop] - rows.start] = True
        ShardEntry(shard=shard, files=digests, sums=shard_sums(positions, is_eos, self.schema.num_top)).write(self.path)

    def finish(self, progress: Callable[[int], object] | None = None) -> DumpSummary:
        """Verify every byte, write the final manifest and open the dump to readers; in the main process only.

        Args:
            progress: Called with 1 after each shard.

        Raises:
            IncompleteStoreError: If a shard is not finished, or its bytes are not those that were written.
            StoreError: If there are foreign files in the store, or the manifest cannot be written.
        """
        if self._summary is not None:
            return self._summary
        if self._history is None:
            raise RuntimeError("only the main process finishes a dump")
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
                f"{self.path}: {len(problems)} shards are not finished ({problems[0]}). {REMEDY}"
            )
        metadata = _metadata(self.schema, self._offsets)
        _restore(self.path, metadata)
        refuse_foreign_files(self.path, self.schema, is_complete=False)
        digests = {name: FileDigest.of_bytes(data) for name, data in metadata.items()}
        self._summary = _complete(self.path, self.schema, digests, entries)
        return self._summary

    def log(self, event: Mapping[str, Json]) -> None:
        """Append one line, with the time, to the history file; in the main process only."""
        if self._history is None:
            raise RuntimeError("only the main process writes the history")
        now = datetime.now(tz=UTC).isoformat(timespec="seconds")
        try:
            self._history.write(canonical_json({"time": now, **event}))
        except OSError as error:
            raise cannot_write(history_path(self.path), error) from error

    def close(self) -> None:
        """Release the lock; the store stays as it is."""
        if self._history is not None:
            self._history.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, shard: int) -> ShardEntry | str:
        """Return the entry of a finished shard, or what is wrong."""
        entry = ShardEntry.read(self.path, shard, self.schema)
        if entry is None:
            return f"shard {shard} has no valid entry"
        return entry.problem_with(self.path, self.schema) or entry


def history_path(path: Path) -> Path:
    """Return the history and lock file of a store: beside it, not in it; one, whatever links lead to the store."""
    real = path.resolve()
    return real.with_name(real.name + ".history.jsonl")


def _lock(path: Path) -> FileIO:
    """Take the store's lock, which the system releases when the process ends, however it ends."""
    target = history_path(path)
    try:
        file = target.open("a+b", buffering=0)
    except OSError as error:
        raise StoreError(f"{target}: cannot be opened: {error.strerror}. Mend that, or name another folder") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        if file.read()[-1:] not in (b"", b"\n"):
            file.write(b"\n")  # a killed writer's half line stays by itself
    except BlockingIOError as error:
        file.close()
        raise StoreBusyError(
            f"{path}: another process is writing it (it holds the lock on {target}). "
            "Wait for it or stop it, then run the same command again"
        ) from error
    except OSError as error:
        file.close()
        raise StoreError(f"{target}: cannot be locked: {error.strerror}. Use a file system with flock") from error
    return file


def _prepare(path: Path, schema: DumpSchema, offsets: NDArray[np.int64]) -> DumpSummary | None:
    """Bring a store into the state in which shards can be written; return the summary if it is complete."""
    metadata = _metadata(schema, offsets)
    digests = {name: FileDigest.of_bytes(data) for name, data in metadata.items()}
    if (path / MANIFEST).exists():
        manifest = Manifest.read(path)
        manifest.require_schema(path, schema)
        altered = sorted(name for name in digests if manifest.metadata[name] != digests[name])
        if altered:
            raise StoreError(f"{path}: begun with other sentences ({altered[0]} differs). Name another folder")
        remove_partial_files(path)
        refuse_foreign_files(path, schema, is_complete=False)
        _restore(path, metadata)
        return _reopen(path, manifest) if manifest.is_complete else None
    if path.exists():
        _refuse_unless_begun(path, schema)
        remove_partial_files(path)
    make_directory(path)
    _restore(path, metadata)
    Manifest(state="writing", schema=schema, metadata=digests).write(path)
    return None


def _reopen(path: Path, manifest: Manifest) -> DumpSummary | None:
    """Keep a complete store as it is if its shards are right, else make the right ones entries again."""
    damaged = {entry.shard for entry in manifest.shards if entry.problem_with(path, manifest.schema)}
    if not damaged:
        _remove_entries(path)
        return manifest.statistics
    make_directory(path / FINISHED)
    for entry in manifest.shards:
        if entry.shard not in damaged:
            entry.write(path)
    Manifest(state="writing", schema=manifest.schema, metadata=manifest.metadata).write(path)
    return None


def _complete(
    path: Path, schema: DumpSchema, metadata: dict[str, FileDigest], entries: list[ShardEntry]
) -> DumpSummary:
    size_bytes = Manifest(state="writing", schema=schema, metadata=metadata, shards=tuple(entries)).size_bytes()
    summary = summarise(schema, [entry.sums for entry in entries], size_bytes)
    Manifest(state="complete", schema=schema, metadata=metadata, shards=tuple(entries), statistics=summary).write(path)
    _remove_entries(path)
    return summary


def _remove_entries(path: Path) -> None:
    if (path / FINISHED).exists():
        shutil.rmtree(path / FINISHED)
        fsync_directory(path)


def _metadata(schema: DumpSchema, offsets: NDArray[np.int64]) -> dict[str, bytes]:
    """Return every file that follows from schema and offsets alone: path relative to the store → content."""
    spec = schema.offsets_array
    files = schema.zarr_files()
    for shard in range(spec.layout.num_shards):
        rows = spec.layout.rows_of(shard)
        files[spec.file(shard)] = encode_shard(spec, shard, offsets[rows.start : rows.stop]).tobytes()
    return files


def _restore(path: Path, metadata: Mapping[str, bytes]) -> None:
    """Write the metadata files that are missing or differ."""
    make_directory(path / FINISHED)
    for name, data in metadata.items():
        if FileDigest.of_bytes(data).problem_with(path / name):
            make_directory((path / name).parent)
            write_atomically(path / name, data)


def _refuse_unless_begun(path: Path, schema: DumpSchema) -> None:
    """Refuse a folder without a manifest unless it holds nothing but what creating this store leaves behind."""
    if not path.is_dir():
        raise StoreError(f"{path}: a file is in the way. Name another folder")
    own = {*metadata_paths(schema)}
    foreign = [name for name in list_files(path) if name not in own and not name.endswith(".partial")]
    if foreign:
        raise StoreError(f"{path}: not empty ({foreign[0]}) and not a dump. Name another folder")


__all__ = ["DumpSummary", "DumpWriter", "Positions", "history_path"]
