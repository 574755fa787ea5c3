"""Read and write the manifest of a dump: its schema, its state, and the sha256 of every other file.

A manifest is canonical JSON with a key that holds the sha256 of the rest of its text. Each finished shard (a range of
positions) has an entry with the digests of its files. While the dump is being written, each entry is a file of its own
under ``finished/``, so that no two processes write the same file. When the dump is complete, the entries become part of
the manifest.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.dump.dump_statistics import DumpSummary, ShardFigures, sum_names
from storage.dump.schema import FORMAT, FORMAT_VERSION, DumpSchema
from storage.dump.shards import index_bytes, shard_bytes
from storage.errors import ConfigError, CorruptStoreError, FingerprintMismatchError, IncompleteStoreError, StoreError
from storage.fingerprints import FileDigest, Json, Sha256, canonical_json, sha256_bytes
from storage.folder import Folder
from storage.json_files import Count, decode

MANIFEST = "manifest.json"
TOKENIZER, CARD = "tokenizer.json", "README.md"
COMPANIONS = (TOKENIZER, CARD)
"""Files for people and programs that get the dump without its dataset. Dumps of older versions do not have them."""

_OWN_DIGEST = re.compile(rb',"sha256":"([0-9a-f]{64})"')
"""Matches the key that holds the sha256 of the rest of the text. It does not match the digest of another file, for
example ``{"sha256":"…","size_bytes":9}``, because no comma comes before ``"sha256"`` there."""
_REMEDY = "Restore it from a copy, or delete the store and dump again"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """Entry of a finished shard: the digests of its files (one per array), and its sums for the dump's statistics."""

    shard: Count
    files: dict[str, FileDigest]
    """Digest of the file of each array, by name of the array."""
    figures: ShardFigures
    checksums: dict[str, Sha256] = field(default_factory=dict)
    """For each array, by name, one sha256 over the checksums of its chunks in this shard. Empty in entries of older
    versions."""

    def to_json(self) -> dict[str, Json]:
        """Return the entry as JSON values, without ``checksums`` if they are not known."""
        value = asdict(self)
        return value if self.checksums else {name: item for name, item in value.items() if name != "checksums"}

    def problem_with(self, store: Folder, schema: DumpSchema) -> str | None:
        """Return a problem with the shard's files as text that names array and shard, or None if there is none."""
        for spec in schema.stored_arrays:
            name = spec.file(self.shard)
            problem = store.problem_with(name, self.files[spec.name])
            if problem:
                return f"{store}/{name}: array {spec.name}, shard {self.shard}: {problem}"
        return None

    def write(self, store: Folder, dump: str) -> None:
        """Write the entry's file. ``dump`` is the `Manifest.identity` of the dump."""
        store.write(entry_name(self.shard), _with_digest({**self.to_json(), "dump": dump}))

    @classmethod
    def read(cls, store: Folder, shard: int, manifest: "Manifest") -> "ShardEntry | None":
        """Return the entry of a shard, or None if it is missing, damaged or of another dump.

        A process of an abandoned run may still write entries into a folder in which another dump was begun.
        """
        try:
            data = store.read(entry_name(shard))
            where = f"{store}/{entry_name(shard)}"
            _check_digest(data, where)
            about = decode(data, _About, where=where, remedy=_REMEDY, error=CorruptStoreError)
            entry = decode(data, cls, where=where, remedy=_REMEDY, error=CorruptStoreError)
        except (CorruptStoreError, OSError):
            return None
        return (
            entry
            if about.dump == manifest.identity and entry.shard == shard and _rule_of_entries(manifest.schema)(entry)
            else None
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of ``manifest.json``."""

    state: str
    """``writing`` or ``complete``."""
    schema: DumpSchema
    metadata: dict[str, FileDigest]
    """Digest of every ``zarr.json`` and of the offsets, by path."""
    shards: tuple[ShardEntry, ...] = ()
    """The entries of all shards in their order if the dump is complete, else empty."""
    statistics: DumpSummary | None = None
    companions: dict[str, FileDigest] = field(default_factory=dict)
    """Digest of each of the ``COMPANIONS``, by name. Empty while the dump is being written, and in dumps of older
    versions."""

    @property
    def is_complete(self) -> bool:
        """Whether all shards were written and verified."""
        return self.state == "complete"

    @property
    def identity(self) -> str:
        """A sha256 of schema and sentence boundaries. It stays the same while the dump is written."""
        return sha256_bytes(canonical_json(_to_json(self.metadata)))

    def size_bytes(self) -> int:
        """Return the total size in bytes of all files that the manifest lists, without the companions."""
        digests = [*self.metadata.values(), *(digest for entry in self.shards for digest in entry.files.values())]
        return sum(digest.size_bytes for digest in digests)

    def write(self, store: Folder) -> None:
        """Replace the store's manifest."""
        value: dict[str, Json] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "state": self.state,
            "schema": self.schema.to_json(),
            "metadata": _to_json(self.metadata),
            "shards": [entry.to_json() for entry in self.shards],
            "statistics": self.statistics.to_json() if self.statistics else None,
            **({"companions": _to_json(self.companions)} if self.companions else {}),
        }
        store.write(MANIFEST, _with_digest(value))

    @classmethod
    def read(cls, store: Folder) -> "Manifest":
        """Return a store's manifest.

        Raises:
            StoreError: If there is no manifest, or it has a format that this program does not read.
            CorruptStoreError: If its digest does not match, or its content is not that of a manifest.
        """
        path = f"{store}/{MANIFEST}"
        try:
            data = store.read(MANIFEST)
        except OSError as error:
            raise StoreError(
                f"{store}: not a dump: {MANIFEST}: {error.strerror or error}. Give a folder that dump-teacher wrote"
            ) from error
        _check_digest(data, path)
        about = decode(data, _About, where=path, remedy=_REMEDY, error=CorruptStoreError)
        found_format = (about.format, about.format_version)
        if found_format != (FORMAT, FORMAT_VERSION):
            raise StoreError(
                f"{path}: format is {found_format}, this program reads {(FORMAT, FORMAT_VERSION)}. "
                "Use the version of rnng-distill that wrote it, or dump again"
            )
        stored = decode(data, _StoredManifest, where=path, remedy=_REMEDY, error=CorruptStoreError)
        try:
            return cls._of(stored)
        except (ValueError, ConfigError) as error:
            raise _damaged(path, error) from error

    @classmethod
    def _of(cls, stored: "_StoredManifest") -> "Manifest":
        manifest = cls(
            state=stored.state,
            schema=DumpSchema.from_json(stored.schema),
            metadata=stored.metadata,
            shards=stored.shards,
            statistics=stored.statistics,
            companions=stored.companions,
        )
        if (stored.statistics is None) == manifest.is_complete:
            raise ValueError(
                f"state is {manifest.state!r}; statistics must be present if it is 'complete', and absent if 'writing'"
            )
        if manifest.metadata.keys() != set(metadata_paths(manifest.schema)):
            raise ValueError("the metadata files listed are not those of the schema")
        if not manifest.companions.keys() <= set(COMPANIONS):
            raise ValueError(f"the companions are not among {', '.join(COMPANIONS)}")
        fits = _rule_of_entries(manifest.schema)
        # A stranger's schema may claim any number of shards. So the number is compared with the length of the list, and
        # nothing of that size is built.
        if len(manifest.shards) != (manifest.schema.layout.num_shards if manifest.is_complete else 0) or any(
            entry.shard != number or not fits(entry) for number, entry in enumerate(manifest.shards)
        ):
            raise ValueError("the shards listed are not those of the schema")
        return manifest

    def require_complete(self, store: Folder) -> DumpSummary:
        """Return the statistics of a complete dump.

        Raises:
            IncompleteStoreError: If the store is still being written.
        """
        if self.statistics is None:
            raise IncompleteStoreError(
                f"{store}: state is {self.state}, expected complete "
                f"(finished: {num_finished(store, self.schema)} of {self.schema.layout.num_shards} shards). "
                "Run dump-teacher again with the same options: it continues where it stopped"
            )
        return self.statistics

    def require_schema(self, store: Folder, schema: DumpSchema) -> None:
        """Check that the store was begun with this schema.

        Raises:
            StoreError: If it was begun with another schema. If a fingerprint differs, the error is a
                `FingerprintMismatchError`.
        """
        differences = self.schema.differences(schema)
        if differences:
            named = "; ".join(f"{key} is {found!r}, now {asked!r}" for key, (found, asked) in differences.items())
            error = FingerprintMismatchError if any("fingerprints." in key for key in differences) else StoreError
            raise error(f"{store}: was begun with other options: {named}. Give the same options, or another --out")


