"""Measure how often a model's surprisals fulfil the predictions of SyntaxGym suites.

    surprisal of a region       sum of -log2 p(x_t | x_<t) over its tokens, in bits. A suite may name another metric
                                than the sum, such as the mean
    an item is right            if every prediction about it is true

A token belongs to the region of its first character that is not a space. Results have the number of tokens that touch
two regions. This number is 0 with a tokenizer that keeps words and punctuation apart. ``<eos>`` belongs to no region.

A prediction is a tie if its truth depends on a comparison of two values that are equal except for rounding
(``formulas``). An item is a tie if none of its predictions is false and at least one is a tie. Ties are reported and
are never right.

Accuracies are over items, with Wilson intervals. For each circuit (a group of suites on related phenomena) and for all
suites there is also the mean of the suites' accuracies, which Hu et al. (2020) report.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.matching import Span
from pipeline.evaluation.formulas import Region, Truth
from pipeline.evaluation.intervals_and_p_values import Interval, wilson_interval
from pipeline.evaluation.scorer import Scorer
from pipeline.evaluation.syntaxgym_suites import METRICS, Condition, Item, Joining, Suite
from storage.errors import InputError, RunError
from storage.json_files import Count

_NAMES: Final = {Truth.TRUE: "right", Truth.FALSE: "wrong", Truth.TIE: "tie"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemCounts:
    """Counts of items, and how many of them are right.

    In the subclass ``PredictionCounts``, an item is right if the prediction ``formula`` is true.
    """

    num_items: Annotated[int, msgspec.Meta(ge=1)]
    num_right: Count
    num_ties: Count

    def __post_init__(self) -> None:
        """Check that the counts are possible.

        Raises:
            InputError: If they are not.
        """
        if self.num_right + self.num_ties > self.num_items:
            raise InputError(
                f"{self.num_right} right and {self.num_ties} ties of {self.num_items} items, expected at most "
                f"{self.num_items} right and tied items together"
            )

    @property
    def accuracy(self) -> float:
        """``num_right / num_items``. A tie is not right."""
        return self.num_right / self.num_items

    @property
    def interval(self) -> Interval | None:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(self.num_right, self.num_items)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the accuracy, and its Wilson interval."""
        return asdict(self) | {"accuracy": self.accuracy, "interval": self.interval}


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemOutcome:
    """A model's outcome on an item. It becomes one line of the ``.jsonl`` file that is written next to the result."""

    suite: str
    item: int
    predictions: tuple[Truth, ...]
    surprisals: Mapping[str, Mapping[int, float | None]]
    """The value of each region in bits under the suite's metric, by condition, then by region. None if the metric is
    undefined because the region has no tokens."""

    @property
    def outcome(self) -> Truth:
        """The lowest truth value of the predictions: false < tie < true."""
        return min(self.predictions)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object. An outcome is ``right``, ``wrong`` or ``tie``."""
        return {
            "suite": self.suite,
            "item": self.item,
            "outcome": _NAMES[self.outcome],
            "predictions": [_NAMES[outcome] for outcome in self.predictions],
            "surprisals": {
                condition: {str(region): value for region, value in regions.items()}
                for condition, regions in self.surprisals.items()
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionCounts(ItemCounts):
    """For how many items of a suite a prediction is true."""

    formula: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteFigures(ItemCounts):
    """How many items of a suite are right."""

    circuit: str
    metric: str
    sha256: str
    by_prediction: tuple[PredictionCounts, ...]
    num_tokens: Count
    num_tokens_over_two_regions: Count

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return ItemCounts.to_json(self) | {"by_prediction": [counts.to_json() for counts in self.by_prediction]}


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntaxGymFigures:
    """Accuracies on several suites."""

    by_suite: Annotated[Mapping[str, SuiteFigures], msgspec.Meta(min_length=1)]

    @property
    def mean_of_suites(self) -> float:
        """Mean of the suites' accuracies, as Hu et al. (2020) report it."""
        return sum(suite.accuracy for suite in self.by_suite.values()) / len(self.by_suite)

    @property
    def overall(self) -> ItemCounts:
        """Counts of the items of all suites together."""
        suites = self.by_suite.values()
        return ItemCounts(**{name: sum(getattr(each, name) for each in suites) for name in ItemCounts.__slots__})

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object, with the accuracies of each circuit and of all suites together."""
        circuits: dict[str, dict[str, SuiteFigures]] = {}
        for name, figures in self.by_suite.items():
            circuits.setdefault(figures.circuit, {})[name] = figures
        return {
            "overall": _pooled(self),
            "by_circuit": {
                name: _pooled(SyntaxGymFigures(by_suite=suites)) for name, suites in sorted(circuits.items())
            },
            "by_suite": {name: figures.to_json() for name, figures in sorted(self.by_suite.items())},
        }


def evaluate_suites(
    scorer: Scorer,
    tokenizer: Tokenizer,
    suites: Sequence[Suite],
    *,
    joining: Joining = "text",
    max_tokens: int | None = None,
) -> tuple[SyntaxGymFigures, list[ItemOutcome]]:
    """Score every distinct sentence of the suites once. Return the accuracies, and the outcome of each item.

    ``joining`` says how regions become a sentence (``syntaxgym_suites``). ``max_tokens`` is the length of the longest
    sentence that the model can score, without ``<eos>``; None if there is no limit.

    Raises:
        InputError: If a sentence is too long, or if a formula needs the value of a region without tokens and the metric
            is not the sum. The error names the file of the suite, the item and the condition.
        RunError: If the model gives a log-probability that is not finite.
    """
    sentences = [
        (f"{suite.path}: item {item.number}, condition {name!r}", *condition.sentence(joining))
        for suite in suites
        for item in suite.items
        for name, condition in item.conditions.items()
    ]
    texts = list(dict.fromkeys(text for _, text, _ in sentences))
    encoded = dict(zip(texts, tokenizer.encode_batch_with_spans(texts), strict=True))
    for where, text, _ in sentences:
        if max_tokens is not None and len(encoded[text][0]) > max_tokens:
            raise InputError(
                f"{where}: {len(encoded[text][0])} tokens, expected at most {max_tokens}, the limit of the model; "
                "leave the suite out"
            )
    bits = _bits_of(scorer, {text: ids for text, (ids, _) in encoded.items()})
    by_suite: dict[str, SuiteFigures] = {}
    outcomes: list[ItemOutcome] = []
    for suite in suites:
        values: dict[tuple[int, str], dict[int | None, float | None]] = {}
        num_tokens = num_over_two = 0
        for item in suite.items:
            for name, condition in item.conditions.items():
                text, owners = condition.sentence(joining)
                regions, over_two = regions_of_tokens(text, owners, encoded[text][1])
                values[item.number, name] = _values_of_regions(suite.metric, condition, bits[text], regions)
                num_tokens, num_over_two = num_tokens + len(regions), num_over_two + int(over_two.sum())
        of_suite = [_outcome(suite, item, values) for item in suite.items]
        outcomes += of_suite
        by_suite[suite.name] = SuiteFigures(
            circuit=suite.circuit,
            metric=suite.metric,
            sha256=suite.sha256,
            **_counts([item.outcome for item in of_suite]),
            by_prediction=tuple(
                PredictionCounts(formula=formula.text.strip(), **_counts([item.predictions[i] for item in of_suite]))
                for i, formula in enumerate(suite.formulas)
            ),
            num_tokens=num_tokens,
            num_tokens_over_two_regions=num_over_two,
        )
    return SyntaxGymFigures(by_suite=by_suite), outcomes


def _counts(outcomes: Sequence[Truth]) -> dict[str, int]:
    """Return the fields of ``ItemCounts``."""
    rights, ties = outcomes.count(Truth.TRUE), outcomes.count(Truth.TIE)
    return {"num_items": len(outcomes), "num_right": rights, "num_ties": ties}


def regions_of_tokens(
    text: str, owners: NDArray[np.int64], spans: Sequence[Span]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the region of each of n tokens, and whether the token touches two regions.

    The first array is int64 ``[n]``, the second bool ``[n]``. A region is given by its index in ``Condition.regions``,
    not by its number in the suite. ``owners`` is the second result of ``Condition.sentence``. The span of a token
    includes the space before a word.
    """
    regions, over_two = np.empty(len(spans), np.int64), np.zeros(len(spans), bool)
    for i, (start, stop) in enumerate(spans):
        first = min(start, len(text) - 1)
        inside = owners[[place for place in range(first, stop) if text[place] != " "] or [first]]
        regions[i], over_two[i] = inside[0], inside.min() != inside.max()
    return regions, over_two


