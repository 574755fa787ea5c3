"""What ``parse`` keeps while it works: the gathered text and a file for each finished shard of it.

    OUT.parts/text.*          the text, as ``pipeline.parsing.text_input`` says
    OUT.parts/parse.json      what the trees depend on, and where each shard begins in text.txt
    OUT.parts/00012.jsonl     a finished shard: a JSON object a sentence, with its tree

A shard is whole or absent, and depends on the text, the model and the options alone; so whoever goes on, with
however many workers, ends with the same trees. The folder goes when ``OUT.mrg`` is whole.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.corpus.trees.trees import format_tree
from pipeline.parsing.sentence_parser import Outcome
from storage.errors import RunError, StoreBusyError, StoreError
from storage.files import cannot_write, make_directory, write_atomically

log = logging.getLogger(__name__)

DESCRIPTION: Final = "parse.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive sentences of the text."""

    number: int
    first: int
    """Sentence, from 0."""
    num_sentences: int
    start: int
    """Byte of ``text.txt`` where it begins."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of a ``parse`` under way."""

    path: Path

    @property
    def text(self) -> Path:
        """STEM of the gathered text."""
        return self.path / "text"

    def describe(self, depends_on: Mapping[str, Any], gathered: Mapping[str, Any], shard_sentences: int) -> None:
        """Cut the gathered text into shards and write down what was decided; the text is complete with this."""
        shards = [
            [shard.first, shard.num_sentences, shard.start, shard.size_bytes]
            for shard in _cut(self.text.with_suffix(".txt"), shard_sentences)
        ]
        about = {"depends_on": depends_on, "gathered": gathered, "shards": shards}
        write_atomically(self.path / DESCRIPTION, (json.dumps(about, indent=1) + "\n").encode())

    def clear(self) -> None:
        """Remove a text that was not gathered to its end."""
        for file in self.path.glob("text.*"):
            file.unlink()

    def description(self) -> dict[str, Any] | None:
        """Return what ``describe`` wrote, None where it has not yet."""
        try:
            found: dict[str, Any] = json.loads((self.path / DESCRIPTION).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(
                f"{self.path / DESCRIPTION}: damaged ({error}); remove {self.path} and start again"
            ) from error
        return found

    def shards(self) -> list[Shard]:
        """Return all shards, in order."""
        return [Shard(number, *row) for number, row in enumerate((self.description() or {})["shards"])]

    def finished(self) -> set[int]:
        """Return the numbers of the shards that are there."""
        return {int(file.stem) for file in self.path.glob("[0-9]*.jsonl")}

    def read_text(self, shard: Shard) -> list[str]:
        """Return the sentences of a shard."""
        with self.text.with_suffix(".txt").open("rb") as file:
            file.seek(shard.start)
            return file.read(shard.size_bytes).decode().removesuffix("\n").split("\n")

    def write(self, shard: Shard, outcomes: list[Outcome]) -> None:
        """Write a finished shard."""
        rows = [
            {"tree": format_tree(outcome.tree)}
            | ({"reason": outcome.reason, "detail": outcome.detail} if outcome.reason is not None else {})
            for outcome in outcomes
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(self._file(shard), lines.encode())

    def rows(self, shard: Shard) -> Iterator[dict[str, str]]:
        """Yield ``tree``, and where there was no parse ``reason`` and ``detail``, of each sentence of a shard.

        Raises:
            StoreError: If the file is not what was written.
        """
        file = self._file(shard)
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: damaged ({error}); remove it and run the same command again") from error
        if len(rows) != shard.num_sentences:
            raise StoreError(
                f"{file}: {len(rows)} trees, expected {shard.num_sentences}; remove it and run the same command again"
            )
        yield from rows

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out while the block runs.

        Raises:
            StoreBusyError: If another one works here.
        """
        make_directory(self.path)
        try:
            file = (self.path / "lock").open("wb")
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
                log.warning("parse: stopped; %s has what is finished, and the same command goes on", self.path)
                raise
            finally:
                if self.description() is None:  # nothing was begun
                    shutil.rmtree(self.path)

    def _file(self, shard: Shard) -> Path:
        return self.path / f"{shard.number:05}.jsonl"


def _cut(text: Path, shard_sentences: int) -> Iterator[Shard]:
    number = first = start = size_bytes = num_sentences = 0
    with text.open("rb") as file:
        for line in file:
            num_sentences += 1
            size_bytes += len(line)
            if num_sentences == shard_sentences:
                yield Shard(number, first, num_sentences, start, size_bytes)
                number, first, start = number + 1, first + num_sentences, start + size_bytes
                num_sentences = size_bytes = 0
    if num_sentences:
        yield Shard(number, first, num_sentences, start, size_bytes)
