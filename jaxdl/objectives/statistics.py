"""What results over seeds or over test examples allow one to claim; NumPy and SciPy, on the host."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
      mean: sample mean.
      half_width: the interval is mean +- half_width; NaN for one value, which says nothing about spread.
      std: sample standard deviation (n - 1); NaN for one value.
      n: number of values.
    """

    mean: float
    half_width: float
    std: float
    n: int

    @property
    def low(self) -> float:
        """The lower end, mean - half_width."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end, mean + half_width."""
        return self.mean + self.half_width


class Significance(NamedTuple):
    """A hypothesis test's statistic and its two-sided p-value in [0, 1]."""

    statistic: float
    p_value: float


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval, mean +- t_{n-1, (1 + confidence) / 2} std / sqrt(n)  (Student 1908).

    Args:
      values: [S], one number per seed.
      confidence: coverage in (0, 1).

    Raises:
      ValueError: no values, a value that is not finite, or an impossible confidence.
    """
    values = _finite(values, "values", 1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    from scipy.special import stdtrit  # scipy.stats takes 0.7 s to import

    std = float(values.std(ddof=1))
    quantile = float(stdtrit(n - 1, (1 + confidence) / 2))
    return Interval(mean, quantile * std / math.sqrt(n), std, n)


def paired_t_test(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Significance:
    """Whether the mean of first - second differs from zero, for results paired by seed.

    t = mean(d) sqrt(n) / std(d), with n - 1 degrees of freedom. Where all differences are equal the p-value is 0, or 1
    if they are all zero.

    Args:
      first: [S], one number per seed.
      second: [S], for the same seeds.

    Raises:
      ValueError: different lengths, fewer than two pairs, or a value that is not finite.
    """
    first, second = _finite(first, "first", 2), _finite(second, "second", 2)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equally many values; got {len(first)} and {len(second)}")
    difference = first - second
    mean, std, n = float(difference.mean()), float(difference.std(ddof=1)), len(difference)
    if std == 0:
        return Significance(math.copysign(math.inf, mean), 0.0) if mean else Significance(0.0, 1.0)
    from scipy.special import stdtr

    t = mean * math.sqrt(n) / std
    return Significance(t, float(2 * stdtr(n - 1, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given  (Holm 1979).

    The k-th smallest of m becomes max over j <= k of min(1, (m - j + 1) p_j): whatever their dependence, the chance that
    any true hypothesis is rejected stays below the level.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = largest
    return found


def mcnemar_test(first_correct: np.ndarray, second_correct: np.ndarray, exact: bool = True) -> Significance:
    """Whether two classifiers have different error rates on the same test examples  (McNemar 1947).

    Only examples on which they disagree count: b that only the first gets right, c that only the second does. Under
    equal error rates b ~ Binomial(b + c, 1/2). So a difference of 0.1 % on MNIST's 10 000 test digits is judged.

    Args:
      first_correct: bool [N], whether the first classifier is right.
      second_correct: bool [N], on the same examples.
      exact: p-value from the binomial; otherwise from chi^2_1 of (|b - c| - 1)^2 / (b + c), for b + c > 25.

    Returns:
      statistic min(b, c) if exact, otherwise chi^2; p-value 1 where they never disagree.

    Raises:
      ValueError: different shapes, or no examples.
    """
    first, second = np.asarray(first_correct), np.asarray(second_correct)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"need two lists [N] of right or wrong with N > 0; got {first.shape} and {second.shape}")
    first, second = first.astype(bool), second.astype(bool)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    if b + c == 0:
        return Significance(0.0, 1.0)
    from scipy import stats

    if exact:
        return Significance(float(min(b, c)), min(1.0, float(2 * stats.binom.cdf(min(b, c), b + c, 0.5))))
    statistic = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    return Significance(statistic, float(stats.chi2.sf(statistic, 1)))


def _finite(values: Sequence[float] | np.ndarray, name: str, least: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < least:
        raise ValueError(f"{name} must be a list of at least {least} numbers; got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: leave out diverged runs, and say so")
    return array
