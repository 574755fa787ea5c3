"""Write arrays of dumps for the tests of this folder by zarr-python, alone or with shards by our encoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec as ZarrBloscCodec
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from storage.dump.compressed_shards import encode_compressed_shard
from storage.dump.layout import ArraySpec
from storage.dump.schema import DumpSchema


def create_with_zarr(spec: ArraySpec, store: Store, *, compressed: bool = True) -> zarr.Array:
    """Return an empty array made by zarr-python, with the codecs of a compact dump or of an exact one."""
    compressors = [ZarrBloscCodec(**spec.compression["configuration"])] if compressed else []
    return zarr.create_array(
        store,
        name=spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        shards=(spec.layout.shard_rows, *spec.row_shape),
        chunks=(spec.layout.chunk_rows, *spec.row_shape),
        fill_value=spec.fill,
        serializer=BytesCodec(endian="little" if spec.dtype.itemsize > 1 else None),
        compressors=[*compressors, Crc32cCodec()],
        filters=None,
        config={"write_empty_chunks": True},
    )


def write_with_zarr_metadata(path: Path, schema: DumpSchema, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays that `storage.dump.compact.encode_rows` returned."""
    zarr.open_group(path, mode="w", zarr_format=3, attributes={"temperatures": [*schema.temperatures]})
    for spec in replace(schema, profile="compact").stored_arrays:
        create_with_zarr(spec, LocalStore(path))
        for shard in range(spec.layout.num_shards):
            rows = spec.layout.rows_of(shard)
            data = encode_compressed_shard(spec, shard, arrays[spec.name][rows.start : rows.stop])
            (path / spec.file(shard)).parent.mkdir(parents=True, exist_ok=True)
            (path / spec.file(shard)).write_bytes(data)
