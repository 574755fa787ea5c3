r"""Compute the perplexity of a split. Every value names its distribution and its normaliser.

NLL is the negative natural log-probability of the split's M sentences, including every ``<eos>``:

    per token              exp(NLL / (tokens + M))                  one <eos> per sentence counts as a token
    per token without eos  exp((NLL - NLL of the <eos>) / tokens)
    per word               exp(NLL / (words + M))                   white-space-separated words; <eos> counts as a word
    bits per byte          NLL / ln 2 / (bytes + M)                 UTF-8 bytes of the text; one line end per sentence

Values per word and per byte are comparable across tokenizers, values per token only with the same tokenizer. A
perplexity "given the tree" is not comparable with an unconditional one: the parser or annotator who made the tree saw
the whole sentence, so the tree can reveal later words.

The command ``sample-corpus`` draws a corpus from a grammar. The floor of a split of this corpus is the perplexity of
that grammar on the split. In expectation, no model that reads only the words has a lower perplexity. The module
``truth`` computes the floor, and each model's divergence from the grammar.
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Split
from storage.errors import InputError, RunError
from storage.json_files import Number
from storage.ragged import Ragged

UNCONDITIONAL: Final = "unconditional"
"""p(x) of each sentence x, under a student that reads single sentences."""
IN_DOCUMENT: Final = "given the document before it"
"""For a student that was trained with --context document: the product of p(x | previous sentences) over the sentences x
of a split. The split is divided into rows of up to --max-length positions. A row takes sentences of a document until it
is full. The previous sentences are the earlier sentences of the same row."""
GIVEN_TREE: Final = "given the tree"
"""For a teacher: the product of p(x_t | x_<t, y_<t, SHIFT) over the tokens x_t. The actions y_<t are those that build
the tree up to x_t, and SHIFT is the action that generates x_t."""
JOINT: Final = "joint with the tree"
"""For a teacher: p(x, y), the probability of the words and the actions together."""
MARGINAL: Final = "marginal by beam search"
"""For a teacher that gets no tree: p(x), the product of p(x_t | x_<t). Each factor is a weighted mean over the
hypotheses for x_<t: the unfinished trees that a beam search kept."""
PREFIX: Final = "sum over trees by beam search"
"""For a teacher that gets no tree: the sum of p(x, y) over the complete trees y that a beam search finds for the
sentence x. The sum over all trees is p(x). So this sum is a lower bound of p(x), and the perplexity is an upper
bound."""
FLOOR: Final = "floor"
"""p(x) of the grammar that wrote the text."""
OF_STUDENTS: Final = (UNCONDITIONAL, IN_DOCUMENT)
"""The distributions of students."""
DISTRIBUTIONS: Final = (UNCONDITIONAL, IN_DOCUMENT, GIVEN_TREE, JOINT, MARGINAL, PREFIX, FLOOR)

LENGTHS: Final = (1, 6, 11, 21, 41, 81)
"""Each number is the smallest length in a range of the breakdown by length. The ranges are 1 to 5 tokens, 6 to 10
tokens, and so on, and the last is 81 and more tokens. Sentences of 0 tokens have a range of their own."""
BY_SOURCE: Final = "by source"
BY_LENGTH: Final = "by length in tokens"
NOT_KNOWN: Final = "not known"

NORMALISERS: Final = {
    "per_token": "exp(nats / (num_tokens + num_sentences)): tokens and one <eos> per sentence",
    "per_token_without_eos": "exp((nats - nats_eos) / num_tokens): tokens only",
    "per_word": "exp(nats / (num_words + num_sentences)): white-space-separated words and one <eos> per sentence",
    "bits_per_byte": "nats / ln 2 / (num_bytes + num_sentences): UTF-8 bytes and one line end per sentence",
}
"""The definition of each derived value."""
DIVERGENCES: Final = {
    "kl_per_position": "kl_nats / (num_tokens + num_sentences): mean KL(truth || model), in nats",
    "kl_per_position_without_eos": "(kl_nats - kl_nats_eos) / num_tokens: the same without the positions of <eos>",
}
"""The definition of each value that exists only if the true distributions are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityFigure:
    """The negative log-probability of a split under one distribution, and the counts that normalise it."""

    distribution: str
    """One of ``DISTRIBUTIONS``."""
    num_sentences: int
    num_tokens: int
    """Tokens without ``<eos>``."""
    num_words: int
    """White-space-separated words without ``<eos>``."""
    num_bytes: int
    """UTF-8 bytes of the text, without line ends."""
    nats: Number
    """Negative log-probability of all positions, including ``<eos>``."""
    nats_eos: Number | None = None
    """The part of ``nats`` that belongs to the ``<eos>`` tokens; None if it is unknown."""
    kl_nats: Number | None = None
    """Sum over all positions of KL(truth || model); None if it was not measured. See ``truth``."""
    kl_nats_eos: Number | None = None
    """The part of ``kl_nats`` that belongs to the positions of ``<eos>``."""

    def __post_init__(self) -> None:
        """Check that the values are possible.

        Raises:
            InputError: If the distribution is unknown, there is no sentence, a count is negative, or a sum of nats is
                not finite.
        """
        problems = []
        if self.distribution not in DISTRIBUTIONS:
            problems.append(f"distribution is {self.distribution!r}, expected one of {', '.join(DISTRIBUTIONS)}")
        for name, least in (("num_sentences", 1), ("num_tokens", 0), ("num_words", 0), ("num_bytes", 0)):
            if (count := getattr(self, name)) < least:
                problems.append(f"{name} is {count}, expected at least {least}")
        problems += [
            f"{name} is {value}, expected a finite number"
            for name in ("nats", "nats_eos", "kl_nats", "kl_nats_eos")
            if (value := getattr(self, name)) is not None and not math.isfinite(value)
        ]
        if problems:
            raise InputError("perplexity: " + "; ".join(problems))

    @property
    def num_positions(self) -> int:
        """Predicted tokens: the tokens and one ``<eos>`` per sentence."""
        return self.num_tokens + self.num_sentences

    @property
    def nats_per_position(self) -> float:
        """``nats / (num_tokens + num_sentences)``, the loss that models are trained on."""
        return self.nats / self.num_positions

    @property
    def per_token(self) -> float:
        """``exp(nats / (num_tokens + num_sentences))``."""
        return _exp(self.nats_per_position)

    @property
    def per_token_without_eos(self) -> float | None:
        """``exp((nats - nats_eos) / num_tokens)``; None if ``nats_eos`` is None or all sentences are empty."""
        if self.nats_eos is None or not self.num_tokens:
            return None
        return _exp((self.nats - self.nats_eos) / self.num_tokens)

    @property
    def per_word(self) -> float:
        """``exp(nats / (num_words + num_sentences))``."""
        return _exp(self.nats / (self.num_words + self.num_sentences))

    @property
    def bits_per_byte(self) -> float:
        """``nats / ln 2 / (num_bytes + num_sentences)``."""
        return self.nats / math.log(2) / (self.num_bytes + self.num_sentences)

    @property
    def kl_per_position(self) -> float | None:
        """``kl_nats / (num_tokens + num_sentences)``; None if ``kl_nats`` is None."""
        return None if self.kl_nats is None else self.kl_nats / self.num_positions

    @property
    def kl_per_position_without_eos(self) -> float | None:
        """``(kl_nats - kl_nats_eos) / num_tokens``; None if one of the sums is None or all sentences are empty."""
        if self.kl_nats is None or self.kl_nats_eos is None or not self.num_tokens:
            return None
        return (self.kl_nats - self.kl_nats_eos) / self.num_tokens

    @property
    def definitions(self) -> dict[str, str]:
        """The definitions of the derived values that can be computed from these sums."""
        return NORMALISERS | (DIVERGENCES if self.kl_nats is not None else {})

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and each derived value with its definition. An undefined or infinite value is null."""
        derived = {}
        for name, normaliser in self.definitions.items():
            value = getattr(self, name)
            derived[name] = {"value": value if value is not None and math.isfinite(value) else None, "is": normaliser}
        return asdict(self) | derived


def perplexity_figure(
    log_probs: Ragged, split: Split, distribution: str, divergences: Ragged | None = None
) -> PerplexityFigure:
    """Return the perplexity of a split from the log-probabilities of its positions.

    For each sentence of n tokens, ``log_probs`` has a row of n + 1 natural logs, the last for ``<eos>``. For the joint
    distribution, each value includes the actions before the token. ``divergences`` has the divergence from the truth at
    each position, if it was measured. The sums are float64.

    Raises:
        ValueError: If rows and sentences do not match.
        RunError: If a log-probability or a divergence is not finite.
        InputError: If the split is empty.
    """
    check_log_probs(log_probs, split)
    nats, nats_eos = _sums(log_probs)
    kl_nats = kl_nats_eos = None
    if divergences is not None:
        _check_finite(divergences, split, "divergence from the truth")
        kl_nats, kl_nats_eos = _sums(divergences)
    return PerplexityFigure(
        distribution=distribution,
        num_sentences=split.num_sentences,
        num_tokens=len(split.tokens.values),
        num_words=int(split.num_words.sum(dtype=np.int64)),
        num_bytes=int(split.num_bytes.sum(dtype=np.int64)),
        nats=-nats,
        nats_eos=-nats_eos,
        kl_nats=kl_nats,
        kl_nats_eos=kl_nats_eos,
    )


def check_log_probs(log_probs: Ragged, split: Split) -> None:
    """Check that there is a row for each sentence, with n + 1 values for n tokens, and that all values are finite.

    Raises:
        ValueError: If rows and sentences do not match.
        RunError: If a log-probability is not finite.
    """
    if not np.array_equal(log_probs.offsets, split.position_offsets):
        raise ValueError(
            f"{len(log_probs)} rows of log-probabilities do not fit split {split.name!r}, expected one row per "
            "sentence, with n + 1 values for n tokens"
        )
    _check_finite(log_probs, split, "log-probability")


def _check_finite(rows: Ragged, split: Split, what: str) -> None:
    if not np.isfinite(rows.values).all():
        sentence = int(np.searchsorted(rows.offsets, np.flatnonzero(~np.isfinite(rows.values))[0], "right"))
        raise RunError(
            f"split {split.name}, sentence {sentence}: the model gives a {what} that is not finite, expected a number; "
            "training diverged or the checkpoint is damaged: use another checkpoint"
        )


def _sums(values: Ragged) -> tuple[float, float]:
    """Return the sum of all values, and the sum of the last values of the rows, which are for ``<eos>``."""
    last = values.values[values.offsets[1:] - 1]
    return float(values.values.sum(dtype=np.float64)), float(last.sum(dtype=np.float64))


def breakdowns(log_probs: Ragged, split: Split, distribution: str) -> dict[str, dict[str, PerplexityFigure]]:
    """Return a perplexity per range of sentence lengths, and per source if the split has several sources.

    The sums of each breakdown add up to the sums of ``perplexity_figure``. Ranges and sources without a sentence are
    not in the result.
    """
    sources, names = split.source_ids
    lengths = np.searchsorted(LENGTHS, split.tokens.lengths, side="right")
    ranges = ["0", *(f"{a} to {b - 1}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]} and more"]
    found = {BY_LENGTH: _figures_by(lengths, ranges, log_probs, split, distribution)}
    if len(names) > 1:
        named = [name or NOT_KNOWN for name in names]
        found[BY_SOURCE] = _figures_by(sources, named, log_probs, split, distribution)
    return found


def _figures_by(
    group_of_sentence: NDArray[Any], names: list[str], log_probs: Ragged, split: Split, distribution: str
) -> dict[str, PerplexityFigure]:
    """Return the perplexity of each group that has a sentence. ``group_of_sentence`` has indices into ``names``."""
    values, offsets = log_probs.values.astype(np.float64), log_probs.offsets
    nats, nats_eos = -np.add.reduceat(values, offsets[:-1]), -values[offsets[1:] - 1]
    of_sentences = (None, split.tokens.lengths, split.num_words, split.num_bytes, nats, nats_eos)
    columns = [np.bincount(group_of_sentence, weights, minlength=len(names)) for weights in of_sentences]
    return {
        name: PerplexityFigure(
            distribution=distribution,
            num_sentences=int(sentences),
            num_tokens=int(tokens),
            num_words=int(words),
            num_bytes=int(num_bytes),
            nats=float(all_nats),
            nats_eos=float(eos_nats),
        )
        for name, sentences, tokens, words, num_bytes, all_nats, eos_nats in zip(names, *columns, strict=True)
        if sentences
    }


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 700 else math.inf
