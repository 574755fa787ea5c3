"""Turn item rows (a model's score on each item) into arrays, so that runs are compared on the same items.

    benchmark        score of an item                                    groups of items
    minimal pairs    1 if log p(good) > log p(bad), else 0               paradigms
    SyntaxGym        1 if every prediction of the item is true, else 0   suites
    perplexity       -log p of a sentence and its <eos>, in nats         none

An evaluation writes a result file with counts and sums, and next to it a file with the item rows. The rows must add up
to these counts and sums. A tie (equal probabilities) counts as wrong.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.perplexity import FLOOR, MARGINAL, PREFIX
from pipeline.evaluation.results import (
    MINIMAL_PAIRS,
    PERPLEXITY,
    SYNTAXGYM,
    LoadedResult,
    PairResult,
    PerplexityResult,
    RunResults,
    SuiteResult,
    read_sentence_rows,
)
from storage.errors import InputError

Normaliser = Literal["token", "word", "byte"]
_Compared = PairResult | PerplexityResult | SuiteResult

ROUNDING: Final = 1e-5
"""Tolerance when values in nats are compared. For the sum over a split it is the relative tolerance. For a single
sentence it is both the relative and the absolute tolerance.

float32 has seven digits, and the last digit changes with the batch that a sentence is scored in. Rows keep six
decimals. The nats of two different models differ by far more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """The data and the measure of a comparison. Two results are compared only if all these fields are equal."""

    kind: str
    """``minimal_pairs``, ``syntaxgym`` or ``perplexity``."""
    subject: str
    """Name of the folder of pairs or suites, or of the split."""
    fingerprint: str
    """sha256 of the pairs or suites. For a perplexity per token: sha256 of the split. For a perplexity per word or per
    byte: sha256 of the split's text."""
    conventions: str
    """How sentences were scored, in words (``LoadedResult.convention``). For a perplexity, this begins with the name of
    the distribution."""
    unit: str
    """``accuracy``, ``nats per token``, ``nats per word`` or ``bits per byte``. It is the unit of the overall value,
    which is the result of a run on the whole benchmark."""
    tokenizer: str = ""
    """sha256 of the tokenizer if the unit is per token, else empty."""

    @property
    def is_outcome(self) -> bool:
        """Whether the overall value is an accuracy, so that more is better. For a perplexity less is better."""
        return self.kind != PERPLEXITY

    @property
    def title(self) -> str:
        """A readable name: kind, data and convention."""
        kind = {MINIMAL_PAIRS: "minimal pairs", SYNTAXGYM: "SyntaxGym", PERPLEXITY: "perplexity"}[self.kind]
        return f"{kind} on {self.subject} ({self.fingerprint[:8]}), {self.conventions}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScores:
    """The score of a run on each of N items."""

    benchmark: Benchmark
    path: Path
    """The file of the rows."""
    command: str
    groups: tuple[str, ...]
    """The G paradigms or suites; empty for a perplexity."""
    group_of_item: NDArray[np.int64]
    """``[N]`` in ``[0, G)``: the index in ``groups`` of each item's group; zeros for a perplexity."""
    numbers: NDArray[np.int64]
    """``[N]``: the number that identifies the item within its group; for a perplexity, the index of the sentence."""
    values: NDArray[np.int64] | NDArray[np.float64]
    """``[N]`` int64: 1 if the model is right on the item, else 0. For a perplexity ``[N]`` float64: the nats of each
    sentence."""
    categories: Mapping[str, Mapping[str, str]]
    """For minimal pairs, ``categories["term"]`` maps each paradigm to BLiMP's term for it, and ``categories["field"]``
    maps each paradigm to its field. For SyntaxGym and perplexity, ``categories`` is empty."""
    scale: float
    """The overall value of a perplexity is the sum of ``values`` divided by ``scale``. ``scale`` is the number of
    tokens, words or bytes, plus one per sentence for its end. If the unit is bits, this number is multiplied by ln 2.
    For minimal pairs and SyntaxGym, ``scale`` is 1."""

    @property
    def units(self) -> NDArray[np.float64]:
        """``[U]`` float64: the numbers whose mean is the overall value.

        For minimal pairs and SyntaxGym: the accuracy of each paradigm or suite. For a perplexity: the nats or bits of
        each sentence, divided by the mean number of tokens, words or bytes per sentence.
        """
        if not self.benchmark.is_outcome:
            return np.asarray(self.values * (len(self.values) / self.scale), np.float64)
        rights = np.bincount(self.group_of_item, self.values, len(self.groups))
        return np.asarray(rights / np.bincount(self.group_of_item), np.float64)

    def check_same_items(self, other: "ItemScores") -> None:
        """Check that both runs were scored on the same items.

        Raises:
            InputError: If an item, the order or the number of items differs.
        """
        same = (
            self.groups == other.groups
            and np.array_equal(self.group_of_item, other.group_of_item)
            and np.array_equal(self.numbers, other.numbers)
            and self.categories == other.categories
            and self.scale == other.scale
        )
        if not same:
            raise InputError(
                f"{self.path}: has other items than {other.path}, expected the same for {self.benchmark.title}; "
                f"evaluate both again: {self.command}"
            )

    def is_same_as(self, other: "ItemScores") -> bool:
        """Return whether the scores are the same except for rounding."""
        if len(self.values) != len(other.values):
            return False
        if self.benchmark.is_outcome:
            return np.array_equal(self.values, other.values)
        return bool(np.allclose(self.values, other.values, rtol=ROUNDING, atol=ROUNDING))


