"""Read a sentence, a range of positions, or any set of positions of a complete dump from memory-mapped files.

Opening a dump checks the manifest (which lists the digests of all other files), the metadata of the arrays, the offsets
of the sentences and the size of every file. The checksums and values of a chunk (1,024 positions by default) are
checked when one of its positions is first read. To check everything beforehand, call `verify_dump`. The reader does not
use zarr, because zarr takes about a millisecond per access, 200 times as long as the reader.

A reader returns copies. It keeps no positions in its memory, except a few decoded chunks of a compact dump. The mapped
pages belong to the system's page cache, which all readers share and which the system shrinks when it needs memory.
Threads may share a reader. A forked process can go on using it; a spawned process opens the dump again.

Legend: M sentences and N positions in the dump, n positions in a result.
"""

import functools
import json
import mmap
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.dump.dump_statistics import DumpSummary, summarise
from storage.dump.manifest import MANIFEST, Manifest, ShardEntry, num_finished, refuse_foreign_files
from storage.dump.mapped import mapped_file, opened_shard
from storage.dump.positions import Positions
from storage.dump.profiles import Rows, as_positions, open_rows, stored_chunks
from storage.dump.schema import GAPS, DumpSchema, check_offsets
from storage.dump.shards import REMEDY, decode_one_chunk, shard_bytes
from storage.dump.values import impossible_value, impossible_values, repeated_ids, unordered_rows, wrong_mass
from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.fingerprints import FileDigest, Json, sha256_bytes
from storage.folder import Folder
from storage.json_files import decode
from storage.locations import Location, as_folder
from storage.ragged import concatenated_ranges

_OTHER_PROGRAM: Final = "Read the dump with the program that wrote it, or dump again"
_MAX_METADATA_BYTES: Final = 1 << 20
"""A limit above the size of any array's metadata."""


