"""Compute intervals, tests and correlations for accuracies and other figures of models. Functions cite their papers.

The functions over items treat the items as independent draws. But the items of a paradigm are generated from a template
and are less independent, so an interval over single items tends to be too narrow. This is why ``compare.significance``
draws whole paradigms. The functions ``mean_over_seeds`` and ``difference_over_seeds`` do not look at items. They
measure how much trainings with different seeds vary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.json_files import Number

LEVEL: Final = 0.95
"""Level of confidence of every interval."""
_BLOCK_DRAWS: Final = 1 << 22
"""Largest number of random numbers in memory at a time."""
_NORMAL_FROM: Final = 5000
"""Above this many differences, ``sign_flip_p_value`` may use a normal distribution, because random flips would be slow:
10,000 flips of 20,000 differences draw 2e8 random numbers."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: Number
    high: Number


def wilson_interval(num_right: int, num_items: int) -> Interval | None:
    """Return Wilson's score interval of a proportion; None if there is no item.

    Let k of n items be right, let p = k/n, and let z be the normal quantile. The interval is ``(p + z^2/2n +- z
    sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``. It is inside [0, 1], and has a positive width even for k = 0 and k = n.

    Wilson (1927), JASA 22, 209-212; Brown, Cai and DasGupta (2001), Statistical Science 16, 101-133.

    Raises:
        ValueError: If the counts are impossible.
    """
    if not 0 <= num_right <= num_items:
        raise ValueError(f"{num_right} of {num_items} items")
    if num_items == 0:
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    p, n = num_right / num_items, num_items
    middle = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if num_right == 0 else (middle - reach) / scale
    return Interval(low, 1.0 if num_right == num_items else (middle + reach) / scale)


