"""Test the differences between seed groups on the same items, and correct for the number of tests.

The runs of a seed group differ only in their seed. The difference of two groups is tested twice:

    over items   The score is averaged over the seeds of each group. d_i is the difference of the two averages on
                 unit i, such as a sentence. The mean of d_i gets a bootstrap interval and a permutation test that
                 flips signs. Both answer whether the groups would also differ on other items.
    over seeds   The difference of the two means over seeds gets a t interval. It answers whether the groups would
                 also differ with other seeds.

A difference is significant if it passes both tests. If a group has a single seed, there is no test over seeds, and the
test over items decides alone. The units are:

    overall accuracy; accuracy on a term or field of BLiMP     paradigms or suites, all with the same weight
    accuracy on one paradigm or suite                          items
    perplexity                                                 sentences

The items of a paradigm come from one template. Therefore even two trainings with the same settings differ on whole
paradigms, and a test that treated the items as independent would call such differences real. The bootstrap draws whole
paradigms and no items within them (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8).
The signs of U units can be flipped in only 2^U ways, so with fewer than six units the p-value is always above 0.05.

Holm's correction adjusts the p-values of a family of tests together. The overall differences of a benchmark, for all
pairs of seed groups, are a family. Each table by paradigm, term, field or suite is a family of its own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.compare.item_scores import ItemScores
from pipeline.evaluation.intervals_and_p_values import (
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
"""Largest adjusted p-value of a significant difference. The interval over seeds has the level ``1 - ALPHA``."""
OVERALL: Final = "overall"
_SEED: Final = 1
"""Seed of the bootstrap and of the permutation test."""
_FLIPS_PER_TEST: Final = 200
"""In a family of m tests, each test draws at least 200 m random flips, so its lowest possible p-value is about
1 / (200 m). The correction multiplies a p-value by up to m, so the lowest possible adjusted p-value is about 0.005."""
_LEAST_FLIPS: Final = 10_000

Better = Literal["first", "second", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The difference of the mean scores of two seed groups, the first minus the second."""

    first: float
    """Mean over the seeds of the first group."""
    second: float
    interval: Interval | None
    """Interval of the difference, by the paired bootstrap of the units; None if there is a single unit."""
    num_units: int
    """Number of paradigms, suites, sentences or items: U."""
    p_value: float
    """Two-sided p-value over items, by the permutation test."""
    adjusted_p_value: float
    """p-value after Holm's correction for the ``num_tests`` tests of the family."""
    num_tests: int
    over_seeds: SeedDifference

    @property
    def difference(self) -> float:
        """``first - second``."""
        return self.over_seeds.difference

    @property
    def least_p_value(self) -> float:
        """``2^(1 - U)``: the lowest possible p-value before the correction."""
        return 2.0 ** (1 - self.num_units)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return asdict(self) | {"difference": self.difference}


@dataclass(frozen=True, kw_only=True, slots=True)
class PairComparison:
    """The comparison of two seed groups on one benchmark."""

    first: str
    """Name of the first seed group."""
    second: str
    overall: Difference
    parts: Mapping[str, Mapping[str, Difference]]
    """The differences on parts of the benchmark. The outer key is the kind of part, which is ``paradigm``, ``term``,
    ``field`` or ``suite``. The inner key is the name of the part. Empty for a perplexity."""


def better_of(difference: Difference, *, more_is_better: bool) -> Better:
    """Return which seed group is better, or "neither" if the tests do not show a difference.

    A group is better if the adjusted p-value over items is at most 0.05 and the 95 % interval over seeds excludes 0. If
    either group has a single seed, the p-value alone decides. Then the answer holds for these trained models and not
    for their settings, and the caller has to say so.
    """
    over_seeds = difference.over_seeds.interval
    if difference.adjusted_p_value > ALPHA or (over_seeds is not None and over_seeds.low <= 0 <= over_seeds.high):
        return "neither"
    return "first" if (difference.difference > 0) == more_is_better else "second"


def overall_over_seeds(scores: Mapping[int, ItemScores]) -> SeedMean:
    """Return the mean of a seed group's overall values, one for each seed, and the interval of the mean."""
    return mean_over_seeds([float(one.units.mean()) for one in scores.values()])


def compare_seed_groups(scores: Mapping[str, Mapping[int, ItemScores]]) -> list[PairComparison]:
    """Return the comparison of every pair of seed groups on one benchmark, with p-values adjusted over all pairs.

    Args:
        scores: The scores of each run by seed group, then by seed. All scores are of one benchmark.

    Raises:
        InputError: If two runs have different items.
    """
    every = [one for by_seed in scores.values() for one in by_seed.values()]
    for one in every[1:]:
        one.check_same_items(every[0])
    pairs = list(combinations(scores, 2))
    units = {name: {seed: one.units for seed, one in by_seed.items()} for name, by_seed in scores.items()}

    def over_units(parts: Mapping[str, NDArray[np.bool_]]) -> dict[tuple[str, ...], Difference]:
        num_flips = max(_LEAST_FLIPS, _FLIPS_PER_TEST * len(pairs) * len(parts))
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
    """Return the difference of the means of U units. Its p-value is not adjusted yet.

    Args:
        first: The scores ``[U]`` of one seed group, by seed.
        second: The scores of the other seed group on the same units.
        num_flips: Number of random flips in the permutation test.
    """
    differences = np.stack(list(first.values())).mean(axis=0) - np.stack(list(second.values())).mean(axis=0)
    return _difference(first, second, differences, sign_flip_p_value(differences, seed=_SEED, num_samples=num_flips))


def difference_of_outcomes(
    first: Mapping[int, NDArray[np.int64]], second: Mapping[int, NDArray[np.int64]]
) -> Difference:
    """Return the difference of the accuracies on N items. Its p-value is exact and not adjusted yet.

    Args:
        first: The outcomes ``[N]`` of one seed group, by seed: 1 for right and 0 for wrong.
        second: The outcomes of the other seed group on the same items.
    """
    rights = [np.stack(list(outcomes.values())).sum(axis=0) for outcomes in (first, second)]
    # Whole numbers have no rounding errors, so equal differences stay equal, and the test is exact.
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
    """Return for each paradigm or suite a mask ``[N]``: whether each item belongs to it."""
    if not scores.benchmark.is_outcome:
        return {}
    by = "paradigm" if scores.benchmark.kind == MINIMAL_PAIRS else "suite"
    return {by: {name: scores.group_of_item == i for i, name in enumerate(scores.groups)}}


def _groups_of_categories(scores: ItemScores) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return for each term and each field a mask ``[G]``: whether each paradigm belongs to it."""
    return {
        by: {
            name: np.array([category_of[group] == name for group in scores.groups])
            for name in sorted(set(category_of.values()))
        }
        for by, category_of in scores.categories.items()
    }


def _masked(scores: Mapping[int, ItemScores], mask: NDArray[np.bool_]) -> dict[int, NDArray[np.int64]]:
    return {seed: one.values[mask].astype(np.int64) for seed, one in scores.items()}
