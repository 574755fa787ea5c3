r"""Perplexity of a split, with the distribution it is of and the normaliser it is by always named.

With NLL the negative natural log-probability of the split's M sentences, every ``<eos>`` included:

    per token              exp(NLL / (tokens + M))                  one <eos> a sentence is a token too
    per token without eos  exp((NLL - NLL of the <eos>) / tokens)
    per word               exp(NLL / (words + M))                   words: white-space-separated; <eos> counts as one
    bits per byte          NLL / ln 2 / (bytes + M)                 bytes: UTF-8 of the text; one line end a sentence

Per word and per byte can be compared across tokenizers, per token only within one. A figure "given the tree" is not
comparable with an unconditional one: the tree, made by someone who saw the whole sentence, tells what is to come.

The floor of the built-in sample is what the grammar that wrote it assigns to the same sentences. No model is below
it in expectation; on a finite sample one could be by chance, or by having read that sample.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset import Split
from pipeline.runtime.json_files import number
from storage.errors import InputError, RunError
from storage.ragged import Ragged

UNCONDITIONAL: Final = "unconditional"
"""p(x): a student's."""
IN_DOCUMENT: Final = "given the document before it"
"""The product over sentences of p(x | those before it in its document, as many as a row has room for): a student's that
was trained with --context document."""
GIVEN_TREE: Final = "given the tree"
"""The product of p(x_t | x_<t, y_<t, SHIFT): what a teacher's dump holds."""
JOINT: Final = "joint with the tree"
"""p(x, y): a teacher's, words and actions together."""
MARGINAL: Final = "marginal by beam search"
"""p(x) of a teacher that knows no tree: the product of the mixtures over its hypotheses, which see x_<t alone."""
PREFIX: Final = "sum over trees by beam search"
"""The sum of p(x, y) over the hypotheses that were kept: a lower bound of p(x), so of its perplexity an upper one."""
FLOOR: Final = "floor"
"""p(x) of the grammar that wrote the text."""
OF_STUDENTS: Final = (UNCONDITIONAL, IN_DOCUMENT)
DISTRIBUTIONS: Final = (UNCONDITIONAL, IN_DOCUMENT, GIVEN_TREE, JOINT, MARGINAL, PREFIX, FLOOR)

LENGTHS: Final = (1, 6, 11, 21, 41, 81)
"""The breakdown by length has a range from each of these numbers of tokens to the next; the last range has no end."""
BY_SOURCE: Final = "by source"
BY_LENGTH: Final = "by length in tokens"
NOT_KNOWN: Final = "not known"

