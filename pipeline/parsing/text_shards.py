"""Keep the files of an unfinished ``parse``: the gathered text, and the finished trees.

The text is divided into shards, which are groups of successive sentences. Each finished shard has a file of its trees.

    OUT.parts/text.*          the gathered text: the sentences of all inputs, see ``pipeline.parsing.text_input``
    OUT.parts/parse.json      everything that the trees depend on, and where each shard begins in text.txt
    OUT.parts/00012.jsonl     a finished shard: one JSON object per sentence, with its tree

A shard file is complete or absent, and depends only on what ``parse.json`` records. So an interrupted ``parse`` can
continue with any number of processes, and makes the same trees. ``parse`` removes the folder once ``OUT.mrg`` is
written.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pipeline.corpus.trees.trees import format_tree
from pipeline.parsing.sentence_parser import Outcome
from storage.errors import RunError, StoreBusyError, StoreError
from storage.files import cannot_write, make_directory, write_atomically
from storage.fingerprints import sha256_file
from storage.json_files import Count, read_json, read_json_lines

log = logging.getLogger(__name__)

DESCRIPTION: Final = "parse.json"


@dataclass(frozen=True, slots=True)
class TextShard:
    """Consecutive sentences of the gathered text."""

    number: int
    first: int
    """Number of the shard's first sentence, from 0."""
    num_sentences: int
    start: int
    """Offset of the shard's first byte in ``text.txt``."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Description:
    """The content of ``parse.json``."""

    depends_on: dict[str, Any]
    gathered: dict[str, Any]
    shards: list[tuple[Count, Count, Count, Count]]
    sha256: dict[str, str] = field(default_factory=dict)
    """Digests of the files of the gathered text, by name; empty in a file that an older version wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A sentence of a finished shard."""

    tree: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class TextShards:
    """The folder of an unfinished ``parse``."""

    path: Path

    @property
    def text(self) -> Path:
        """Path of the gathered text without its suffix."""
        return self.path / "text"

    def describe(self, depends_on: Mapping[str, Any], gathered: Mapping[str, Any], shard_sentences: int) -> None:
        """Divide the gathered text into shards and write ``parse.json``, which marks the text as complete."""
        shards, first, start = [], 0, 0
        with self.text.with_suffix(".txt").open("rb") as file:
            while sizes := [len(line) for line in islice(file, shard_sentences)]:
                shards.append([first, len(sizes), start, sum(sizes)])
                first, start = first + len(sizes), start + sum(sizes)
        digests = {file.name: sha256_file(file) for file in sorted(self.path.glob("text.*"))}
        about = {"depends_on": depends_on, "gathered": gathered, "shards": shards, "sha256": digests}
        write_atomically(self.path / DESCRIPTION, (json.dumps(about, indent=1) + "\n").encode())

    def remove(self) -> None:
        """Remove the folder. ``parse.json`` goes first, so that no ``parse`` continues from a part of the files."""
        (self.path / DESCRIPTION).unlink()
        shutil.rmtree(self.path)

    def clear(self) -> None:
        """Remove a text whose gathering was interrupted."""
        for file in self.path.glob("text.*"):
            file.unlink()

    def description(self) -> dict[str, Any] | None:
        """Return the content of ``parse.json``, or None if the file does not exist yet.

        Raises:
            RunError: If ``parse.json`` is damaged.
        """
        path = self.path / DESCRIPTION
        if not path.exists():
            return None
        remedy = f"remove {self.path} and start again"
        return asdict(read_json(path, _Description, remedy=remedy, error=RunError))

    def check_text(self) -> None:
        """Check the gathered text before an interrupted parse goes on.

        Raises:
            RunError: If a file of the text is missing or changed.
        """
        for name, expected in (self.description() or {}).get("sha256", {}).items():
            file = self.path / name
            if not file.is_file() or sha256_file(file) != expected:
                raise RunError(f"{file}: missing or damaged; remove {self.path} and start again")

    def shards(self) -> list[TextShard]:
        """Return all shards, in order."""
        return [TextShard(number, *row) for number, row in enumerate((self.description() or {}).get("shards", []))]

    def finished(self) -> set[int]:
        """Return the numbers of the finished shards."""
        return {int(file.stem) for file in self.path.glob("[0-9]*.jsonl")}

    def read_text(self, shard: TextShard) -> list[str]:
        """Return the sentences of a shard."""
        with self.text.with_suffix(".txt").open("rb") as file:
            file.seek(shard.start)
            return file.read(shard.size_bytes).decode().removesuffix("\n").split("\n")

    def write(self, shard: TextShard, outcomes: list[Outcome]) -> None:
        """Write a finished shard."""
        write_atomically(self._file(shard), encoded_rows(outcomes))

    def rows(self, shard: TextShard) -> Iterator[dict[str, str]]:
        """Yield an object for each sentence of a shard: ``tree`` and, after a failure, also ``reason`` and ``detail``.

        Raises:
            StoreError: If the file is damaged or does not have as many objects as the shard has sentences.
        """
        file, remedy = self._file(shard), "remove it and run the same command again"
        rows = [row for _, row in read_json_lines(file, _Row, remedy=remedy, error=StoreError)]
        if len(rows) != shard.num_sentences:
            raise StoreError(
                f"{file}: {len(rows)} trees, expected {shard.num_sentences}; remove it and run the same command again"
            )
        yield from ({name: value for name, value in asdict(row).items() if value is not None} for row in rows)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other ``parse`` commands out of the folder while the ``with`` body runs.

        Raises:
            StoreBusyError: If another process holds the folder.
        """
        make_directory(self.path)
        try:
            # Without O_NONBLOCK, a pipe of this name would block the command.
            file = os.fdopen(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "wb")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusyError(f"{self.path}: another process parses into it; wait for it, or stop it") from None
            try:
                yield
            except KeyboardInterrupt:
                log.warning(
                    "parse: stopped. The finished shards are in %s; run the same command again to continue", self.path
                )
                raise
            finally:
                if self.description() is None:  # the text was not gathered yet, so there is nothing to continue from
                    shutil.rmtree(self.path)

    def _file(self, shard: TextShard) -> Path:
        return self.path / f"{shard.number:05}.jsonl"


def encoded_rows(outcomes: Sequence[Outcome]) -> bytes:
    """Return the content of the file of a finished shard."""
    rows = [
        {"tree": format_tree(outcome.tree)}
        | ({"reason": outcome.reason, "detail": outcome.detail} if outcome.reason is not None else {})
        for outcome in outcomes
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
