r"""Surprisals of words or tokens, as a table to join with reading times and the like.

    surprisal of a token    -log2 p(x_t | x_<t)         in bits
    surprisal of a word     the sum over its tokens     by the chain rule, that of the word as they spell it

A word is a string of the text between spaces, punctuation on it included; the text is normalised as a corpus is. The
space before a word belongs to it, whether it is part of the word's first token or a token of its own (so the
probability that a word ends is paid for by the next one; see Oh and Schuler 2024 for what that does to fits). No token
of our tokenizers holds parts of two words; one that did could not be divided, and is refused.

The table has tab-separated columns, a header, and no quoting: neither words nor tokens hold white space. Read it with

    pandas.read_csv(FILE, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)

for a quotation mark is a word like any other, and so is "NA". The sentence number is the number of its line in the
text, so it stays right where lines are skipped. The last row of each sentence is ``<eos>``; all rows of one add up to
-log2 p(sentence), within the rounding of the six decimals written; the sums in the figure are not rounded.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.matching import Span
from pipeline.corpus.text import OnError, normalise_text, not_utf8, read_lines
from pipeline.corpus.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipeline.evaluation.results import number
from pipeline.evaluation.scorer import Scorer
from pipeline.runtime.progress import Progress
from storage.errors import ConfigError, InputError, RunError
from storage.files import written_whole

By = Literal["word", "token"]
COLUMNS: Final[Mapping[By, tuple[str, ...]]] = {
    "word": ("sentence_number", "word_number", "word", "surprisal_bits", "num_tokens"),
    "token": ("sentence_number", "word_number", "token_number", "token", "surprisal_bits"),
}
"""Numbers begin at 1. Tokens are written as ``tokenizer.json`` does, a space as ``Ġ``. ``<eos>`` has the numbers that a
next word and token would have, though it is no word."""
BLOCK_SENTENCES: Final = 2_000
"""Sentences scored at a time: enough to batch by length, few enough that memory does not grow with the text."""
_EOS: Final = SPECIAL_TOKENS[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurprisalFigure:
    """Sums over a text."""

    num_sentences: int
    num_words: int
    """Without ``<eos>``."""
    num_tokens: int
    """Without ``<eos>``."""
    bits: float
    """Of all tokens and ``<eos>``."""
    bits_eos: float
    """The part of ``bits`` that is the ``<eos>`` tokens'."""

    def __post_init__(self) -> None:
        """Refuse what no text can give.

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
        """Return the sums, and the mean beside its definition."""
        sums = {field.name: getattr(self, field.name) for field in fields(self)}
        mean = {"value": self.bits_per_word, "is": "(bits - bits_eos) / num_words: white-space-separated words"}
        return sums | {"bits_per_word": mean}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "SurprisalFigure":
        """Return the figure whose ``to_json`` this is; the mean is taken again, not believed.

        Raises:
            InputError: If a sum is missing or cannot be.
        """
        counts = {name: int(number(value, name, where=where)) for name in ("num_sentences", "num_words", "num_tokens")}
        bits, bits_eos = (number(value, name, where=where) for name in ("bits", "bits_eos"))
        return cls(**counts, bits=bits, bits_eos=bits_eos)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSentence:
    """A line of text as a model reads it."""

    line: int
    """Of the file, from 1."""
    text: str
    """Normalised, not empty."""
    ids: list[int]
    """n token ids, neither ``<bos>`` nor ``<eos>``."""
    spans: list[Span]
    """Characters of ``text`` that each token covers, a space before a word included."""
    words: NDArray[np.int64]
    """``[n]``: the word, from 0, that each token belongs to."""


def read_text(
    path: Path, tokenizer: Tokenizer, *, max_tokens: int | None, on_error: OnError, dropped: Counter[str]
) -> Iterator[TextSentence]:
    """Yield the sentences of a file of text, plain or gzipped, a sentence a line; ``dropped`` counts others by reason.

    Args:
        path: The file.
        tokenizer: The model's.
        max_tokens: The longest sentence that the model can score, ``<eos>`` not counted; None where there is none.
        on_error: What an empty line, one that is not UTF-8, or one that is too long does: "stop", or "skip".
        dropped: Grows.

    Raises:
        InputError: If the file cannot be read, a token holds parts of two words, or, where ``on_error`` is "stop", at
            the first such line, naming it.
    """
    kept = _lines_with_text(path, on_error, dropped)
    while block := list(islice(kept, BLOCK_SENTENCES)):
        encoded = tokenizer.encode_batch_with_spans([text for _, text in block])
        for (line, text), (ids, spans) in zip(block, encoded, strict=True):
            if max_tokens is not None and len(ids) > max_tokens:
                if on_error == "stop":
                    raise InputError(
                        f"{path}:{line}: {len(ids)} tokens, expected at most {max_tokens}, which the model can score; "
                        "divide the sentence, or use --on-error skip"
                    )
                dropped["too long"] += 1
                continue
            try:
                words = words_of_tokens(text, spans)
            except ValueError as error:
                raise InputError(f"{path}:{line}: {error}; use a tokenizer made by train-tokenizer") from None
            yield TextSentence(line=line, text=text, ids=ids, spans=spans, words=words)


def words_of_tokens(text: str, spans: Sequence[Span]) -> NDArray[np.int64]:
    """Return ``[n]`` the word, from 0, that each token belongs to; a space belongs to the word after it.

    Args:
        text: Normalised.
        spans: Characters that each of n tokens covers.

    Raises:
        ValueError: If a token holds parts of two words.
    """
    word_at = np.cumsum([character == " " for character in text], dtype=np.int64)
    firsts = word_at[[start for start, _ in spans]]
    if len(bad := np.flatnonzero(word_at[[stop - 1 for _, stop in spans]] != firsts)):
        start, stop = spans[bad[0]]
        raise ValueError(
            f"the token {text[start:stop]!r} holds parts of two words, whose surprisals cannot be told apart"
        )
    return firsts


def rows_of_sentence(
    sentence: TextSentence, log_probs: NDArray[np.floating], tokenizer: Tokenizer, *, by: By
) -> list[tuple[str | float, ...]]:
    """Return the rows of the table for a sentence, in the order of ``COLUMNS[by]``, ``<eos>`` last.

    Args:
        sentence: n tokens.
        log_probs: ``[n + 1]`` natural logs of its tokens and ``<eos>``.
        tokenizer: Names tokens.
        by: What a row is.
    """
    bits = _bits(log_probs)
    words, n, line = sentence.text.split(" "), len(sentence.ids), sentence.line
    if by == "token":
        names = [tokenizer.token(i) for i in sentence.ids]
        rows = [(line, int(sentence.words[i]) + 1, i + 1, names[i], float(bits[i])) for i in range(n)]
        return [*rows, (line, len(words) + 1, n + 1, _EOS, float(bits[n]))]
    sums = np.bincount(sentence.words, bits[:n], len(words))
    num_tokens = np.bincount(sentence.words, minlength=len(words))
    by_word = [(line, i + 1, word, float(sums[i]), int(num_tokens[i])) for i, word in enumerate(words)]
    return [*by_word, (line, len(words) + 1, _EOS, float(bits[n]), 1)]


def write_surprisals(
    scorer: Scorer,
    tokenizer: Tokenizer,
    path: Path,
    out: Path,
    *,
    by: By = "word",
    max_tokens: int | None = None,
    on_error: OnError = "stop",
    block_sentences: int = BLOCK_SENTENCES,
) -> tuple[SurprisalFigure, Counter[str]]:
    """Score the sentences of a file of text and write the table; return its sums, and lines left out by reason.

    The table appears whole or not at all; what was there is replaced. The text is read twice, so that a faulty line is
    found before anything is scored, and the end can be foreseen; progress is shown.

    Args:
        scorer: Gives log-probabilities.
        tokenizer: The model's.
        path: Text, a sentence a line.
        out: The table.
        by: What a row is.
        max_tokens: As of ``read_text``.
        on_error: As of ``read_text``.
        block_sentences: Sentences scored between two steps of the progress.

    Raises:
        ConfigError: If the table would replace the text.
        InputError: As ``read_text``; also if there is no sentence.
        RunError: If the model gives a log-probability that is not finite.
        StoreError: If the table cannot be written.
    """
    if out.resolve() == path.resolve():
        raise ConfigError(f"surprisal: {out} is read and would be replaced; give another --out")
    dropped: Counter[str] = Counter()
    total = sum(1 for _ in read_text(path, tokenizer, max_tokens=max_tokens, on_error=on_error, dropped=dropped))
    if not total:
        found = f": {dict(sorted(dropped.items()))}" if dropped else ""
        raise InputError(f"{path}: no sentence{found}; expected one a line")
    sentences = read_text(path, tokenizer, max_tokens=max_tokens, on_error=on_error, dropped=Counter())
    sums: Counter[str] = Counter()
    bits = bits_eos = 0.0
    with written_whole([out]) as (table,), Progress("score", total=total, unit="sentences") as progress:
        table.write("\t".join(COLUMNS[by]) + "\n")
        while block := list(islice(sentences, block_sentences)):
            log_probs = scorer.log_probs([np.asarray(sentence.ids, np.int64) for sentence in block])
            for sentence, row in zip(block, log_probs, strict=True):
                _check_finite(path, sentence, row)
                for cells in rows_of_sentence(sentence, row, tokenizer, by=by):
                    table.write("\t".join(map(_cell, cells)) + "\n")
                sums.update(num_words=sentence.text.count(" ") + 1, num_tokens=len(sentence.ids))
                bits += float(_bits(row).sum())
                bits_eos += float(_bits(row)[-1])
            progress.update(len(block))
    figure = SurprisalFigure(
        num_sentences=total,
        num_words=sums["num_words"],
        num_tokens=sums["num_tokens"],
        bits=bits,
        bits_eos=bits_eos,
    )
    return figure, dropped


def _lines_with_text(path: Path, on_error: OnError, dropped: Counter[str]) -> Iterator[tuple[int, str]]:
    """Yield number and normalised text of the lines that have one."""
    for line in read_lines(path):
        if not line.is_utf8:
            if on_error == "stop":
                raise not_utf8(path, line.number)
            dropped["not UTF-8"] += 1
        elif text := normalise_text(line.text):
            yield line.number, text
        elif on_error == "stop":
            raise InputError(
                f"{path}:{line.number}: an empty line, expected a sentence; remove it, or use --on-error skip"
            )
        else:
            dropped["empty"] += 1


def _bits(log_probs: NDArray[np.floating]) -> NDArray[np.float64]:
    return log_probs.astype(np.float64) / -math.log(2)


def _cell(value: str | float) -> str:
    # + 0.0: a probability that rounds to just above 1 has surprisal 0, not -0
    return f"{round(value, 6) + 0.0:.6f}" if isinstance(value, float) else str(value)


def _check_finite(path: Path, sentence: TextSentence, log_probs: NDArray[np.floating]) -> None:
    if len(log_probs) != len(sentence.ids) + 1:
        raise ValueError(f"{len(log_probs)} log-probabilities of {len(sentence.ids)} tokens, expected one more")
    if not np.isfinite(log_probs).all():
        raise RunError(
            f"{path}:{sentence.line}: the model gives a log-probability that is not finite, expected a number; "
            "training diverged or the checkpoint is damaged: use another checkpoint"
        )
