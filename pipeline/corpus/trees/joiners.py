"""Rebuild the text of a tree from its words, and recognise a corpus that is not English.

The joiner ``english`` uses the rules of ``detokenisation``. Two other joiners are for other languages: ``space`` puts a
space between words, and ``none`` puts nothing.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pipeline.corpus.text.corpus_config import Joiner
from pipeline.corpus.trees.detokenisation import detokenise, spell

Rebuild = Callable[[Sequence[str], Sequence[str]], str]
"""Function that returns the text, given the words and their parts of speech."""

JOINERS: Final[Mapping[Joiner, Rebuild]] = {
    "english": detokenise,
    "space": lambda words, _: " ".join(map(spell, words)),
    "none": lambda words, _: "".join(map(spell, words)),
}

_FREQUENT: Final = frozenset(
    ("the", "and", "to", "that", "it", "for", "with", "you", "this", "have", "from", "not", "by", "they", "be", "are")
)


@dataclass(kw_only=True)
class EnglishCheck:
    """Count the words of a corpus, to say whether it is plainly not English.

    There is a list of 16 frequent English words that are rare in other languages. Let f be the number of words of a
    corpus that are in this list. If the corpus has more than 20 f + 30 words, it is not English. It is not English
    either if most of its words have a letter outside the Latin alphabet. In every document of GUM, CRAFT and MASC
    that has 250 words or more, at least 1 in 10 words is in the list.
    """

    num_words: int = 0
    """Words with letters."""
    num_frequent: int = 0
    num_outside_latin: int = 0

    def add(self, words: Sequence[str]) -> None:
        """Count the words of a sentence."""
        for word in words:
            if any(map(str.isalpha, word)):
                self.num_words += 1
                self.num_frequent += word.lower() in _FREQUENT
                self.num_outside_latin += not word.isascii() and _is_outside_latin(word)

    @property
    def is_other_language(self) -> bool:
        """Return whether the corpus is plainly not English."""
        is_other = 20 * self.num_frequent + 30 < self.num_words
        return is_other or 2 * self.num_outside_latin > self.num_words


@lru_cache(maxsize=1 << 16)
def _is_outside_latin(word: str) -> bool:
    return any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in word)