NORMALISERS: Final = {
    "per_token": "exp(nats / (num_tokens + num_sentences)): tokens and one <eos> a sentence",
    "per_token_without_eos": "exp((nats - nats_eos) / num_tokens): tokens only",
    "per_word": "exp(nats / (num_words + num_sentences)): white-space-separated words and one <eos> a sentence",
    "bits_per_byte": "nats / ln 2 / (num_bytes + num_sentences): UTF-8 bytes and one line end a sentence",
}
"""How each derived figure is defined, written beside it in the JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityFigure:
    """What one distribution assigns to one split: sums, from which every normalised figure is derived."""

    distribution: str
    """One of ``DISTRIBUTIONS``."""
    num_sentences: int
    num_tokens: int
    """Without ``<eos>``."""
    num_words: int
    """White-space-separated, without ``<eos>``."""
    num_bytes: int
    """UTF-8 bytes of the text, without line ends."""
    nats: float
    """Negative log-probability of all positions, ``<eos>`` included."""
    nats_eos: float | None
    """The part of ``nats`` that is the ``<eos>`` tokens'; None where it is not known (the floor)."""

    def __post_init__(self) -> None:
        """Refuse what no split can give.

        Raises:
            InputError: If the distribution is unknown, there is no sentence or word, or a sum is not finite.
        """
        problems = []
        if self.distribution not in DISTRIBUTIONS:
            problems.append(f"distribution is {self.distribution!r}, expected one of {', '.join(DISTRIBUTIONS)}")
        if self.num_sentences < 1:
            problems.append(f"num_sentences is {self.num_sentences}, expected at least 1")
        problems += [
            f"{name} is {getattr(self, name)}, expected at least 0"
            for name in ("num_tokens", "num_words", "num_bytes")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} is {value}, expected a finite number"
            for name, value in (("nats", self.nats), ("nats_eos", self.nats_eos))
            if value is not None and not math.isfinite(value)
        ]
        if problems:
            raise InputError("perplexity: " + "; ".join(problems))

    @property
    def num_positions(self) -> int:
        """Predicted tokens: the tokens and one ``<eos>`` a sentence."""
        return self.num_tokens + self.num_sentences

    @property
    def nats_per_position(self) -> float:
        """``nats / (num_tokens + num_sentences)``: the loss a model is trained on."""
        return self.nats / self.num_positions

    @property
    def per_token(self) -> float:
        """``exp(nats / (num_tokens + num_sentences))``."""
        return _exp(self.nats_per_position)

    @property
    def per_token_without_eos(self) -> float | None:
        """``exp((nats - nats_eos) / num_tokens)``; None where ``nats_eos`` is not known or all sentences are empty."""
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

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and each derived figure beside the name of its normaliser (null where not defined)."""
        derived = {}
        for name, normaliser in NORMALISERS.items():
            value = getattr(self, name)
            derived[name] = {"value": value if value is not None and math.isfinite(value) else None, "is": normaliser}
        return {name: getattr(self, name) for name in self.__slots__} | derived

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "PerplexityFigure":
        """Return the figure whose ``to_json`` this is; derived figures are derived again, not believed.

        Args:
            value: A parsed JSON object.
            where: The file, for the error.

        Raises:
            InputError: If a sum is missing or has the wrong type.
        """
        nats_eos = value.get("nats_eos")
        return cls(
            distribution=str(value.get("distribution")),
            nats=number(value, "nats", where=where),
            nats_eos=None if nats_eos is None else number(value, "nats_eos", where=where),
            **{
                name: int(number(value, name, where=where))
                for name in ("num_sentences", "num_tokens", "num_words", "num_bytes")
            },
        )


def perplexity_figure(log_probs: Ragged, split: Split, distribution: str) -> PerplexityFigure:
    """Return the figure of a split from the log-probabilities of its positions.

    Args:
        log_probs: M rows of n + 1 natural logs, the last of each its ``<eos>``'s (``gold_log_probs``); for the joint
            distribution, a row's values include those of the actions before the token. Added up in float64.
        split: The same M sentences.
        distribution: One of ``DISTRIBUTIONS``: which one ``log_probs`` are of.

    Raises:
        ValueError: If rows and sentences do not match.
        RunError: If a log-probability is not finite.
        InputError: If the split is empty.
    """
    if not np.array_equal(log_probs.offsets, split.position_offsets):
        raise ValueError(
            f"{len(log_probs)} rows of log-probabilities do not fit split {split.name!r}, n + 1 a sentence"
        )
    if not np.isfinite(log_probs.values).all():
        sentence = int(np.searchsorted(log_probs.offsets, np.flatnonzero(~np.isfinite(log_probs.values))[0], "right"))
        raise RunError(
            f"split {split.name}, sentence {sentence}: the model gives a log-probability that is not finite, expected "
            "a number; training diverged or the checkpoint is damaged: use another checkpoint"
        )
    return PerplexityFigure(
        distribution=distribution,
        num_sentences=split.num_sentences,
        num_tokens=len(split.tokens.values),
        num_words=int(split.num_words.sum(dtype=np.int64)),
        num_bytes=int(split.num_bytes.sum(dtype=np.int64)),
        nats=-float(log_probs.values.sum(dtype=np.float64)),
        nats_eos=-float(log_probs.values[log_probs.offsets[1:] - 1].sum(dtype=np.float64)),
    )


def breakdowns(log_probs: Ragged, split: Split, distribution: str) -> dict[str, dict[str, PerplexityFigure]]:
    """Return the perplexity by length, and by source where the split has several sources.

    The sums of each breakdown add up to those of ``perplexity_figure``. Ranges and sources without a sentence have no
    figure.

    Args:
        log_probs: Rows that ``perplexity_figure`` has accepted.
        split: The sentences of the rows.
        distribution: As for ``perplexity_figure``.
    """
    sources, names = split.source_ids
    lengths = np.searchsorted(LENGTHS, split.tokens.lengths, side="right")
    ranges = ["0", *(f"{a} to {b - 1}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]} and more"]
    found = {BY_LENGTH: _figures_by(lengths, ranges, log_probs, split, distribution)}
    if len(names) > 1:
        named = [name or NOT_KNOWN for name in names]
        found[BY_SOURCE] = _figures_by(sources, named, log_probs, split, distribution)
    return found


def floor_figure(path: Path, split: str, *, like: PerplexityFigure, text_sha256: str) -> PerplexityFigure:
    """Return what the grammar of ``sample-corpus`` assigns to a split: the floor of an unconditional model.

    Args:
        path: Its ``entropy.json``.
        split: Name of the split.
        like: A figure of the same split, whose counts the floor is normalised by.
        text_sha256: Of the evaluated split's text (``Split.text_sha256``).

    Raises:
        InputError: If the file is not one, does not know the split, or is about another text (some sentences were
            dropped when the dataset was built, or another sample).
    """
    splits = _read_entropy(path)
    if split not in splits:
        raise InputError(f"{path}: no split {split!r}, there are {', '.join(sorted(splits))}; name one of these")
    found = splits[split]
    if (sha256 := str(found.get("text_sha256"))) != text_sha256:
        raise InputError(
            f"{path}: text_sha256 of {split} is {sha256[:12]}, but the evaluated split's is {text_sha256[:12]}; a "
            "floor holds for the very same sentences: name the entropy.json of the sample that the dataset was built "
            "from, and build it dropping no sentence"
        )
    nats = number(found, "neg_log_prob_nats", where=f"{path}: {split}")
    return replace(like, distribution=FLOOR, nats=nats, nats_eos=None)


def _figures_by(
    group_of_sentence: NDArray[Any], names: list[str], log_probs: Ragged, split: Split, distribution: str
) -> dict[str, PerplexityFigure]:
    """Return a figure for each group that has a sentence. ``group_of_sentence`` is an index into ``names``."""
    values, offsets = log_probs.values.astype(np.float64), log_probs.offsets
    nats = -np.add.reduceat(values, offsets[:-1]) if len(values) else np.zeros(0)

    def sums(of_sentences: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(group_of_sentence, weights=of_sentences, minlength=len(names)).astype(np.float64)

    columns = [
        np.bincount(group_of_sentence, minlength=len(names)),
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


def _read_entropy(path: Path) -> dict[str, dict[str, Any]]:
    """Return the splits of an ``entropy.json``, by name."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name the entropy.json of sample-corpus"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); name the entropy.json of sample-corpus") from error
    splits = value.get("splits") if isinstance(value, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(split, dict) for split in splits.values()):
        raise InputError(f"{path}: no object 'splits' of objects; name the entropy.json of sample-corpus")
    return splits


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 700 else math.inf
