"""The two ways rows lie on the disk, behind one writer and one reader: exact, or compact and compressed.

`encoded` makes the files of a shard; `open_rows` looks at the rows of all shards.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.dump.mapped import MappedRows, Runs
from storage.dump.positions import Positions
from storage.dump.schema import ArraySpec, DumpSchema
from storage.dump.shards import encode_shard
from storage.fingerprints import FileDigest
from storage.folder import Folder


class Rows(Protocol):
    """The rows of a dump, read where they lie; what is returned are copies."""

    open_bytes: int
    """Of all files mapped so far."""

    def run(self, start: int, stop: int) -> Positions | None:
        """Return the positions ``start`` to ``stop``, at least one, if there is a quick way, else None."""

    def read(self, start: int, stop: int, num_ids: int | None) -> Positions:
        """Return the positions ``start`` to ``stop``, with the first ``num_ids`` ids of each only (None: all).

        Raises:
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """

    def windows(self, parts: Iterable[tuple[Runs, NDArray[np.int64]]]) -> Iterator[Positions]:
        """Yield, for each part, the positions of its runs, read run by run, in the order of its int64 ``[R]`` rows.

        Raises:
            CorruptStoreError: Naming array, shard and chunk, if a checksum is wrong.
        """

    def gather(self, positions: NDArray[np.int64], num_ids: int | None) -> Positions:
        """Return at least one position, in any order; otherwise as ``read``."""

    def release(self, start: int, stop: int) -> None:
        """Give the memory that the positions ``start`` to ``stop`` take back to the system, where that is possible."""


def encoded(
    positions: Positions, schema: DumpSchema, shard: int, *, where: str
) -> Iterator[tuple[ArraySpec, bytes | memoryview]]:
    """Yield each stored array of a shard with the content of its file.

    Args:
        positions: The rows of the shard, which passed `storage.dump.positions.check_positions`.
        schema: What is dumped.
        shard: Which shard.
        where: For messages.

    Raises:
        StoreError: If the profile cannot keep these rows.
    """
    if schema.profile == "exact":
        arrays = positions.arrays()
        for spec in schema.stored_arrays:
            yield spec, encode_shard(spec, shard, arrays[spec.name]).data
        return
    from storage.dump.compact import encode_rows  # noqa: PLC0415  numcodecs takes a third of a second
    from storage.dump.compressed_shards import BloscCodec, encode_compressed_shard  # noqa: PLC0415

    arrays = encode_rows(positions, schema.temperatures, where=where)
    for spec in schema.stored_arrays:
        yield spec, encode_compressed_shard(spec, shard, arrays[spec.name], BloscCodec.of(spec))


def as_read(positions: Positions, schema: DumpSchema, *, where: str) -> Positions:
    """Return what a reader returns of rows that are written; arguments as in `encoded`."""
    if schema.profile == "exact":
        return positions
    from storage.dump.compact import decode_positions, encode_rows  # noqa: PLC0415  numcodecs takes a third of a second

    return decode_positions(encode_rows(positions, schema.temperatures, where=where), schema.temperatures)


def open_rows(
    folder: Folder,
    schema: DumpSchema,
    digests: Sequence[Mapping[str, FileDigest]],
    verified: bytearray,
    check_store: Callable[[], None],
) -> Rows:
    """Return the rows of a complete dump.

    Args:
        folder: Where the dump lies.
        schema: What it holds.
        digests: For each shard, array → digest of its file.
        verified: One byte a chunk of the dump, 1 where its checksums were found right; updated in place.
        check_store: Called when a file was mapped; raises if the store is another by now.
    """
    if schema.profile == "exact":
        return MappedRows(folder, schema, digests, verified, check_store)
    from storage.dump.compact_rows import CompactRows  # noqa: PLC0415  numcodecs takes a third of a second

    return CompactRows(folder, schema, digests, check_store)