def _values_of_regions(
    metric: str, condition: Condition, bits: NDArray[np.float64], regions: NDArray[np.int64]
) -> dict[int | None, float | None]:
    """Return the metric's value for each region, by the region's number. The key None stands for the whole sentence."""

    def value(of_tokens: NDArray[np.float64]) -> float | None:
        return float(METRICS[metric](of_tokens)) if len(of_tokens) or metric == "sum" else None

    return {None: value(bits)} | {number: value(bits[regions == i]) for i, (number, _) in enumerate(condition.regions)}


def _outcome(
    suite: Suite, item: Item, values: Mapping[tuple[int, str], Mapping[int | None, float | None]]
) -> ItemOutcome:
    def value(region: Region) -> float:
        found = values[item.number, region.condition][region.number]
        if found is None:
            raise InputError(
                f"{suite.path}: item {item.number}, condition {region.condition!r}: region {region.number} has no "
                f"token and so no {suite.metric}, but a prediction needs it; correct the suite, or leave it out"
            )
        return found

    return ItemOutcome(
        suite=suite.name,
        item=item.number,
        predictions=tuple(formula.evaluate(value) for formula in suite.formulas),
        surprisals={
            name: {region: found for region, found in values[item.number, name].items() if region is not None}
            for name in item.conditions
        },
    )


def _bits_of(scorer: Scorer, ids: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float64]]:
    """Return the surprisals ``[n]`` of each sentence's tokens in bits, without ``<eos>``."""
    found = {}
    for text, row in zip(ids, scorer.log_probs(list(ids.values())), strict=True):
        if not np.isfinite(row).all():
            raise RunError(
                f"syntaxgym: a log-probability of {text!r} is not finite, expected a number; training diverged "
                "or the checkpoint is damaged: use another checkpoint"
            )
        found[text] = row[:-1].astype(np.float64) / -math.log(2)
    return found


def _pooled(figures: SyntaxGymFigures) -> dict[str, Any]:
    """Return the mean of the suites' accuracies, and the counts of all their items."""
    means = {"num_suites": len(figures.by_suite), "mean_of_suites": figures.mean_of_suites}
    return means | figures.overall.to_json()
