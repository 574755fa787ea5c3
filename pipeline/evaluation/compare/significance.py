"""Differences between configurations on the same items: over items, over trainings, corrected for how many were tested.

Two things vary, and a difference has to hold in both:

    over items       d_i, the mean over the seeds of one configuration less that of the other, of each unit: a bootstrap
                     interval of its mean, and a permutation test that flips signs. Would other items say the same?
    over trainings   the difference of the two means over seeds with its t interval. Would other seeds say the same?

The units of an overall figure, a term or a field are whole paradigms or suites, each counting the same: their items
come from one template, and two trainings of one configuration differ by paradigm more than by item, so that a test that
took items for independent would call such differences real. (A paradigm's mean carries the variation of its items, so
nothing is drawn within it: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.) Fewer than
six paradigms can never reach 0.05, for there are 2^U flips. Within one paradigm or suite there is nothing else to draw
than its items: those tests speak of this template, and of others only the seeds do. A perplexity's units are sentences;
that sentences of a document go together is not known here.

The intervals over items and the p-values are of these trainings; so it is with one seed each, where nothing more can be
said. p-values are adjusted by Holm over every pair of configurations, and, in a table by paradigm, term, field or
suite, over these too: a family for each benchmark and table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.compare.item_scores import ItemScores
from pipeline.evaluation.intervals import (
    Interval,
    SeedDifference,
    SeedMean,
    bootstrap_mean,
    difference_over_seeds,
    holm_adjusted,
    mean_over_seeds,
    sign_flip_p_value,
)
from pipeline.evaluation.results import MINIMAL_PAIRS

ALPHA: Final = 0.05
"""Of the adjusted p-value; the interval over seeds has the level ``1 - ALPHA``."""
OVERALL: Final = "overall"
_SEED: Final = 1
"""Of resampling: the same results give the same intervals and p-values."""
_FLIPS_A_TEST: Final = 200
"""Random flips for each test of a family, so that the least p-value, adjusted, is 0.005."""
_LEAST_FLIPS: Final = 10_000

Better = Literal["first", "second", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How a figure differs between two configurations, the first minus the second."""

    first: float
    """Mean over the seeds of the first."""
    second: float
    interval: Interval | None
    """Of the difference, over items: by the paired bootstrap of ``num_units``; None of a single one."""
    num_units: int
    """Paradigms, suites, sentences or items."""
    p_value: float
    """Over items, two-sided, by the permutation test."""
    adjusted_p_value: float
    """By Holm, over the family's ``num_tests``."""
    num_tests: int
    over_seeds: SeedDifference

    @property
    def difference(self) -> float:
        """``first - second``."""
        return self.over_seeds.difference

    @property
    def least_p_value(self) -> float:
        """What the test over units can give at least, ``2^(1 - U)``, before it is adjusted."""
        return 2.0 ** (1 - self.num_units)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "difference": self.difference,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "over_seeds": self.over_seeds.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PairComparison:
    """Two configurations on one benchmark."""

    first: str
    """Name of the configuration."""
    second: str
    overall: Difference
    parts: Mapping[str, Mapping[str, Difference]]
    """By ``paradigm`` or ``suite``, whose units are items, and by ``term`` and ``field``, whose units are paradigms;
    then by name. None of a perplexity."""


def better_of(difference: Difference, *, more_is_better: bool) -> Better:
    """Return which configuration is better, as far as that is shown.

    One is, if the permutation test over items, adjusted, has p <= 0.05, and the 95 % interval over seeds leaves 0 out.
    With a single seed of either there is no such interval, and the answer is about these trainings, not about the
    configurations: who prints it says so.
    """
    over_seeds = difference.over_seeds.interval
    if difference.adjusted_p_value > ALPHA or (over_seeds is not None and over_seeds.low <= 0 <= over_seeds.high):
        return "neither"
    return "first" if (difference.difference > 0) == more_is_better else "second"


def overall_over_seeds(scores: Mapping[int, ItemScores]) -> SeedMean:
    """Return the overall figure of a configuration over its seeds."""
    return mean_over_seeds([float(one.units.mean()) for one in scores.values()])