def _rule_of_entries(schema: DumpSchema) -> Callable[[ShardEntry], bool]:
    """Return a function that says whether an entry can belong to a dump with this schema."""
    specs, layout, sums = schema.stored_arrays, schema.layout, sum_names(schema)
    names = {spec.name for spec in specs}

    def fits(entry: ShardEntry) -> bool:
        if not (
            entry.shard < layout.num_shards
            and entry.files.keys() == names
            and (not entry.checksums or entry.checksums.keys() == names)
            and entry.figures.sums.keys() >= sums
            and sum(entry.figures.entropy_histogram) <= len(layout.rows_of(entry.shard))
        ):
            return False
        sizes = [(entry.files[spec.name].size_bytes, spec) for spec in specs]
        if schema.profile == "exact":
            return all(size == shard_bytes(spec, entry.shard) for size, spec in sizes)
        return all(size >= index_bytes(spec) for size, spec in sizes)

    return fits


def entry_name(shard: int) -> str:
    """Return the relative path of a finished shard's entry."""
    return f"finished/{shard}.json"


def num_finished(store: Folder, schema: DumpSchema) -> int:
    """Return how many shards of a store that is being written have an entry."""
    return sum(_is_entry(name, schema) for name in store.sizes())


def metadata_paths(schema: DumpSchema) -> list[str]:
    """Return the relative paths of every ``zarr.json`` and of the offsets."""
    return [*schema.zarr_files(), schema.offsets_array.file(0)]


