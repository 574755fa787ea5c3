"""Choose between the two profiles: how the rows of a dump are encoded on the disk, ``exact`` or ``compact``.

`encoded` makes the files of a shard, `as_read` rounds rows as a profile does, and `open_rows` reads the rows of all
shards. Modules that need numcodecs are imported only for compact dumps, since its import takes a third of a second.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.dump.layout import ArraySpec
from storage.dump.mapped import MappedRows
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.dump.shards import encode_shard
from storage.fingerprints import FileDigest
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
        """Return ``positions`` ``[n]``, in any order, at least one; raises as ``read``."""


def encoded(
    positions: Positions, schema: DumpSchema, shard: int, *, where: str
) -> Iterator[tuple[ArraySpec, bytes | memoryview]]:
    """Yield each stored array of a shard and the content of its file.

    Args:
        positions: The rows of the shard. They must have passed `storage.dump.positions.check_positions`.
        schema: The schema of the dump.
        shard: Number of the shard.
        where: Prefix of error messages.

    Raises:
        StoreError: If the profile cannot encode these rows.
    """
    if schema.profile == "exact":
        arrays = positions.arrays()
        for spec in schema.stored_arrays:
            yield spec, encode_shard(spec, shard, arrays[spec.name]).data
        return
    from storage.dump.compact import encode_rows  # noqa: PLC0415  see the module docstring
    from storage.dump.compressed_shards import encode_compressed_shard  # noqa: PLC0415

    arrays = encode_rows(positions, schema.temperatures, where=where)
    for spec in schema.stored_arrays:
        yield spec, encode_compressed_shard(spec, shard, arrays[spec.name])


def as_read(positions: Positions, schema: DumpSchema, *, where: str) -> Positions:
    """Return ``positions`` as a reader returns them after they were written. The arguments are those of `encoded`."""
    if schema.profile == "exact":
        return positions
    from storage.dump.compact import decode_positions, encode_rows  # noqa: PLC0415  see the module docstring

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
        folder: The folder of the dump.
        schema: The schema of the dump.
        digests: For each shard, array → digest of its file.
        verified: One byte per chunk of the dump: 1 if its checksums were found right. Updated in place.
        check_store: Called after a file is mapped. Raises if another dump has replaced this one.
    """
    if schema.profile == "exact":
        return MappedRows(folder, schema, digests, verified, check_store)
    from storage.dump.compact import CompactRows  # noqa: PLC0415  see the module docstring

    return CompactRows(folder, schema, digests, check_store)