def compare_seed_groups(scores: Mapping[str, Mapping[int, ItemScores]]) -> list[PairComparison]:
    """Return every pair of configurations on one benchmark, in order, with p-values adjusted over all of them.

    Args:
        scores: By configuration and seed, all of one benchmark.

    Raises:
        InputError: If two runs have other items.
    """
    every = [one for by_seed in scores.values() for one in by_seed.values()]
    for one in every[1:]:
        one.check_same_items(every[0])
    pairs = list(combinations(scores, 2))
    units = {name: {seed: one.units for seed, one in by_seed.items()} for name, by_seed in scores.items()}

    def over_units(parts: Mapping[str, NDArray[np.bool_]]) -> dict[tuple[str, ...], Difference]:
        num_flips = max(_LEAST_FLIPS, _FLIPS_A_TEST * len(pairs) * len(parts))
        return {
            (first, second, part): difference_of_units(
                {seed: of_units[mask] for seed, of_units in units[first].items()},
                {seed: of_units[mask] for seed, of_units in units[second].items()},
                num_flips=num_flips,
            )
            for first, second in pairs
            for part, mask in parts.items()
        }

    def over_items(groups: Mapping[str, NDArray[np.bool_]]) -> dict[tuple[str, ...], Difference]:
        return {
            (first, second, group): difference_of_outcomes(_masked(scores[first], mask), _masked(scores[second], mask))
            for first, second in pairs
            for group, mask in groups.items()
        }

    overall = _adjusted(over_units({OVERALL: np.ones(len(every[0].units), bool)}))
    parts = {by: _adjusted(over_items(groups)) for by, groups in _items_of_groups(every[0]).items()}
    parts |= {by: _adjusted(over_units(found)) for by, found in _groups_of_categories(every[0]).items()}
    return [
        PairComparison(
            first=pair[0],
            second=pair[1],
            overall=overall[*pair, OVERALL],
            parts={by: {key[2]: one for key, one in found.items() if key[:2] == pair} for by, found in parts.items()},
        )
        for pair in pairs
    ]


def difference_of_units(
    first: Mapping[int, NDArray[np.float64]], second: Mapping[int, NDArray[np.float64]], *, num_flips: int
) -> Difference:
    """Return the difference of the means of U units; its p-value is not adjusted yet.

    Args:
        first: By seed, ``[U]``.
        second: As ``first``, of the same units.
        num_flips: Of the permutation test.
    """
    differences = np.stack(list(first.values())).mean(axis=0) - np.stack(list(second.values())).mean(axis=0)
    return _difference(first, second, differences, sign_flip_p_value(differences, seed=_SEED, num_samples=num_flips))


def difference_of_outcomes(
    first: Mapping[int, NDArray[np.int64]], second: Mapping[int, NDArray[np.int64]]
) -> Difference:
    """Return the difference of the shares right of N items; its p-value is exact, and not adjusted yet.

    Args:
        first: By seed, ``[N]`` 1 for right and 0 for wrong.
        second: As ``first``, of the same items.
    """
    rights = [np.stack(list(outcomes.values())).sum(axis=0) for outcomes in (first, second)]
    # Whole numbers, so that equal differences are equal numbers, and their test is exact.
    whole: NDArray[np.int64] = rights[0] * len(second) - rights[1] * len(first)
    differences = np.asarray(whole / (len(first) * len(second)), np.float64)
    return _difference(first, second, differences, sign_flip_p_value(whole, seed=_SEED))


def _difference(
    first: Mapping[int, NDArray[Any]],
    second: Mapping[int, NDArray[Any]],
    differences: NDArray[np.float64],
    p_value: float,
) -> Difference:
    figures = [{seed: float(values.mean()) for seed, values in each.items()} for each in (first, second)]
    means = [mean_over_seeds(list(each.values())).mean for each in figures]
    return Difference(
        first=means[0],
        second=means[1],
        interval=bootstrap_mean(differences, seed=_SEED) if len(differences) > 1 else None,
        num_units=len(differences),
        p_value=p_value,
        adjusted_p_value=p_value,
        num_tests=1,
        over_seeds=difference_over_seeds(*figures),
    )


def _adjusted(family: Mapping[tuple[str, ...], Difference]) -> dict[tuple[str, ...], Difference]:
    names = {str(i): key for i, key in enumerate(family)}
    adjusted = holm_adjusted({name: family[key].p_value for name, key in names.items()})
    return {
        key: replace(family[key], adjusted_p_value=adjusted[name], num_tests=len(family)) for name, key in names.items()
    }


def _items_of_groups(scores: ItemScores) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return which of the ``[N]`` items are in each paradigm or suite."""
    if not scores.benchmark.is_outcome:
        return {}
    by = "paradigm" if scores.benchmark.kind == MINIMAL_PAIRS else "suite"
    return {by: {name: scores.group_of_item == i for i, name in enumerate(scores.groups)}}


def _groups_of_categories(scores: ItemScores) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return ``[G]``, whether a paradigm belongs to it, for each term and each field."""
    return {
        by: {
            name: np.array([category_of[group] == name for group in scores.groups])
            for name in sorted(set(category_of.values()))
        }
        for by, category_of in scores.categories.items()
    }


def _masked(scores: Mapping[int, ItemScores], mask: NDArray[np.bool_]) -> dict[int, NDArray[np.int64]]:
    return {seed: one.values[mask].astype(np.int64) for seed, one in scores.items()}
