"""Write, read and describe a dataset: the token ids and oracle actions of every split, and their tokenizer.

    DATASET/tokenizer.json
    DATASET/words.json              the number of words in the split train, in the tokenizer's training text and, if a
                                    parser or teacher made the trees, in its training text (``word_budget``)
    DATASET/dataset.zarr            attributes: labels, sha256 digests, and where the trees come from
    DATASET/dataset.zarr/SPLIT      tokens, offsets, actions, action_offsets, document_ids, num_words, num_bytes,
                                    documents (a table as UTF-8 bytes), folds (train only, if build-dataset had
                                    --folds); attributes: statistics, and counts of dropped and repaired sentences

Reading a dataset loads every split into memory. An action takes two bytes, and a token two (four if the vocabulary has
more than 65,535 entries), so 100 million words take about a gigabyte. Everything except ``words.json`` is checked
against a sha256 when it is read.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.build_config import Trees
from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import Document, documents_of_array
from pipeline.corpus.text.word_budget import PARSER, TOKENIZER, WORDS, TrainingText, from_json, not_known, to_json
from pipeline.corpus.trees.trees import ROOT
from storage.errors import CorruptStoreError, FingerprintMismatchError, InputError, StoreError
from storage.files import fsync, is_there, new_folder, write_atomically
from storage.fingerprints import Json, check_fingerprint
from storage.group import read_group, write_group
from storage.json_files import Count, Number, convert, read_json
from storage.locations import Place, is_url, local_path, open_folder
from storage.ragged import Ragged
from storage.remote.transfer import fetch_folder, upload_folder

FORMAT_VERSION: Final = 1
_DTYPES: Final = {
    "tokens": ("uint16", "uint32"), "offsets": ("int64",), "actions": ("int16",), "action_offsets": ("int64",),
    "document_ids": ("int32",), "num_words": ("int32",), "num_bytes": ("int32",), "documents": ("uint8",),
    "folds": ("uint8",),
}  # fmt: skip
_REMEDY: Final = "Build the dataset again (build-dataset), or restore it from a copy"

_DAMAGE: Final = (CorruptStoreError, FingerprintMismatchError, InputError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """One split: M sentences with N tokens, which make N + M positions."""

    name: str
    tokens: Ragged
    """M rows of uint16, or of uint32 if the vocabulary needs it. ``<bos>`` and ``<eos>`` are not included."""
    actions: Ragged
    """M rows of int16: SHIFT is 0, REDUCE is 1, NT(label i) is 2 + i. The last SHIFT of a row generates ``<eos>``."""
    document_ids: NDArray[np.int32]
    """``[M]``: the document of each sentence, numbered from 1; 0 if the documents are not known. The sentences of a
    document follow one another."""
    num_words: NDArray[np.int32]
    """``[M]``: the number of white-space-separated strings in the text."""
    num_bytes: NDArray[np.int32]
    """``[M]``: the size of the text in UTF-8, without the line end."""
    text_sha256: str
    """sha256 of the text in UTF-8, with a line end after each sentence."""
    sha256: str
    """sha256 of all arrays and attributes of the split, as they are stored."""
    document_table: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """The table of documents. The property ``documents`` parses it on each access."""

    folds: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """``[M]``: the fold of each sentence, numbered from 1. Empty if there are no folds."""

    @property
    def documents(self) -> tuple[Document, ...]:
        """Name, source and licence of each document, by number. Documents without a kept sentence are included."""
        return documents_of_array(self.document_table)

    @property
    def source_ids(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The number of each sentence's source, ``[M]``, and the names of the sources in the order of their numbers.

        Source 0 has the name ``""`` and means that the source is not known.
        """
        names = {"": 0}
        ids = [0] + [names.setdefault(document.source, len(names)) for document in self.documents]
        return np.array(ids, np.int32)[self.document_ids], tuple(names)

    @property
    def num_sentences(self) -> int:
        """M, the number of sentences."""
        return len(self.tokens)

    @property
    def has_documents(self) -> bool:
        """Whether the document of every sentence is known."""
        return bool(self.document_ids.all())

    @property
    def num_folds(self) -> int:
        """The number of folds; 0 if there are none."""
        return int(self.folds.max(initial=0))

    @property
    def num_positions(self) -> int:
        """N + M: a sentence of n tokens has n + 1 positions, the last for ``<eos>``."""
        return len(self.tokens.values) + len(self.tokens)

    @property
    def position_offsets(self) -> NDArray[np.int64]:
        """``[M + 1]``: sentence m has the positions ``position_offsets[m]:position_offsets[m + 1]``."""
        return self.tokens.offsets + np.arange(len(self.tokens.offsets))

    def take(self, sentences: NDArray[np.int64]) -> "Split":
        """Return a split with only the given sentences, in the given order. It keeps the digests of the whole split."""
        rows = {name: getattr(self, name).take(sentences) for name in ("tokens", "actions")}
        columns = {name: getattr(self, name)[sentences] for name in ("document_ids", "num_words", "num_bytes")}
        return replace(self, **rows, **columns, folds=self.folds[sentences] if self.num_folds else self.folds)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """A dataset that ``build-dataset`` wrote, with every split in memory."""

    location: str
    """The path or URL that the user gave, for messages."""
    path: Path
    """The folder of the dataset. For a URL, this folder is a copy in the cache."""
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    """Label 0 is TOP. The other labels are in alphabetical order."""
    splits: dict[str, Split]
    trees: Trees
    tree_source: str
    """A phrase that says where the trees come from, for example "given, files of trees sha256 3f9a1c00b7e2". If parsers
    or teachers made the trees, the phrase names them."""
    counts: dict[str, dict[str, Any]]
    """For each split, the counts of ``SplitBuilder.to_json``. For example, ``num_kept`` is one number, and ``dropped``
    has one number for each reason."""
    statistics: dict[str, dict[str, Any]]
    """The result of ``split_statistics`` for each split. Empty for a dataset of an older version."""
    trained_on: Sequence[TrainingText]
    """Records of the text of the training split, of the tokenizer's training text and, if a parser or teacher made the
    trees, of its training text."""
    sha256: str
    """sha256 of the labels, the source of the trees, the tokenizer and all splits."""

    @property
    def tokenizer_path(self) -> Path:
        """The path of the dataset's ``tokenizer.json``."""
        return self.path / "tokenizer.json"

    @property
    def fingerprints(self) -> dict[str, str]:
        """The sha256 of the dataset and of its tokenizer, for the record of a run."""
        return {"dataset": self.sha256, "tokenizer": self.tokenizer.sha256}

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            InputError: If the split does not exist.
        """
        if name not in self.splits:
            raise InputError(f"{self.location}: no split {name!r}, expected one of {', '.join(self.splits)}")
        return self.splits[name]


def write_dataset(
    location: Place,
    splits: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    counts: Mapping[str, dict[str, Json]],
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    trees: Trees,
    tree_source: str,
    statistics: Mapping[str, dict[str, Json]] | None = None,
    trained_on: Sequence[TrainingText] = (),
) -> str:
    """Write a dataset; return its sha256.

    If writing fails, nothing is left at a local ``location``. At a URL some files may be left, but they are not a valid
    dataset, because ``dataset.zarr/zarr.json`` is uploaded last.

    Raises:
        StoreError: If something exists at ``location``, or the dataset cannot be written.
    """
    with _new_folder(location) as folder:
        store = folder / "dataset.zarr"
        digests: dict[str, Json] = {}
        for name, arrays in splits.items():
            attributes: dict[str, Json] = {"counts": counts[name], "split": name}
            if statistics is not None:
                attributes["statistics"] = statistics[name]
            digests[name] = write_group(folder / name, arrays, attributes)
        sha256 = write_group(
            store,
            {},
            {
                "format_version": FORMAT_VERSION,
                "kind": "dataset",
                "labels": list(labels),
                "splits": digests,
                "tokenizer": tokenizer.sha256,
                "tree_source": tree_source,
                "trees": trees,
                "vocab_size": tokenizer.vocab_size,
            },
        )
        for name in splits:
            (folder / name).rename(store / name)
        fsync(store)
        # The sha256 does not cover words.json.
        if trained_on:
            write_atomically(folder / WORDS, (json.dumps(to_json(trained_on), indent=1) + "\n").encode())
        tokenizer.save(folder / "tokenizer.json")
    return sha256


@contextmanager
def _new_folder(location: Place) -> Iterator[Path]:
    """Yield a temporary folder; if the ``with`` block succeeds, move or upload it to ``location``, else delete it."""
    try:
        if is_url(location):
            with tempfile.TemporaryDirectory() as name:
                yield Path(name)
                upload_folder(Path(name), location, last="dataset.zarr/zarr.json")
        else:
            with new_folder(local_path(location)) as folder:
                yield folder
    except OSError as error:
        raise StoreError(
            f"{location}: cannot be written ({error.strerror}). Free disk space or fix the permissions of the folder"
        ) from error


def check_absent(location: Place) -> None:
    """Check that nothing exists at ``location``.

    Raises:
        StoreError: If something exists there.
    """
    if open_folder(location).sizes() if is_url(location) else is_there(local_path(location)):
        raise StoreError(f"{location}: already exists. Remove it, or give another --out")


def load_dataset(location: Place) -> Dataset:
    """Return a dataset after checking it against its sha256 digests.

    A dataset at a URL is first copied into the cache. If the copy is damaged, it is fetched once more.

    Raises:
        StoreError: If there is no dataset at ``location``, or it has another format version.
        CorruptStoreError: If its bytes are not the bytes that were written.
        FingerprintMismatchError: If the tokenizer or a split is not the one that the dataset was written with.
    """
    path = fetch_folder(location)
    try:
        return _load(location, path)
    except _DAMAGE as error:
        if not is_url(location):
            raise
        _log.warning("%s. This file is in a copy of %s, which is now fetched again", error, location)
    path = fetch_folder(location, again=True)
    try:
        return _load(location, path)
    except _DAMAGE as error:
        raise type(error)(str(error).replace(str(path), str(location))) from error


def _load(location: Place, path: Path) -> Dataset:
    store = path / "dataset.zarr"
    _, attributes = read_group(store)
    if attributes.get("kind") != "dataset" or attributes.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{store}: kind is {attributes.get('kind')!r:.40} and format version "
            f"{attributes.get('format_version')!r:.40}, expected 'dataset' and {FORMAT_VERSION}. Build the dataset "
            "again with this version (build-dataset)"
        )
    root = convert(attributes, _Attributes, where=str(store), remedy=_REMEDY, error=CorruptStoreError)
    if root.labels[:1] != [ROOT]:
        raise CorruptStoreError(f"{store}: the first label is not {ROOT}. {_REMEDY}")
    tokenizer = Tokenizer.load(path / "tokenizer.json")
    check_fingerprint(f"{path}: tokenizer.json", found=tokenizer.sha256, expected=root.tokenizer, remedy=_REMEDY)
    splits: dict[str, Split] = {}
    counts: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for name, digest in root.splits.items():
        if Path(name).name != name:
            raise StoreError(f"{store}: split name {name!r} is a path, expected a plain name. {_REMEDY}")
        arrays, found = read_group(store / name)
        about = convert(found, _SplitAttributes, where=str(store / name), remedy=_REMEDY, error=CorruptStoreError)
        check_fingerprint(f"{store}: split {name}", found=about.content_sha256, expected=digest, remedy=_REMEDY)
        convert(about.counts, _Counts, where=f"{store / name}: counts", remedy=_REMEDY, error=CorruptStoreError)
        convert(
            about.statistics, _Statistics, where=f"{store / name}: statistics", remedy=_REMEDY, error=CorruptStoreError
        )
        counts[name], statistics[name] = about.counts, about.statistics
        try:
            splits[name] = _split(name, arrays, about.content_sha256, text_sha256=str(about.counts["text_sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStoreError(f"{store / name}: arrays do not fit together ({error}). {_REMEDY}") from error
        _check_split(store / name, splits[name], tokenizer.vocab_size, len(root.labels))
    return Dataset(
        location=str(location),
        path=path,
        tokenizer=tokenizer,
        labels=tuple(root.labels),
        splits=splits,
        trees=root.trees,
        tree_source=root.tree_source,
        counts=counts,
        statistics=statistics,
        trained_on=_trained_on(path, splits, root.tree_source, tokenizer),
        sha256=root.content_sha256,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attributes:
    """The types of the attributes of ``dataset.zarr``."""

    labels: list[str]
    splits: dict[str, str]
    tokenizer: str
    trees: Trees
    tree_source: str
    content_sha256: str


class _Counts(TypedDict, total=False):
    text_sha256: str
    num_trees: Count
    num_kept: Count
    dropped: dict[str, Count]
    repaired: dict[str, Count]


class _Source(TypedDict):
    num_documents: Count
    num_sentences: Count
    num_tokens: Count
    licences: str


class _Statistics(TypedDict, total=False):
    """The types of the result of ``split_statistics``."""

    tokens: list[Count]
    words: list[Count]
    heights: list[Count]
    children: list[Count]
    labels: dict[str, Count]
    mean_height: Number | None
    max_height: Count
    mean_children: Number | None
    unary_share: Number | None
    sources: dict[str, _Source]


@dataclass(frozen=True, kw_only=True, slots=True)
class _SplitAttributes:
    """The types of the attributes of a split."""

    counts: dict[str, Any]
    content_sha256: str
    statistics: dict[str, Any] = field(default_factory=dict)


def _trained_on(path: Path, splits: Mapping[str, Split], tree_source: str, tokenizer: Tokenizer) -> list[TrainingText]:
    """Return the content of ``words.json``.

    A dataset of an older version does not have this file. Then only the number of words in train is known.
    """
    record = path / WORDS
    if is_there(record):
        value = read_json(record, list[Any], remedy="remove it, or build the dataset again")
        return from_json(value, of="text", name="train", where=str(record))
    text = [
        TrainingText(of="text", name=name, num_words=int(split.num_words.sum()), part=split.text_sha256)
        for name, split in splits.items()
        if name == "train"
    ]
    parser = [not_known(PARSER, "of the trees")] if "parsed by" in tree_source else []
    return [*text, not_known(TOKENIZER, "tokenizer.json", sha256=tokenizer.sha256), *parser]


def describe_dataset(location: Place) -> dict[str, Any]:
    """Return the description of a dataset as JSON: sizes, labels, counts by reason and fingerprints."""
    dataset = load_dataset(location)
    used = np.zeros(dataset.tokenizer.vocab_size, bool)
    for split in dataset.splits.values():
        for tokens in _pieces(split.tokens.values):
            used[tokens] = True
    return {
        "trees": dataset.trees,
        "tree_source": dataset.tree_source,
        "vocab_size": dataset.tokenizer.vocab_size,
        "num_entries_not_used": int((~used).sum()),
        "num_labels": len(dataset.labels),
        "labels": list(dataset.labels),
        "trained_on": to_json(dataset.trained_on),
        "sha256": dataset.sha256,
        "tokenizer_sha256": dataset.tokenizer.sha256,
        "splits": {
            name: {
                **_sizes(split),
                **dataset.counts[name],
                "sha256": split.sha256,
                "statistics": dataset.statistics[name],
            }
            for name, split in dataset.splits.items()
        },
    }


def _sizes(split: Split) -> dict[str, Any]:
    num_tokens, actions = len(split.tokens.values), split.actions.values
    depth, max_depth = 0, 0
    for piece in _pieces(actions):
        depths = depth + np.cumsum((piece >= FIRST_NT).astype(np.int8) - (piece == REDUCE), dtype=np.int64)
        depth, max_depth = int(depths[-1]), max(max_depth, int(depths.max()))
    return {
        "num_sentences": split.num_sentences,
        "num_tokens": num_tokens,
        "num_positions": split.num_positions,
        "num_words": (num_words := int(split.num_words.sum(dtype=np.int64))),
        "num_bytes": (num_bytes := int(split.num_bytes.sum(dtype=np.int64))),
        "tokens_per_word": num_tokens / num_words if num_words else None,
        "bytes_per_token": num_bytes / num_tokens if num_tokens else None,
        "num_documents": len(np.unique(split.document_ids)) if split.has_documents else "not known",
        "longest_sentence": int(split.tokens.lengths.max(initial=0)),
        "num_actions": len(actions),
        "actions_per_token": len(actions) / num_tokens if num_tokens else None,
        "max_depth": max_depth,
        **({"folds": _folds(split)} if split.num_folds else {}),
    }


def _folds(split: Split) -> dict[str, dict[str, int]]:
    """Return the number of sentences and tokens of each fold."""
    num_sentences = np.bincount(split.folds)
    num_tokens = np.bincount(split.folds, weights=split.tokens.lengths)
    return {
        str(fold): {"num_sentences": int(num_sentences[fold]), "num_tokens": int(num_tokens[fold])}
        for fold in range(1, split.num_folds + 1)
    }


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array in pieces, to save memory."""
    for first in range(0, len(values), 1 << 20):
        yield values[first : first + (1 << 20)]


