"""Sentences of train that are in dev or test too: exactly, or nearly.

Two sentences are exact duplicates if their normalised texts are the same string. A sentence of train is a near
duplicate if at least half of its 8-grams of words (runs of letters and digits, case folded) occur in one of the
held-out splits; a sentence of fewer than eight words has none and can only be an exact duplicate. The measure is that
of containment (Broder 1997, On the Resemblance and Containment of Documents) in the whole of the held-out text.

Only 64-bit hashes are kept, 8 bytes a held-out word. Two different strings share one with probability 2^-64 a pair: of
a million sentences against a million, 5e-8 are taken for duplicates by mistake.
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
"""Of a sentence's 8-grams that are held out, from which on it is a near duplicate."""

_WORD = re.compile(r"\w+")
# Powers of an odd number: a rolling hash of words that are themselves hashed to 64 bits.
_POWERS: Final = np.array([pow(0x9E3779B97F4A7C15, i, 1 << 64) for i in range(NUM_WORDS)], np.uint64)


class SentenceHashes(NamedTuple):
    """What is compared of M sentences."""

    texts: NDArray[np.uint64]
    """``[M]``: of the whole text."""
    shingles: Ragged
    """M rows of uint64: of its 8-grams of words."""


def hash_sentences(texts: Sequence[str]) -> SentenceHashes:
    """Return the hashes of normalised texts."""
    words: list[int] = []
    lengths = []
    for text in texts:
        found = [_hash(word) for word in _WORD.findall(text.lower())]
        words += found
        lengths.append(len(found))
    hashed = np.array([_hash_whole(text) for text in texts], np.uint64)
    return SentenceHashes(hashed, _shingles(Ragged.from_lengths(np.array(words, np.uint64), lengths)))


class HeldOut:
    """The hashes of dev and test."""

    def __init__(self, hashes: Sequence[SentenceHashes]) -> None:
        self._texts = _unique([each.texts for each in hashes])
        self._shingles = _unique([each.shingles.values for each in hashes])

    def find(self, hashes: SentenceHashes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which sentences are exact duplicates, and which are near ones and no exact ones; ``[M]`` each."""
        exact = is_among(hashes.texts, self._texts)
        found = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_among(hashes.shingles.values, self._shingles))])
        num_found, lengths = np.diff(found[hashes.shingles.offsets]), hashes.shingles.lengths
        near = (lengths > 0) & (num_found >= MIN_SHARE * lengths)
        return exact, near & ~exact


def is_among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of ``values`` are in ``known``, which is sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


def _shingles(words: Ragged) -> Ragged:
    """Return the hashes of every ``NUM_WORDS`` words in a row; none where there are fewer."""
    num_starts = max(0, len(words.values) - NUM_WORDS + 1)
    hashes = np.zeros(num_starts, np.uint64)
    for i, power in enumerate(_POWERS):
        hashes += words.values[i : i + num_starts] * power  # modulo 2^64, as unsigned integers are
    lengths = np.maximum(words.lengths - NUM_WORDS + 1, 0)
    starts = np.repeat(words.offsets[:-1] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    return Ragged.from_lengths(hashes[starts], lengths)


def _unique(values: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.unique(np.concatenate(values)) if values else np.zeros(0, np.uint64)


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest())


def _hash_whole(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
