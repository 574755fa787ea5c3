r"""Read the sentences whose surprisals are wanted: their words, the text before them, and what identifies them.

    a text      one sentence per line
    a table     a column of a CSV or TSV file, or a field of JSON lines. Each row is a sentence
    regions     a table with one row per region, as experiments of self-paced reading have. The rows of one sentence
                must follow one another. They have the same values in the columns that the option --item names. These
                values are the sentence's item. The texts of the rows, joined with spaces, are the sentence, and each
                row is a word of it

Models that were trained on documents can read the text before a sentence. This text comes from a file with a line for
each sentence, or from the lines before the sentence. The model reads ``<bos> earlier sentence <bos> sentence``, as in
training. If this is too long, the oldest sentences are left out. If not even the sentence right before the scored one
fits, only its last tokens are kept.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.file_forms import (
    Record,
    check_columns,
    form_of,
    not_a_text,
    read_head,
    read_records,
    refuse_unless_text,
    text_column,
)
from pipeline.corpus.text.sentences import split_sentences
from pipeline.corpus.text.text_files import Line, OnError, normalise_text, read_lines
from pipeline.corpus.trees.matching import Span
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.scorer import BLOCK_SENTENCES
from pipeline.evaluation.words import (
    SpanFile,
    around_added_tokens,
    check_words,
    read_frequencies,
    spaced_words,
    words_of_tokens,
)
from storage.errors import ConfigError, InputError

_NUMBER: Final = re.compile(r"\d{1,18}(?:\.\d{1,18})?")
"""The number of a region, as ``2`` or ``2.0``. Programs write ``2.0`` if another cell of the column is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stimulus:
    """A sentence as a model reads it."""

    number: int
    """Number of the sentence, from 1: the number of its line in a text, of its row in a table (not counting the
    header), or of its item if a table has one row per region."""
    line: int
    """Number of the first line of the sentence in the file, from 1, for error messages."""
    text: str
    """Normalised, not empty."""
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    word_spans: list[Span]
    """Characters of ``text`` that each word covers. Only spaces belong to no word."""
    words: NDArray[np.int64]
    """``[n]``: the number of the word that each token belongs to, from 0."""
    item: tuple[str, ...] = ()
    """Values of the columns that ``SurprisalConfig.item`` names."""
    regions: tuple[str, ...] = ()
    """Values of the column that ``SurprisalConfig.region`` names, one per word; empty if it names no column."""
    before: list[int] = field(default_factory=list)
    """Token ids of the text before this sentence, with a ``<bos>`` after each sentence of that text. Empty if there is
    no such text. The model reads another ``<bos>`` before these ids."""
    num_cut: int = 0
    """Number of tokens that were left out of the text before the sentence, because they did not fit."""


def read_stimuli(
    path: Path,
    tokenizer: Tokenizer,
    config: SurprisalConfig,
    *,
    max_tokens: int | None,
    context_positions: int,
    dropped: Counter[str],
) -> Iterator[Stimulus]:
    """Yield the sentences of a text or a table, plain or gzipped.

    A sentence is faulty if it is not UTF-8, malformed, empty, or longer than ``max_tokens``, or if one of its tokens
    has parts of two words. With a file ``config.spans``, it is also faulty if the spans do not cover it, or if
    normalisation changes it. ``config.on_error`` says whether this function stops at a faulty sentence, or skips it and
    counts it by reason in ``dropped``. With regions, a malformed row is an error in any case. Empty lines that separate
    documents are not faulty.

    ``max_tokens`` is the length of the longest sentence that the model can score, without ``<eos>``; None if there is
    no limit. ``context_positions`` is the largest number of positions that ``<bos>``, the text before a sentence (see
    the top of this file) and the sentence may fill together.

    Raises:
        InputError: If a file cannot be read or is not what ``config`` says, if ``spans`` or ``context`` do not belong
            to this text, or if the rows of an item are not together. If ``on_error`` is "stop", also at the first
            faulty sentence; the error names its line.
        ConfigError: If ``config`` names a column but the file is running text, or if the file is a table but ``config``
            has ``context_sentences``.
    """
    faults = _Faults(path, config.on_error, dropped)
    kept = _kept(path, config, faults)
    added_ids = tokenizer.added_ids
    earlier: deque[list[int]] = deque(maxlen=config.context_sentences)
    document = 0
    while block := list(islice(kept, BLOCK_SENTENCES)):
        encoded = tokenizer.encode_batch_with_spans([text for _, text, _ in block])
        contexts = [split_sentences(raw.context) if raw.context else [] for raw, _, _ in block]
        encoded_contexts = iter(tokenizer.encode_batch([*chain(*contexts)]))
        for (raw, text, word_spans), (ids, token_spans), context in zip(block, encoded, contexts, strict=True):
            if raw.document != document:
                document = raw.document
                earlier.clear()
            sentences = [*islice(encoded_contexts, len(context)), *earlier]
            if max_tokens is not None and len(ids) > max_tokens:
                problem = f"{len(ids)} tokens, expected at most {max_tokens}, the limit of the model"
                faults.found(raw.line, "too long", f"{problem}; divide the sentence")
                continue
            if config.spans is None and not raw.regions and not added_ids.isdisjoint(ids):
                is_added = [i in added_ids for i in ids]
                word_spans, token_spans = around_added_tokens(text, word_spans, token_spans, is_added)  # noqa: PLW2901
            try:
                words = words_of_tokens(text, token_spans, word_spans)
            except ValueError as error:
                spans = config.spans
                remedy = "use a tokenizer of train-tokenizer" if spans is None else f"make them one word in {spans}"
                faults.found(raw.line, "token across words", f"{error}; {remedy}")
                continue
            before = _fitted(sentences, context_positions - len(ids) - 1, tokenizer.bos_id)
            yield Stimulus(
                number=raw.number,
                line=raw.line,
                text=text,
                ids=ids,
                word_spans=word_spans,
                words=words,
                item=raw.item,
                regions=raw.regions,
                before=before,
                num_cut=sum(map(len, sentences)) - sum(i != tokenizer.bos_id for i in before),
            )
            earlier.append(ids)


def check_stimuli(path: Path, config: SurprisalConfig) -> None:
    """Read all files of ``config`` without a tokenizer, so that bad input is refused before a model is loaded.

    Raises:
        InputError: For the errors of ``read_stimuli`` that need no tokenizer, and for those of ``read_frequencies``.
        ConfigError: As ``read_stimuli``.
    """
    dropped = Counter[str]()
    if not deque(_kept(path, config, _Faults(path, config.on_error, dropped)), maxlen=1):
        raise no_sentence(path, dropped)
    if config.frequencies is not None:
        read_frequencies(config.frequencies)


def no_sentence(path: Path, dropped: Counter[str]) -> InputError:
    """Return the error for an input without a sentence. ``dropped`` has the skipped sentences by reason."""
    found = f": {dict(sorted(dropped.items()))}" if dropped else ""
    return InputError(f"{path}: no sentence{found}; expected one per line; check the file")


class _Raw(NamedTuple):
    """A line of a text, or the rows of a sentence in a table, as they are in the file."""

    number: int
    line: int
    texts: tuple[str, ...] = ()
    """The text; with regions, the text of each region."""
    fault: str = ""
    """Why there is no text; "" if there is a text."""
    document: int = 0
    item: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    context: str = ""
    """The text before the sentence, from a file of contexts. Normalised."""


@dataclass(frozen=True, slots=True)
class _Faults:
    """Handles lines that cannot be scored: stops at the first one, or counts them."""

    path: Path
    on_error: OnError
    dropped: Counter[str]

    def found(self, line: int, reason: str, problem: str) -> None:
        if self.on_error == "stop":
            raise InputError(f"{self.path}:{line}: {problem}, or use --on-error skip")
        self.dropped[reason] += 1


def _kept(path: Path, config: SurprisalConfig, faults: _Faults) -> Iterator[tuple[_Raw, str, list[Span]]]:
    """Yield each sentence that is not faulty, with the text before it, its normalised text and its words."""
    raws = _raws(path, config)
    if config.context is not None:
        raws = _with_context(raws, path, config.context)
    yield from _with_words(raws, path, config, faults)


def _raws(path: Path, config: SurprisalConfig) -> Iterator[_Raw]:
    """Yield the sentences of a text or a table as they are in the file, faulty ones too."""
    lines = read_lines(path)
    head = read_head(lines)
    form = form_of(head, path)
    lines = chain(head, lines)
    if not (column := text_column(form, config.column, path)):
        yield from _of_text(lines, has_documents=bool(config.context_sentences))
        return
    if config.context_sentences:
        raise ConfigError(
            f"{path}: --context-sentences needs running text, but this is a table, which does not say where documents "
            "end; give --context FILE with the text before each sentence"
        )
    check_columns(form, [column, *config.item, *[config.region] * bool(config.region)], path)
    records = read_records(form, lines, column)
    yield from _of_regions(path, records, column, config) if config.region else _of_rows(path, records, column, config)


def _of_text(lines: Iterable[Line], *, has_documents: bool) -> Iterator[_Raw]:
    document = 0
    for line in lines:
        if has_documents and not line.text.strip():
            document += 1
            continue
        fault = "" if line.is_utf8 else "not UTF-8, expected UTF-8 text; convert the file"
        yield _Raw(line.number, line.number, (line.text,), fault, document=document)


def _of_rows(path: Path, records: Iterable[Record], column: str, config: SurprisalConfig) -> Iterator[_Raw]:
    seen = set[tuple[str, ...]]()
    for number, record in enumerate(records, 1):
        if record.fault:
            yield _Raw(number, record.number, fault=f"{record.fault}; correct or remove this row")
            continue
        if fault := not_a_text(column, record.cells[column]):
            yield _Raw(number, record.number, fault=fault)
            continue
        item = _cells(record, config.item)
        if item and item in seen:
            raise InputError(
                f"{path}:{record.number}: a second row of {_named(config.item, item)}, expected one row per sentence; "
                "give --region NAME if each row is a region of a sentence, or name in --item all columns that tell "
                "the sentences apart"
            )
        seen.add(item)
        yield _Raw(number, record.number, _cells(record, (column,)), item=item)


def _of_regions(path: Path, records: Iterable[Record], column: str, config: SurprisalConfig) -> Iterator[_Raw]:
    remedy = "name in --item all columns that tell the sentences apart, such as the condition and the participant"
    seen = set[tuple[str, ...]]()

    def item_of(record: Record) -> tuple[str, ...]:
        if record.fault:  # skipping this row would change the sentence of its item
            raise InputError(f"{path}:{record.number}: {record.fault}; correct this row")
        if fault := not_a_text(column, record.cells[column]):
            raise InputError(f"{path}:{record.number}: {fault}")
        return _cells(record, config.item)

    for number, (item, group) in enumerate(groupby(records, item_of), 1):
        rows = list(group)
        texts = tuple(_cells(row, (column,))[0] for row in rows)
        if joined := [row for row, text in zip(rows, texts, strict=True) if "\n" in text.strip()]:
            raise InputError(
                f"{path}:{joined[0].number}: {column} is {joined[0].cells[column]!r:.60}, expected a region on one "
                "line; an unclosed quotation mark at the beginning of a cell joins the cell with the next lines: "
                'double the mark and put the cell in quotation marks (the word "A becomes """A"), or put tabs instead '
                "of commas between the columns"
            )
        regions = [_cells(row, (config.region,))[0] for row in rows]
        if item in seen:
            raise InputError(
                f"{path}:{rows[0].number}: {_named(config.item, item)} comes again after other items; put its rows "
                f"together, or {remedy}"
            )
        if twice := next((i for i, region in enumerate(regions) if region in regions[:i]), 0):
            raise InputError(
                f"{path}:{rows[twice].number}: {config.region} {regions[twice]} of {_named(config.item, item)} is "
                f"there a second time, expected each region once; {remedy}"
            )
        if all(map(_NUMBER.fullmatch, regions)) and not _ascend(regions):
            raise InputError(
                f"{path}:{rows[0].number}: {config.region} of {_named(config.item, item)} is {', '.join(regions[:8])}, "
                "expected ascending numbers, because rows are joined in order; sort the rows, or name another column"
            )
        seen.add(item)
        yield _Raw(number, rows[0].number, texts, item=item, regions=tuple(regions))


