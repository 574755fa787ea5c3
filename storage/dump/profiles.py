"""Encode and read the rows of a dump, one per position, in one of two profiles.

The profile ``exact`` stores rows as they were computed. The profile ``compact`` rounds and compresses them. Modules
that need numcodecs are imported only for compact dumps, since importing numcodecs takes a third of a second.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.dump.layout import ArraySpec
from storage.dump.manifest import ShardEntry
from storage.dump.mapped import MappedRows
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.dump.shards import check_belongs, check_chunk, check_index, chunk_checksums, encode_shard, shard_rows
from storage.fingerprints import sha256_bytes
from storage.folder import Folder


class Rows(Protocol):
    """The rows of a dump, read from its files. Methods return copies."""

    open_bytes: int
    """Bytes of all files mapped so far."""

    def read(self, start: int, stop: int) -> Positions:
        """Return the positions ``start`` to ``stop``.

        Raises:
            CorruptStoreError: If a checksum is wrong. The message names array, shard and chunk.
        """

    def gather(self, positions: NDArray[np.int64]) -> Positions:
        """Return the rows of some positions, in the order of ``positions``. The errors are those of ``read``.

        ``positions`` is ``[n]`` int64, in any order, and n is at least 1.
        """


def encoded(
    positions: Positions, schema: DumpSchema, shard: int, *, where: str
) -> Iterator[tuple[ArraySpec, bytes | memoryview, str]]:
    """Yield for each stored array of a shard: spec, content of its file, and one sha256 over its chunks' checksums.

    ``positions`` are the rows of the shard, and must have passed `storage.dump.positions.check_positions`. ``where`` is
    the prefix of error messages.

    Raises:
        StoreError: If the profile cannot encode these rows.
    """
    if schema.profile == "exact":
        arrays = positions.arrays()
        for spec in schema.stored_arrays:
            data = encode_shard(spec, shard, arrays[spec.name])
            yield spec, data.data, sha256_bytes(chunk_checksums(data, spec, shard))
        return
    from storage.dump.compact import encode_rows  # noqa: PLC0415  see the module docstring
    from storage.dump.compressed_shards import ChunkCache, CompressedShardView, encode_compressed_shard  # noqa: PLC0415

    arrays = encode_rows(positions, schema.temperatures, where=where)
    for spec in schema.stored_arrays:
        compressed = encode_compressed_shard(spec, shard, arrays[spec.name])
        view = CompressedShardView(np.frombuffer(compressed, np.uint8), spec, shard, where=where, cache=ChunkCache())
        yield spec, compressed, sha256_bytes(view.checksums())


def stored_chunks(
    files: Mapping[str, NDArray[np.uint8]], schema: DumpSchema, entry: ShardEntry, *, names: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """For each chunk of a shard, yield its number and a dict that maps the name of each array to its rows in the chunk.

    The rows are as stored, but without padding.

    Args:
        files: The whole file of each array, by name of the array.
        schema: The schema of the dump.
        entry: The entry of the shard in the manifest.
        names: Maps the name of each array to the start of error messages about it: its file, the array and the shard.

    Raises:
        CorruptStoreError: If an index or a checksum is wrong.
    """
    layout, shard = schema.layout, entry.shard
    if schema.profile == "exact":
        for spec in schema.stored_arrays:
            check_index(files[spec.name], spec, shard, where=names[spec.name])
        rows = {spec.name: shard_rows(files[spec.name], spec, shard) for spec in schema.stored_arrays}
        sums = {spec.name: chunk_checksums(files[spec.name], spec, shard) for spec in schema.stored_arrays}
    else:
        from storage.dump.compressed_shards import ChunkCache, CompressedShardView  # noqa: PLC0415

        cache = ChunkCache()
        views = {
            spec.name: CompressedShardView(files[spec.name], spec, shard, where=names[spec.name], cache=cache)
            for spec in schema.stored_arrays
        }
        sums = {name: view.checksums() for name, view in views.items()}
    for name, expected in entry.checksums.items():
        check_belongs(files[name], sums[name], entry.files[name], expected, where=names[name])
    for chunk in range(layout.num_chunks(shard)):
        num_rows = min(layout.chunk_rows, len(layout.rows_of(shard)) - chunk * layout.chunk_rows)
        if schema.profile == "exact":
            for spec in schema.stored_arrays:
                check_chunk(files[spec.name], spec, chunk, where=names[spec.name])
            yield chunk, {name: each[chunk, :num_rows] for name, each in rows.items()}
        else:
            yield chunk, {name: view.chunk(chunk)[:num_rows] for name, view in views.items()}


def as_read(positions: Positions, schema: DumpSchema, *, where: str) -> Positions:
    """Return ``positions`` as a reader would return them after they were written. The arguments are as in `encoded`."""
    if schema.profile == "exact":
        return positions
    from storage.dump.compact import decode_positions, encode_rows  # noqa: PLC0415  see the module docstring

    return decode_positions(encode_rows(positions, schema.temperatures, where=where), schema.temperatures)


def as_positions(arrays: Mapping[str, NDArray[Any]], schema: DumpSchema) -> Positions:
    """Return the positions that the arrays of a chunk hold. `stored_chunks` yields such arrays."""
    if schema.profile == "exact":
        return Positions(**arrays)
    from storage.dump.compact import decode_positions  # noqa: PLC0415  see the module docstring

    return decode_positions(arrays, schema.temperatures)


def open_rows(
    folder: Folder,
    schema: DumpSchema,
    shards: Sequence[ShardEntry],
    verified: bytearray,
    check_store: Callable[[], None],
) -> Rows:
    """Return the rows of a complete dump.

    Args:
        folder: The folder of the dump.
        schema: The schema of the dump.
        shards: The entry of each shard in the manifest.
        verified: One byte per chunk of the dump: 1 if its checksums and values were found correct. For the profile
            ``exact`` it is updated in place; for ``compact`` it is not used.
        check_store: Called if a file is damaged. It raises an error if another dump has replaced this one.
    """
    if schema.profile == "exact":
        return MappedRows(folder, schema, shards, verified, check_store)
    from storage.dump.compact import CompactRows  # noqa: PLC0415  see the module docstring

    return CompactRows(folder, schema, shards, check_store)
