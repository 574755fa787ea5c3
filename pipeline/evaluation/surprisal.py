r"""Write the surprisals of a text's words or tokens as a table, to join with reading times and other measures.

    surprisal of a token    -log2 p(x_t | x_<t), in bits
    surprisal of a word     the sum over its tokens; by the chain rule, the surprisal of the word as its tokens spell it

A word is a string between spaces, including punctuation, or the characters that a file of spans names (``words``). The
text is normalised as a corpus is. The space before a word belongs to the word, as part of its first token or as a token
by itself. So the probability that a word ends is part of the next word's surprisal. Oh and Schuler (2024) show how this
affects fits to reading times. A token with parts of two words cannot be divided, so its sentence is an error. If words
are strings between spaces, no tokenizer of this project makes a token with parts of two words. Somebody may have added
such a token to the tokenizer of another model, such as "New York". Then its words are one word in the table.

The table has tab-separated columns, a header, and no quoting, because neither words nor tokens contain a tab.
``docs/surprisal.md`` shows how to read the table and how to join it with reading times. The sentence number is the
number of the line in the text, so it stays right if lines are skipped. The last row of each sentence is ``<eos>``. The
surprisals of a sentence add up to -log2 p(sentence), except for the rounding to six decimals. ``SurprisalFigure`` has
the sums without rounding.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipeline.corpus.text.file_forms import refuse_unless_text
from pipeline.corpus.text.text_files import OnError, normalise_text, read_lines
from pipeline.corpus.trees.matching import Span
from pipeline.evaluation.scorer import BLOCK_SENTENCES, Scorer
from pipeline.evaluation.words import (
    Frequencies,
    SpanFile,
    check_words,
    joined_words,
    read_frequencies,
    spaced_words,
    words_of_tokens,
)
from pipeline.runtime.json_files import number
from pipeline.runtime.progress import Progress
from storage.errors import ConfigError, InputError, RunError
from storage.files import written_whole

By = Literal["word", "token"]
COLUMNS: Final[Mapping[By, tuple[str, ...]]] = {
    "word": ("sentence_number", "word_number", "word", "surprisal_bits", "num_tokens"),
    "token": ("sentence_number", "word_number", "token_number", "token", "surprisal_bits"),
}
"""Numbers begin at 1. Tokens are written as in ``tokenizer.json``, with ``Ġ`` for a space. ``<eos>`` is not a word, but
it is numbered as if it were the next word and token."""
LOG_FREQUENCY: Final = "log_frequency"
"""Last column of a table of words, if frequencies are given. Empty for ``<eos>`` and for words without a frequency."""
WordUnit = Literal["white space", "spans"]
_WORD_UNITS: Final[Mapping[WordUnit, str]] = {
    "white space": "white-space-separated words",
    "spans": "words of the file of spans",
}
_EOS: Final = SPECIAL_TOKENS[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurprisalFigure:
    """Surprisals summed over a text."""

    num_sentences: int
    num_words: int
    """Without ``<eos>``."""
    num_tokens: int
    """Without ``<eos>``."""
    bits: float
    """Surprisal of all tokens and ``<eos>``."""
    bits_eos: float
    """The part of ``bits`` that belongs to the ``<eos>`` tokens."""
    word_unit: WordUnit
    num_words_with_frequency: int | None
    """Words with a frequency; None if no frequencies were given."""

    def __post_init__(self) -> None:
        """Check that the counts are possible.

        Raises:
            InputError: If there is no sentence, word or token.
        """
        problems = [
            f"{name} is {found}, expected at least 1"
            for name in ("num_sentences", "num_words", "num_tokens")
            if (found := getattr(self, name)) < 1
        ]
        if problems:
            raise InputError("surprisal: " + "; ".join(problems))

    @property
    def bits_per_word(self) -> float:
        """``(bits - bits_eos) / num_words``."""
        return (self.bits - self.bits_eos) / self.num_words

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and the mean with its definition."""
        mean = {"value": self.bits_per_word, "is": f"(bits - bits_eos) / num_words: {_WORD_UNITS[self.word_unit]}"}
        return asdict(self) | {"bits_per_word": mean}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "SurprisalFigure":
        """Return the figure that ``to_json`` gave. The mean is computed again from the sums.

        Raises:
            InputError: If a sum is missing or impossible.
        """
        counts = {name: int(number(value, name, where=where)) for name in ("num_sentences", "num_words", "num_tokens")}
        bits, bits_eos = (number(value, name, where=where) for name in ("bits", "bits_eos"))
        found = value.get("word_unit")
        word_unit = next((unit for unit in _WORD_UNITS if unit == found), None)
        if word_unit is None:
            raise InputError(f"{where}: word_unit is {found!r}, expected {' or '.join(_WORD_UNITS)}; evaluate again")
        name = "num_words_with_frequency"
        num_found = None if value.get(name) is None else int(number(value, name, where=where))
        return cls(**counts, bits=bits, bits_eos=bits_eos, word_unit=word_unit, num_words_with_frequency=num_found)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSentence:
    """A line of text as a model reads it."""

    line: int
    """Number of the line in the file, from 1."""
    text: str
    """Normalised, not empty."""
    ids: list[int]
    """n token ids, without ``<bos>`` and ``<eos>``."""
    word_spans: list[Span]
    """Characters of ``text`` that each word covers. Only spaces belong to no word."""
    words: NDArray[np.int64]
    """``[n]``: the number of the word that each token belongs to, from 0."""


