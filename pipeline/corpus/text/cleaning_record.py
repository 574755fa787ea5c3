"""Count what happens to each line of a text that is cleaned, and keep examples of changes and dropped lines."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pipeline.corpus.text.table_forms import as_cell
from pipeline.corpus.text.text_files import Line
from storage.fingerprints import Json

SAMPLES = 20
"""Maximum number of examples that are written for one source and reason."""
SAMPLE_CHARS = 200
"""Maximum number of characters in a cell of the table of examples. Longer cells are cut."""
COLUMNS = ("what", "source", "reason", "count", "file", "line", "text", "result")
"""Columns of the table of examples, which ``clean-text`` writes to ``OUT.dropped.tsv``."""
Kind = Literal["text", "blank", "header", "dropped"]


@dataclass(slots=True)
class _Counts:
    """The counts of one source."""

    lines: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    speakers: set[str] = field(default_factory=set)
    num_sentences: int = 0
    num_words: int = 0
    num_documents: int = 0

    def reasons(self) -> str:
        """Return how many lines gave no sentence, by reason, for an error message."""
        kinds = {"blank": self.lines["blank"], "headers": self.lines["header"], **self.dropped}
        return ", ".join(f"{num} {kind}" for kind, num in kinds.items() if num) or "an empty file"

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


@dataclass(slots=True)
class _Sample:
    """Keep every n-th row of a sequence, at most ``SAMPLES`` rows. When there would be more, n doubles."""

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


class CleaningRecord:
    """Count lines (each once), sentences, documents and speakers. Keep examples for each source and reason."""

    def __init__(self) -> None:
        self.by_source: dict[str, _Counts] = {}
        self._samples: defaultdict[tuple[str, str, str], _Sample] = defaultdict(_Sample)

    def begin(self, path: Path, source: str) -> None:
        """Begin a file of a source. The other methods then count for this source."""
        self._path, self._source, self._document = path, source, ""
        self._counts = self.by_source.setdefault(source, _Counts())

    def line(self, kind: Kind) -> None:
        """Count a line."""
        self._counts.lines[kind] += 1

    def dropped(self, reason: str, line: Line) -> None:
        """Count a line that is dropped, by reason."""
        self.line("dropped")
        self._counts.dropped[reason] += 1
        self._sample("dropped", reason, line, "")

    def repaired(self, reason: str, line: Line, result: str) -> None:
        """Count a change of a line. Call ``line`` to count the line itself."""
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

    def total(self) -> _Counts:
        """Return the counts over all sources."""
        total = _Counts()
        for counts in self.by_source.values():
            total.lines += counts.lines
            total.dropped += counts.dropped
            total.repaired += counts.repaired
            total.speakers |= counts.speakers
            total.num_sentences += counts.num_sentences
            total.num_words += counts.num_words
            total.num_documents += counts.num_documents
        return total

    def write_samples(self, file: IO[str]) -> None:
        """Write the table of examples. Tabs and line ends in a cell become spaces."""
        file.write("\t".join(COLUMNS) + "\n")
        for (what, source, reason), sample in sorted(self._samples.items()):
            for row in sample.kept:
                cells = (what, source, reason, str(sample.num_seen), *row)
                file.write("\t".join(as_cell(" ".join(cell.split())) for cell in cells) + "\n")

    def _sample(self, what: str, reason: str, line: Line, result: str) -> None:
        self._samples[what, self._source, reason].add(str(self._path), str(line.number), line.text, result)
