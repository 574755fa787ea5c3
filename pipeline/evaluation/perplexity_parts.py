"""Perplexity of parts of a split: the sentences of each source, and those of each range of lengths."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset import Split
from pipeline.evaluation.perplexity import PerplexityFigure
from storage.ragged import Ragged

LENGTHS: Final = (1, 6, 11, 21, 41, 81)
"""Tokens of the shortest sentence of each range; the last has no end."""
BY_SOURCE: Final = "by source"
BY_LENGTH: Final = "by length in tokens"
NOT_KNOWN: Final = "not known"
Parts = Mapping[str, Mapping[str, PerplexityFigure]]
"""By what sentences are told apart, then by part."""


def perplexity_parts(log_probs: Ragged, split: Split, distribution: str) -> Parts:
    """Return figures of parts of a split, whose sums add up to ``perplexity_figure``'s; parts without a sentence none.

    Args:
        log_probs: As ``perplexity_figure`` takes them, and refuses what is not right.
        split: Its sentences.
        distribution: Which one ``log_probs`` are of.
    """
    sources, names = split.source_ids
    lengths = np.searchsorted(LENGTHS, split.tokens.lengths, side="right")
    ranges = ["0", *(f"{a} to {b - 1}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]} and more"]
    parts = {BY_LENGTH: _figures(log_probs, split, distribution, lengths, ranges)}
    if len(names) > 1:
        parts[BY_SOURCE] = _figures(log_probs, split, distribution, sources, [name or NOT_KNOWN for name in names])
    return parts


def parts_to_json(parts: Parts) -> dict[str, Any]:
    """Return the parts as JSON, each figure as ``PerplexityFigure.to_json``."""
    return {by: {name: figure.to_json() for name, figure in figures.items()} for by, figures in parts.items()}


def _figures(
    log_probs: Ragged, split: Split, distribution: str, part: NDArray[Any], names: list[str]
) -> dict[str, PerplexityFigure]:
    """Return a figure for each part that has a sentence; ``part`` has the number of each sentence's."""
    values, offsets = log_probs.values.astype(np.float64), log_probs.offsets
    nats = -np.add.reduceat(values, offsets[:-1]) if len(values) else np.zeros(0)

    def sums(of_sentences: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(part, weights=of_sentences, minlength=len(names)).astype(np.float64)

    columns = [
        np.bincount(part, minlength=len(names)),
        *(sums(column) for column in (split.tokens.lengths, split.num_words, split.num_bytes, nats)),
        sums(-values[offsets[1:] - 1]),
    ]
    return {
        name: PerplexityFigure(
            distribution=distribution,
            num_sentences=int(sentences),
            num_tokens=int(tokens),
            num_words=int(words),
            num_bytes=int(size_bytes),
            nats=float(all_nats),
            nats_eos=float(eos_nats),
        )
        for name, sentences, tokens, words, size_bytes, all_nats, eos_nats in zip(names, *columns, strict=True)
        if sentences
    }
