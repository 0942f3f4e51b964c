"""Long clips from windows: no seams, no wrap-around, any length, one compilation; guidance and determinism."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.schedule import make_schedule
from champ_jax.errors import UserError
from champ_jax.infer.sample import Conditions, SampleSettings, in_chunks, initial_noise, sample_latents

SCHEDULE = make_schedule()
SHAPE = (4, 4, 2)


def framewise(params, latents, t, context, guidance, person, frames):
    """A denoiser that treats every frame alone."""
    shift = 0.0 if person is None else person["k"].mean()
    return params * latents + jnp.tanh(guidance) + shift + context.mean()


def mixing(params, latents, t, context, guidance, person, frames):
    """A denoiser whose every frame depends on the whole window and on its place in it."""
    place = jnp.linspace(0.9, 1.1, latents.shape[1])[:, None, None, None]
    return params * latents * place + guidance.mean(1, keepdims=True)


def run(denoise=framewise, frames=20, latents=None, guidance=None, **settings):
    if latents is None:
        latents = initial_noise(0, frames, SHAPE)
    if guidance is None:
        guidance = np.zeros((frames, *SHAPE), np.float32)
    conditions = Conditions(guidance, {"k": jnp.full((1, 3), 0.1)}, jnp.full((1, 1, 2), 0.2))
    settings = SampleSettings(**{"steps": 3, "window": 8, "overlap": 2, **settings})
    return sample_latents(denoise, jnp.float32(0.5), latents, conditions, SCHEDULE, settings)


@pytest.mark.parametrize("frames", [1, 5, 8, 9, 13, 20])
def test_constant_in_time_stays_constant(frames):
    """Shorter than, equal to and longer than the window; no seam where windows meet."""
    latents = np.repeat(initial_noise(0, 1, SHAPE), frames, 1)
    result = run(frames=frames, latents=latents)
    assert result.shape == (1, frames, *SHAPE)
    np.testing.assert_allclose(result, np.repeat(result[:, :1], frames, 1), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_windows_change_nothing_for_a_framewise_denoiser(batch):
    guidance = np.random.default_rng(0).standard_normal((20, *SHAPE)).astype(np.float32)
    whole = run(guidance=guidance, window=20, overlap=0)
    np.testing.assert_allclose(run(guidance=guidance, window_batch=batch), whole, atol=1e-5)


def test_the_end_of_the_clip_knows_nothing_of_its_beginning():
    guidance = np.zeros((14, *SHAPE), np.float32)
    changed = guidance.copy()
    changed[:2] = 1
    settings = dict(denoise=mixing, frames=14, window=8, overlap=2)
    ours, other = run(guidance=guidance, **settings), run(guidance=changed, **settings)
    np.testing.assert_array_equal(ours[:, 8:], other[:, 8:])
    champ, other = (run(guidance=g, compat="champ", **settings) for g in (guidance, changed))
    assert np.abs(champ[:, 12:] - other[:, 12:]).max() > 1e-3


def test_champ_averages_plainly():
    """One step of CHAMP by hand: windows 0-3, 3-6 and 6,0,1,2 over 7 frames."""
    index = [[0, 1, 2, 3], [3, 4, 5, 6], [6, 0, 1, 2]]
    x = initial_noise(3, 7, SHAPE)[0]
    total, count = np.zeros_like(x), np.zeros(7)
    for frames in index:
        total[frames] += np.asarray(mixing(0.5, x[None, frames], 999, None, np.zeros((1, 4, *SHAPE)), None, None))[0]
        count[frames] += 1
    v = total / count[:, None, None, None]
    result = run(denoise=mixing, frames=7, latents=x[None], steps=1, window=4, overlap=1, compat="champ")
    # At the last timestep of zero terminal SNR the clean latents are -v.
    np.testing.assert_allclose(result[0], -v, atol=1e-5)


def test_guidance_keeps_the_photo_from_the_unconditional_half():
    latents = np.zeros((1, 4, *SHAPE), np.float32)
    # cond = 0.1 + 0.2, uncond = 0: one step from pure noise gives -scale * 0.3.
    for scale in (1.0, 2.0, 3.5):
        result = run(frames=4, latents=latents, steps=1, guidance_scale=scale)
        np.testing.assert_allclose(result, -0.3 * scale, atol=1e-5)


def test_same_seed_same_clip_and_noise_of_a_frame_whatever_the_length():
    np.testing.assert_array_equal(run(), run())
    np.testing.assert_array_equal(initial_noise(5, 20, SHAPE)[:, :8], initial_noise(5, 8, SHAPE))
    assert np.abs(initial_noise(5, 8, SHAPE) - initial_noise(6, 8, SHAPE)).max() > 0.1


def test_one_compilation_for_any_length_of_clip():
    traces = []

    def counting(*arguments):
        traces.append(arguments[1].shape)
        return framewise(*arguments)

    for frames in (9, 14, 20):
        run(denoise=counting, frames=frames, window_batch=2)
    assert traces == [(2, 8, *SHAPE)] * 2, "conditional and unconditional half, each traced once"


def test_progress_reaches_its_total():
    seen = []
    conditions = Conditions(np.zeros((20, *SHAPE), np.float32), None, jnp.zeros((1, 1, 2)))
    settings = SampleSettings(steps=2, window=8, overlap=2)
    sample_latents(
        framewise, jnp.float32(0.5), initial_noise(0, 20, SHAPE), conditions, SCHEDULE, settings,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_settings_are_checked():
    for wrong in ({"steps": 0}, {"guidance_scale": 0.5}, {"window": 0}, {"window_batch": 0}, {"compat": "moore"}):
        with pytest.raises(UserError, match=next(iter(wrong)).split("_")[0]):
            SampleSettings(**wrong)
    with pytest.raises(UserError, match="overlap"):
        run(window=4, overlap=4)
    with pytest.raises(UserError, match="seed is -1"):
        initial_noise(-1, 2, SHAPE)


def test_chunks_see_one_shape():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return 2 * x

    values = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(in_chunks(double, (values,), 3), 2 * values)
    assert shapes == [(3, 2), (3, 2)]
