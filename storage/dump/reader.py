"""DumpReader: positions of a complete dump, by sentence, by range, in scans and shuffled windows, from mapped files.

Opening checks the manifest, the metadata, the offsets and the size of every file; a shard's index is checked when it is
mapped and the checksums of a chunk when one of its rows is first read. That every byte is right from the start is what
`verify_dump` is for. zarr is not needed: its own API takes about a millisecond an access, 200 times as long as this.

A reader holds no rows: what it returns are copies, and the mapped pages are the system's page cache, which any number
of readers share and the system takes back when it needs the memory. It may be used from several threads, lives on in
forked processes, and is opened anew in spawned ones.
"""

import functools
import mmap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.dump.dump_statistics import DumpSummary, summarise
from storage.dump.layout import sentence_blocks
from storage.dump.manifest import MANIFEST, Manifest, describe_array, num_finished, refuse_foreign_files
from storage.dump.mapped import Runs
from storage.dump.positions import Positions
from storage.dump.profiles import Rows, open_rows
from storage.dump.schema import DumpSchema, check_offsets
from storage.dump.shards import REMEDY, decode_one_chunk
from storage.errors import ConfigError, CorruptStoreError, StoreError
from storage.fingerprints import FileDigest, Json, sha256_bytes
from storage.folder import Folder
from storage.locations import Location, as_folder
from storage.ragged import concatenated_ranges

BLOCK_POSITIONS = 4096
"""Positions that a scan copies at a time, and that stay together in a shuffled window: 1 MB at k = 64."""
WINDOW_BLOCKS = 16
"""Blocks that are shuffled together."""


