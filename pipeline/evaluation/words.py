r"""Find the words of a line of text, and look up how frequent they are.

A word is a string between spaces, or the characters that a **file of spans** names. A file of spans is for corpora
whose words are not strings between spaces: "don't." may have the words "do", "n't" and ".". The file may be gzipped. It
has three columns separated by tabs, no header, and one word per line:

    sentence_number <TAB> start <TAB> stop

The sentence number is the number of the line in the text, from 1. The columns ``start`` and ``stop`` count the
characters of this line, before the line is normalised. They count from 0, as Python does. A word goes from the
character ``start`` to the character before ``stop``. Words must be in the order of the text. Every character of a line
except spaces must be in one word, so that the surprisals of the words add up to the surprisal of the sentence. A word
may contain a space.

With and without a file of spans, the spaces between two words belong to the second word.

A **table of frequencies** has the counts of words in a corpus of the user's choice. It may be gzipped. It has two
columns separated by a tab, and no header:

    word <TAB> count

A word is looked up by its ``frequency_key``: case-folded, without punctuation at its ends. The table is kept in memory
and takes about 100 bytes per word.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text, read_lines
from pipeline.corpus.trees.matching import Span
from storage.errors import InputError

_SPACE: Final = "\u0120"
"""How the vocabulary of a byte-level tokenizer writes a space."""
_ROW: Final = re.compile(r"([0-9]{1,9})\t([0-9]{1,9})\t([0-9]{1,9})")
_COUNT: Final = re.compile(r"0*[1-9][0-9]{0,17}")


def spaced_words(text: str) -> list[Span]:
    """Return the span of each string between spaces in a normalised text."""
    return [found.span() for found in re.finditer("[^ ]+", text)]


def begins_word(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Return bool ``[V]``: whether a token begins with a space and therefore begins a word. Special tokens do not."""
    return np.array([tokenizer.token(i).startswith((_SPACE, " ")) for i in range(tokenizer.vocab_size)])


def around_added_tokens(
    text: str, words: Sequence[Span], tokens: Sequence[Span], is_added: Sequence[bool]
) -> tuple[list[Span], list[Span]]:
    """Return the spans of words and of tokens, changed so that no added token has parts of two words.

    An added token is an entry that somebody added to a trained tokenizer, such as "New York". Words that share an added
    token become one word. A space at the end of an added token is taken out of the token's span, because the space
    belongs to the next word.
    """
    trimmed = [
        (start, start + len(text[start:stop].rstrip(" ")) if added and text[start:stop].strip(" ") else stop)
        for (start, stop), added in zip(tokens, is_added, strict=True)
    ]
    added_spans = [span for span, added in zip(trimmed, is_added, strict=True) if added]
    joined: list[Span] = []
    for start, stop in words:
        shared = joined and any(first < joined[-1][1] < last for first, last in added_spans)
        joined.append((joined.pop()[0] if shared else start, stop))
    return joined, trimmed


def words_of_tokens(text: str, tokens: Sequence[Span], words: Sequence[Span]) -> NDArray[np.int64]:
    """Return ``[n]``: for each token the number of its word, from 0. A space belongs to the word after the space.

    ``text`` is normalised, and ``check_words`` must accept ``words``.

    Raises:
        ValueError: If a token has parts of two words.
    """
    # A word owns the characters from the end of the word before it to its own end.
    stops = np.array([stop for _, stop in words], np.int64)
    firsts = np.searchsorted(stops, [start for start, _ in tokens], side="right")
    lasts = np.searchsorted(stops, [stop - 1 for _, stop in tokens], side="right")
    if len(bad := np.flatnonzero(firsts != lasts)):
        start, stop = tokens[bad[0]]
        raise ValueError(f"the token {text[start:stop]!r} has parts of two words, whose surprisals cannot be separated")
    return firsts.astype(np.int64)


def check_words(text: str, words: Sequence[Span]) -> None:
    """Check that words cover every character of a text except spaces.

    ``text`` is normalised and not empty. The words are not empty, ascend, and do not overlap.

    Raises:
        ValueError: If a character is in no word, or if a word extends beyond the text, or begins or ends with a space.
    """
    at = 0
    for start, stop in words:
        if stop > len(text):
            raise ValueError(f"a word has the characters {start} to {stop}, but the line has only {len(text)}")
        if text[start] == " " or text[stop - 1] == " ":
            raise ValueError(f"the word {text[start:stop]!r} has a space at its edge")
        _refuse_left_out(text, at, start)
        at = stop
    _refuse_left_out(text, at, len(text))


