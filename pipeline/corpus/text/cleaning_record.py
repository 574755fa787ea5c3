"""What ``clean-text`` did to each line, counted by source and reason, with a few of the lines for people to read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pipeline.corpus.text.text_files import Line
from storage.fingerprints import Json

SAMPLES = 20
"""Most lines of a source that are shown for one reason."""
SAMPLE_CHARS = 200
COLUMNS = ("what", "source", "reason", "count", "file", "line", "text", "result")

Kind = Literal["text", "blank", "header", "dropped"]


@dataclass(slots=True)
class _Sample:
    """Some of a sequence, spread evenly over it whatever its length: every n-th, n doubling when there are too many."""

    num_seen: int = 0
    every: int = 1
    kept: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *row: str) -> None:
        if self.num_seen % self.every == 0:
            if len(self.kept) == SAMPLES:
                self.kept = self.kept[::2]
                self.every *= 2
            if self.num_seen % self.every == 0:
                self.kept.append(tuple(cell[:SAMPLE_CHARS] for cell in row))
        self.num_seen += 1


@dataclass(slots=True)
class _Counts:
    lines: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    speakers: set[str] = field(default_factory=set)
    num_sentences: int = 0
    num_words: int = 0
    num_documents: int = 0

    def to_json(self) -> dict[str, Json]:
        return {
            "num_lines": self.lines.total(),
            "num_sentences": self.num_sentences,
            "num_words": self.num_words,
            "num_documents": self.num_documents,
            "num_speakers": len(self.speakers),
            "lines": {kind: self.lines[kind] for kind in ("text", "blank", "header", "dropped")},
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
        }


class Record:
    """Counts every line once, and sentences, documents and speakers; keeps a sample for each reason."""

    def __init__(self) -> None:
        self._by_source: dict[str, _Counts] = {}
        self._samples: dict[tuple[str, str, str], _Sample] = {}

    def begin(self, path: Path, source: str) -> None:
        """Count what follows under this file and source."""
        self._path, self._source, self._document = path, source, ""
        self._counts = self._by_source.setdefault(source, _Counts())

    def line(self, kind: Kind) -> None:
        """Count a line."""
        self._counts.lines[kind] += 1

    def dropped(self, reason: str, line: Line) -> None:
        """Count a line that is left out."""
        self.line("dropped")
        self._counts.dropped[reason] += 1
        self._sample("dropped", reason, line, "")

    def repaired(self, reason: str, line: Line, result: str) -> None:
        """Count a change of a line; a line can have several, and is counted by ``line`` besides."""
        self._counts.repaired[reason] += 1
        self._sample("repaired", reason, line, result)

    def sentence(self, text: str, document: str, speaker: str) -> None:
        """Count a sentence that is written."""
        counts = self._counts
        counts.num_sentences += 1
        counts.num_words += text.count(" ") + 1
        if document != self._document:
            counts.num_documents += 1
            self._document = document
        if speaker:
            counts.speakers.add(speaker)

    @property
    def num_sentences(self) -> int:
        """Over all sources."""
        return self._total().num_sentences

    @property
    def num_lines(self) -> int:
        """Over all sources."""
        return self._total().lines.total()

    def why(self) -> str:
        """Return for people what the lines were."""
        total = self._total()
        kinds = {"blank": total.lines["blank"], "headers": total.lines["header"], **total.dropped}
        return ", ".join(f"{num} {kind}" for kind, num in kinds.items() if num) or "an empty file"

    def to_json(self) -> dict[str, Json]:
        """Return all counts, and those by source."""
        by_source: dict[str, Json] = {name: counts.to_json() for name, counts in self._by_source.items()}
        return {**self._total().to_json(), "sources": by_source}

    def write_sample(self, file: IO[str]) -> None:
        """Write the table of samples; tabs and line ends in a cell become spaces."""
        file.write("\t".join(COLUMNS) + "\n")
        for (what, source, reason), sample in sorted(self._samples.items()):
            for row in sample.kept:
                _write_row(file, (what, source, reason, str(sample.num_seen), *row))

    def _sample(self, what: str, reason: str, line: Line, result: str) -> None:
        sample = self._samples.get((what, self._source, reason))
        if sample is None:
            sample = self._samples[what, self._source, reason] = _Sample()
        sample.add(str(self._path), str(line.number), line.text, result)

    def _total(self) -> _Counts:
        total = _Counts()
        for counts in self._by_source.values():
            total.lines += counts.lines
            total.dropped += counts.dropped
            total.repaired += counts.repaired
            total.speakers |= counts.speakers
            total.num_sentences += counts.num_sentences
            total.num_words += counts.num_words
            total.num_documents += counts.num_documents
        return total


def _write_row(file: IO[str], cells: Iterable[str]) -> None:
    file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")