class DumpReader:
    """A complete dump, open for reading. ``reader[m]`` is sentence m, ``len(reader)`` the number of sentences.

    Attributes:
        folder: Where it lies.
        schema: What it holds.
        offsets: ``[M + 1]`` int64: sentence m is positions ``offsets[m]:offsets[m + 1]``.
        summary: Its figures.
        manifest_sha256: Of its manifest, and so of all of it.
    """

    def __init__(self, location: Location, *, manifest_sha256: str | None = None) -> None:
        """Open a dump.

        Args:
            location: Where it lies.
            manifest_sha256: That of the manifest expected there; None for any.

        Raises:
            StoreError: If there is no dump, or it is of a format, codec or layout that is not ours.
            IncompleteStoreError: If it is still being written.
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
        self._digests = [entry.files for entry in manifest.shards]
        _check_sizes(self.folder, manifest)
        layout = self.schema.layout
        self._verified = bytearray(layout.num_shards * layout.chunks_per_shard)
        self._rows = self._open_rows()
        self._announced: set[int] = set()

    def __reduce__(self) -> tuple[object, ...]:
        """Let a spawned process open the same dump itself."""
        return functools.partial(DumpReader, manifest_sha256=self.manifest_sha256), (self.folder,)

    def __len__(self) -> int:
        return self.schema.num_sentences

    def __getitem__(self, sentence: int) -> Positions:
        """Return the positions of one sentence, as copies.

        Raises:
            IndexError: If there is no such sentence.
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        if not 0 <= sentence < self.schema.num_sentences:
            raise IndexError(f"sentence {sentence} is not in [0, {self.schema.num_sentences})")
        return self.read_range(int(self.offsets[sentence]), int(self.offsets[sentence + 1]))

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
                f"{self.folder}: temperature {temperature:g} is not declared, expected one of {listed}: the mass "
                f"outside the top k is not known at others. Dump again with dump-teacher --temperatures {wanted}"
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
        if sentences.size and not 0 <= sentences.min() <= sentences.max() < len(self):
            raise IndexError(f"sentences {sentences.min()} to {sentences.max()}: not all in [0, {len(self)})")
        starts, stops = self.offsets[sentences], self.offsets[sentences + 1]
        if not sentences.size or np.array_equal(starts[1:], stops[:-1]):
            return self.read_range(int(starts[0]), int(stops[-1]), k) if sentences.size else self.read_range(0, 0, k)
        positions = concatenated_ranges(starts, stops - starts)
        return self._cut(self._current_rows().gather(positions, self._checked(k)), k)

    def read_positions(self, indices: ArrayLike) -> Positions:
        """Return some positions, as copies, in the order asked.

        Args:
            indices: ``[n]`` int64 in ``[0, N)``, any order, repeats allowed.

        Raises:
            IndexError: If there is no such position.
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not positions.size:
            return self.read_range(0, 0)
        if not 0 <= positions.min() <= positions.max() < self.schema.num_positions:
            raise IndexError(
                f"positions {positions.min()} to {positions.max()}: not all in [0, {self.schema.num_positions})"
            )
        return self._current_rows().gather(positions, None)

    def read_range(self, start: int, stop: int, k: int | None = None) -> Positions:
        """Return the positions from ``start`` to ``stop``, as copies; ``k`` as in `read_sentences`.

        Raises:
            IndexError: If the range is not inside ``[0, N]``.
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        if not 0 <= start <= stop <= self.schema.num_positions:
            raise IndexError(f"positions {start} to {stop} are not a range in [0, {self.schema.num_positions}]")
        rows = self._current_rows()
        if k is None and stop > start:
            found = rows.run(start, stop)
            if found is not None:
                return found
        return self._cut(rows.read(start, stop, self._checked(k)), k)

    def scan(self, block_positions: int = BLOCK_POSITIONS) -> Iterator[Positions]:
        """Yield all positions in order, in blocks; the memory of what lies behind is given back.

        Raises:
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """
        released = 0
        for start in range(0, self.schema.num_positions, block_positions):
            yield self.read_range(start, min(start + block_positions, self.schema.num_positions))
            if start - released >= self.schema.shard_positions:
                self._rows.release(released, start)
                released = start - start % self.schema.shard_positions

    def shuffled_windows(
        self, seed: int | Sequence[int], *, block_positions: int = BLOCK_POSITIONS, num_blocks: int = WINDOW_BLOCKS
    ) -> Iterator[tuple[NDArray[np.int64], Positions]]:
        """Yield every sentence once, in an order that follows from ``seed`` alone, and their positions.

        Consecutive sentences make blocks; the blocks are visited in random order, ``num_blocks`` at a time, and the
        sentences of these are shuffled. The order is less random than a permutation of all sentences, but each block is
        read as one run: what slow disks and networks want, and what needs no more of a large dump than fits a cache.

        Args:
            seed: Anything that seeds a numpy generator, such as ``(seed, epoch)``.
            block_positions: Positions of a block, about: a sentence is in the block that it begins in.
            num_blocks: Blocks of a window.

        Yields:
            int64 ``[R]`` sentences, and the positions of one after the other, as copies.
        """
        generator = np.random.default_rng(seed)
        edges = sentence_blocks(self.offsets, block_positions)
        order = generator.permutation(len(edges) - 1)
        visited: list[NDArray[np.int64]] = []

        def parts() -> Iterator[tuple[Runs, NDArray[np.int64]]]:
            for first in range(0, len(order), num_blocks):
                blocks = np.sort(order[first : first + num_blocks])
                in_order = concatenated_ranges(edges[blocks], edges[blocks + 1] - edges[blocks])
                shuffled = generator.permutation(len(in_order))
                lengths = self.offsets[in_order + 1] - self.offsets[in_order]
                rows = concatenated_ranges((np.cumsum(lengths) - lengths)[shuffled], lengths[shuffled])
                visited.append(in_order[shuffled])
                starts, stops = self.offsets[edges[blocks]].tolist(), self.offsets[edges[blocks + 1]].tolist()
                yield list(zip(starts, stops, strict=True)), rows

        coming = parts()
        while True:
            rows = self._current_rows()
            for positions in rows.windows(coming):
                yield visited.pop(), positions
                if self._current_rows() is not rows:
                    break  # too much is mapped: go on with what comes in other maps
            else:
                return

    def prefetch(self, sentences: ArrayLike) -> None:
        """Begin to fetch the shards that these sentences lie in, where shards have to be fetched; returns at once."""
        wanted = np.asarray(sentences, dtype=np.int64).reshape(-1)
        if self.folder.max_open_bytes is None or not wanted.size:
            return
        width = self.schema.shard_positions
        touched = np.union1d(self.offsets[wanted] // width, (self.offsets[wanted + 1] - 1) // width).tolist()
        shards = [shard for shard in touched if shard not in self._announced]
        self._announced.update(shards)
        self.folder.prefetch(
            [
                (spec.file(shard), self._digests[shard][spec.name])
                for shard in shards
                for spec in self.schema.stored_arrays
            ]
        )

    def _checked(self, k: int | None) -> int | None:
        """Return how many ids to read of each position; None for all."""
        if k is not None and not 1 <= k <= self.schema.k:
            raise StoreError(f"{self.folder}: k is {k}, expected 1 to {self.schema.k}. Dump again with a larger --k")
        if k not in (None, self.schema.k) and self.schema.num_draws:
            raise StoreError(
                f"{self.folder}: k is {k}, expected {self.schema.k}: a {self.schema.selection} dump is read whole, "
                f"since leaving out the rarer draws biases what is left. Dump again with --k {k}"
            )
        return k

    def _cut(self, positions: Positions, k: int | None) -> Positions:
        return positions if k is None or k == self.schema.k else positions.with_fewer(k, self.schema.temperatures)

    def _open_rows(self) -> Rows:
        return open_rows(self.folder, self.schema, self._digests, self._verified, self._check_store)

    def _check_store(self) -> None:
        """Refuse to go on in a store that was replaced: its shards may have the same sizes and right checksums."""
        is_remote = self.folder.max_open_bytes is not None  # what is fetched is compared with its digest
        if not is_remote and sha256_bytes(self.folder.read(MANIFEST)) != self.manifest_sha256:
            raise self._replaced()

    def _replaced(self) -> StoreError:
        return StoreError(f"{self.folder}: another dump than when it was opened: it was replaced. Start again")

    def _current_rows(self) -> Rows:
        """Return the mapped rows, anew where too much is mapped: the last who reads the old ones unmaps them."""
        rows, bound = self._rows, self.folder.max_open_bytes
        if bound is not None and rows.open_bytes > bound:
            rows = self._rows = self._open_rows()
            self._announced.clear()  # the cache may have dropped what was fetched
        return rows


def verify_dump(location: Location, progress: Callable[[int], object] | None = None) -> DumpSummary:
    """Check every byte of a complete dump against its manifest, and that nothing else lies in it.

    Args:
        location: Where the store lies.
        progress: Called with the bytes that were checked since; in all, ``size_bytes`` of the figures.

    Returns:
        The dump's figures.

    Raises:
        StoreError: As `DumpReader`; also if there are foreign files.
        CorruptStoreError: Naming array, shard and remedy.
    """
    folder = as_folder(location)
    manifest = Manifest.read(folder)
    summary = manifest.require_complete(folder)
    _read_metadata(folder, manifest)
    if progress:
        progress(sum(digest.size_bytes for digest in manifest.metadata.values()))
    for entry in manifest.shards:
        problem = entry.problem_with(folder, manifest.schema)
        if problem:
            raise CorruptStoreError(f"{problem}. {REMEDY}")
        if progress:
            progress(sum(digest.size_bytes for digest in entry.files.values()))
    if summary != summarise(manifest.schema, [entry.figures for entry in manifest.shards], manifest.size_bytes()):
        raise CorruptStoreError(
            f"{folder}: the statistics are not those of the shards. Delete the store and dump again"
        )
    refuse_foreign_files(folder, manifest.schema, is_complete=True)
    return summary


def inspect_dump(location: Location) -> dict[str, Json]:
    """Return what a dump is, complete or not, as JSON values; the shards are not read.

    Raises:
        StoreError: If there is no dump.
        CorruptStoreError: If its manifest is damaged.
    """
    folder = as_folder(location)
    manifest = Manifest.read(folder)
    schema = manifest.schema
    num_shards = schema.layout.num_shards
    return {
        "kind": "dump",
        "path": str(folder),
        "state": manifest.state,
        "num_shards": num_shards,
        "num_finished_shards": num_shards if manifest.is_complete else num_finished(folder, schema),
        "arrays": {spec.name: describe_array(spec) for spec in (*schema.stored_arrays, schema.offsets_array)},
        "schema": schema.to_json(),
        "statistics": manifest.statistics.to_json() if manifest.statistics else None,
    }


def _read_metadata(folder: Folder, manifest: Manifest) -> NDArray[np.int64]:
    """Check every metadata file and return the offsets, mapped."""
    for name, expected in manifest.schema.zarr_files().items():
        problem = folder.problem_with(name, manifest.metadata[name])
        if problem:
            raise CorruptStoreError(f"{folder}/{name}: metadata of array {name.partition('/')[0]}: {problem}. {REMEDY}")
        if folder.read(name) != expected:
            raise StoreError(
                f"{folder}/{name}: not the metadata that this program writes: another layout, data type or codec than "
                "sharding_indexed, bytes and crc32c. Use the program that wrote it, or dump again"
            )
    spec = manifest.schema.offsets_array
    name = spec.file(0)
    digest: FileDigest = manifest.metadata[name]
    problem = folder.problem_with(name, digest)
    if problem:
        raise CorruptStoreError(f"{folder}/{name}: array offsets, shard 0: {problem}. {REMEDY}")
    with folder.open(name, digest) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    offsets: NDArray[np.int64] = decode_one_chunk(data, spec, where=f"{folder}/{name}: array offsets, shard 0")
    try:
        check_offsets(offsets, manifest.schema)
    except ConfigError as error:
        raise CorruptStoreError(f"{folder}: {error}. Delete the store and dump again") from error
    data.madvise(mmap.MADV_DONTNEED)  # checked, they are page cache again and no memory of this process
    return offsets


def _check_sizes(folder: Folder, manifest: Manifest) -> None:
    """Find missing and truncated shards at the start instead of hours into a training run."""
    sizes = folder.sizes()
    for entry in manifest.shards:
        for spec in manifest.schema.stored_arrays:
            name, expected = spec.file(entry.shard), entry.files[spec.name].size_bytes
            found = sizes.get(name)
            if found != expected:
                what = "the file is missing" if found is None else f"{found} bytes, expected {expected}"
                raise CorruptStoreError(f"{folder}/{name}: array {spec.name}, shard {entry.shard}: {what}. {REMEDY}")


__all__ = ["DumpReader", "DumpSummary", "Positions", "inspect_dump", "verify_dump"]
