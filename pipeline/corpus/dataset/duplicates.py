"""Find sentences of train that are also in dev or test, exactly or nearly.

Two sentences are exact duplicates if their texts are the same string. ``normalise_text`` was applied to all texts
before: they are in NFC and have single spaces. A sentence of train is a near duplicate if at least half of its 8-grams
of words occur in dev or test. Here a word is a sequence of letters and digits, and case is ignored. A sentence of
fewer than eight words can only be an exact duplicate. The share of 8-grams is the containment of Broder (1997, On the
Resemblance and Containment of Documents).

Only 64-bit hashes are kept: 8 bytes per word of dev and test. If a million sentences are compared with a million
others, the expected number of false duplicates is about 5e-8.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.ragged import Ragged

EXACT: Final = "exact duplicate of a sentence of dev or test"
NEAR: Final = "near duplicate of sentences of dev or test"
NUM_WORDS: Final = 8
MIN_SHARE: Final = 0.5
"""A sentence is a near duplicate if at least this share of its 8-grams occurs in dev or test."""

_WORD = re.compile(r"\w+")
# The hash of an 8-gram with the words w_0 to w_7 is the sum of hash(w_i) * _POWERS[i], modulo 2^64.
_POWERS: Final = np.array([pow(0x9E3779B97F4A7C15, i, 1 << 64) for i in range(NUM_WORDS)], np.uint64)


class SentenceHashes(NamedTuple):
    """The hashes by which M sentences are compared."""

    texts: NDArray[np.uint64]
    """``[M]``: the hash of each whole text."""
    shingles: Ragged
    """M rows of uint64: row m has the hashes of all sequences of eight words (8-grams) of text m."""


def hash_sentences(texts: Sequence[str]) -> SentenceHashes:
    """Return the hashes of normalised texts."""
    words: list[int] = []
    lengths = []
    for text in texts:
        found = [_hash_word(word) for word in _WORD.findall(text.lower())]
        words += found
        lengths.append(len(found))
    hashed = np.array([_hash(text) for text in texts], np.uint64)
    return SentenceHashes(hashed, _shingles(Ragged.from_lengths(np.array(words, np.uint64), lengths)))


class HeldOut:
    """Find duplicates of the sentences of dev and test."""

    def __init__(self, hashes: Sequence[SentenceHashes]) -> None:
        self._texts = _unique([each.texts for each in hashes])
        self._shingles = _unique([each.shingles.values for each in hashes])

    def find(self, hashes: SentenceHashes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two masks ``[M]``: of the exact duplicates, and of the near duplicates that are not exact."""
        exact = is_among(hashes.texts, self._texts)
        found = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_among(hashes.shingles.values, self._shingles))])
        num_found, lengths = np.diff(found[hashes.shingles.offsets]), hashes.shingles.lengths
        near = (lengths > 0) & (num_found >= MIN_SHARE * lengths)
        return exact, near & ~exact


def is_among(values: NDArray[np.uint64], members: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of ``values`` are in the sorted array ``members``."""
    if not len(members):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = members[np.minimum(np.searchsorted(members, values), len(members) - 1)] == values
    return found


def _shingles(words: Ragged) -> Ragged:
    """Return the hash of every ``NUM_WORDS`` consecutive words of each text."""
    num_starts = max(0, len(words.values) - NUM_WORDS + 1)
    hashes = np.zeros(num_starts, np.uint64)
    for i, power in enumerate(_POWERS):
        hashes += words.values[i : i + num_starts] * power  # uint64 arithmetic is modulo 2^64
    lengths = np.maximum(words.lengths - NUM_WORDS + 1, 0)
    starts = np.repeat(words.offsets[:-1] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    return Ragged.from_lengths(hashes[starts], lengths)


def _unique(values: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.unique(np.concatenate(values)) if values else np.zeros(0, np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


_hash_word = lru_cache(maxsize=1 << 16)(_hash)
