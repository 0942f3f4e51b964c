"""Distances of sets: all generated frames, or windows of 16, against all true ones. Statistics stream, and merge over hosts.

What is kept does not grow with the set: moments in a few groups of clips, and a bounded sample. The groups give an
interval by the jackknife; a bootstrap of clips would make sets with less variety.
"""

from dataclasses import dataclass, field

import numpy as np

from champ_jax.evaluate.catalogue import DISCO
from champ_jax.evaluate.networks import Network, Networks, resize_frames
from champ_jax.metrics import frechet
from champ_jax.metrics.stats import Interval, jackknife

GROUPS = 8
SAMPLES = 2000
"""Features of each side that KID compares."""
WINDOW = 16
NETWORKS = {"fid": "inception", "fid_vid": "resnet3d", "fvd": "i3d"}
SIDES = {"resnet3d": 112, "i3d": 224}
"""Pixels that the networks of windows see."""


@dataclass
class Features:
    """Of one network: moments of each side and group {(side, group): Moments}, and, for KID, a sample of each side."""

    moments: dict[tuple[int, int], frechet.Moments] = field(default_factory=dict)
    samples: dict[int, frechet.Sample] = field(default_factory=dict)

    def add(self, side: int, group: int, features: np.ndarray) -> None:
        """Features [n,D] of side 0 (generated) or 1 (reference)."""
        new = frechet.Moments.of(features)
        key = (side, group)
        self.moments[key] = frechet.merge(self.moments[key], new) if key in self.moments else new

    def add_sample(self, side: int, group: int, features: np.ndarray, name: str, first: int) -> None:
        """The same features for the sample; they are numbered from `first` of the clip `name`."""
        sample = self.samples.get(side) or frechet.Sample.empty(SAMPLES, features.shape[1])
        self.samples[side] = frechet.add_features(sample, features, name, first, group)

    def merge(self, other: "Features") -> None:
        """Adds those of another part of the set."""
        for key, moments in other.moments.items():
            self.moments[key] = frechet.merge(self.moments[key], moments) if key in self.moments else moments
        for side, sample in other.samples.items():
            self.samples[side] = frechet.merge_samples(self.samples[side], sample) if side in self.samples else sample

    def of(self, side: int, groups) -> frechet.Moments:
        """Moments of a side over some groups."""
        whole = None
        for group in groups:
            if (side, group) in self.moments:
                part = self.moments[side, group]
                whole = part if whole is None else frechet.merge(whole, part)
        return whole if whole is not None else frechet.Moments(0, np.zeros(1), np.zeros((1, 1)))


@dataclass(frozen=True)
class Distance:
    """value, its interval, and how many features of each side it comes from; width: of the features."""

    value: float
    interval: Interval
    counts: tuple[int, int]
    width: int


class FeatureSets:
    """Collects all clips; `add` takes their blocks in order."""

    def __init__(self, networks: Networks, protocol: str):
        self.networks = {metric: networks[name] for metric, name in NETWORKS.items() if networks[name]}
        self.overlapping = protocol == DISCO
        self.features = {metric: Features() for metric in self.networks}
        self._tails: dict[tuple[str, int], np.ndarray] = {}
        self._seen = [0, 0]

    def begin(self, name: str, group: int) -> None:
        """The next blocks are of this clip."""
        self._name, self._group, self._tails, self._seen = name, group, {}, [0, 0]

    def add(self, generated: np.ndarray, reference: np.ndarray) -> None:
        """The next frames of both videos, u8 [n,H,W,3]."""
        for side, frames in enumerate((generated, reference)):
            for metric, network in self.networks.items():
                if metric == "fid":
                    features = network.call(frames)
                    self.features[metric].add(side, self._group, features)
                    self.features[metric].add_sample(side, self._group, features, self._name, self._seen[side])
                else:
                    self._add_windows(metric, network, side, resize_frames(frames, SIDES[NETWORKS[metric]]))
            self._seen[side] += len(frames)

    def _add_windows(self, metric: str, network: Network, side: int, frames: np.ndarray) -> None:
        key = (metric, side)
        joined = np.concatenate([self._tails[key], frames]) if key in self._tails else frames
        step, place, found = (1 if self.overlapping else WINDOW), 0, []
        while place + WINDOW <= len(joined):
            found.append(network.call(joined[None, place : place + WINDOW]))
            place += step
        if found:  # all at once: moments of wide features cost as much for one as for many
            self.features[metric].add(side, self._group, np.concatenate(found))
        self._tails[key] = joined[place:]

    def distances(self) -> dict[str, Distance]:
        """{metric: distance} of what was collected; KID beside FID."""
        found = {}
        for metric, features in self.features.items():
            groups = sorted({group for _, group in features.moments})

            def apart(kept, features=features, groups=groups) -> float:
                chosen = [groups[number] for number in kept]
                return frechet.frechet_distance(features.of(0, chosen), features.of(1, chosen))

            counts = tuple(features.of(side, groups).count for side in (0, 1))
            width = features.of(0, groups).mean.shape[0]
            if min(counts) < 2:
                continue
            found[metric] = Distance(apart(range(len(groups))), jackknife(apart, len(groups)), counts, width)
            if metric == "fid":
                found["kid"] = _kernel_distance(features, groups, width)
        return found


def _kernel_distance(features: Features, groups: list[int], width: int) -> Distance:
    samples = [features.samples[side] for side in (0, 1)]

    def apart(kept) -> float:
        chosen = [groups[number] for number in kept]
        return frechet.kernel_distance(*(sample.features[np.isin(sample.groups, chosen)] for sample in samples))

    counts = tuple(len(sample.features) for sample in samples)
    return Distance(apart(range(len(groups))), jackknife(apart, len(groups)), counts, width)