def refuse_foreign_files(
    store: Folder, schema: DumpSchema, *, is_complete: bool, companions: Collection[str] = COMPANIONS
) -> None:
    """Check that every file in the store belongs to the dump.

    A file of `COMPANIONS` belongs to it only if ``companions`` names the file.

    Raises:
        StoreError: If the store holds foreign files. The message names up to three of them.
    """
    own = {MANIFEST, *companions, *metadata_paths(schema)}
    foreign = [
        name
        for name in store.sizes()
        if name not in own and not _is_shard(name, schema) and (is_complete or not _is_entry(name, schema))
    ]
    if foreign:
        named = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise StoreError(
            f"{store}: holds files that are not part of the dump: {named}. Move them away, or give another folder"
        )


def _to_json(digests: Mapping[str, FileDigest]) -> dict[str, Json]:
    return {name: asdict(digest) for name, digest in digests.items()}


def _is_entry(name: str, schema: DumpSchema) -> bool:
    """Return whether a path is that of the entry of a shard."""
    number = name.removeprefix("finished/").removesuffix(".json")
    return _is_number(number) and int(number) < schema.layout.num_shards and name == entry_name(int(number))


def _is_shard(name: str, schema: DumpSchema) -> bool:
    """Return whether a path is that of a shard's file."""
    array, _, place = name.partition("/c/")
    number = place.removesuffix("/0")
    if not _is_number(number) or int(number) >= schema.layout.num_shards:
        return False
    return any(spec.name == array and spec.file(int(number)) == name for spec in schema.stored_arrays)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _with_digest(value: Mapping[str, Any]) -> bytes:
    return canonical_json({**value, "sha256": sha256_bytes(canonical_json(value))})


def _check_digest(data: bytes, where: str) -> None:
    """Check that a file holds the sha256 of the rest of its text, as `_with_digest` writes it."""
    found = _OWN_DIGEST.findall(data)
    if len(found) != 1 or sha256_bytes(_OWN_DIGEST.sub(b"", data)) != found[0].decode():
        raise _damaged(where, "its sha256 does not match")


def _damaged(where: str, problem: object) -> CorruptStoreError:
    return CorruptStoreError(f"{where}: damaged, or not written by dump-teacher ({problem}). {_REMEDY}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _About:
    """Keys by which a manifest, or the entry of a shard, is recognised."""

    format: Any = None
    format_version: Any = None
    dump: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredManifest:
    """The types of the values in ``manifest.json``."""

    state: Literal["writing", "complete"]
    schema: dict[str, Any]
    metadata: dict[str, FileDigest]
    shards: tuple[ShardEntry, ...]
    statistics: DumpSummary | None
    companions: dict[str, FileDigest] = field(default_factory=dict)
