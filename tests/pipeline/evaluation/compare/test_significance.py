"""Tests of significance: equal seed groups are seldom called different, over items, over seeds, and over many tests."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluation.compare.item_scores import Benchmark, ItemScores
from pipeline.evaluation.compare.significance import (
    Difference,
    better_of,
    compare_seed_groups,
    difference_of_outcomes,
    difference_of_units,
)
from pipeline.evaluation.intervals_and_p_values import Interval, SeedDifference

NUM_FLIPS = 399
DRAW = np.random.default_rng


def accuracies(
    draw: np.random.Generator, *, num_seeds: int, of_seed: float, of_paradigm: float, shift: float = 0.0
) -> dict[int, NDArray[np.float64]]:
    """Return the scores of the trainings of one seed group on 30 paradigms, before rounding to whole items.

    A training is better or worse as a whole (``of_seed``), and by paradigm (``of_paradigm``): standard deviations.
    """
    return {seed: 0.6 + shift + draw.normal(0, of_seed) + draw.normal(0, of_paradigm, 30) for seed in range(num_seeds)}


def outcomes(
    draw: np.random.Generator, *, num_items: int, num_seeds: int, shift: float = 0.0
) -> dict[int, NDArray[np.int64]]:
    """Return outcomes of items that are hard or easy for every training, so that seeds are correlated."""
    difficulty = DRAW(0).beta(0.5, 0.5, num_items)  # most items are nearly always right, or nearly never
    return {
        seed: (draw.random(num_items) < np.clip(difficulty + shift, 0, 1)).astype(np.int64) for seed in range(num_seeds)
    }


def test_over_items_the_test_and_the_interval_have_their_nominal_rates() -> None:
    draw, p_values, covered = DRAW(1), [], 0
    for _ in range(600):
        found = difference_of_units(
            accuracies(draw, num_seeds=3, of_seed=0, of_paradigm=0.08),
            accuracies(draw, num_seeds=3, of_seed=0, of_paradigm=0.08),
            num_flips=NUM_FLIPS,
        )
        p_values.append(found.p_value)
        assert found.interval is not None
        covered += found.interval.low <= 0 <= found.interval.high
    # binomial sd 0.009; a percentile interval of 30 values lacks about 0.01
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert 0.91 <= covered / 600 <= 0.975


@pytest.mark.parametrize("num_others", [3, 2])
def test_over_items_that_are_hard_for_all_seeds_the_exact_test_has_its_nominal_rate(num_others: int) -> None:
    draw = DRAW(2)
    p_values = [
        difference_of_outcomes(
            outcomes(draw, num_items=80, num_seeds=3), outcomes(draw, num_items=80, num_seeds=num_others)
        ).p_value
        for _ in range(600)
    ]
    # binomial sd 0.009; on a grid of sums p <= 0.05 is a little rarer
    assert 0.015 <= np.mean(np.array(p_values) <= 0.05) <= 0.075


@pytest.mark.parametrize(
    ("of_seed", "of_paradigm"), [(0.0, 0.08), (0.03, 0.03), (0.1, 0.01)], ids=["by paradigm", "both", "as a whole"]
)
def test_at_most_one_in_twenty_equal_groups_is_called_better(of_seed: float, of_paradigm: float) -> None:
    draw, num_called, num_over_items, num_trials = DRAW(3), 0, 0, 500
    for _ in range(num_trials):
        found = difference_of_units(
            accuracies(draw, num_seeds=3, of_seed=of_seed, of_paradigm=of_paradigm),
            accuracies(draw, num_seeds=3, of_seed=of_seed, of_paradigm=of_paradigm),
            num_flips=NUM_FLIPS,
        )
        num_called += better_of(found, more_is_better=True) != "neither"
        num_over_items += found.p_value <= 0.05
    assert num_called / num_trials <= 0.07  # binomial sd 0.01, where the seeds alone decide
    if not of_seed:
        assert num_called / num_trials <= 0.03  # items and seeds are both to be wrong
    else:  # what the intervals over seeds are there for
        assert num_over_items / num_trials > 0.2


def test_a_real_difference_is_found() -> None:
    draw = DRAW(4)
    found = difference_of_units(
        accuracies(draw, num_seeds=3, of_seed=0.005, of_paradigm=0.02, shift=0.06),
        accuracies(draw, num_seeds=3, of_seed=0.005, of_paradigm=0.02),
        num_flips=NUM_FLIPS,
    )
    assert better_of(found, more_is_better=True) == "first"
    assert better_of(found, more_is_better=False) == "second"


BENCHMARK = Benchmark(kind="minimal_pairs", subject="s", fingerprint="f", conventions="c", unit="accuracy")


def scores(values: NDArray[np.int64], num_paradigms: int) -> ItemScores:
    num_items = len(values) // num_paradigms
    paradigms = tuple(f"paradigm {i}" for i in range(num_paradigms))
    return ItemScores(
        benchmark=BENCHMARK,
        path=Path("rows"),
        command="evaluate",
        groups=paradigms,
        group_of_item=np.repeat(np.arange(num_paradigms), num_items),
        numbers=np.tile(np.arange(num_items), num_paradigms),
        values=values,
        categories={"term": {name: "odd" if i % 2 else "even" for i, name in enumerate(paradigms)}},
        scale=1.0,
    )


def configuration(draw: np.random.Generator, *, num_paradigms: int, of_paradigm: float) -> dict[int, ItemScores]:
    """Return two trainings whose paradigms are better or worse as a whole, by a standard deviation."""
    found = {}
    for seed in range(2):
        shifts = np.repeat(draw.normal(0, of_paradigm, num_paradigms), 40)
        values = (draw.random(40 * num_paradigms) < np.clip(0.6 + shifts, 0, 1)).astype(np.int64)
        found[seed] = scores(values, num_paradigms)
    return found


@pytest.mark.parametrize(
    ("of_paradigm", "families"), [(0.0, ["overall", "term", "paradigm"]), (0.15, ["overall", "term"])]
)
def test_over_tables_and_pairs_false_alarms_have_their_nominal_rate(of_paradigm: float, families: list[str]) -> None:
    draw, alarms, num_trials = DRAW(5), dict.fromkeys(families, 0), 40
    for _ in range(num_trials):
        pairs = compare_seed_groups(
            {name: configuration(draw, num_paradigms=20, of_paradigm=of_paradigm) for name in "abc"}
        )
        tests = {by: [one for pair in pairs for one in pair.parts[by].values()] for by in ("paradigm", "term")}
        tests["overall"] = [pair.overall for pair in pairs]
        assert {by: one[0].num_tests for by, one in tests.items()} == {"paradigm": 60, "term": 6, "overall": 3}
        for by in families:
            alarms[by] += min(one.adjusted_p_value for one in tests[by]) <= 0.05
    # binomial sd 0.034; uncorrected the paradigms' would be above 0.9, and the terms' by their items above 0.6
    assert all(count / num_trials <= 0.14 for count in alarms.values()), alarms


def test_paradigms_have_the_same_weight_overall_and_in_a_term_and_items_within_a_paradigm() -> None:
    first, second = np.zeros(240, np.int64), np.zeros(240, np.int64)
    first[:40], second[40:60] = 1, 1
    (pair,) = compare_seed_groups({"a": {1: scores(first, 6)}, "b": {1: scores(second, 6)}})
    assert (pair.overall.first, pair.overall.second) == (pytest.approx(1 / 6), pytest.approx(0.5 / 6))
    assert pair.overall.num_units == 6
    assert pair.parts["paradigm"]["paradigm 0"].difference == 1
    assert pair.parts["paradigm"]["paradigm 0"].num_units == 40
    assert pair.parts["term"]["odd"].difference == pytest.approx(-0.5 / 3)
    assert (pair.parts["term"]["odd"].num_units, pair.parts["term"]["odd"].p_value) == (3, 1)


def test_a_term_with_one_paradigm_has_no_interval_and_shows_no_difference() -> None:
    (pair,) = compare_seed_groups(
        {"a": {1: scores(np.ones(80, np.int64), 2)}, "b": {1: scores(np.zeros(80, np.int64), 2)}}
    )
    assert pair.parts["paradigm"]["paradigm 0"].adjusted_p_value < 1e-9
    for found in pair.parts["term"].values():
        assert (found.interval, found.p_value, found.to_json()["interval"]) == (None, 1, None)


def test_with_one_seed_each_the_test_is_mcnemars_and_there_is_no_interval_over_seeds() -> None:
    draw = DRAW(6)
    (first,), (second,) = (outcomes(draw, num_items=200, num_seeds=1, shift=s).values() for s in (0.1, 0.0))
    found = difference_of_outcomes({1: first}, {7: second})
    more, less = int((first > second).sum()), int((first < second).sum())
    tail = sum(math.comb(more + less, i) for i in range(min(more, less) + 1))
    assert found.p_value == pytest.approx(2 * tail / 2 ** (more + less), rel=1e-6)
    assert found.over_seeds.interval is None


@pytest.mark.parametrize(
    ("adjusted", "over_seeds", "expected"),
    [
        (0.05, Interval(0.01, 0.2), "first"),
        (0.0501, Interval(0.01, 0.2), "neither"),
        (0.001, Interval(-0.01, 0.2), "neither"),
        (0.001, Interval(0.0, 0.2), "neither"),
        (0.05, None, "first"),
        (0.0501, None, "neither"),
    ],
)
def test_better_needs_the_corrected_test_over_items_and_the_interval_over_seeds(
    adjusted: float, over_seeds: Interval | None, expected: str
) -> None:
    found = Difference(
        first=0.7,
        second=0.6,
        interval=Interval(0.05, 0.15),
        num_units=30,
        p_value=0.001,
        adjusted_p_value=adjusted,
        num_tests=3,
        over_seeds=SeedDifference(difference=0.1, interval=over_seeds, is_paired=True),
    )
    assert better_of(found, more_is_better=True) == expected
    lower = replace(found, over_seeds=replace(found.over_seeds, difference=-0.1))
    assert better_of(lower, more_is_better=False) == expected
