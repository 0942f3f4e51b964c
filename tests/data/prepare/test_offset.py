"""The offset of music to motion is found from sound and keypoints alone, and what is found by chance says so."""

import numpy as np
import pytest

from champ_jax.audio.beats import onset_envelope
from champ_jax.data.prepare.offset import CHANCE, measure_offset, motion_accents
from champ_jax.pose.skeleton import J

RATE, SECONDS = 24_000, 10.0


def accents(seed: int) -> np.ndarray:
    """Seconds of accents without a steady pulse, which would look the same a beat later."""
    times = np.cumsum(np.random.default_rng(seed).choice([0.4, 0.5, 0.6, 0.8], 30))
    return times[times < SECONDS - 0.6]


def drums(times: np.ndarray) -> np.ndarray:
    """f32 [S]: a drum at each of these times, over soft noise."""
    rng, t = np.random.default_rng(1), np.arange(round(0.15 * RATE)) / RATE
    sound = rng.normal(0, 0.01, round(SECONDS * RATE))
    for start in np.round(times * RATE).astype(int):
        hit = 0.5 * np.sin(2 * np.pi * 70 * t) * np.exp(-t * 25) + rng.normal(0, 0.2, len(t)) * np.exp(-t * 60)
        sound[start : start + len(t)] += hit[: len(sound) - start]
    return sound.astype(np.float32)


def dance(times: np.ndarray, fps: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [T,134,2] and confidence [T,134] of somebody who reaches a new pose at each of these times, and half a pixel of noise.

    kind: "hits" at its end after a rush and stays, "turns" at an even speed, "sways" softly.
    """
    rng, now = np.random.default_rng(2), np.arange(round(SECONDS * fps)) / fps
    keys = np.concatenate([[0], times, [SECONDS + 1]])
    poses = rng.normal(300, 60, (len(keys), J, 2))
    part = np.searchsorted(keys, now, side="right") - 1
    length = np.diff(keys)[part]
    way = (now - keys[part]) / length
    if kind == "hits":
        way = np.clip(1 - (keys[part + 1] - now) / np.minimum(0.25, length), 0, 1) ** 1.5
    elif kind == "sways":
        way = (1 - np.cos(np.pi * way)) / 2
    keypoints = poses[part] + (poses[part + 1] - poses[part]) * way[:, None, None]
    return (keypoints + rng.normal(0, 0.5, keypoints.shape)).astype(np.float32), np.ones((len(now), J), np.float32)


def measured(sound: np.ndarray, keypoints: np.ndarray, confidence: np.ndarray, fps: float) -> tuple[float, float]:
    onsets = onset_envelope(sound, RATE, np.arange(len(keypoints)) / fps)
    return measure_offset(onsets, motion_accents(keypoints, confidence, fps), fps)


@pytest.mark.parametrize("kind", ["hits", "turns"])
@pytest.mark.parametrize("fps", [24000 / 1001, 25, 30, 60])
def test_a_known_offset_is_found_within_20_ms(fps, kind):
    for seed, offset in enumerate((-0.41, -0.12, 0.0, 0.033, 0.2, 0.37)):
        times = accents(seed)
        found, sure = measured(drums(times + offset), *dance(times, fps, kind), fps)
        assert found == pytest.approx(offset, abs=0.02) and sure > 4, (seed, offset)


def test_soft_motion_is_found_less_exactly():
    times = accents(0)
    found, _ = measured(drums(times + 0.15), *dance(times, 30, "sways"), 30)
    assert found == pytest.approx(0.15, abs=0.04)


def test_joints_that_are_not_seen_do_not_count():
    times = accents(3)
    keypoints, confidence = dance(times, 30, "hits")
    keypoints[:, ::2], confidence[:, ::2] = np.random.default_rng(0).uniform(0, 600, keypoints[:, ::2].shape), 0
    confidence[100:110] = 0
    found, sure = measured(drums(times + 0.1), keypoints, confidence, 30)
    assert found == pytest.approx(0.1, abs=0.02) and sure > CHANCE
    assert not motion_accents(keypoints, 0 * confidence, 30).any()


def test_chance_is_not_sure():
    sure = [measured(drums(accents(seed)), *dance(accents(seed + 50), 30, "hits"), 30)[1] for seed in range(12)]
    assert max(sure) < CHANCE and np.median(sure) < 4
    assert measured(np.zeros(10 * RATE, np.float32), *dance(accents(0), 30, "hits"), 30) == (0.0, 0.0)


def test_no_onset_falls_between_frames():
    """A drum adds as much to the curve wherever it falls between two frames of a slow film."""
    seconds = np.arange(100) / 12
    sums = [onset_envelope(drums(np.array([4.0 + shift])), RATE, seconds)[46:53].sum() for shift in np.linspace(0, 1 / 12, 7)]
    assert max(sums) < 1.5 * min(sums)
