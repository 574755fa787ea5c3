"""Define the schema of a dump: its attributes as a frozen dataclass, its arrays, and their Zarr metadata.

`DumpSchema` holds everything that determines the bytes of a store, apart from the offsets (where each sentence begins)
and the rows. Its JSON is both the attributes of the Zarr group and the ``schema`` of the manifest. The ``zarr.json``
files are derived from the schema. A reader derives them again, and refuses a dump whose files differ. So a stranger's
dump cannot make a reader use another codec, data type or extension. The group's ``zarr.json`` repeats the metadata
of the arrays (consolidated metadata), so that zarr lists the arrays without reading other files.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dump.layout import ArraySpec, Layout
from storage.errors import ConfigError
from storage.fingerprints import Json, canonical_json

FORMAT = "rnng-distill dump"
FORMAT_VERSION = 1
FINGERPRINTS = ("dataset", "split", "tokenizer", "teacher")
"""The keys of ``DumpSchema.fingerprints``. A cross-fitted dump, which comes from one teacher per fold of the split, has
the keys ``teacher of fold 1``, ``teacher of fold 2``, … in place of ``teacher``."""
GAPS = "gaps"
"""Name of the array that replaces ``logp`` in a compact dump; see `storage.dump.compact`."""
MAX_CHUNK_BYTES = 1 << 26
"""Largest size of a decoded chunk, so that a few compressed bytes cannot claim all memory."""
MAX_CHUNKS = 1 << 20
"""Largest number of chunks per shard, so that a schema cannot claim all memory: readers keep a byte per chunk."""
MAX_BYTES = 1 << 60
"""Largest size of an array, so that no size in bytes that is computed from its shape overflows."""
MAX_DRAWS = 255
"""Largest number of draws (tokens drawn at random) per position, because an array of uint8 counts them."""

_CHOICES = {
    "selection": ("topk", "sampled", "stratified"),
    "profile": ("exact", "compact"),
    "condition": ("tree", "beam", "none", "exact"),
}
_OF_FOLD = "teacher of fold "
_BLOCK = 1 << 16
"""Sentences checked at a time, so that checking millions of sentences takes little memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpSchema:
    """The attributes of a dump: its sizes, the origin of its distributions, and how its arrays are cut.

    Raises:
        ConfigError: If values are impossible. The message lists every problem.
    """

    num_positions: int
    """N: number of predicted tokens of the split, including one ``<eos>`` per sentence; 0 for an empty split."""
    num_sentences: int
    """M: number of sentences."""
    vocab_size: int
    """V: size of the vocabulary."""
    k: int
    """Columns per position: the number of kept ids or, with draws, the largest number that can be kept."""
    num_top: int = 0
    """Number of most probable tokens, which come first in the row of a position. The allowed values depend on
    ``selection``. ``topk``: k, or 0, which is then changed to k. ``sampled``: 0. ``stratified``: at least 1 and less
    than k."""
    temperatures: tuple[float, ...]
    """The temperatures T for which the arrays ``tail`` (log of the mass outside the top tokens) and ``logz`` (log of
    the normaliser Σ p^(1/T)) have a column; the first is 1."""
    shard_positions: int = 65_536
    """Positions per shard: the unit of writing."""
    chunk_positions: int = 1_024
    """Positions per chunk: the unit of reading and of checksums. At most ``shard_positions``."""
    selection: str = "topk"
    """How the ids were chosen. ``topk``: the k most probable tokens. ``sampled``: random draws from all tokens.
    ``stratified``: the ``num_top`` most probable tokens, and random draws from the other tokens."""
    draw_seed: int = 0
    """Seed of the draws; 0 for ``topk``, which has no draws."""
    profile: str = "exact"
    """How the values are encoded. ``exact``: as they were computed. ``compact``: rounded and compressed."""
    condition: str = "tree"
    """What the distributions depend on. ``tree``: the words and the tree so far. ``beam``: the words alone; a beam
    search sums over trees. ``none``: the words alone; the model has no trees. ``exact``: the words alone; an
    exact sum over all trees of a known grammar."""
    tree_source: str
    """Origin of the trees that the teacher was given; a text that begins with ``none`` if it was given no trees."""
    split: str
    """Split of the dataset that was dumped."""
    fingerprints: dict[str, str]
    """The sha256 of each thing that ``FINGERPRINTS`` names."""
    computation: dict[str, str | int | float]
    """Everything else that can change the stored values: threads, batch budget, dtype, device model, versions, beam
    sizes."""

    def __post_init__(self) -> None:
        if self.selection == "topk" and self.num_top == 0:
            object.__setattr__(self, "num_top", self.k)
        problems = self._problems()
        if problems:
            raise ConfigError("dump: " + "; ".join(problems))
        object.__setattr__(self, "temperatures", tuple(float(temperature) for temperature in self.temperatures))
        object.__setattr__(self, "chunk_positions", min(self.chunk_positions, self.shard_positions))

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """uint16 if it can hold every id and the fill value, else uint32."""
        return np.dtype("<u2" if self.vocab_size <= 65_535 else "<u4")

    @property
    def num_draws(self) -> int:
        """Number of draws per position."""
        return self.k - self.num_top

    @property
    def layout(self) -> Layout:
        """How positions are cut into shards and chunks."""
        return Layout(num_rows=self.num_positions, shard_rows=self.shard_positions, chunk_rows=self.chunk_positions)

    @property
    def position_arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays with one row per position, in the order of `storage.dump.positions.Positions`."""
        num_temperatures = len(self.temperatures)
        arrays = (
            self._array("tokens", self.token_dtype, ()),
            self._array("ids", self.token_dtype, (self.k,), "rank"),
            self._array("logp", np.dtype("<f2"), (self.k,), "rank"),
            self._array("gold_logp", np.dtype("<f4"), ()),
            self._array("tail", np.dtype("<f4"), (num_temperatures,), "temperature"),
            self._array("logz", np.dtype("<f4"), (num_temperatures,), "temperature"),
        )
        return (*arrays, self._array("counts", np.dtype("u1"), (self.k,), "rank")) if self.num_draws else arrays

    @property
    def stored_arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays on the disk with one row per position. For profile ``exact`` they are ``position_arrays``."""
        if self.profile == "exact":
            return self.position_arrays
        exact = {spec.name: replace(spec, compressed=True) for spec in self.position_arrays}
        gaps = replace(exact["logp"], name=GAPS, dtype=np.dtype("u1"))
        return (exact["tokens"], exact["ids"], gaps, exact["gold_logp"], exact["tail"])

    @property
    def offsets_array(self) -> ArraySpec:
        """The array of sentence boundaries, ``[M + 1]``. It is one chunk, so that a reader can map all of it."""
        num_rows = self.num_sentences + 1
        return ArraySpec(
            name="offsets",
            dtype=np.dtype("<i8"),
            row_shape=(),
            layout=Layout(num_rows=num_rows, shard_rows=num_rows, chunk_rows=num_rows),
            dimensions=("sentence_boundary",),
        )

    def zarr_files(self) -> dict[str, bytes]:
        """Return the content of the store's ``zarr.json`` files, by relative path."""
        arrays = {spec.name: spec.zarr_metadata() for spec in (*self.stored_arrays, self.offsets_array)}
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self.to_json(),
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        }
        files = {f"{name}/zarr.json": canonical_json(metadata) for name, metadata in arrays.items()}
        return {"zarr.json": canonical_json(group), **files}

    def to_json(self) -> dict[str, Json]:
        """Return the attributes as JSON values."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "temperatures": [*self.temperatures],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DumpSchema":
        """Return the schema that `to_json` wrote.

        Raises:
            ConfigError: If the format or version differs, a key is missing or unknown, or a value is impossible.
        """
        found = (value.get("format"), value.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise ConfigError(f"dump: format is {found}, this program reads {(FORMAT, FORMAT_VERSION)}")
        names = {field.name for field in fields(cls)}
        rest = {key: item for key, item in value.items() if key not in ("format", "format_version")}
        if names != set(rest):
            raise ConfigError(f"dump: keys missing or unknown: {', '.join(sorted(names ^ set(rest)))}")
        if not isinstance(rest["temperatures"], list):
            raise ConfigError("dump: temperatures is not a list")
        return cls(**{**rest, "temperatures": tuple(rest["temperatures"])})

    def differences(self, other: "DumpSchema") -> dict[str, tuple[Any, Any]]:
        """Return, for each key with different values, (own value, other value). Nested keys are joined by a dot."""
        mine, theirs = _flatten(asdict(self)), _flatten(asdict(other))
        keys = sorted(mine.keys() | theirs.keys())
        return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}

    def _array(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], *columns: str) -> ArraySpec:
        return ArraySpec(
            name=name, dtype=dtype, row_shape=row_shape, layout=self.layout, dimensions=("position", *columns)
        )

    def _problems(self) -> list[str]:
        return (
            self._count_problems()
            + self._selection_problems()
            + self._profile_problems()
            + self._temperature_problems()
            + self._label_problems()
        )

    def _count_problems(self) -> list[str]:
        least = {"num_positions": 0, "num_sentences": 0, "vocab_size": 1, "k": 1}
        least |= {"shard_positions": 1, "chunk_positions": 1}
        problems = [
            f"{name} is {getattr(self, name)!r}, not a whole number of at least {number}"
            for name, number in least.items()
            if type(getattr(self, name)) is not int or getattr(self, name) < number
        ]
        if problems:
            return problems
        if self.k > self.vocab_size:
            problems.append(f"k is {self.k}, above vocab_size ({self.vocab_size})")
        if self.vocab_size >= 1 << 32:
            problems.append(f"vocab_size is {self.vocab_size}, above what uint32 can hold")
        if self.num_positions < self.num_sentences:
            problems.append(f"num_positions is {self.num_positions}, below num_sentences ({self.num_sentences})")
        chunk_positions = min(self.chunk_positions, self.shard_positions)
        if self.shard_positions % chunk_positions:
            problems.append(
                f"shard_positions is {self.shard_positions}, not a multiple of chunk_positions ({chunk_positions})"
            )
        if self.shard_positions // chunk_positions > MAX_CHUNKS:
            problems.append(f"shard_positions is {self.shard_positions}, so a shard has over {MAX_CHUNKS} chunks")
        num_rows = max(self.num_positions, self.shard_positions)
        if num_rows * max(self.k, len(self.temperatures)) * 4 > MAX_BYTES:
            problems.append(f"num_positions is {self.num_positions} and k {self.k}, too large for any disk")
        return problems

    def _selection_problems(self) -> list[str]:
        if any(type(number) is not int for number in (self.k, self.num_top, self.draw_seed)) or self.draw_seed < 0:
            return [f"num_top {self.num_top!r} and draw_seed {self.draw_seed!r} are not whole numbers, 0 or more"]
        if self.selection == "topk" and (self.num_top, self.draw_seed) != (self.k, 0):
            return [f"num_top is {self.num_top} and draw_seed {self.draw_seed}, expected {self.k} (k) and 0 for topk"]
        if self.selection == "sampled" and self.num_top != 0:
            return [f"num_top is {self.num_top}, expected 0 for selection sampled"]
        if self.selection == "stratified" and not 0 < self.num_top < self.k:
            return [f"num_top is {self.num_top}, expected above 0 and below k ({self.k}) for selection stratified"]
        if self.num_draws > MAX_DRAWS:
            return [
                f"{self.num_draws} draws per position (k - num_top), expected at most {MAX_DRAWS}: uint8 counts them"
            ]
        return []

    def _profile_problems(self) -> list[str]:
        if self.profile != "compact" or self._count_problems():
            return []
        if self.selection != "topk":
            return [f"selection is {self.selection}, expected topk for profile compact, which cannot hold draws"]
        chunk_bytes = min(self.chunk_positions, self.shard_positions) * self.k * self.token_dtype.itemsize
        if chunk_bytes > MAX_CHUNK_BYTES:
            return [f"a chunk has {chunk_bytes} bytes, expected at most {MAX_CHUNK_BYTES} for profile compact"]
        return []

    def _temperature_problems(self) -> list[str]:
        if any(type(t) not in (int, float) or not 0 < t < math.inf for t in self.temperatures):
            return [f"temperatures {self.temperatures} are not all numbers above 0"]
        if self.temperatures[:1] != (1.0,) or len(set(self.temperatures)) != len(self.temperatures):
            return [f"temperatures {self.temperatures} do not start with 1, or one is repeated"]
        return []

    def _label_problems(self) -> list[str]:
        problems = [
            f"{name} is {getattr(self, name)!r}, not one of {', '.join(choices)}"
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        ]
        problems += [f"{name} is empty or not text" for name in ("tree_source", "split") if not _is_text(self, name)]
        if _is_text(self, "split") and (self.split in (".", "..") or "/" in self.split or not self.split.isprintable()):
            problems.append(f"split is {self.split!r:.60}, not a plain name")
        if not isinstance(self.fingerprints, dict) or set(self.fingerprints) != {
            *FINGERPRINTS[:-1],
            *teacher_names(num_folds(self.fingerprints) or 1),
        }:
            problems.append(f"fingerprints are not those of {', '.join(FINGERPRINTS)} (or a teacher for each fold)")
        elif not all(isinstance(digest, str) and digest for digest in self.fingerprints.values()):
            problems.append("a fingerprint is empty or not text")
        if not isinstance(self.computation, dict) or not all(_is_scalar(item) for item in self.computation.values()):
            problems.append("computation is not a table of texts and finite numbers")
        return problems


def teacher_names(num_teachers: int) -> tuple[str, ...]:
    """Return the names of the teachers among the fingerprints: ``teacher``, or ``teacher of fold 1`` and so on."""
    if num_teachers == 1:
        return ("teacher",)
    return tuple(f"{_OF_FOLD}{fold}" for fold in range(1, num_teachers + 1))


def num_folds(fingerprints: Iterable[str]) -> int:
    """Return the number of folds of a cross-fitted dump from the names of its fingerprints; 0 for other dumps."""
    return sum(name.startswith(_OF_FOLD) for name in fingerprints)


def cross_fitted(fingerprints: Iterable[str]) -> str:
    """Return the end of a description of a dump: ``, cross-fitted over 5 folds``; empty if it is not cross-fitted."""
    folds = num_folds(fingerprints)
    return f", cross-fitted over {folds} folds" if folds else ""


def check_offsets(offsets: NDArray[np.int64], schema: DumpSchema) -> None:
    """Check that offsets cut the schema's positions into its sentences.

    Raises:
        ConfigError: Unless ``offsets`` is int64 ``[M + 1]``, strictly rising from 0 to N.
    """
    expected = f"int64 [{schema.num_sentences + 1}] rising from 0 to {schema.num_positions}"
    if offsets.dtype != np.int64 or offsets.shape != (schema.num_sentences + 1,):
        raise ConfigError(f"dump: offsets are {offsets.dtype} {list(offsets.shape)}, expected {expected}")
    blocks = range(0, schema.num_sentences, _BLOCK)
    # Neighbours are compared, not subtracted: the offsets in a stranger's file may be so large that differences
    # overflow.
    pieces = (offsets[start : start + _BLOCK + 1] for start in blocks)
    rising = all((piece[:-1] < piece[1:]).all() for piece in pieces)
    if offsets[0] != 0 or offsets[-1] != schema.num_positions or not rising:
        raise ConfigError(
            f"dump: offsets run from {offsets[0]} to {offsets[-1]}{'' if rising else ' and do not always rise'}, "
            f"expected {expected}"
        )


def _is_text(schema: DumpSchema, name: str) -> bool:
    value = getattr(schema, name)
    return isinstance(value, str) and bool(value)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str) or (type(value) in (int, float) and math.isfinite(value))  # type: ignore[arg-type]


def _flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat
