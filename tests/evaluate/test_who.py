"""Whose colours a frame shows: the true one's are recognised, a colour-blind output is nobody's."""

import numpy as np
import pytest

from champ_jax.evaluate.who import IdentityJudge, semantic_regions

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def _person(colours, left, size=48):
    """A frame and its map: a person of three bands of `colours` u8 [3,3], `left` pixels from the edge."""
    frame, parts = np.full((size, size, 3), 90, np.uint8), np.zeros((size, size, 3), np.uint8)
    for band in range(3):
        place = np.s_[6 + 12 * band : 18 + 12 * band, left : left + 14]
        frame[place], parts[place] = colours[band], PALETTE[band]
    return frame, parts


@pytest.fixture
def world():
    """Eight people: a judge of their photos, and frames and maps of each in which they walk."""
    colours = np.random.default_rng(0).integers(0, 256, (8, 3, 3), np.uint8)
    photos, maps = (np.stack(x) for x in zip(*(_person(c, 10) for c in colours), strict=True))
    walks = [tuple(np.stack(x) for x in zip(*(_person(worn, 12 + 4 * i) for i in range(5)), strict=True)) for worn in colours]
    return IdentityJudge(photos, maps, range(8)), walks


def test_truth_is_recognised(world):
    judge, walks = world
    assert all(judge.right(frames, maps, identity).all() for identity, (frames, maps) in enumerate(walks))


def test_an_output_without_the_photo_is_nobody(world):
    judge, walks = world
    grey = np.full_like(walks[0][0], 128)
    assert np.mean([judge.right(grey, maps, identity) for identity, (_, maps) in enumerate(walks)]) == 1 / 8


def test_maps_with_blended_edges_go_to_the_nearest_part():
    maps = np.array([[[[250, 9, 3], [0, 0, 0], [10, 0, 240]]]], np.uint8)
    np.testing.assert_array_equal(semantic_regions(maps, PALETTE), [[[0, -1, 2]]])


def test_colours_of_the_own_photo_are_near_and_of_others_far(world):
    judge, walks = world
    own = [judge.apart(frames, maps, identity).mean() for identity, (frames, maps) in enumerate(walks)]
    other = [judge.apart(frames, maps, (identity + 1) % 8).mean() for identity, (frames, maps) in enumerate(walks)]
    assert max(own) < 1e-6 and min(other) > 10
    nobody = np.zeros_like(walks[0][1])
    assert np.isnan(judge.apart(walks[0][0], nobody, 0)).all()