def _ascend(numbers: Sequence[str]) -> bool:
    """Return whether numbers ascend, either as decimals (1, 1.5, 2) or like section numbers (1.9, 1.10)."""
    parts = [[int(part) for part in number.split(".")] for number in numbers]
    return parts == sorted(parts) or [*map(float, numbers)] == sorted(map(float, numbers))


def _cells(record: Record, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the cells of some columns. Values of JSON objects become strings; a missing value is empty."""
    return tuple("" if (value := record.cells.get(name)) is None else str(value) for name in columns)


def _named(columns: Sequence[str], item: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(columns, item, strict=True))


def _with_context(raws: Iterable[_Raw], path: Path, context: Path) -> Iterator[_Raw]:
    """Yield the sentences with the text before them: line k of the file ``context`` is before sentence k."""
    refuse_unless_text(context)
    num_sentences = num_lines = 0
    for raw, line in zip_longest(raws, read_lines(context)):
        num_sentences += raw is not None
        num_lines += line is not None
        if raw is not None and line is not None:
            if not line.is_utf8:
                raise InputError(f"{context}:{line.number}: not UTF-8, expected UTF-8 text; convert the file")
            yield raw._replace(context=normalise_text(line.text))
    if num_sentences != num_lines:
        raise InputError(
            f"{context}: {num_lines} lines, expected {num_sentences}, one for each sentence of {path}; leave a line "
            "empty if there is no text before its sentence"
        )


def _with_words(
    raws: Iterable[_Raw], path: Path, config: SurprisalConfig, faults: _Faults
) -> Iterator[tuple[_Raw, str, list[Span]]]:
    """Yield each sentence that is not faulty, its normalised text and its words."""
    span_file = None if config.spans is None else SpanFile(config.spans)
    num_lines = 0
    for raw in raws:
        num_lines = raw.number
        pieces = [normalise_text(text) for text in raw.texts]
        text = " ".join(pieces)
        if raw.fault:
            faults.found(raw.line, "not UTF-8" if raw.fault.startswith("not UTF-8") else "malformed row", raw.fault)
        elif not all(pieces):
            what = f"cell of column {config.column}, expected text" if config.column else "line, expected a sentence"
            remedy = "remove this row" if config.column else "remove it"
            faults.found(raw.line, "empty", f"an empty {what}; {remedy}")
        elif raw.regions:
            stops = np.cumsum([len(piece) + 1 for piece in pieces]) - 1
            yield raw, text, [(int(stop) - len(piece), int(stop)) for piece, stop in zip(pieces, stops, strict=True)]
        elif span_file is None:
            yield raw, text, spaced_words(text)
        elif text != raw.texts[0]:
            faults.found(
                raw.line,
                "changed by normalisation",
                "normalisation changes this line, so its spans would be off, expected NFC, single spaces, no space at "
                f"the ends, and no invisible characters; correct the line and {config.spans}",
            )
        else:
            words = span_file.of_line(raw.number)
            try:
                check_words(text, words)
            except ValueError as error:
                problem = f"{config.spans}: {error}, expected every character, except spaces, to belong to a word"
                faults.found(raw.line, "spans do not fit", f"{problem}; correct the spans")
                continue
            yield raw, text, words
    if span_file is not None:
        span_file.refuse_beyond(num_lines, path)


def _fitted(sentences: Sequence[list[int]], room: int, bos_id: int) -> list[int]:
    """Return the token ids of the latest sentences that fit into ``room`` positions, each followed by ``<bos>``."""
    kept: list[list[int]] = []
    for sentence in reversed(sentences):
        if len(sentence) + 1 > room:
            if not kept and room > 1:
                kept.append(sentence[1 - room :])
            break
        kept.append(sentence)
        room -= len(sentence) + 1
    return [i for sentence in reversed(kept) for i in (*sentence, bos_id)]
