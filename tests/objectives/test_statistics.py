"""Intervals and tests against SciPy, the exact binomial, and their coverage on simulated data."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdl.objectives.statistics import holm, mcnemar_test, mean_interval, paired_t_test


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_is_scipys(confidence):
    values = np.random.default_rng(0).normal(0.98, 0.002, 8)
    found = mean_interval(values, confidence)
    low, high = stats.t.interval(confidence, 7, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert (found.mean, found.std, found.n) == pytest.approx((values.mean(), values.std(ddof=1), 8))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_interval_covers_the_true_mean_as_often_as_it_says(n):
    """2000 simulated groups: 95 % +- 3 standard errors of 0.5 %; a normal interval covers only 70 % at n = 2."""
    samples = np.random.default_rng(n).normal(3.0, 2.0, (2000, n))
    covered = normal = 0
    for sample in samples:
        interval = mean_interval(sample)
        covered += interval.low <= 3.0 <= interval.high
        normal += abs(interval.mean - 3.0) <= 1.96 * interval.std / math.sqrt(n)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
    if n == 2:
        assert normal / 2000 < 0.75


def test_interval_of_one_value_claims_nothing():
    found = mean_interval([0.5])
    assert found.mean == 0.5 and found.n == 1
    assert math.isnan(found.half_width) and math.isnan(found.std)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match="values must be"):
        mean_interval(values)
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], 95)


def test_paired_t_test_is_scipys():
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 1, 10)  # what a seed adds to both
    a, b = seeds + rng.normal(0.3, 0.2, 10), seeds + rng.normal(0, 0.2, 10)
    expected = stats.ttest_rel(a, b)
    found = paired_t_test(a, b)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert found.p_value < 0.05 < stats.ttest_ind(a, b).pvalue  # pairing removes the seeds' spread
    assert paired_t_test([1, 2, 3], [1, 2, 3]).p_value == 1.0
    assert paired_t_test([2, 3, 4], [1, 2, 3]) == (math.inf, 0.0)
    with pytest.raises(ValueError, match="equally many"):
        paired_t_test([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="at least 2"):
        paired_t_test([1], [2])


def outcomes(both, first_only, second_only, neither):
    first = np.repeat([True, True, False, False], [both, first_only, second_only, neither])
    second = np.repeat([True, False, True, False], [both, first_only, second_only, neither])
    return first, second


@pytest.mark.parametrize(("b", "c"), [(3, 10), (10, 3), (25, 40), (7, 7), (0, 5), (1, 0)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    found = mcnemar_test(*outcomes(900, b, c, 50))
    assert found.p_value == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue, rel=1e-9)
    assert found.statistic == min(b, c)


def test_mcnemar_chi_squared_is_close_to_exact_for_many_disagreements():
    exact = mcnemar_test(*outcomes(9000, 200, 250, 500))
    approximate = mcnemar_test(*outcomes(9000, 200, 250, 500), exact=False)
    assert approximate.statistic == pytest.approx(49**2 / 450)
    assert approximate.p_value == pytest.approx(exact.p_value, rel=0.05)


def test_a_tenth_of_a_percent_on_mnist():
    """Ten more right answers of 10 000: significant where the models disagree on 16 digits, not where on 100."""
    assert mcnemar_test(*outcomes(9900, 13, 3, 84)).p_value < 0.05
    assert mcnemar_test(*outcomes(9850, 55, 45, 50)).p_value > 0.3


def test_mcnemar_false_alarms_stay_below_the_level():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(500):
        first, second = rng.uniform(size=(2, 400)) < 0.9
        alarms += mcnemar_test(first, second).p_value < 0.05
    assert alarms / 500 < 0.065


def test_mcnemar_edges():
    assert mcnemar_test(*outcomes(10, 0, 0, 5)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="two lists"):
        mcnemar_test(np.ones(3), np.ones(4))


def test_holm_is_rs_p_adjust():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") in R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm():
    """Five tests that share their data, all hypotheses true: at least one is rejected in 5 % of the trials at most."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        best, *others = rng.normal(size=(6, 8))
        alarms += min(holm([paired_t_test(best, other).p_value for other in others])) < 0.05
    assert alarms / 1000 < 0.065