def read_text(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_tokens: int | None,
    on_error: OnError,
    dropped: Counter[str],
    spans: Path | None = None,
) -> Iterator[TextSentence]:
    """Yield the sentences of a text, one sentence per line. Skipped lines are counted by reason in ``dropped``.

    Args:
        path: The text, plain or gzipped.
        tokenizer: The tokenizer of the model.
        max_tokens: Length of the longest sentence that the model can score, without ``<eos>``; None if there is no
            limit.
        on_error: What to do about a faulty line: "stop" or "skip". A line is faulty if it is empty, not UTF-8 or too
            long, if the spans do not cover its words, or if a token has parts of two words.
        dropped: Gets the number of skipped lines by reason.
        spans: A file of spans that names the words. If it is None, words are strings between spaces.

    Raises:
        InputError: If a file cannot be read, or ``spans`` is malformed or names lines that the text does not have. If
            ``on_error`` is "stop", also at the first faulty line; the error names it.
    """
    faults = _Faults(path, on_error, dropped)
    kept = _lines_with_words(path, spans, faults)
    added_ids = tokenizer.added_ids
    while block := list(islice(kept, BLOCK_SENTENCES)):
        encoded = tokenizer.encode_batch_with_spans([text for _, text, _ in block])
        for (line, text, word_spans), (ids, token_spans) in zip(block, encoded, strict=True):
            if max_tokens is not None and len(ids) > max_tokens:
                problem = f"{len(ids)} tokens, expected at most {max_tokens}, the limit of the model"
                faults.found(line, "too long", f"{problem}; divide the sentence")
                continue
            if spans is None and (added := [span for i, span in zip(ids, token_spans, strict=True) if i in added_ids]):
                word_spans = joined_words(word_spans, added)  # noqa: PLW2901 - the words of this sentence
            try:
                words = words_of_tokens(text, token_spans, word_spans)
            except ValueError as error:
                remedy = "use a tokenizer of train-tokenizer" if spans is None else f"make them one word in {spans}"
                faults.found(line, "token across words", f"{error}; {remedy}")
                continue
            yield TextSentence(line=line, text=text, ids=ids, word_spans=word_spans, words=words)


def rows_of_sentence(
    sentence: TextSentence,
    log_probs: NDArray[np.floating],
    tokenizer: Tokenizer,
    *,
    by: By,
    frequencies: Frequencies | None = None,
) -> list[tuple[str | float | None, ...]]:
    """Return the rows of a sentence in the table, with the columns ``COLUMNS[by]``. The last row is ``<eos>``.

    Args:
        sentence: A sentence of n tokens.
        log_probs: ``[n + 1]`` natural logs of its tokens and ``<eos>``.
        tokenizer: Gives the text of a token.
        by: Whether a row is a word or a token.
        frequencies: Frequencies for the last column, ``LOG_FREQUENCY``. None leaves this column out.
    """
    bits = _bits(log_probs).tolist()
    words = [sentence.text[start:stop] for start, stop in sentence.word_spans]
    n, line = len(sentence.ids), sentence.line
    if by == "token":
        names = [*map(tokenizer.token, sentence.ids), _EOS]
        word_numbers = [*sentence.words.tolist(), len(words)]
        return [(line, word_numbers[i] + 1, i + 1, names[i], bits[i]) for i in range(n + 1)]
    sums = [*np.bincount(sentence.words, bits[:n], len(words)).tolist(), bits[n]]
    num_tokens = [*np.bincount(sentence.words, minlength=len(words)).tolist(), 1]
    rows = [(line, i + 1, word, sums[i], num_tokens[i]) for i, word in enumerate([*words, _EOS])]
    if frequencies is None:
        return [*rows]
    found = [*map(frequencies.log_frequency, words), None]
    return [(*row, log_frequency) for row, log_frequency in zip(rows, found, strict=True)]


