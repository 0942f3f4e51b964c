"""Distances of two sets of features: Frechet's (FID, FID-VID, FVD) from moments that stream and merge, and KID from a bounded sample.

All in float64 on the host. Memory depends on the features' width alone, never on how many there are.
"""

import hashlib
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of a set of features: their number, f64 [D] mean, f64 [D,D] sum of products of deviations."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Of features [N,D]."""
        features = np.asarray(features, np.float64)
        mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
        apart = features - mean
        return cls(len(features), mean, apart.T @ apart)


def merge(first: Moments, second: Moments) -> Moments:
    """Of both sets together (Chan et al. 1979): the same, but for rounding, as if all [N,D] had been counted at once."""
    if not first.count or not second.count:
        return first if first.count else second
    count = first.count + second.count
    apart = second.mean - first.mean
    scatter = first.scatter + second.scatter + np.outer(apart, apart) * (first.count * second.count / count)
    return Moments(count, first.mean + apart * (second.count / count), scatter)


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1-m2|^2 + tr(S1 + S2 - 2 (S1 S2)^0.5) of the normal distributions with these moments; covariances [D,D] divide by N-1.

    The trace of the root is the sum of the roots of A^T S2 A's eigenvalues, where A A^T = S1 and A has as many columns as S1 has rank:
    symmetric, so always real, and without the noise of directions in which fewer features than D have no spread. nan for a set of
    fewer than two.
    """
    if min(first.count, second.count) < 2:
        return float("nan")
    # The smaller set has the lower rank.
    first, second = sorted((first, second), key=lambda moments: moments.count)
    one, other = (moments.scatter / (moments.count - 1) for moments in (first, second))
    values, vectors = np.linalg.eigh(one)
    spread = values > values[-1] * len(values) * np.finfo(np.float64).eps
    factor = vectors[:, spread] * np.sqrt(values[spread])
    cross = np.sqrt(np.linalg.eigvalsh(factor.T @ other @ factor).clip(0)).sum()
    apart = first.mean - second.mean
    return float(apart @ apart + np.trace(one) + np.trace(other) - 2 * cross)


class Sample(NamedTuple):
    """At most `size` of a set of features, chosen by their names' hashes, so that any order and any split into parts gives the same
    ones. keys: u64 [n] ascending; features: f32 [n,D]; groups: i32 [n], whatever numbers belong to them, such as their clips'."""

    size: int
    keys: np.ndarray
    features: np.ndarray
    groups: np.ndarray

    @classmethod
    def empty(cls, size: int, width: int) -> "Sample":
        """None yet, of features [n,width]."""
        return cls(size, np.zeros(0, np.uint64), np.zeros((0, width), np.float32), np.zeros(0, np.int32))


def add_features(sample: Sample, features: np.ndarray, name: str, first: int, group: int) -> Sample:
    """The sample with features [n,D] numbered from `first` of the clip `name`."""
    digests = [hashlib.blake2b(f"{name}\0{first + i}".encode(), digest_size=8).digest() for i in range(len(features))]
    keys = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
    groups = np.full(len(keys), group, np.int32)
    return merge_samples(sample, Sample(sample.size, keys, np.asarray(features, np.float32), groups))


def merge_samples(first: Sample, second: Sample) -> Sample:
    """Those of both, [n,D], with the smallest keys."""
    keys = np.concatenate([first.keys, second.keys])
    order = np.argsort(keys, kind="stable")[: first.size]
    features = np.concatenate([first.features, second.features])[order]
    return Sample(first.size, keys[order], features, np.concatenate([first.groups, second.groups])[order])


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """KID: the unbiased squared maximum mean discrepancy of features x [n,D] and y [m,D] under (x.y/D + 1)^3; may be below 0.

    nan for sets of fewer than two.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return _within(x) + _within(y) - 2 * float(_kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: np.ndarray) -> float:
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))