def bootstrap_mean(values: NDArray[np.float64], *, seed: int, num_samples: int = 2000) -> Interval:
    """Return the percentile bootstrap interval of a mean.

    If the values are paired differences, this is the paired bootstrap. ``values`` is ``[N]``, N at least 1.

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13; Berg-Kirkpatrick, Burkett and Klein (2012),
    EMNLP.
    """
    draw = np.random.default_rng(seed)
    values, counts = np.unique(values, return_counts=True)
    n = int(counts.sum())
    if len(values) * 8 < n:  # with few distinct values, a sample is a multinomial draw of their counts
        means = draw.multinomial(n, counts / n, size=num_samples) @ values / n
    else:
        every, rows = np.repeat(values, counts), max(1, _BLOCK_DRAWS // n)
        sizes = [min(rows, num_samples - first) for first in range(0, num_samples, rows)]
        means = np.concatenate([every[draw.integers(0, n, (size, n))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def sign_flip_p_value(differences: ArrayLike, *, seed: int, num_samples: int = 10_000) -> float:
    """Return the two-sided p-value of a permutation test that paired differences have mean 0.

    Under the null hypothesis the two values of a pair may be swapped, which flips the sign of their difference d. Let s
    be one way to flip signs: a factor of +1 or -1 for each of the N differences. There are three cases:

    - If ``differences`` has an integer type, the p-value is the exact share of all 2^N ways s for which |sum s d| >=
      |sum d|. For differences of +1 and -1 this is McNemar's exact test.
    - With a float type, the p-value is ``(1 + #{|sum s d| >= |sum d|}) / (1 + B)`` with B = ``num_samples`` random
      ways s. If there are at most B different ways, each of them is counted once instead, and the p-value is exact.
    - With a float type, more than ``_NORMAL_FROM`` differences, and sum d^4 <= (sum d^2)^2 / 1000, the sum s d is
      treated as normal with variance sum d^2. The sum has the skewness 0 and an excess kurtosis of at least -0.002, so
      the p-value is off by less than 1e-4 (the first term of Edgeworth's series). This is meant for continuous
      differences, such as those of log-probabilities.

    Fisher (1935), The Design of Experiments, section 21; McNemar (1947), Psychometrika 12, 153-157; Pagano and
    Tritchler (1983), JASA 78, 435-440; Phipson and Smyth (2010), Statistical Applications in Genetics and Molecular
    Biology 9; for the series, Feller (1971), An Introduction to Probability Theory and Its Applications, volume 2,
    section XVI.4.

    ``differences`` is ``[N]`` float or int, N at least 1. Only with an integer type can the p-value be below ``1 / (1 +
    B)``.
    """
    given = np.asarray(differences)
    if np.issubdtype(given.dtype, np.integer):
        return _exact_flip_p_value(given.astype(np.int64))
    values = np.asarray(given, np.float64)
    values = values[values != 0]
    n = len(values)
    observed = abs(float(values.sum()))
    reached = observed * (1 - 1e-12)  # an equal sum may come out slightly smaller in another order
    if n < 24 and 2**n <= num_samples:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ values) >= reached).mean())
    squares = values**2
    variance = float(squares.sum())
    if n > _NORMAL_FROM and 1000 * float(squares @ squares) <= variance**2:
        return max(1 / (1 + num_samples), math.erfc(observed / math.sqrt(2 * variance)))
    draw, rows, extreme = np.random.default_rng(seed), max(1, _BLOCK_DRAWS // n), 0
    for first in range(0, num_samples, rows):
        size = min(rows, num_samples - first)
        signs = draw.integers(0, 2, (size, n), np.int8) * 2 - 1
        extreme += int((np.abs(signs @ values) >= reached).sum())
    return (1 + extreme) / (1 + num_samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedMean:
    """Mean and variation of a value over trainings that differ only in their seed."""

    num_seeds: int
    mean: float
    standard_deviation: float
    """Standard deviation of the sample, with the divisor n - 1; 0 for one seed."""
    interval: Interval | None
    """Interval of the mean; None for one seed, which cannot show how seeds vary."""


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Return the mean of a value over seeds and the t interval of the mean, ``mean +- t_{n-1} s / sqrt(n)``.

    Student (1908), Biometrika 6, 1-25.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("no value of any seed")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return SeedMean(num_seeds=1, mean=mean, standard_deviation=0.0, interval=None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = t_quantile((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n)
    return SeedMean(num_seeds=n, mean=mean, standard_deviation=deviation, interval=Interval(mean - reach, mean + reach))


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedDifference:
    """The difference of a value between two sets of trainings, the first minus the second."""

    difference: float
    """Difference of the means over seeds."""
    interval: Interval | None
    """Interval of the difference; None if either set has only one seed."""
    is_paired: bool
    """Whether both sets have the same seeds, so that ``interval`` comes from the differences for each seed."""


def difference_over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> SeedDifference:
    """Return the difference of two means over seeds and the t interval of the difference.

    If both sets have the same seeds, a difference is taken for each seed, and the interval is the t interval of the
    mean of these differences. The two trainings of a seed belong together, because the seed decides the order of the
    data and the initial weights of both.

    If the sets have different seeds, the interval is Welch's: ``d +- t_nu sqrt(s1^2/n1 + s2^2/n2)`` with ``nu =
    (s1^2/n1 + s2^2/n2)^2 / (s1^4 / (n1^2 (n1 - 1)) + s2^4 / (n2^2 (n2 - 1)))``, rounded down. Welch's interval is
    approximate. If one set has two seeds and varies much more than the other set, the interval covers the true
    difference 92 times of 100 instead of 95.

    Welch (1947), Biometrika 34, 28-35.

    ``first`` and ``second`` map each seed to the value of its training. Both have at least one seed.
    """
    one, two = mean_over_seeds(list(first.values())), mean_over_seeds(list(second.values()))
    difference, is_paired = one.mean - two.mean, first.keys() == second.keys()
    if is_paired:
        interval = mean_over_seeds([first[seed] - second[seed] for seed in first]).interval
    elif min(one.num_seeds, two.num_seeds) == 1:
        interval = None
    else:
        squares = [mean.standard_deviation**2 / mean.num_seeds for mean in (one, two)]
        below = sum(square**2 / (mean.num_seeds - 1) for square, mean in zip(squares, (one, two), strict=True))
        degrees = int(sum(squares) ** 2 / below * (1 + 1e-12)) if below else one.num_seeds + two.num_seeds - 2
        reach = t_quantile((1 + LEVEL) / 2, max(1, degrees)) * math.sqrt(sum(squares))
        interval = Interval(difference - reach, difference + reach)
    return SeedDifference(difference=difference, interval=interval, is_paired=is_paired)


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t for a probability in [0.5, 1), by bisection to 1e-12.

    For whole degrees of freedom the distribution function is a finite sum: Abramowitz and Stegun (1964), 26.7.3-4.

    Raises:
        ValueError: If the probability or the degrees of freedom are outside their range.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"quantile of t at {probability} with {degrees} degrees of freedom")
    low, high = 0.0, 1.0
    while _t_probability(high, degrees) < probability:
        high *= 2
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values of several tests. Null hypotheses with an adjusted p-value <= alpha are rejected.

    For m p-values in ascending order, ``p~_(i) = max_{j<=i} min(1, (m - j + 1) p_(j))``. The probability of one or more
    false rejections is at most alpha, however the tests depend on each other.

    Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted, worst = {}, 0.0
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        worst = max(worst, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p_values}


def _exact_flip_p_value(values: NDArray[np.int64]) -> float:
    """Return P(|sum s d| >= |sum d|) over all flips, but at least 1e-12, because rounding errors hide smaller values.

    The characteristic function of the sum is the product of cos(t d). This function is evaluated at enough points for
    all possible sums, and transformed back.
    """
    observed = abs(int(values.sum()))
    if not observed:
        return 1.0
    common = int(np.gcd.reduce(values))
    values, observed = values[values != 0] // common, observed // common
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    size = 1 << int(2 * (sizes @ counts)).bit_length()
    points = np.arange(size // 2 + 1)
    transform = np.ones(len(points))
    for value, count in zip(sizes, counts, strict=True):
        transform *= np.cos(2 * np.pi / size * (points * value % size)) ** count
    probabilities = np.fft.irfft(transform, size)  # [i] is the probability of the sum i, [-i] of the sum -i
    tail = float(probabilities[observed : size // 2].sum())
    return min(1.0, max(2 * tail, 1e-12))


def _t_probability(t: float, degrees: int) -> float:
    """Return P(T <= t) for t >= 0."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    if degrees % 2:
        term, total = math.cos(angle), 0.0
        for k in range(1, degrees - 1, 2):
            total += term
            term *= squared * (k + 1) / (k + 2)
        return 0.5 + (angle + sine * total) / math.pi
    term, total = 1.0, 0.0
    for k in range(0, degrees, 2):
        total += term
        term *= squared * (k + 1) / (k + 2)
    return 0.5 + sine * total / 2


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return the rank correlation of two arrays ``[N]``, with mean ranks for ties; None if an array is constant.

    Spearman (1904), American Journal of Psychology 15, 72-101.
    """
    return correlation(_mean_ranks(first), _mean_ranks(second))


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return Pearson's correlation of two arrays ``[N]``; None if an array is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else None


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks
