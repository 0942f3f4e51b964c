"""Windows of frames: which there are under either protocol, in blocks of any length, and that KID and Frechet's see the same sets."""

import numpy as np
import pytest

from champ_jax.evaluate.networks import Network, Networks
from champ_jax.evaluate.sets import GROUPS, FeatureSets
from tests.evaluate.films import film, noisy


def windows_of(seen):
    """Networks in which those of windows note what they are shown: mean level of each frame of a window."""

    def call(video):
        assert video.shape[1] == 16 and video.shape[2] == video.shape[3]
        seen.append(video.astype(np.float32).mean((2, 3, 4))[0])
        return video.astype(np.float32).mean((1, 2, 3)) / 255

    networks = Networks()
    for name in ("i3d", "resnet3d"):
        networks.replace(name, Network(call, {f"{name}.pth": "0" * 64}))
    return networks


def numbered(count):
    """Frames whose level is their number."""
    return np.repeat(np.arange(count, dtype=np.uint8), 8 * 8 * 3).reshape(count, 8, 8, 3)


@pytest.mark.parametrize(("protocol", "starts"), [("strict", [0, 16]), ("disco-compat", list(range(25)))])
@pytest.mark.parametrize("block", [7, 16, 40])
def test_windows(protocol, starts, block):
    seen = []
    sets = FeatureSets(windows_of(seen), protocol)
    sets.begin("clip", 0)
    frames = numbered(40)
    for first in range(0, 40, block):
        sets.add(frames[first : first + block], frames[first : first + block])
    found = sorted(int(round(float(window[0]))) for window in seen)
    assert found == sorted(4 * starts), "each side and each network"
    assert all(np.allclose(np.diff(window), 1) for window in seen)
    counts = {len(starts)}
    assert {features.moments[0, 0].count for features in sets.features.values()} == counts


def test_clips_do_not_run_into_each_other_and_short_ones_have_no_window():
    seen = []
    sets = FeatureSets(windows_of(seen), "disco-compat")
    for name, count in (("a", 16), ("b", 15), ("c", 17)):
        sets.begin(name, 0)
        sets.add(numbered(count), numbered(count))
    assert len(seen) == 2 * 2 * (1 + 0 + 2)


def test_distances_come_with_an_interval_once_there_are_groups():
    sets = FeatureSets(windows_of([]), "disco-compat")
    for number in range(5):
        sets.begin(f"clip_{number}", number % GROUPS)
        truth = film(number, 20)
        sets.add(noisy(truth, 20, number), truth)
    found = sets.distances()["fvd"]
    assert found.counts == (25, 25) and found.width == 3 and found.interval.low < found.value < found.interval.high
    assert set(sets.distances()) == {"fvd", "fid_vid"}