def _split(name: str, arrays: Mapping[str, NDArray[Any]], sha256: str, *, text_sha256: str) -> Split:
    for each, array in arrays.items():
        if array.dtype.name not in _DTYPES.get(each, ()) or array.ndim != 1:
            raise ValueError(f"{each} has the wrong dtype or shape: {array.dtype} {list(array.shape)}")
    split = Split(
        name=name,
        tokens=Ragged(arrays["tokens"], arrays["offsets"]),
        actions=Ragged(arrays["actions"], arrays["action_offsets"]),
        document_ids=arrays["document_ids"],
        num_words=arrays["num_words"],
        num_bytes=arrays["num_bytes"],
        text_sha256=text_sha256,
        sha256=sha256,
        **({"document_table": arrays["documents"]} if "documents" in arrays else {}),
        **({"folds": arrays["folds"]} if "folds" in arrays else {}),
    )
    if "documents" in arrays and split.document_ids.max(initial=0) > len(split.documents):
        raise ValueError(f"document {split.document_ids.max()} in a table of {len(split.documents)} documents")
    if min(split.document_ids.min(initial=0), split.num_words.min(initial=0), split.num_bytes.min(initial=0)) < 0:
        raise ValueError("a word count, a byte count or a document number is below 0")
    lengths = {len(split.tokens), len(split.actions), len(split.document_ids), len(split.num_words)}
    if "folds" in arrays:
        lengths.add(len(split.folds))
        if not np.bincount(split.folds, minlength=2)[1:].all() or not split.folds.all():
            raise ValueError(f"a sentence is in no fold, or a fold from 1 to {split.num_folds} is empty")
    if lengths != {len(split.num_bytes)}:
        raise ValueError(f"some arrays have more sentences than others: {sorted({*lengths, len(split.num_bytes)})}")
    return split


def _check_split(path: Path, split: Split, vocab_size: int, num_labels: int) -> None:
    """Check that every id is within its bounds, and that each sentence of n tokens has n + 1 SHIFTs.

    A matching digest does not show this.
    """
    starts = split.actions.offsets[:-1]
    if (
        0 in split.actions.lengths
        or split.tokens.values.max(initial=0) >= vocab_size
        or split.actions.values.max(initial=0) >= FIRST_NT + num_labels
        or split.actions.values.min(initial=0) < 0
        or not np.array_equal(
            np.add.reduceat(split.actions.values == SHIFT, starts, dtype=np.int64), split.tokens.lengths + 1
        )
    ):
        raise CorruptStoreError(f"{path}: tokens, actions, labels and vocabulary do not fit together. {_REMEDY}")
