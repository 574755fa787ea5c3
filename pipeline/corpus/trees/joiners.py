"""Choose how the text of a tree is rebuilt from its words, and recognise a corpus that is not English.

The rules of ``detokenisation`` are those of English. For other languages, give the text itself, or choose one of two
plain joiners: a space between words, or nothing.
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

    A corpus is not English if most of its words have letters outside the Latin alphabet. The same holds if 16 frequent
    English words, which are rare in other languages, occur too seldom in the corpus: 20 · (their occurrences) + 30 is
    less than the number of all words. So this rule never applies to 30 words or fewer. In every document of GUM, CRAFT
    and MASC that has 250 words or more, at least 1 in 10 words is one of these 16.
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