class SpanFile:
    """Reads a file of spans line by line, while the caller reads the text. Only one sentence's words are in memory."""

    def __init__(self, path: Path) -> None:
        """Open ``path``."""
        self.path = path
        self._sentences = _sentences(path)
        self._next = next(self._sentences, None)

    def of_line(self, number: int) -> list[Span]:
        """Return the words of a line of the text; empty if the file has no words for this line.

        Call this method with ascending line numbers.

        Raises:
            InputError: At the first malformed line of the file of spans.
        """
        while self._next is not None and self._next[0] < number:
            self._next = next(self._sentences, None)
        return self._next[1] if self._next is not None and self._next[0] == number else []

    def refuse_beyond(self, num_lines: int, text: Path) -> None:
        """Check that the file has no words of lines beyond the end of the text.

        Raises:
            InputError: If the file has words of such a line.
        """
        self.of_line(num_lines + 1)
        if self._next is not None:
            raise InputError(
                f"{self.path}: words of sentence {self._next[0]}, expected at most {num_lines}, the number of lines of "
                f"{text}; give the spans of this text"
            )


def frequency_key(word: str) -> str:
    """Return the key of a word: case-folded, and without punctuation at both ends.

    Punctuation is every character but letters, combining marks and digits. A word that consists only of punctuation
    keeps it. Examples: ``"Dog,`` has the key ``dog``, ``don't`` has the key ``don't``, and ``.`` has the key ``.``.
    """
    folded = normalise_text(normalise_text(word).casefold())  # a case-folded string may not be NFC
    kept = [i for i, character in enumerate(folded) if unicodedata.category(character)[0] in "LMN"]
    return folded[kept[0] : kept[-1] + 1] if kept else folded


class Frequencies:
    """Counts of the words of a corpus, by ``frequency_key``."""

    def __init__(self, counts: Counter[str]) -> None:
        """Keep the counts. There must be at least one count, and each must be at least 1."""
        self._counts = counts
        self._log_total = math.log2(counts.total())

    def log_frequency(self, word: str) -> float | None:
        """Return log2(count / sum of all counts), in bits and at most 0; None for a word that is not in the table."""
        count = self._counts.get(frequency_key(word))
        return None if count is None else math.log2(count) - self._log_total


def read_frequencies(path: Path) -> Frequencies:
    """Read a table of frequencies. The counts of words with the same key are added up.

    Raises:
        InputError: If the file cannot be read or is empty, or at the first line that is not a word and a count.
    """
    counts: Counter[str] = Counter()
    for line in read_lines(path):
        word, _, count = line.text.partition("\t")
        key = frequency_key(word)
        if not line.is_utf8 or not key or not _COUNT.fullmatch(count):
            raise InputError(
                f"{path}:{line.number}: {line.text[:60]!r}, expected UTF-8: a word, a tab and a whole number from 1, "
                "without a header; correct or remove this line"
            )
        counts[key] += int(count)
    if not counts:
        raise InputError(f"{path}: no word, expected a word, a tab and its count per line; give a table of frequencies")
    return Frequencies(counts)


def _refuse_left_out(text: str, start: int, stop: int) -> None:
    if left := text[start:stop].strip(" "):
        raise ValueError(f"{left[:60]!r} is in no word")


def _sentences(path: Path) -> Iterator[tuple[int, list[Span]]]:
    """Yield the number and the words of each sentence."""
    for number, rows in groupby(_rows(path), key=lambda row: row[0]):
        yield number, [(start, stop) for _, start, stop in rows]


def _rows(path: Path) -> Iterator[tuple[int, int, int]]:
    before = (1, 0, 0)
    for line in read_lines(path):
        found = _ROW.fullmatch(line.text)
        sentence, start, stop = map(int, found.groups()) if found else (0, 0, 0)
        if not sentence or start >= stop:
            raise InputError(
                f"{path}:{line.number}: {line.text[:60]!r}, expected the number of a sentence from 1, a start and a "
                "later stop, separated by tabs, without a header; correct this line"
            )
        if (sentence, start) < (before[0], before[2]):
            raise InputError(
                f"{path}:{line.number}: characters {start} to {stop} of sentence {sentence} come after {before[1]} to "
                f"{before[2]} of sentence {before[0]}, expected words in ascending order that share no character; "
                "sort or correct the file"
            )
        before = (sentence, start, stop)
        yield before
