"""Intervals and significance: known answers, few values, the same twice."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from champ_jax.metrics import stats


def test_bootstrap_covers_the_mean_and_is_the_same_twice():
    values = np.random.default_rng(0).normal(3, 1, 60)
    interval = stats.bootstrap_mean(values)
    assert interval == stats.bootstrap_mean(values)
    error = values.std(ddof=1) / 60**0.5
    np.testing.assert_allclose(interval, values.mean() + np.array([-1.96, 1.96]) * error, atol=0.3 * error)
    assert stats.bootstrap_mean([2.0, 2.0, 2.0, np.inf]) == (2.0, 2.0)
    assert np.isnan(stats.bootstrap_mean([1.0, np.nan])).all()


def test_jackknife_of_a_mean_is_students():
    values = np.random.default_rng(1).normal(size=12)
    interval = stats.jackknife(lambda kept: float(values[list(kept)].mean()), 12)
    expected = scipy_stats.t.interval(0.95, 11, loc=values.mean(), scale=values.std(ddof=1) / 12**0.5)
    np.testing.assert_allclose(interval, expected)
    assert np.isnan(stats.jackknife(lambda kept: 1.0, 2)).all()


def test_paired_difference():
    rng = np.random.default_rng(2)
    first = rng.normal(20, 5, 12)
    better = stats.paired_difference(first, first + 1 + rng.normal(0, 0.2, 12))
    assert better.mean == pytest.approx(1, abs=0.2) and better.p < 0.01 and better.interval.low > 0 and better.n == 12
    chance = stats.paired_difference(first, rng.permutation(first))
    assert chance.p > 0.05
    same = stats.paired_difference(first, first)
    assert same.mean == 0 and same.p == 1
    # Exact: of 2^5 ways to flip the signs, two are as extreme.
    assert stats.paired_difference(np.zeros(5), np.ones(5) + 0.01 * np.arange(5)).p == pytest.approx(2 / 32)
    assert stats.paired_difference([1.0, np.nan, np.inf], [2.0, 1.0, 1.0]).n == 1
    assert stats.paired_difference([], []).n == 0
