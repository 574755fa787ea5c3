"""Tests of intervals and tests: they cover and reject at their nominal rates, and give published values."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.intervals_and_p_values import (
    Interval,
    bootstrap_mean,
    difference_over_seeds,
    holm_adjusted,
    mean_over_seeds,
    sign_flip_p_value,
    t_quantile,
    wilson_interval,
)


def holds(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low <= truth <= interval.high


def test_wilson_gives_the_published_example_and_stays_inside_0_and_1() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 15 of 148
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (29, 29, 0.8830, 1),
    ):
        found = wilson_interval(k, n)
        assert found is not None
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.97])
def test_wilson_covers_at_its_nominal_rate(truth: float) -> None:
    # exactly, by the binomial distribution: averages over n, for at one n it moves up and down with the grid of k
    coverage = []
    for n in range(40, 120):
        weights = [math.comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in range(n + 1)]
        coverage.append(sum(w for k, w in enumerate(weights) if holds(wilson_interval(k, n), truth)))
    # near the ends the score interval holds a little oftener than it says (Brown et al. 2001, section 3)
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_of_a_difference_covers_and_depends_only_on_the_seed() -> None:
    draw = np.random.default_rng(0)
    for n, num_trials, distinct in ((200, 600, False), (60, 400, True)):
        covered = 0
        for trial in range(num_trials):
            values = draw.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.7, 0.2])
            if distinct:  # other values, as of log-probabilities: resampled one by one
                values = values + draw.normal(0, 1, n)
            covered += holds(bootstrap_mean(values, seed=trial, num_samples=500), 0.1)
        # 0.95, less what a percentile interval of n values lacks; binomial sd below 0.011
        assert 0.91 <= covered / num_trials <= 0.975
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_a_true_null_is_rejected_at_most_at_the_nominal_rate() -> None:
    draw = np.random.default_rng(1)
    num_trials = 1000
    exact = [sign_flip_p_value(draw.choice([-1, 1], 60), seed=0) for _ in range(num_trials)]
    flips = [sign_flip_p_value(draw.laplace(0, 1, 30), seed=i, num_samples=199) for i in range(num_trials)]
    # binomial sd 0.007; that of whole numbers is below 0.05, for its p-values are on a grid
    assert 0.015 <= np.mean(np.array(exact) <= 0.05) <= 0.065
    assert 0.03 <= np.mean(np.array(flips) <= 0.05) <= 0.07


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_for_few_differences_every_flip_is_counted(differences: list[int]) -> None:
    total = abs(sum(differences))
    flips = list(product((-1, 1), repeat=len(differences)))
    reached = sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= total for signs in flips)
    assert sign_flip_p_value(np.array(differences, float), seed=0) == pytest.approx(reached / len(flips))
    assert sign_flip_p_value(differences, seed=0) == pytest.approx(reached / len(flips), abs=2e-12)  # by transform


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Return twice the smaller binomial tail, the exact two-sided p-value from the items on which two models differ."""
    m = num_only_first + num_only_second
    tail = sum(math.comb(m, i) for i in range(min(num_only_first, num_only_second) + 1))
    return min(1.0, 2 * tail / 2**m)


@given(st.integers(1, 40), st.integers(0, 40))
def test_for_one_training_each_the_flips_are_mcnemars_test(first: int, second: int) -> None:
    found = sign_flip_p_value(np.repeat([1, -1, 0], [first, second, 7]), seed=0)
    assert found == pytest.approx(mcnemar(first, second), rel=1e-6, abs=2e-12)


def test_the_p_value_of_whole_numbers_is_exact_at_any_size() -> None:
    outcomes = np.repeat([1, 0, -1], [400, 900, 300])
    assert sign_flip_p_value(outcomes, seed=0) == pytest.approx(mcnemar(400, 300), rel=1e-9)
    assert sign_flip_p_value(3 * outcomes, seed=0) == sign_flip_p_value(outcomes, seed=0)
    mixed = np.random.default_rng(0).integers(-3, 4, 500) + (np.arange(500) < 12)
    random = sign_flip_p_value(mixed.astype(float), seed=0, num_samples=20_000)
    # binomial sd below 0.0036
    assert sign_flip_p_value(mixed, seed=0) == pytest.approx(random, abs=0.011)


