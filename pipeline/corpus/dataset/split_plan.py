"""Which sentences of which files make which split: files named for it, or whole documents drawn at random.

A document is never cut: sentences of one text are alike, and a model that has seen half of a document is no longer
evaluated on new text by the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.documents import (
    TABLE_SUFFIX,
    Document,
    DocumentRuns,
    find_documents,
    parsed_by,
    read_document_runs,
)
from pipeline.corpus.text.text_files import find_file
from storage.errors import InputError


class StemFiles(NamedTuple):
    """The files of a STEM."""

    trees: Path
    texts: Path
    documents: Path | None
    table: Path | None
    parsed_by: str
    """What made the trees, where a parser did."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """What a split takes of one STEM."""

    files: StemFiles
    document_ids: NDArray[np.int32] | None
    """``[num_trees]``: the document of each tree, numbered from 1 within the split; 0 if it goes elsewhere. None:
    documents are not known, and all trees are taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitPlan:
    """What a split is made of."""

    name: str
    parts: Sequence[Part]
    documents: tuple[Document, ...]
    """Document 1 first."""

    @property
    def trees(self) -> str:
        """The files of trees, for messages."""
        return ", ".join(str(part.files.trees) for part in self.parts)


def plan_splits(stems: Mapping[str, Sequence[Path]], shares: Mapping[str, float], *, seed: int) -> dict[str, SplitPlan]:
    """Return the splits: ``train`` and others, each of its own files or drawn from the documents of train's.

    Documents are taken in a random order into the first split of ``shares`` that still has room for all their
    sentences; what is left is train. So a share is never exceeded, and missed by less than one document.

    Args:
        stems: STEMs by split.
        shares: Of the trees of train's files, by split.
        seed: Of the order.

    Raises:
        InputError: If files are missing or malformed, two STEMs of a split have a document of one name, documents are
            needed and not known, or no document fits into a share.
    """
    found = {name: [find_stem(stem) for stem in of_split] for name, of_split in stems.items()}
    runs = {name: [_runs(files) for files in of_split] for name, of_split in found.items()}
    plans = {}
    for name, of_split in found.items():
        _check_names(of_split, runs[name])
        if name != "train" or not shares:
            plans[name] = _plan(name, of_split, runs[name], None)
    if shares:
        drawn = _draw(found["train"], runs["train"], shares, seed)
        for name, chosen in drawn.items():
            plans[name] = _plan(name, found["train"], runs["train"], chosen)
    return {name: plans[name] for name in ("train", "dev", "test") if name in plans}


def find_stem(stem: Path) -> StemFiles:
    """Return the files of a STEM.

    Raises:
        InputError: If trees or text are missing, a file is there twice, or a table of documents stands alone.
    """
    documents, table = find_documents(stem), find_documents(stem, TABLE_SUFFIX)
    if table is not None and documents is None:
        raise InputError(
            f"{table}: a table of documents without {stem.name}.docs, which says what trees they have; add or remove"
        )
    return StemFiles(find_file(stem, ".mrg"), find_file(stem, ".txt"), documents, table, parsed_by(stem))


def _runs(files: StemFiles) -> DocumentRuns | None:
    return None if files.documents is None else read_document_runs(files.documents, files.table)


def _check_names(stems: Sequence[StemFiles], runs: Sequence[DocumentRuns | None]) -> None:
    seen: dict[str, StemFiles] = {}
    for files, of_stem in zip(stems, runs, strict=True):
        for name in dict.fromkeys(document.document for document in of_stem.documents) if of_stem else ():
            if name in seen:
                raise InputError(
                    f"{files.documents}: document {name!r} is in {seen[name].documents} too; expected another name, "
                    "or each pair of trees and text given once"
                )
            seen[name] = files


def _plan(
    name: str, stems: Sequence[StemFiles], runs: Sequence[DocumentRuns | None], chosen: set[str] | None
) -> SplitPlan:
    parts, documents = [], []
    for files, of_stem in zip(stems, runs, strict=True):
        if of_stem is None:
            parts.append(Part(files=files, document_ids=None))
            continue
        ids = np.zeros(len(of_stem.documents), np.int32)
        for number, document in enumerate(of_stem.documents):
            if chosen is None or document.document in chosen:
                documents.append(document)
                ids[number] = len(documents)
        if ids.any() or chosen is None:
            parts.append(Part(files=files, document_ids=ids[of_stem.numbers]))
    return SplitPlan(name=name, parts=parts, documents=tuple(documents))


def _draw(
    stems: Sequence[StemFiles], runs: Sequence[DocumentRuns | None], shares: Mapping[str, float], seed: int
) -> dict[str, set[str]]:
    sizes: dict[str, int] = {}
    for files, of_stem in zip(stems, runs, strict=True):
        if of_stem is None:
            raise InputError(
                f"{files.trees}: no file of documents beside it, and a share of the documents is asked for; add the "
                "name of each tree's document (import-trees --documents), or name the split's own files"
            )
        counts = np.bincount(of_stem.numbers, minlength=len(of_stem.documents))
        for document, count in zip(of_stem.documents, counts.tolist(), strict=True):
            sizes[document.document] = sizes.get(document.document, 0) + count
    room = {name: round(share * sum(sizes.values())) for name, share in shares.items()}
    chosen: dict[str, set[str]] = {name: set() for name in ("train", *shares)}
    names = list(sizes)
    for i in np.random.default_rng(seed).permutation(len(names)):
        size = sizes[names[i]]
        to = next((name for name, left in room.items() if size <= left), "train")
        chosen[to].add(names[i])
        if to in room:
            room[to] -= size
    for name, share in shares.items():
        if not chosen[name]:
            raise InputError(
                f"{stems[0].trees}: no document fits into {name}, a share of {share:g}: the smallest of {len(sizes)} "
                f"has {min(sizes.values())} of {sum(sizes.values())} trees; give a larger share, or its own files"
            )
    if not chosen["train"]:
        raise InputError(f"{stems[0].trees}: all {len(sizes)} documents went to {', '.join(shares)}; nothing to train")
    return chosen
