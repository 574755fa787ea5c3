"""Rows beside results, ``RUN/results/NAME.jsonl``, read one at a time: a split may have millions of sentences.

Rows may come from strangers: each line is validated before it is used, and a damaged one is named.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.perplexity import DISTRIBUTIONS
from pipeline.runtime.json_files import read_json_lines
from storage.errors import InputError


def read_sentence_rows(path: Path, *, remedy: str) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Yield the log-probabilities of each sentence of a perplexity's rows, by distribution.

    A row is ``{"sentence": int, "log_probs": {distribution: [n + 1 floats]}}`` for n tokens, natural logarithms, the
    last that of ``<eos>``. Sentences count from 0, and all rows have the same distributions.

    Args:
        path: The file.
        remedy: What an error tells the user to do.

    Yields:
        ``[n + 1]`` float64 by distribution, finite.

    Raises:
        InputError: If a line is no such row; it is named.
    """
    expected: set[str] = set()
    for sentence, (where, row) in enumerate(read_json_lines(path, remedy=remedy)):
        found = row.get("log_probs") if isinstance(row, dict) else None
        if not isinstance(found, dict) or not found or not _is(row.get("sentence"), sentence):
            raise InputError(f"{where}: expected an object with sentence {sentence} and its log_probs; {remedy}")
        if unknown := [name for name in found if name not in DISTRIBUTIONS]:
            named = ", ".join(DISTRIBUTIONS)
            raise InputError(f"{where}: distribution {unknown[0]!r}, expected one of {named}; {remedy}")
        if not all(isinstance(values, list) and values and all(map(_is_finite, values)) for values in found.values()):
            raise InputError(f"{where}: log_probs are not lists of finite numbers, one for <eos> included; {remedy}")
        if len({len(values) for values in found.values()}) > 1:
            raise InputError(f"{where}: distributions of different lengths, expected n + 1 each; {remedy}")
        expected = expected or set(found)
        if found.keys() != expected:
            raise InputError(f"{where}: distributions {sorted(found)}, expected {sorted(expected)}; {remedy}")
        yield {name: np.array(values, np.float64) for name, values in found.items()}


def _is(found: object, expected: int) -> bool:
    return type(found) is int and found == expected


def _is_finite(found: object) -> bool:
    if isinstance(found, float):
        return math.isfinite(found)
    return isinstance(found, int) and not isinstance(found, bool) and abs(found) < 1 << 63