def item_scores(results: RunResults, *, normaliser: Normaliser, left_out: list[str]) -> list[ItemScores]:
    """Return a run's scores on each benchmark that it was evaluated on.

    A run may have two results of one benchmark. For example, a teacher's results with and without a beam search both
    hold the perplexity *given the tree*. Two such results must agree except for rounding.

    Args:
        results: The results of a run.
        normaliser: Whether perplexities are per token, word or byte.
        left_out: Gets a message for each result that is left out. There are three reasons: the result is outdated
            (``Skipped.is_outdated``), the file of its item rows does not exist, or the result has no items.

    Raises:
        InputError: If a row is damaged, rows do not add up to the counts or sums of their result, or two results of one
            benchmark differ.
    """
    compared = {MINIMAL_PAIRS, SYNTAXGYM, PERPLEXITY}
    outdated = [skipped for skipped in results.skipped if skipped.is_outdated and skipped.kind in compared]
    left_out += [f"{results.run}/{skipped.note}" for skipped in outdated]
    found: dict[Benchmark, ItemScores] = {}
    every: list[_Compared] = [*results.pairs, *results.perplexities, *results.suites]
    for result in sorted(every, key=lambda result: result.path.name):
        if not result.rows.exists():
            left_out.append(f"{result.rows}: missing, expected a row per item; {result.remedy}")
            continue
        for scores in _scores(result, normaliser):
            if not len(scores.values):
                left_out.append(
                    f"{scores.path}: no item, perhaps because all pairs have identical sentences; {result.remedy}"
                )
            elif not scores.is_same_as(other := found.setdefault(scores.benchmark, scores)):
                raise InputError(
                    f"{scores.path} and {other.path}: two different results of {scores.benchmark.title}, expected one; "
                    "remove one"
                )
    return list(found.values())


def _scores(result: _Compared, normaliser: Normaliser) -> Iterable[ItemScores]:
    return _sentence_nats(result, normaliser) if isinstance(result, PerplexityResult) else [outcomes(result)]


