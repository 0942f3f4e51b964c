"""Streams of a tiny random model: one frame a frame of sound, bounded state, nothing compiled on the way, quality that gives way."""

import gc
import weakref

import jax.monitoring
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.infer.live_frames import Past, _last
from champ_jax.infer.photo import standing_body
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.infer.stream import Governor, Quality, _ladder, stream
from tests.infer.tiny import SIZE, TINY_M2P, save_tiny, tiny_config

RATE = 24_000
_compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: _compiled.append(name) if "backend_compile" in name else None)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    weights = save_tiny(tmp_path_factory.mktemp("weights") / "model", tiny_config(TINY_M2P), motion_window=24, steps=1, guidance_scale=1.0)
    return load_pipeline(weights)


def photo():
    picture = np.full((*SIZE, 3), 90, np.uint8)
    picture[8:24, 12:20] = 200
    return picture


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def cut(sound, block):
    return (sound[start : start + block] for start in range(0, len(sound), block))


def start(pipe, chunks, **options):
    return stream(pipe, photo(), chunks, rate=RATE, **{"hop": 2, "context": 2, **options})


def test_every_frame_comes_once_in_any_blocks_and_nothing_compiles(pipe):
    sound = noise(4.04)
    frames = start(pipe, cut(sound, 1000))
    _compiled.clear()
    first = list(frames)
    assert not _compiled
    assert [round(frame.seconds * 12) for frame in first] == list(range(48))
    assert all(frame.image.shape == (*SIZE, 3) and frame.image.dtype == np.uint8 for frame in first)
    again = list(start(pipe, cut(sound, 50_000)))
    np.testing.assert_array_equal([frame.image for frame in first], [frame.image for frame in again])


def test_causal_and_prompt(pipe):
    """A frame depends on no sound later than `ahead` and a hop, and has come by then."""
    sound, other = noise(2.5), noise(2.5)
    other[round(1.5 * RATE) :] = noise(1.0, seed=1)
    given = []
    seen = []

    def giving(whole):
        for block in cut(whole, 480):
            given.append(len(block))
            yield block

    for frame in start(pipe, giving(sound), ahead=0.25):
        seen.append((frame, sum(given) / RATE))
    changed = list(start(pipe, cut(other, 480), ahead=0.25))
    hop = 2 / 12
    for (frame, heard), otherwise in zip(seen, changed):
        assert heard <= frame.seconds + 0.25 + hop + 0.05
        if frame.seconds + 0.25 + hop < 1.45:
            np.testing.assert_array_equal(frame.keypoints, otherwise.keypoints)
    assert any((frame.keypoints != otherwise.keypoints).any() for (frame, _), otherwise in zip(seen, changed))


def test_starts_in_the_photos_pose(pipe):
    body, known = standing_body(SIZE)
    apart = (next(start(pipe, cut(noise(2), 2400))).keypoints - body)[known > 0]
    # A dance that would leave the frame is moved as a whole.
    assert np.ptp(apart, axis=0).max() < 1e-3


def test_state_does_not_grow(pipe):
    frames = start(pipe, cut(noise(6), 2400))
    show = frames.gi_frame.f_locals["show"]

    def size():
        motion = show.motion
        arrays = [*motion._past, motion._opening, motion.music._ring, *show._poses, *jax.tree.leaves(show._painter.past)]
        return sum(array.nbytes for array in arrays)

    sizes = [size() for _ in frames]
    assert max(sizes[20:]) <= max(sizes[14:20])


def test_closing_lets_go(pipe):
    closed = []

    def source():
        try:
            while True:
                yield np.zeros(2400, np.float32)
        finally:
            closed.append(True)

    frames = start(pipe, source())
    painter = weakref.ref(frames.gi_frame.f_locals["show"].painters[0])
    next(frames)
    frames.close()
    assert closed
    del frames
    gc.collect()
    assert painter() is None


def test_quality_gives_way_before_frames_do(pipe):
    """A clock on which every look costs 0.2 s: more than a hop lasts."""
    now = [0.0]

    def clock():
        now[0] += 0.2
        return now[0]

    frames = list(start(pipe, cut(noise(6), 2400), keep_up=True, context=4, clock=clock))
    assert len(frames) == 72 and {frame.image.shape for frame in frames} == {(*SIZE, 3)}
    assert frames[-1].quality.size < SIZE and frames[-1].quality.context == 2
    assert any(frame.repeated for frame in frames)
    assert not any(frame.repeated for frame in frames if frame.quality.size == SIZE)


def test_steps_are_given_up_first_then_context_then_size(pipe):
    ladder = _ladder(Quality(20, 8, SIZE), pipe)
    assert ladder == [(20, 8, SIZE), (10, 8, SIZE), (5, 8, SIZE), (5, 2, SIZE), (5, 2, (24, 24))]
    assert _ladder(Quality(1, 2, SIZE), pipe)[1:] == [(1, 2, (24, 24))]


def test_governor_falls_at_once_and_rises_with_patience():
    governor = Governor([0.6, 0.3, 0.1], 1.0)
    assert governor.level == 0
    governor.spent(1.2)
    governor.spent(1.0)
    assert governor.level == 2 and governor.lowest
    for _ in range(7):
        governor.spent(0.1)
    assert governor.level == 2
    governor.spent(0.1)
    assert governor.level == 1
    for _ in range(30):
        governor.spent(0.5)  # the better one would take 1.0
    assert governor.level == 1
    assert Governor([5.0, 3.0], 1.0).level == 1


def test_a_past_of_another_length():
    past = Past(np.arange(3.0), np.arange(3.0), None, np.ones(3))
    assert _last(past, 2).latents.tolist() == [1, 2]
    longer = _last(past, 5)
    assert longer.latents.tolist() == [0, 0, 0, 1, 2] and longer.known.tolist() == [0, 0, 1, 1, 1]
    assert len(_last(past, 0).latents) == 0


def test_refusals(pipe, tmp_path):
    for wrong, words in (
        ({"hop": 0}, "hop of at least 1"), ({"context": -1}, "no negative"), ({"ahead": 5.0}, "shorter than"),
        ({"size": (33, 32)}, "multiples"), ({"steps": 0}, "at least 1"), ({"seed": -1}, "seed"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            start(pipe, cut(noise(1), 1000), **wrong)
    with pytest.raises(UserError, match="samples a second"):
        stream(pipe, photo(), cut(noise(1), 1000), rate=0)
    with pytest.raises(UserError, match="cannot dance"):
        stream(load_pipeline(save_tiny(tmp_path / "mute")), photo(), [], rate=RATE)
    for blocks, words in (
        ([], "ended after 0 samples"), ([np.zeros(2400, np.int16)], "int16"), ([np.zeros((2400, 2), np.float32)], "mono"),
        ([np.full(2400, np.nan, np.float32)], "NaN"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            list(start(pipe, blocks))
