"""Clean raw text to one sentence per line, with the document and speaker of each sentence.

Every line of the input is counted as text, blank, header or dropped. Changes are counted by reason, and examples of
changes and dropped lines are written for people to read. Memory grows only with the number of documents and speakers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from pipeline.corpus.text.babylm import BABYLM, SOURCES, Source, title_of
from pipeline.corpus.text.cleaning_record import CleaningRecord
from pipeline.corpus.text.corpus_config import CleanConfig
from pipeline.corpus.text.documents import (
    DOCS_SUFFIX,
    DROPPED_SUFFIX,
    NO_SPEAKER,
    SPEAKERS_SUFFIX,
    TABLE_SUFFIX,
    Document,
    write_document_table,
)
from pipeline.corpus.text.draft import Draft
from pipeline.corpus.text.file_forms import read_running_text
from pipeline.corpus.text.line_blocks import with_whole_cues, with_whole_notes, with_whole_tiers, without_licences
from pipeline.corpus.text.sentences import MAX_WORDS, has_word, split_long, split_sentences
from pipeline.corpus.text.subtitles import WORD_TIME, has_cues
from pipeline.corpus.text.text_files import (
    MAX_LINE_BYTES,
    Line,
    OnError,
    check_replaces_no_input,
    normalise_text,
    not_utf8,
)
from pipeline.corpus.text.wrapped_lines import is_wrapped, join_lines, words_of, wrapped_share
from storage.errors import ConfigError, InputError
from storage.files import beside, list_files, written_whole
from storage.fingerprints import Json

MAX_WORD_CHARS = 200
"""Maximum number of characters of a word. A sentence with a longer word is left out."""
HEAD_LINES = 2000
"""Number of lines at the beginning of a file that are examined to decide whether the file is hard-wrapped."""
MAX_WRAPPED_LINES = 1000
"""Maximum number of lines of a hard-wrapped paragraph. A longer paragraph is read in pieces of this size."""
OVERLONG_LINE = f"a line of over {MAX_LINE_BYTES >> 20} MiB"
OVERLONG_WORD = f"a word of over {MAX_WORD_CHARS} characters"

log = logging.getLogger(__name__)

Paragraph = list[tuple[Line, Draft]]


def clean_texts(
    texts: Sequence[Path], out_stem: Path, config: CleanConfig, progress: Callable[[int], None] | None = None
) -> dict[str, Json]:
    """Write ``OUT.txt``, one normalised sentence per line, and the files that describe its lines.

    ``OUT.docs`` names the document of each sentence. ``OUT.documents.tsv`` has one row per document. ``OUT.speakers``
    has the speaker of each sentence, or ``-`` if it is unknown. This file is written only for a source with speakers,
    such as ``childes``. ``OUT.dropped.tsv`` has examples of what was dropped and repaired. All files have temporary
    names while they are written, and ``OUT.txt`` is renamed last. So if it exists, even after the process was killed,
    all files are from the same call.

    Args:
        texts: Files, plain or gzipped, or folders. For a folder, all files below it except hidden ones are read, in the
            order of their names.
        out_stem: OUT. Its folder is created.
        config: The options of ``clean-text``. With ``source="babylm"``, each file must be named after a source of
            BabyLM, for example ``childes.train``.
        progress: Called with the number of lines read since the last call.

    Returns:
        ``num_files``, ``num_lines``, ``num_sentences``, ``num_words``, ``num_documents``, ``num_speakers``, ``lines``
        by kind, ``dropped`` and ``repaired`` by reason, and the same counts by source in ``sources``.

    Raises:
        ConfigError: If the source is unknown, ``wrapped`` is set for a source other than ``plain``, ``column`` is set
            but a file has no columns because it is plain text, a file is given twice, or an output would replace an
            input.
        InputError: If a file is not named after a source of BabyLM (only with ``source="babylm"``), a folder has no
            files, ``read_running_text`` cannot read a file, a line is not UTF-8 (only with ``on_error="stop"``), or no
            sentence is left. The error names the file, and the line if there is one.
        StoreError: If the files cannot be written.
    """
    files = _find_files(texts, config)
    has_speakers = any(SOURCES[name].has_speakers for _, name in files)
    suffixes = (DOCS_SUFFIX, TABLE_SUFFIX, DROPPED_SUFFIX, *[SPEAKERS_SUFFIX] * has_speakers, ".txt")
    stale = [
        beside(out_stem, suffix) for suffix in (".txt", DOCS_SUFFIX, TABLE_SUFFIX, DROPPED_SUFFIX, SPEAKERS_SUFFIX)
    ]
    check_replaces_no_input("clean-text", stale, (path for path, _ in files))
    source_name = " ".join(config.source_name.split())
    record, names = CleaningRecord(), _DocumentNames(source_name)
    with written_whole([beside(out_stem, suffix) for suffix in suffixes], stale=stale) as opened:
        out = dict(zip(suffixes, opened, strict=True))
        documents: list[Document] = []
        for path, name in files:
            for text, document, speaker in _clean_file(path, name, names, record, config, progress):
                out[".txt"].write(text + "\n")
                out[DOCS_SUFFIX].write(document + "\n")
                if has_speakers:
                    out[SPEAKERS_SUFFIX].write((speaker or NO_SPEAKER) + "\n")
                if not documents or documents[-1].document != document:
                    source = source_name or name
                    documents.append(Document(document=document, source=source, licence=config.licence))
        total = record.total()
        if not total.num_sentences:
            raise InputError(
                f"{files[0][0]}: no sentence left of {total.lines.total()} lines: {total.reasons()}; expected text"
            )
        write_document_table(out[TABLE_SUFFIX], documents)
        record.write_samples(out[DROPPED_SUFFIX])
    by_source: dict[str, Json] = {name: counts.to_json() for name, counts in record.by_source.items()}
    return {"num_files": len(files), **total.to_json(), "sources": by_source}


def _find_files(texts: Sequence[Path], config: CleanConfig) -> list[tuple[Path, str]]:
    """Return each file with the name of its source."""
    source = config.source
    if config.wrapped and source != "plain":
        raise ConfigError(
            f"clean-text: --wrapped is given with --source {source}, expected --source plain; leave one of them out"
        )
    if source != "babylm" and source not in SOURCES:
        raise ConfigError(f"clean-text: --source {source} is unknown; expected babylm or one of {', '.join(SOURCES)}")
    files = []
    for path in texts:
        if path.is_dir():
            below = [path / name for name in list_files(path)]
            visible = [file for file in below if not any(part[0] == "." for part in file.relative_to(path).parts)]
            if not visible:
                raise InputError(f"{path}: this folder has no files, expected files of text; give another folder")
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
            f"{', '.join(BABYLM)}, with an ending such as .train. Move the file away, or give its source with --source"
        )
    return [(path, path.name.split(".")[0]) for path in files]


def _clean_file(
    path: Path,
    name: str,
    names: "_DocumentNames",
    record: CleaningRecord,
    config: CleanConfig,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[str, str, str]]:
    """Yield the text, document and speaker of each sentence. The speaker is empty if unknown."""
    source = SOURCES[name]
    record.begin(path, name)
    lines = read_running_text(path, column=config.column, on_error=config.on_error, is_subtitles=source.is_subtitles)
    head = list(islice(lines, HEAD_LINES))
    texts = [line.text for line in head]
    has_records = any(line.begins_document for line in head)
    is_timed = source.is_subtitles and has_cues(texts)
    ends_inside = source.has_headers or (source.has_blanks and not config.wrapped and not is_timed) or has_records
    names.begin(path, name, is_whole=not ends_inside)
    joins = config.wrapped or (source.may_be_wrapped and is_wrapped(texts))
    if name == "plain" and not joins and (share := wrapped_share(texts)):
        log.warning(
            "%s: looks hard-wrapped: %.0f %% of its lines end inside a sentence and are about equally long. Each line "
            "becomes a sentence of its own. Give --wrapped to join the lines of each paragraph",
            path,
            100 * share,
        )
    lines = _decodable(chain(head, lines), path, record, config.on_error, progress)
    if source.has_notes:
        lines = with_whole_notes(without_licences(lines, record), record)
    if source.has_tiers:
        lines = with_whole_tiers(lines, record)
    if is_timed:
        lines = with_whole_cues(lines, record, is_rolling=any(map(WORD_TIME.search, texts)))
    ends_at_blank = source.has_blanks and not has_records and not config.wrapped
    words = words_of(texts) if joins else frozenset()
    for paragraph in _paragraphs(lines, source, names, record, joins=joins, ends_at_blank=ends_at_blank):
        speaker = paragraph[0][1].speaker
        for text in _split(paragraph, source, record, words):
            document = names.use()
            record.sentence(text, document, speaker)
            yield text, document, speaker


def _paragraphs(
    lines: Iterator[Line],
    source: Source,
    names: "_DocumentNames",
    record: CleaningRecord,
    *,
    joins: bool,
    ends_at_blank: bool,
) -> Iterator[Paragraph]:
    """Yield lists of lines: one list per paragraph if ``joins`` is true, else one list per line.

    Blank lines, headers and dropped lines are counted and not yielded. The function also tells ``names`` where a new
    document begins.
    """
    waiting: Paragraph = []
    for line in lines:
        text = normalise_text(line.text)
        title = title_of(text) if source.has_headers else ""
        if waiting and (line.begins_document or not text or title or len(waiting) == MAX_WRAPPED_LINES):
            yield waiting
            waiting = []
        if line.begins_document:
            names.next()
        if title:
            record.line("header")
            names.next(title)
        elif not text:
            record.line("blank")
            if ends_at_blank:
                names.next()
        else:
            draft = _draft(text, source)
            if draft.dropped:
                record.dropped(draft.dropped, line)
            elif joins:
                waiting.append((line, draft))
            else:
                yield [(line, draft)]
    if waiting:
        yield waiting


def _draft(text: str, source: Source) -> Draft:
    """Apply the rules of a source to a line; return the result."""
    draft = Draft(text)
    source.rules(draft)
    if not draft.dropped and not has_word(draft.text):
        draft.dropped = "no letter or digit"
    return draft


def _split(paragraph: Paragraph, source: Source, record: CleaningRecord, words: frozenset[str]) -> list[str]:
    """Return the sentences of a paragraph. Count its lines as text or dropped."""
    found: list[str] = []
    _, first = paragraph[0]
    joined, has_removed = join_lines(((draft.text, line.text) for line, draft in paragraph), words)
    if has_removed:
        first.repaired.append("hyphen at a line end removed")
    for turn in joined.split("\n"):
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


def _decodable(
    lines: Iterator[Line], path: Path, record: CleaningRecord, on_error: OnError, progress: Callable[[int], None] | None
) -> Iterator[Line]:
    """Yield the lines that can be read; count the others as dropped."""
    for line in lines:
        if progress is not None:
            progress(1)
        if line.fault:
            record.dropped("object or row without text", line)
        elif not line.is_whole:
            record.dropped(OVERLONG_LINE, line)
        elif line.is_utf8:
            yield line
        elif on_error == "stop":
            raise not_utf8(path, line.number)
        else:
            record.dropped("not UTF-8", line)


class _DocumentNames:
    """Give each document a unique name: SOURCE/TITLE if it has a title.

    Without a title, the name is SOURCE/FILE if the whole file is one document, else SOURCE/FILE:NUMBER.
    """

    def __init__(self, source_name: str) -> None:
        self._source_name = source_name
        self._given: set[str] = set()
        self._current = ""

    def begin(self, path: Path, source: str, *, is_whole: bool) -> None:
        """Begin a file. If ``is_whole`` is true, the whole file is one document."""
        self._source = self._source_name or source
        self._file, self._is_whole = path.name.removesuffix(".gz"), is_whole
        self._num_untitled = 0
        self._current = self._title = ""

    def next(self, title: str = "") -> None:
        """Begin a new document. Without a title, nothing happens if the current document has no text yet."""
        if title or self._current:
            self._current, self._title = "", title

    def use(self) -> str:
        """Return the name of the current document. A document gets its name with its first sentence."""
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
