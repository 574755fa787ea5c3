"""Choose the files and documents of each split.

A STEM is the common part of the paths of files that belong together: STEM.mrg has trees, and STEM.txt their text. A
split has files of its own, or it consists of whole documents drawn at random from the training files. A document is
never divided between splits, because its sentences resemble each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.documents import (
    DOCS_SUFFIX,
    TABLE_SUFFIX,
    Document,
    DocumentRuns,
    find_companion,
    parsed_by,
    read_document_runs,
    sampled_from,
)
from pipeline.corpus.text.text_files import find_file
from storage.errors import InputError


class StemFiles(NamedTuple):
    """The files of a STEM, and the documents that its trees belong to."""

    stem: Path
    trees: Path
    texts: Path
    documents: Path | None
    """STEM.docs, which names the document of each tree."""
    runs: DocumentRuns | None
    """The content of STEM.docs and STEM.documents.tsv."""
    parsed_by: str
    """The parser that made the trees; empty for a treebank."""
    sampled_from: str
    """The teacher from which the command ``sample`` drew trees and text; else empty."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StemSource:
    """The trees that a split takes from one STEM."""

    files: StemFiles
    document_ids: NDArray[np.int32] | None
    """``[num_trees]``: the document of each tree, numbered from 1 within the split; 0 if the tree belongs to another
    split. If the documents are not known, this is None, and the split takes all trees."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitSources:
    """The STEMs and documents of one split."""

    stems: Sequence[StemSource]
    documents: tuple[Document, ...]
    """The documents in the order of their numbers, from document 1."""

    @property
    def trees(self) -> str:
        """The tree files, for messages."""
        return ", ".join(str(stem.files.trees) for stem in self.stems)


def choose_sources(
    stems: Mapping[str, Sequence[Path]], shares: Mapping[str, float], *, seed: int
) -> dict[str, SplitSources]:
    """Return the sources of each split, in the order train, dev, test.

    For ``shares``, the documents of train are visited in a random order. A document goes to the first split of
    ``shares`` that has room for all its sentences, or else to train. So a split is never larger than its share, rounded
    to whole trees. It can be smaller. The part of its share that stays empty is smaller than every document of train.

    Args:
        stems: STEMs by split. ``train`` is always among them.
        shares: The share of train's trees that each split gets, for the splits without files of their own.
        seed: Seed of the random order.

    Raises:
        InputError: If a file is missing, malformed, or both plain and compressed; if two STEMs of a split have a
            document of the same name; if ``shares`` is not empty, but the documents are not known; or if no document
            fits into a share.
    """
    found = {name: [_read_stem(stem) for stem in paths] for name, paths in stems.items()}
    for files in found.values():
        _check_document_names(files)
    chosen: dict[str, set[str] | None] = dict.fromkeys(found)
    if shares:
        chosen |= _draw_documents(found["train"], shares, seed)
    sources = {name: _sources(found.get(name, found["train"]), documents) for name, documents in chosen.items()}
    return {name: sources[name] for name in ("train", "dev", "test") if name in sources}


def _read_stem(stem: Path) -> StemFiles:
    """Return the files of a STEM."""
    documents, table = find_companion(stem, DOCS_SUFFIX), find_companion(stem, TABLE_SUFFIX)
    if table is not None and documents is None:
        raise InputError(
            f"{table}: this table of documents needs {stem.name}.docs, which names the document of each tree; add "
            f"{stem.name}.docs or remove the table"
        )
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    runs = None if documents is None else read_document_runs(documents, table)
    return StemFiles(stem, trees, texts, documents, runs, parsed_by(stem), sampled_from(stem))


def _check_document_names(stems: Sequence[StemFiles]) -> None:
    seen: dict[str, StemFiles] = {}
    for stem in stems:
        for name in {document.document: None for document in stem.runs.documents} if stem.runs else ():
            if name in seen:
                raise InputError(
                    f"{stem.documents}: document {name!r} is in {seen[name].documents} too, expected different names; "
                    "rename one, or give each STEM only once"
                )
            seen[name] = stem


def _sources(stems: Sequence[StemFiles], chosen: set[str] | None) -> SplitSources:
    """Return the sources of a split that takes the documents ``chosen``, or all trees if ``chosen`` is None."""
    sources, documents = [], []
    for stem in stems:
        if stem.runs is None:
            sources.append(StemSource(files=stem, document_ids=None))
            continue
        ids = np.zeros(len(stem.runs.documents), np.int32)
        for number, document in enumerate(stem.runs.documents):
            if chosen is None or document.document in chosen:
                documents.append(document)
                ids[number] = len(documents)
        if ids.any() or chosen is None:
            sources.append(StemSource(files=stem, document_ids=ids[stem.runs.numbers]))
    return SplitSources(stems=sources, documents=tuple(documents))


def _draw_documents(stems: Sequence[StemFiles], shares: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Return the names of the documents that go to train and to each split of ``shares``."""
    sizes: dict[str, int] = {}
    for stem in stems:
        if stem.runs is None:
            raise InputError(
                f"{stem.trees}: there is no .docs file next to it, but --dev-share and --test-share take whole "
                "documents; name the document of each tree (import-trees --documents), or give --dev and --test"
            )
        counts = np.bincount(stem.runs.numbers, minlength=len(stem.runs.documents))
        for document, count in zip(stem.runs.documents, counts.tolist(), strict=True):
            sizes[document.document] = sizes.get(document.document, 0) + count
    room = {name: round(share * sum(sizes.values())) for name, share in shares.items()}
    chosen: dict[str, set[str]] = {name: set() for name in ("train", *shares)}
    names = list(sizes)
    for i in np.random.default_rng(seed).permutation(len(names)):
        size = sizes[names[i]]
        split = next((name for name, left in room.items() if size <= left), "train")
        chosen[split].add(names[i])
        if split in room:
            room[split] -= size
    for name, share in shares.items():
        if not chosen[name]:
            raise InputError(
                f"{stems[0].trees}: no document fits into {name}, a share of {share:g}: the smallest of {len(sizes)} "
                f"documents has {min(sizes.values())} of {sum(sizes.values())} trees; give a larger share, or --{name}"
            )
    if not chosen["train"]:
        raise InputError(
            f"{stems[0].trees}: all {len(sizes)} documents went to {', '.join(shares)}, expected some for train; give "
            "a smaller share"
        )
    return chosen