class DumpReader:
    """A complete dump, open for reading. ``reader[m]`` is sentence m, ``len(reader)`` the number of sentences.

    Attributes:
        folder: The folder of the dump.
        schema: The schema of the dump.
        offsets: ``[M + 1]`` int64: sentence m is positions ``offsets[m]:offsets[m + 1]``.
        summary: The statistics of the dump.
        manifest_sha256: sha256 of the manifest. It identifies the dump, since the manifest lists the digests of all
            other files.
    """

    def __init__(self, location: Location, *, manifest_sha256: str | None = None) -> None:
        """Open a dump.

        ``manifest_sha256`` is the expected sha256 of the manifest; None accepts any dump.

        Raises:
            StoreError: If there is no dump, its manifest has another sha256 than expected, or the dump has a format,
                codec or layout that this program does not read.
            IncompleteStoreError: If the dump is still being written.
            CorruptStoreError: If its manifest or metadata are damaged, or a shard is missing or truncated.
        """
        self.folder: Folder = as_folder(location)
        manifest = Manifest.read(self.folder)
        self.manifest_sha256 = sha256_bytes(self.folder.read(MANIFEST))
        if manifest_sha256 not in (None, self.manifest_sha256):
            raise self._replaced()
        self.summary: DumpSummary = manifest.require_complete(self.folder)
        self.schema: DumpSchema = manifest.schema
        self.offsets: NDArray[np.int64] = _read_metadata(self.folder, manifest)
        self._shards = manifest.shards
        _check_sizes(self.folder, manifest)
        layout = self.schema.layout
        self._verified = bytearray(layout.num_shards * layout.chunks_per_shard)
        self._rows = self._open_rows()
        self._announced: set[int] = set()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the location and the sha256 of the manifest."""
        return functools.partial(DumpReader, manifest_sha256=self.manifest_sha256), (self.folder,)

    def __len__(self) -> int:
        return self.schema.num_sentences

    def __getitem__(self, sentence: int) -> Positions:
        """Return copies of the positions of one sentence.

        Raises:
            IndexError: If there is no such sentence.
            CorruptStoreError: If a checksum is wrong. The message names array, shard and chunk.
        """
        if not 0 <= sentence < self.schema.num_sentences:
            raise IndexError(f"sentence {sentence} is not in [0, {self.schema.num_sentences})")
        return self.read_range(int(self.offsets[sentence]), int(self.offsets[sentence + 1]))

    def temperature_index(self, temperature: float) -> int:
        """Return the index of a temperature among the temperatures of the dump.

        It is also the column of this temperature in the arrays ``tail`` and ``logz`` of `Positions`.

        Raises:
            StoreError: If the dump was not made for the temperature.
        """
        declared = self.schema.temperatures
        if temperature not in declared:
            listed = ", ".join(f"{each:g}" for each in declared)
            wanted = ",".join(f"{each:g}" for each in (*declared, temperature))
            raise StoreError(
                f"{self.folder}: temperature {temperature:g} is not declared, expected one of {listed}: the dump "
                f"holds the mass outside the top k only at these. Dump again with dump-teacher --temperatures {wanted}"
            )
        return declared.index(temperature)

    def read_sentences(self, indices: ArrayLike) -> Positions:
        """Return copies of the positions of some sentences, one sentence after the other.

        Args:
            indices: ``[R]`` int64 in ``[0, M)``, any order, repeats allowed.

        Raises:
            IndexError: If there is no such sentence.
            CorruptStoreError: If a chunk is damaged.
        """
        sentences = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not sentences.size:
            return self.read_range(0, 0)
        if not 0 <= sentences.min() <= sentences.max() < len(self):
            raise IndexError(f"sentences {sentences.min()} to {sentences.max()}: not all in [0, {len(self)})")
        starts, stops = self.offsets[sentences], self.offsets[sentences + 1]
        if np.array_equal(starts[1:], stops[:-1]):
            return self.read_range(int(starts[0]), int(stops[-1]))
        return self._current_rows().gather(concatenated_ranges(starts, stops - starts))

    def read_positions(self, indices: ArrayLike) -> Positions:
        """Return copies of some positions, in the order of ``indices``.

        Args:
            indices: ``[n]`` int64 in ``[0, N)``, any order, repeats allowed.

        Raises:
            IndexError: If there is no such position.
            CorruptStoreError: If a chunk is damaged.
        """
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not positions.size:
            return self.read_range(0, 0)
        if not 0 <= positions.min() <= positions.max() < self.schema.num_positions:
            raise IndexError(
                f"positions {positions.min()} to {positions.max()}: not all in [0, {self.schema.num_positions})"
            )
        return self._current_rows().gather(positions)

    def read_range(self, start: int, stop: int) -> Positions:
        """Return copies of the positions ``start`` to ``stop``.

        Raises:
            IndexError: If the range is not inside ``[0, N]``.
            CorruptStoreError: If a chunk is damaged.
        """
        if not 0 <= start <= stop <= self.schema.num_positions:
            raise IndexError(f"positions {start} to {stop} are not a range in [0, {self.schema.num_positions}]")
        return self._current_rows().read(start, stop)

    def prefetch(self, sentences: ArrayLike) -> None:
        """Start to fetch the shards of these sentences in the background if the dump is at a URL. Returns at once."""
        wanted = np.asarray(sentences, dtype=np.int64).reshape(-1)
        if self.folder.max_open_bytes is None or not wanted.size:
            return
        width = self.schema.shard_positions
        touched = np.union1d(self.offsets[wanted] // width, (self.offsets[wanted + 1] - 1) // width).tolist()
        shards = [shard for shard in touched if shard not in self._announced]
        self._announced.update(shards)
        self.folder.prefetch(
            [
                (spec.file(shard), self._shards[shard].files[spec.name])
                for shard in shards
                for spec in self.schema.stored_arrays
            ]
        )

    def _open_rows(self) -> Rows:
        return open_rows(self.folder, self.schema, self._shards, self._verified, self._check_store)

    def _check_store(self) -> None:
        """Raise an error if another dump has replaced this one."""
        try:
            found = sha256_bytes(self.folder.read(MANIFEST))
        except OSError:  # the dump is gone: the caller's error says which file is missing
            return
        if found != self.manifest_sha256:
            raise self._replaced()

    def _replaced(self) -> StoreError:
        return StoreError(f"{self.folder}: another dump replaced this one after it was opened. Start again")

    def _current_rows(self) -> Rows:
        """Return the mapped rows. If too many bytes are mapped, start again with nothing mapped."""
        rows, bound = self._rows, self.folder.max_open_bytes
        if bound is not None and rows.open_bytes > bound:
            rows = self._rows = self._open_rows()
            self._announced.clear()  # the cache may have dropped the fetched files
        return rows


def verify_dump(location: Location, progress: Callable[[int], object] | None = None) -> DumpSummary:
    """Check every byte and value of a complete dump, and that the store holds no other files. Return the statistics.

    The bytes are compared with the digests of the manifest. The values must be possible for probability distributions
    (see `storage.dump.values`). Digests cannot show this, since the files of a faulty writer match their digests, too.

    ``progress`` is called with the number of bytes checked since the last call. These numbers sum to ``size_bytes`` of
    the result.

    Raises:
        StoreError: If `DumpReader` cannot open the dump, or the store holds files that are not part of the dump.
        CorruptStoreError: If a file is damaged, or holds a value that no dump can have. The message names array, shard,
            position of the first such value, and remedy.
    """
    folder = as_folder(location)
    manifest = Manifest.read(folder)
    summary = manifest.require_complete(folder)
    _read_metadata(folder, manifest)
    if progress:
        progress(sum(digest.size_bytes for digest in manifest.metadata.values()))
    for entry in manifest.shards:
        _verify_shard(folder, manifest.schema, entry)
        if progress:
            progress(sum(digest.size_bytes for digest in entry.files.values()))
    for name, digest in manifest.companions.items():
        if problem := folder.problem_with(name, digest):
            raise CorruptStoreError(
                f"{folder}/{name}: {problem}. Restore it from a copy, or run the same dump-teacher again"
            )
    if summary != summarise(manifest.schema, [entry.figures for entry in manifest.shards], manifest.size_bytes()):
        raise CorruptStoreError(
            f"{folder}: the statistics do not follow from the sums and histograms of the shards. Delete the store and "
            "dump again"
        )
    refuse_foreign_files(folder, manifest.schema, is_complete=True, companions=manifest.companions)
    return summary


def inspect_dump(location: Location) -> dict[str, Json]:
    """Return a description of a dump, complete or not, as JSON values. The shards are not read.

    Raises:
        StoreError: If there is no dump.
        CorruptStoreError: If its manifest is damaged, or does not fit the metadata next to it.
    """
    folder = as_folder(location)
    manifest = Manifest.read(folder)
    if manifest.is_complete:
        _read_metadata(folder, manifest)
    schema, arrays = manifest.schema, (*manifest.schema.stored_arrays, manifest.schema.offsets_array)
    num_shards = schema.layout.num_shards
    return {
        "kind": "dump",
        "path": str(folder),
        "state": manifest.state,
        "num_shards": num_shards,
        "num_finished_shards": num_shards if manifest.is_complete else num_finished(folder, schema),
        "arrays": {spec.name: {"dtype": spec.dtype.name, "shape": list(spec.shape)} for spec in arrays},
        "schema": schema.to_json(),
        "statistics": manifest.statistics.to_json() if manifest.statistics else None,
    }


def _verify_shard(folder: Folder, schema: DumpSchema, entry: ShardEntry) -> None:
    """Check every byte and value of a shard. In an object store, the objects themselves are read, not local copies."""
    files, names = {}, {}
    for spec in schema.stored_arrays:
        name, digest = spec.file(entry.shard), entry.files[spec.name]
        names[spec.name] = where = f"{folder}/{name}: array {spec.name}, shard {entry.shard}"
        try:
            if folder.max_open_bytes is None:
                with opened_shard(folder, name, digest, where=where) as file:
                    data = mapped_file(file.fileno())
            else:
                data = np.frombuffer(folder.read(name), np.uint8)
        except FileNotFoundError as error:
            raise CorruptStoreError(f"{where}: the file is missing. {REMEDY}") from error
        if problem := digest.problem_with_bytes(data.data):
            raise CorruptStoreError(f"{where}: {problem}. {REMEDY}")
        files[spec.name] = data
    for chunk, stored in stored_chunks(files, schema, entry, names=names):
        found = next(impossible_values(stored, schema), None)
        if found is None:
            arrays = as_positions(stored, schema).arrays()
            found = repeated_ids(arrays["ids"], schema) or unordered_rows(
                arrays["logp"], arrays.get("counts"), schema.num_top
            )
        if found is None and schema.num_top:
            top = arrays["logp"][:, : schema.num_top]
            found = wrong_mass(top, arrays["tail"], arrays["logz"], schema.temperatures)
        if found is not None:
            raise impossible_value(found, names.get(found.array) or names[GAPS], schema, entry.shard, chunk)


def _read_metadata(folder: Folder, manifest: Manifest) -> NDArray[np.int64]:
    """Check every metadata file and return the offsets, memory-mapped."""
    for name, expected in manifest.schema.zarr_files().items():
        digest = FileDigest.of_bytes(expected)
        if problem := folder.problem_with(name, manifest.metadata[name]):
            raise CorruptStoreError(f"{folder}/{name}: metadata of array {name.partition('/')[0]}: {problem}. {REMEDY}")
        if manifest.metadata[name] != digest:
            problem = _first_difference(_metadata(folder, name, manifest.metadata[name]), json.loads(expected))
            raise StoreError(f"{folder}/{name}: {problem}. {_OTHER_PROGRAM}")
    spec = manifest.schema.offsets_array
    name, digest = spec.file(0), manifest.metadata[spec.file(0)]
    where = f"{folder}/{name}: array offsets, shard 0"
    size_bytes = shard_bytes(spec, 0)
    if digest.size_bytes != size_bytes:
        found = f"the manifest says {digest.size_bytes} bytes"
        raise CorruptStoreError(f"{where}: {found}, expected {size_bytes}. {REMEDY}")
    if problem := folder.problem_with(name, digest):
        raise CorruptStoreError(f"{where}: {problem}. {REMEDY}")
    try:
        return _map_offsets(folder, manifest.schema, digest, where)
    except CorruptStoreError:
        if not folder.renew(name, digest):
            raise
        return _map_offsets(folder, manifest.schema, digest, where)


def _metadata(folder: Folder, name: str, digest: FileDigest) -> dict[str, Any]:
    """Return an array's metadata as JSON values, for an error message."""
    if digest.size_bytes > _MAX_METADATA_BYTES:
        raise StoreError(
            f"{folder}/{name}: {digest.size_bytes:,} bytes, expected the metadata of an array. {_OTHER_PROGRAM}"
        )
    return decode(folder.read(name), dict[str, Any], where=f"{folder}/{name}", remedy=_OTHER_PROGRAM, error=StoreError)


