"""Scores: truth is perfect and recognised, a colour-blind output is nobody, copying the photo is what it is."""

import numpy as np
import pytest

from champ_jax.infer import score

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
    """Eight people: their photos, a judge, and a clip of each in which they walk."""
    colours = np.random.default_rng(0).integers(0, 256, (8, 3, 3), np.uint8)
    photos, maps = (np.stack(x) for x in zip(*(_person(c, 10) for c in colours), strict=True))
    clips = []
    for identity, worn in enumerate(colours):
        frames, parts = (np.stack(x) for x in zip(*(_person(worn, 12 + 4 * i) for i in range(5)), strict=True))
        mask = parts.any(-1).astype(np.uint8)
        clips.append(score.TruthClip(frames, mask, parts, photos[identity], maps[identity], identity))
    return score.IdentityJudge(photos, maps, range(8)), clips


def test_truth_is_perfect_and_recognised(world):
    judge, clips = world
    scores = [score.score_clip(clip.frames, clip, judge) for clip in clips]
    assert all(np.isinf(s["psnr"]).all() for s in scores)
    means = score.mean_scores(scores)
    assert means["ssim"] == pytest.approx(1, abs=1e-4) and means["ssim_person"] == pytest.approx(1, abs=1e-4)
    assert means["identity_top1"] == 1


def test_an_output_without_the_photo_is_nobody(world):
    judge, clips = world
    grey = np.full_like(clips[0].frames, 128)
    means = score.mean_scores([score.score_clip(grey, clip, judge) for clip in clips])
    assert means["identity_top1"] == 1 / 8


def test_copying_the_photo_scores_worse_inside_the_person(world):
    judge, clips = world
    copied = [score.score_clip(score.copy_of(clip.photo, 5), clip, judge) for clip in clips]
    noise = np.random.default_rng(1).normal(0, 10, clips[0].frames.shape)
    near = [score.score_clip((clip.frames + noise).clip(0, 255).astype(np.uint8), clip, judge) for clip in clips]
    copied, near = score.mean_scores(copied), score.mean_scores(near)
    assert near["psnr_person"] > copied["psnr_person"] + 5
    assert copied["psnr_person"] < copied["psnr"]


def test_maps_with_blended_edges_go_to_the_nearest_part():
    maps = np.array([[[[250, 9, 3], [0, 0, 0], [10, 0, 240]]]], np.uint8)
    np.testing.assert_array_equal(score.semantic_regions(maps, PALETTE), [[[0, -1, 2]]])