@pytest.mark.parametrize(
    ("num_outliers", "tolerance"),
    # a step of the whole numbers, and Edgeworth's term; random flips, binomial sd below 0.0092
    [(0, 1e-3), (1, 0.03)],
    ids=["alike", "one decides"],
)
def test_for_many_differences_the_normal_limit_agrees_with_all_flips(num_outliers: int, tolerance: float) -> None:
    draw, seen = np.random.default_rng(5), []
    for shift in (0.0, 0.015, 0.03):
        whole = np.rint(10 * draw.laplace(shift, 1, 8000)).astype(np.int64)
        whole[:num_outliers] = 5000
        seen.append(sign_flip_p_value(whole.astype(float), seed=0, num_samples=3000))
        assert seen[-1] == pytest.approx(sign_flip_p_value(whole, seed=0), abs=tolerance)
    assert min(seen) < 0.2  # of one that decides the limit would be off by 0.1 and more
    assert sign_flip_p_value(np.full(8000, 0.5), seed=0, num_samples=999) == 1 / 1000


def test_a_clear_difference_is_found_and_no_p_value_is_zero() -> None:
    assert sign_flip_p_value(np.ones(50), seed=0, num_samples=999) == 1 / 1000
    assert sign_flip_p_value(np.zeros(50), seed=0) == 1


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 4, 2.77645), (0.975, 9, 2.26216), (0.995, 5, 4.03214),
     (0.975, 120, 1.97993), (0.5, 3, 0.0)],
)  # fmt: skip
def test_quantiles_of_t_agree_with_published_tables(probability: float, degrees: int, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=1e-5 * max(1, expected))


def test_the_interval_over_seeds_covers_at_its_nominal_rate() -> None:
    draw = np.random.default_rng(2)
    for n in (2, 3, 5):
        found = [mean_over_seeds(list(draw.normal(3, 0.5, n))) for _ in range(2000)]
        # binomial sd 0.005
        assert np.mean([holds(one.interval, 3) for one in found]) == pytest.approx(0.95, abs=0.02)
    alone = mean_over_seeds([0.5])
    assert (alone.mean, alone.interval) == (0.5, None)
    with pytest.raises(ValueError, match="no value"):
        mean_over_seeds([])


def test_differences_over_seeds_cover_whether_paired_or_not() -> None:
    draw = np.random.default_rng(4)
    for seeds, others, shared in ((range(3), range(3), 5.0), (range(3), range(10, 12), 0.0), (range(4), range(2), 0.0)):
        covered, num_trials = 0, 1500
        for _ in range(num_trials):
            of_seed = draw.normal(0, shared, 4)  # what a seed does to both: a paired interval does not see it
            first = {seed: 1 + of_seed[seed] + draw.normal(0, 0.3) for seed in seeds}
            second = {seed: (of_seed[seed] if shared else 0) + draw.normal(0, 0.9) for seed in others}
            found = difference_over_seeds(first, second)
            covered += holds(found.interval, 1)
        # binomial sd 0.006; Welch's is approximate, and of 4 and 2 seeds with three times the deviation too narrow
        assert (0.935 if shared else 0.91) <= covered / num_trials <= (0.965 if shared else 0.99)
    assert difference_over_seeds({1: 0.5}, {1: 0.25}).interval is None
    assert difference_over_seeds({1: 0.5}, {1: 0.25, 2: 0.5}).interval is None
    assert difference_over_seeds({1: 0.5, 2: 0.5}, {1: 0.25, 3: 0.25}).interval == Interval(0.25, 0.25)


def test_welch_agrees_with_its_formula() -> None:
    first, second = [3.0, 4.0, 6.5, 5.0], [1.0, 4.0, 2.5]
    squares = [np.var(one, ddof=1) / len(one) for one in (first, second)]
    degrees = sum(squares) ** 2 / (squares[0] ** 2 / 3 + squares[1] ** 2 / 2)
    assert 4 < degrees < 5
    found = difference_over_seeds(dict(enumerate(first)), dict(enumerate(second)))
    reach = t_quantile(0.975, 4) * math.sqrt(sum(squares))
    assert found.interval is not None
    assert found.interval.high == pytest.approx(np.mean(first) - np.mean(second) + reach)
    assert not found.is_paired


def test_holm_multiplies_step_by_step_and_bounds_false_rejections() -> None:
    found = holm_adjusted({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})
    assert list(found) == ["a", "b", "c", "d"]
    draw = np.random.default_rng(3)
    any_false = [min(holm_adjusted({str(i): p for i, p in enumerate(draw.random(12))}).values()) for _ in range(3000)]
    # binomial sd 0.004; without the correction it would be 0.46
    assert 0.03 <= np.mean(np.array(any_false) <= 0.05) <= 0.065