def _first_difference(found: object, expected: object, key: str = "") -> str:
    """Return the first key at which two JSON values differ, such as ``codecs.0.name``, and both values."""
    pairs: Iterable[tuple[object, object, object]] = ()
    if isinstance(found, dict) and isinstance(expected, dict):
        pairs = ((each, found.get(each), expected.get(each)) for each in sorted({*found, *expected}))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(range(len(found)), found, expected, strict=True)
    for each, one, other in pairs:
        if one != other:
            return _first_difference(one, other, f"{key}.{each}".lstrip("."))
    if found == expected:
        return "the metadata has the expected values, but not the bytes that this program writes"
    return f"{key} is {json.dumps(found):.400}, expected {json.dumps(expected):.400}"


def _map_offsets(folder: Folder, schema: DumpSchema, digest: FileDigest, where: str) -> NDArray[np.int64]:
    spec = schema.offsets_array
    with opened_shard(folder, spec.file(0), digest, where=where) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    offsets: NDArray[np.int64] = decode_one_chunk(data, spec, where=where)
    try:
        check_offsets(offsets, schema)
    except ConfigError as error:
        raise CorruptStoreError(f"{where}: {error}. Delete the dump and make it again") from error
    data.madvise(mmap.MADV_DONTNEED)  # after the check the pages need not count as memory of this process
    return offsets


def _check_sizes(folder: Folder, manifest: Manifest) -> None:
    """Check the size of every shard, so that a missing shard stops training at its start and not hours later."""
    sizes = folder.sizes()
    for entry in manifest.shards:
        for spec in manifest.schema.stored_arrays:
            name, expected = spec.file(entry.shard), entry.files[spec.name].size_bytes
            found = sizes.get(name)
            if found != expected:
                what = "the file is missing" if found is None else f"{found} bytes, expected {expected}"
                raise CorruptStoreError(f"{folder}/{name}: array {spec.name}, shard {entry.shard}: {what}. {REMEDY}")