def outcomes(result: PairResult | SuiteResult) -> ItemScores:
    """Return the outcome of each pair or item: 1 if the model is right, else 0.

    Raises:
        InputError: If a row is missing or damaged, or the rows do not add up to the counts of the result.
    """
    categories: Mapping[str, Mapping[str, str]] = {}
    if isinstance(result, PairResult):
        items = [(row.paradigm, row.pair, row.good > row.bad) for row in result.pairs()]
        paradigms = result.figures.by_paradigm
        expected = {name: (counts.num_pairs, counts.num_right) for name, counts in paradigms.items()}
        categories = {
            "term": {name: counts.linguistics_term for name, counts in paradigms.items()},
            "field": {name: counts.field for name, counts in paradigms.items()},
        }
    else:
        items = list(result.items())
        expected = {name: (suite.num_items, suite.num_right) for name, suite in result.figures.by_suite.items()}
    groups = tuple(sorted({group for group, _, _ in items}))
    index = {group: i for i, group in enumerate(groups)}
    group_of_item = np.array([index[group] for group, _, _ in items], np.int64)
    values = np.array([is_right for _, _, is_right in items], np.int64)
    for group, (num_items, num_right) in expected.items():
        inside = values[group_of_item == index.get(group, -1)]
        _check_sum(result, f"items of {group}:", len(inside), num_items)
        _check_sum(result, f"right items of {group}:", int(inside.sum()), num_right)
    if unknown := sorted(set(groups) - expected.keys()):
        raise InputError(f"{result.rows}: {unknown[0]} is not in {result.path.name}; {result.remedy}")
    return ItemScores(
        benchmark=Benchmark(
            kind=result.kind,
            subject=result.subject,
            fingerprint=result.fingerprint,
            conventions=result.convention,
            unit="accuracy",
        ),
        path=result.rows,
        command=result.command,
        groups=groups,
        group_of_item=group_of_item,
        numbers=np.array([number for _, number, _ in items], np.int64),
        values=values,
        categories={by: {group: names[group] for group in groups} for by, names in categories.items()},
        scale=1.0,
    )


def _sentence_nats(result: PerplexityResult, normaliser: Normaliser) -> Iterator[ItemScores]:
    """Yield the scores of each distribution except the floor, which is the perplexity of the corpus's grammar."""
    figures = {name: figure for name, figure in result.figures.items() if name != FLOOR}
    nats: dict[str, list[float]] = {name: [] for name in figures}
    for log_probs in read_sentence_rows(result.rows, remedy=result.remedy):
        if log_probs.keys() != nats.keys():
            raise InputError(
                f"{result.rows}: distributions {sorted(log_probs)}, but {result.path.name} has {sorted(nats)}; "
                f"{result.remedy}"
            )
        for distribution, of_tokens in log_probs.items():
            nats[distribution].append(-float(of_tokens.sum()))
    for distribution, figure in figures.items():
        values = np.array(nats[distribution], np.float64)
        _check_sum(result, "sentences:", len(values), figure.num_sentences)
        _check_sum(result, f"nats, {distribution}:", float(values.sum()), figure.nats, tolerance=ROUNDING)
        unit, scale = {
            "token": ("nats per token", figure.num_positions),
            "word": ("nats per word", figure.num_words + figure.num_sentences),
            "byte": ("bits per byte", (figure.num_bytes + figure.num_sentences) * math.log(2)),
        }[normaliser]
        is_per_token = normaliser == "token"
        conventions = [distribution, result.convention] if distribution in {MARGINAL, PREFIX} else [distribution]
        yield ItemScores(
            benchmark=Benchmark(
                kind=PERPLEXITY,
                subject=result.subject,
                fingerprint=result.sha256_of("split" if is_per_token else "text"),
                conventions=", ".join(filter(None, conventions)),
                unit=unit,
                tokenizer=result.sha256_of("tokenizer") if is_per_token else "",
            ),
            path=result.rows,
            command=result.command,
            groups=(),
            group_of_item=np.zeros(len(values), np.int64),
            numbers=np.arange(len(values)),
            values=values,
            categories={},
            scale=scale,
        )


def _check_sum(result: LoadedResult[Any], name: str, found: float, expected: float, *, tolerance: float = 0) -> None:
    """Check that a count or sum over the rows equals the one in the result."""
    if not math.isclose(found, expected, rel_tol=tolerance):
        raise InputError(
            f"{result.rows}: {name} {found:,.10g}, but {result.path.name} has {expected:,.10g}; {result.remedy}"
        )