def write_surprisals(
    scorer: Scorer,
    tokenizer: Tokenizer,
    path: Path,
    out: Path,
    *,
    by: By = "word",
    max_tokens: int | None = None,
    on_error: OnError = "stop",
    spans: Path | None = None,
    frequencies: Path | None = None,
    block_sentences: int = BLOCK_SENTENCES,
) -> tuple[SurprisalFigure, Counter[str]]:
    """Score the sentences of a text and write the table. Return its sums, and the number of skipped lines by reason.

    The table appears only when it is complete, and replaces an earlier table. The text is read twice. So a faulty line
    is found before anything is scored, and the progress line shows how much is left.

    Args:
        scorer: Gives log-probabilities.
        tokenizer: The tokenizer of the model.
        path: The text, one sentence per line.
        out: The table.
        by: Whether a row is a word or a token.
        max_tokens: As for ``read_text``.
        on_error: As for ``read_text``.
        spans: As for ``read_text``.
        frequencies: A table of frequencies for the column ``LOG_FREQUENCY``, only for a table of words.
        block_sentences: Sentences scored between two updates of the progress line.

    Raises:
        ConfigError: If the table would replace an input file, or frequencies are given for a table of tokens.
        InputError: As for ``read_text`` and ``read_frequencies``, and if there is no sentence.
        RunError: If the model gives a log-probability that is not finite.
        StoreError: If the table cannot be written.
    """
    if out.resolve() in {read.resolve() for read in (path, spans, frequencies) if read is not None}:
        raise ConfigError(f"surprisal: {out} is an input and would be replaced; give another --out")
    if frequencies is not None and by == "token":
        raise ConfigError(
            "surprisal: frequencies for a table of tokens, expected a table of words; leave out --frequencies or --by"
        )
    refuse_unless_text(path)
    table_of_frequencies = None if frequencies is None else read_frequencies(frequencies)

    def sentences_of_text(dropped: Counter[str]) -> Iterator[TextSentence]:
        return read_text(path, tokenizer, max_tokens=max_tokens, on_error=on_error, dropped=dropped, spans=spans)

    dropped: Counter[str] = Counter()
    total = sum(1 for _ in sentences_of_text(dropped))
    if not total:
        found = f": {dict(sorted(dropped.items()))}" if dropped else ""
        raise InputError(f"{path}: no sentence{found}; expected one per line")
    sentences = sentences_of_text(Counter())
    sums: Counter[str] = Counter()
    bits = bits_eos = 0.0
    with written_whole([out]) as (table,), Progress("score", total=total, unit="sentences") as progress:
        header = COLUMNS[by] if frequencies is None else (*COLUMNS[by], LOG_FREQUENCY)
        table.write("\t".join(header) + "\n")
        while block := list(islice(sentences, block_sentences)):
            log_probs = scorer.log_probs([np.asarray(sentence.ids, np.int64) for sentence in block])
            for sentence, row in zip(block, log_probs, strict=True):
                _check_finite(path, sentence, row)
                rows = rows_of_sentence(sentence, row, tokenizer, by=by, frequencies=table_of_frequencies)
                table.writelines("\t".join(map(_cell, cells)) + "\n" for cells in rows)
                sums.update(num_words=len(sentence.word_spans), num_tokens=len(sentence.ids))
                sums["with_frequency"] += sum(cells[-1] is not None for cells in rows)
                bits += float(_bits(row).sum())
                bits_eos += float(_bits(row)[-1])
            progress.update(len(block))
    figure = SurprisalFigure(
        num_sentences=total,
        num_words=sums["num_words"],
        num_tokens=sums["num_tokens"],
        bits=bits,
        bits_eos=bits_eos,
        word_unit="white space" if spans is None else "spans",
        num_words_with_frequency=None if frequencies is None else sums["with_frequency"],
    )
    return figure, dropped


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


def _lines_with_words(path: Path, spans: Path | None, faults: _Faults) -> Iterator[tuple[int, str, list[Span]]]:
    """Yield the number, the normalised text and the words of each line that is not faulty."""
    span_file = None if spans is None else SpanFile(spans)
    num_lines = 0
    for line in read_lines(path):
        num_lines = line.number
        text = normalise_text(line.text)
        if not line.is_utf8:
            faults.found(line.number, "not UTF-8", "not UTF-8, expected UTF-8 text; convert the file")
        elif not text:
            faults.found(line.number, "empty", "an empty line, expected a sentence; remove it")
        elif span_file is None:
            yield line.number, text, spaced_words(text)
        elif text != line.text:
            faults.found(
                line.number,
                "changed by normalisation",
                "normalisation changes this line, so its spans would be off, expected NFC with single spaces, none at "
                f"the ends, and no invisible characters; correct it and {spans}",
            )
        else:
            words = span_file.of_line(line.number)
            try:
                check_words(text, words)
            except ValueError as error:
                problem = f"{spans} has {error}, expected every character except spaces in a word; correct the spans"
                faults.found(line.number, "spans do not fit", problem)
                continue
            yield line.number, text, words
    if span_file is not None:
        span_file.refuse_beyond(num_lines, path)


def _bits(log_probs: NDArray[np.floating]) -> NDArray[np.float64]:
    return log_probs.astype(np.float64) / -math.log(2)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    # A probability that rounds to just above 1 gets the surprisal 0, not -0.
    return f"{round(value, 6) + 0.0:.6f}" if isinstance(value, float) else str(value)


def _check_finite(path: Path, sentence: TextSentence, log_probs: NDArray[np.floating]) -> None:
    if len(log_probs) != len(sentence.ids) + 1:
        raise ValueError(f"{len(log_probs)} log-probabilities of {len(sentence.ids)} tokens, expected one more")
    if not np.isfinite(log_probs).all():
        raise RunError(
            f"{path}:{sentence.line}: the model gives a log-probability that is not finite, expected a number; "
            "training diverged or the checkpoint is damaged: use another checkpoint"
        )
