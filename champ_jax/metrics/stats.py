"""How far a number can be trusted: bootstrap intervals over clips, the jackknife for distances of sets, significance of a difference."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
"""Of the resampling, so that a report made twice is the same."""


class Interval(NamedTuple):
    """The ends of a 95 % interval; nan where there are too few for one."""

    low: float
    high: float


NONE = Interval(float("nan"), float("nan"))


def bootstrap_mean(values: Sequence[float] | np.ndarray) -> Interval:
    """Of the mean of values [N], one a clip; nans and infinities do not count."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return NONE
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(SEED)
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def jackknife(statistic: Callable[[Sequence[int]], float], groups: int) -> Interval:
    """Of a statistic of a set that came in groups of clips, from what it is without each group.

    For distances of sets a bootstrap is wrong: clips drawn twice look like a set with less variety. statistic: takes the numbers
    of the groups that are in.
    """
    if groups < 3:
        return NONE
    whole = statistic(range(groups))
    without = np.array([statistic([other for other in range(groups) if other != group]) for group in range(groups)])
    deviation = np.sqrt((groups - 1) / groups * np.sum((without - without.mean()) ** 2))
    if not np.isfinite(whole + deviation):
        return NONE
    reach = stats.t.ppf((1 + LEVEL) / 2, groups - 1) * deviation
    return Interval(float(whole - reach), float(whole + reach))


class Difference(NamedTuple):
    """mean: of the second less the first. interval: of that mean. p: how often chance alone gives as much. n: pairs."""

    mean: float
    interval: Interval
    p: float
    n: int


def paired_difference(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Difference:
    """Of values [N] of the same clips under two systems: a permutation test of signs, exact up to 2,000 ways to flip them.

    Pairs of which one is not finite do not count.
    """
    apart = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    apart = apart[np.isfinite(apart)]
    if not len(apart):
        return Difference(float("nan"), NONE, float("nan"), 0)
    mean = float(apart.mean())
    if len(apart) < 2 or not apart.any():
        return Difference(mean, NONE, 1.0 if not apart.any() else float("nan"), len(apart))
    test = stats.permutation_test(
        (apart, np.zeros_like(apart)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(SEED),
    )
    return Difference(mean, bootstrap_mean(apart), float(test.pvalue), len(apart))
