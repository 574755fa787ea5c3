r"""How frequent words are in a corpus of the user's, looked up for the words of a text.

A table of frequencies has two tab-separated columns and no header, plain or gzipped:

    word <TAB> count

Words are compared by ``frequency_key``. The table is held in memory: about 100 bytes a word.
"""

import math
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Final

from pipeline.corpus.text.text_files import normalise_text, read_lines
from storage.errors import InputError

_COUNT: Final = re.compile(r"0*[1-9][0-9]{0,17}")


def frequency_key(word: str) -> str:
    """Return what a word is looked up by: case-folded, without the marks at both ends; empty if there is no word.

    Marks are all characters but letters, their combining marks, and digits: ``"Dog,`` and ``dog`` are one word,
    ``don't`` and ``dont`` are two. A word of marks alone keeps them: ``.`` is not ``,``.
    """
    folded = normalise_text(normalise_text(word).casefold())  # folding may take a string out of NFC
    kept = [i for i, character in enumerate(folded) if unicodedata.category(character)[0] in "LMN"]
    return folded[kept[0] : kept[-1] + 1] if kept else folded


class Frequencies:
    """Counts of a corpus by ``frequency_key``."""

    def __init__(self, counts: Counter[str]) -> None:
        """Take counts, each at least 1, of which there is one or more."""
        self._counts = counts
        self._log_total = math.log2(counts.total())

    def log_frequency(self, word: str) -> float | None:
        """Return log2(count / sum of all counts), in bits, at most 0; None for a word that the table does not have.

        That is minus the surprisal of the word under the unigram distribution of the table.
        """
        count = self._counts.get(frequency_key(word))
        return None if count is None else math.log2(count) - self._log_total


def read_frequencies(path: Path) -> Frequencies:
    """Return a table of frequencies; counts of words with one key are added up.

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
                "without a header; mend or remove this line"
            )
        counts[key] += int(count)
    if not counts:
        raise InputError(f"{path}: no word, expected a word, a tab and its count a line; name a table of frequencies")
    return Frequencies(counts)
