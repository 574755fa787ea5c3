"""``clean-text``: files of raw text to one sentence a line, with the document and speaker of each.

Every line of the input is text, blank, a header or dropped under a reason; what the rules of a source changed is
counted under theirs, and a sample of both is written for people. Lines are read one at a time: memory grows with the
number of documents, whose names must differ, and with nothing else.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from pipeline.corpus.text.babylm import BABYLM, SOURCES, Draft, Source, title_of
from pipeline.corpus.text.cleaning_record import Record
from pipeline.corpus.text.documents import SPEAKERS_SUFFIX, SUFFIX, TABLE_SUFFIX, Document, write_document_table
from pipeline.corpus.text.sentences import MAX_WORDS, has_word, split_long, split_sentences
from pipeline.corpus.text.text_files import Line, OnError, normalise_text, not_utf8, read_lines
from storage.errors import ConfigError, InputError
from storage.files import beside, list_files, written_whole
from storage.fingerprints import Json

DROPPED_SUFFIX = ".dropped.tsv"
NO_SPEAKER = "-"
MAX_WORD_CHARS = 200
"""Of the longest word that a kept sentence has; what is longer is no word."""
HEAD_LINES = 2000
"""At the beginning of a file, which show whether its lines are hard-wrapped."""
TREE_LINES = 100
"""At the beginning of a file, which show whether it holds trees."""
WRAPPED_CHARS = 100
"""Of the longest line of a hard-wrapped file, but for one in a hundred."""
MAX_WRAPPED_LINES = 1000
"""Of a paragraph; what is longer is no prose, and is taken in pieces of that size."""
PROGRESS_LINES = 1000

OVERLONG_WORD = f"a word of over {MAX_WORD_CHARS} characters"

Paragraph = list[tuple[Line, Draft]]

_TREE = re.compile(r"\s*\(\s*[^\s()]*\s*(?:\(|$)")


class Sentence(NamedTuple):
    """A line of OUT.txt with what stands beside it."""

    text: str
    document: str
    speaker: str
    """Empty where there is none."""


def clean_texts(
    paths: Sequence[Path],
    out_stem: Path,
    *,
    source: str,
    licence: str = "",
    on_error: OnError = "stop",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Json]:
    """Write ``OUT.txt``, a normalised sentence a line, and what belongs to it, line by line.

    ``OUT.docs`` names the document of each sentence, ``OUT.documents.tsv`` has a row for each document,
    ``OUT.speakers`` the speaker of each sentence or ``-`` (only if a source has speakers), and ``OUT.dropped.tsv`` a
    sample of what was dropped and repaired. All files appear whole or not at all; what was there is replaced.

    Args:
        paths: Files, plain or gzipped, or folders: all files below them but hidden ones, by name.
        out_stem: OUT; its folder is made.
        source: A name of ``SOURCES`` for all files, or "babylm": each file's name says which source of BabyLM it is.
        licence: Of all documents, for the table.
        on_error: "stop" at the first line that is not UTF-8, or "skip" and count it.
        progress: Called with the number of lines read since the last call.

    Returns:
        ``num_files``, ``num_lines``, ``num_sentences``, ``num_words``, ``num_documents``, ``num_speakers``, ``lines``
        by what they are, ``dropped`` and ``repaired`` by reason, and the same by source in ``sources``.

    Raises:
        ConfigError: If the source is unknown, or an output would replace an input.
        InputError: Naming file and line where there is one: a file of an unknown source, trees instead of text, a
            folder without files; also if no sentence is left.
        StoreError: If the files cannot be written.
    """
    files = _files(paths, source)
    has_speakers = any(SOURCES[name].has_speakers for _, name in files)
    outputs = _outputs(out_stem, {path.resolve() for path, _ in files}, has_speakers=has_speakers)
    record, names = Record(), _Names()
    with written_whole(outputs) as (txt, docs, table, dropped, *speakers):
        documents: list[Document] = []
        for path, name in files:
            for sentence in _clean_file(path, name, names, record, on_error, progress):
                txt.write(sentence.text + "\n")
                docs.write(sentence.document + "\n")
                if speakers:
                    speakers[0].write((sentence.speaker or NO_SPEAKER) + "\n")
                if not documents or documents[-1].document != sentence.document:
                    documents.append(Document(document=sentence.document, source=name, licence=licence))
        if not record.num_sentences:
            raise InputError(
                f"{files[0][0]}: no sentence left of {record.num_lines} lines: {record.why()}; expected text"
            )
        write_document_table(table, documents)
        record.write_sample(dropped)
    if not has_speakers:
        beside(out_stem, SPEAKERS_SUFFIX).unlink(missing_ok=True)  # of what was there before
    return {"num_files": len(files), **record.to_json()}


def _outputs(out_stem: Path, inputs: set[Path], *, has_speakers: bool) -> list[Path]:
    suffixes = (".txt", SUFFIX, TABLE_SUFFIX, DROPPED_SUFFIX, *[SPEAKERS_SUFFIX] * has_speakers)
    outputs = [beside(out_stem, suffix) for suffix in suffixes]
    for path in outputs:
        if path.resolve() in inputs:
            raise ConfigError(f"clean-text: {path} is read and would be replaced; give another --out")
    return outputs


def _files(paths: Sequence[Path], source: str) -> list[tuple[Path, str]]:
    """Return each file with the name of its source."""
    if source != "babylm" and source not in SOURCES:
        raise ConfigError(f"clean-text: --source {source} is unknown; expected babylm or one of {', '.join(SOURCES)}")
    files = []
    for path in paths:
        if path.is_dir():
            below = [path / name for name in list_files(path)]
            visible = [file for file in below if not any(part[0] == "." for part in file.relative_to(path).parts)]
            if not visible:
                raise InputError(f"{path}: a folder without files; expected files of text")
            files += visible
        else:
            files.append(path)
    if twice := {str(path) for path, times in Counter(files).items() if times > 1}:
        raise ConfigError(f"clean-text: {', '.join(sorted(twice))} given twice; name each file once")
    if source != "babylm":
        return [(path, source) for path in files]
    if unknown := [str(path) for path in files if path.name.split(".")[0] not in BABYLM]:
        raise InputError(
            f"{', '.join(unknown[:3])}{', …' * (len(unknown) > 3)}: no source of BabyLM has this name; expected "
            f"{', '.join(BABYLM)}, with an ending such as .train; move the file away, or name its --source"
        )
    return [(path, path.name.split(".")[0]) for path in files]


def _clean_file(
    path: Path,
    name: str,
    names: "_Names",
    record: Record,
    on_error: OnError,
    progress: Callable[[int], None] | None,
) -> Iterator[Sentence]:
    source = SOURCES[name]
    record.begin(path, name)
    names.begin(path, name, is_whole=not (source.has_headers or source.has_blanks))
    lines = read_lines(path)
    head = list(islice(lines, HEAD_LINES))
    _refuse_trees(path, head)
    is_wrapped = source.may_be_wrapped and _is_wrapped(head)
    lines = _decodable(_counted(chain(head, lines), progress), path, record, on_error)
    for paragraph in _paragraphs(lines, source, names, record, is_wrapped=is_wrapped):
        sentences = _split(paragraph, source, record)
        speaker = paragraph[0][1].speaker
        for text in sentences:
            document = names.use()
            record.sentence(text, document, speaker)
            yield Sentence(text, document, speaker)


def _paragraphs(
    lines: Iterator[Line], source: Source, names: "_Names", record: Record, *, is_wrapped: bool
) -> Iterator[Paragraph]:
    """Yield what is language, a line or the lines of a paragraph at a time; count and name on the way."""
    waiting: Paragraph = []
    for line in lines:
        text = normalise_text(line.text)
        title = title_of(text) if source.has_headers else ""
        if waiting and (not text or title or len(waiting) == MAX_WRAPPED_LINES):
            yield waiting
            waiting = []
        if title:
            record.line("header")
            names.next(title)
        elif not text:
            record.line("blank")
            if source.has_blanks:
                names.next()
        else:
            draft = Draft(text)
            source.rules(draft)
            if not draft.dropped and not has_word(draft.text):
                draft.dropped = "no letter or digit"
            if draft.dropped:
                record.dropped(draft.dropped, line)
            elif is_wrapped:
                waiting.append((line, draft))
            else:
                yield [(line, draft)]
    if waiting:
        yield waiting


def _split(paragraph: Paragraph, source: Source, record: Record) -> list[str]:
    """Return the sentences of a paragraph, and count its lines."""
    found: list[str] = []
    _, first = paragraph[0]
    for turn in " ".join(draft.text for _, draft in paragraph).split("\n"):
        text = normalise_text(turn)
        if has_word(text):
            found += split_sentences(text) if source.is_prose else [text]
    whole = [text for text in found if len(text) <= MAX_WORD_CHARS or max(map(len, text.split())) <= MAX_WORD_CHARS]
    if not whole:
        for line, _ in paragraph:
            record.dropped(OVERLONG_WORD, line)
        return []
    if len(whole) < len(found):
        first.repaired.append(f"sentence left out: {OVERLONG_WORD}")
    short = [part for text in whole for part in split_long(text)]
    if len(short) > len(whole):
        first.repaired.append(f"sentence of over {MAX_WORDS} words cut")
    for number, (line, draft) in enumerate(paragraph):
        record.line("text")
        for reason in (*draft.repaired, *["hard-wrapped line joined"] * (number > 0)):
            record.repaired(reason, line, draft.text)
    return short


def _refuse_trees(path: Path, head: Sequence[Line]) -> None:
    full = [line.text for line in head if line.text.strip()][:TREE_LINES]
    if full and sum(bool(_TREE.match(text)) for text in full) * 2 > len(full):
        raise InputError(f"{path}: looks like bracketed trees, expected text; use import-trees for trees")


def _is_wrapped(head: Sequence[Line]) -> bool:
    """Whether paragraphs go over several short lines, with blank lines between them."""
    full = [line.text for line in head if line.text.strip()]
    return len(full) < len(head) and sum(len(text) > WRAPPED_CHARS for text in full) * 100 <= len(full)


def _counted(lines: Iterator[Line], progress: Callable[[int], None] | None) -> Iterator[Line]:
    since = 0
    for line in lines:
        yield line
        since += 1
        if progress is not None and since == PROGRESS_LINES:
            progress(since)
            since = 0
    if progress is not None and since:
        progress(since)


def _decodable(lines: Iterator[Line], path: Path, record: Record, on_error: OnError) -> Iterator[Line]:
    """Yield the lines that are UTF-8, and count those that are not."""
    for line in lines:
        if line.is_utf8:
            yield line
        elif on_error == "stop":
            raise not_utf8(path, line.number)
        else:
            record.dropped("not UTF-8", line)


class _Names:
    """Names of documents, no two the same: SOURCE/title where there is one, SOURCE/FILE or SOURCE/FILE:n else."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._current = ""

    def begin(self, path: Path, source: str, *, is_whole: bool) -> None:
        """Begin a file; ``is_whole`` if it is one document."""
        self._source, self._file, self._is_whole = source, path.name.removesuffix(".gz"), is_whole
        self._num_untitled = 0
        self._current = self._title = ""

    def next(self, title: str = "") -> None:
        """Begin another document, unless there is no title and no text since the last one began."""
        if title or self._current:
            self._current, self._title = "", title

    def use(self) -> str:
        """Return the name of the current document, given when it is first used."""
        if not self._current:
            self._num_untitled += not self._title
            untitled = self._file if self._is_whole else f"{self._file}:{self._num_untitled}"
            name = found = f"{self._source}/{self._title or untitled}"
            copy = 1
            while found in self._given:
                copy += 1
                found = f"{name} ({copy})"
            self._given.add(found)
            self._current = found
        return self._current
