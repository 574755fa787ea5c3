"""Numbers of words as options and folders name them: 500k, 1M. Imports no torch, so that ``--help`` can read it."""

import re
from collections.abc import Iterable
from typing import Final

from storage.errors import ConfigError

SUFFIXES: Final = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
BABYLM: Final = "babylm"
"""Stands for the BabyLM challenge's counts (Charpentier et al. 2025): every 1M words up to 10M, every 10M up to 100M,
every 100M up to 1,000M."""
BABYLM_MILLIONS: Final = (*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100))
_COUNT = re.compile(r"([1-9][0-9]*)([kMB]?)")


def word_thresholds(given: Iterable[str]) -> list[int]:
    """Return the numbers of words that an option lists, each once, in ascending order.

    Raises:
        ConfigError: Naming every entry that is no number of words.
    """
    found: set[int] = set()
    wrong = []
    for entry in given:
        if entry == BABYLM:
            found.update(millions * SUFFIXES["M"] for millions in BABYLM_MILLIONS)
        elif match := _COUNT.fullmatch(entry):
            found.add(int(match[1]) * SUFFIXES[match[2]])
        else:
            wrong.append(repr(entry))
    if wrong:
        raise ConfigError(
            f"word-checkpoints has {', '.join(wrong)}, expected numbers of words such as 500k, 1M or 1B, or {BABYLM}"
        )
    return sorted(found)


def words_name(num_words: int) -> str:
    """Return ``words_1M``: in millions (1000M, as BabyLM says) or thousands where they are whole, else in words."""
    for suffix in ("M", "k"):
        if num_words % SUFFIXES[suffix] == 0:
            return f"words_{num_words // SUFFIXES[suffix]}{suffix}"
    return f"words_{num_words}"


def num_words_of(name: str) -> int:
    """Return how many words a checkpoint's name says; 0 for ``best`` and ``last``."""
    match = _COUNT.fullmatch(name.removeprefix("words_"))
    return int(match[1]) * SUFFIXES[match[2]] if match else 0
