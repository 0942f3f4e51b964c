"""Long clips from windows: no seams, no wrap-around, any length, one compilation; guidance and determinism."""

import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import sampler_step, start
from champ_jax.diffusion.schedule import make_schedule
from champ_jax.errors import UserError
from champ_jax.infer.ring import FrameConditions, Seen
from champ_jax.infer.sample import ClipConditions, SampleSettings, initial_noise, make_table, sample_frames, sample_latents
from champ_jax.infer.wavefront import make_plan

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


def mixing_all(params, latents, t, context, guidance, person, frames):
    """As `mixing`, and of photo and context as `framewise`."""
    shift = 0.0 if person is None else person["k"].mean()
    return jnp.tanh(mixing(params, latents, t, context, guidance, person, frames)) + (shift + context.mean()) * latents


def run(denoise=framewise, frames=20, latents=None, guidance=None, **settings):
    if latents is None:
        latents = initial_noise(0, frames, SHAPE)
    if guidance is None:
        guidance = np.zeros((frames, *SHAPE), np.float32)
    conditions = ClipConditions(guidance, {"k": jnp.full((1, 3), 0.1)}, jnp.full((1, 1, 2), 0.2))
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


def plainly(denoise, latents, guidance, settings: SampleSettings, params=0.5):
    """What the loop should come to: every step over the whole clip, window after window."""
    plan = make_plan(latents.shape[1], settings.steps, settings.window, settings.overlap, anchor=settings.anchor)
    table = make_table(SCHEDULE, settings)
    state, context = start(latents[0]), jnp.full((1, 1, 2), 0.2)
    person = {"k": jnp.full((1, 3), 0.1)}
    first = []
    for step, t in enumerate(table.t):
        total, first = np.zeros_like(latents[0]), [*first, state.x[0]]
        for index, weights in zip(plan.frames[step], plan.weights[step]):
            x, maps = state.x[index], guidance[index] * table.strength[step]
            if settings.anchor:
                x, maps[0] = x.at[0].set(first[step]), guidance[0] * table.strength[step]
            cond = denoise(params, x[None], t, context, maps[None], person, None)
            uncond = denoise(params, x[None], t, 0 * context, maps[None], None, None)
            found = cond if table.scale[step] == 1 else classifier_free(uncond, cond, table.scale[step], settings.guidance_rescale)
            total[index] += weights[:, None, None, None] * np.asarray(found[0])
        state = sampler_step(SCHEDULE, table.mix[step], state, total, t)
    return state.x[None]


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 5, "sampler": "dpm++", "window_batch": 3, "guidance_scale": 3.0, "guidance_rescale": 0.7},
        {"steps": 4, "sampler": "unipc", "guidance_interval": (0.3, 0.7), "guidance_strength": (1.0, 0.2)},
        {"steps": 3, "anchor": True, "window_batch": 2},
    ],
)
def test_the_ring_changes_nothing(settings):
    """A wave of windows, several at once, gives what every step over the whole clip gives."""
    settings = SampleSettings(**{"window": 8, "overlap": 2, **settings})
    latents = initial_noise(1, 45, SHAPE)
    guidance = np.random.default_rng(2).standard_normal((45, *SHAPE)).astype(np.float32)
    conditions = ClipConditions(guidance, {"k": jnp.full((1, 3), 0.1)}, jnp.full((1, 1, 2), 0.2))
    found = sample_latents(mixing_all, jnp.float32(0.5), latents, conditions, SCHEDULE, settings)
    np.testing.assert_allclose(found, plainly(mixing_all, latents, guidance, settings), atol=1e-5)


def test_frames_come_out_in_order_before_the_clip_is_through():
    asked = []

    def given(first, size):
        asked.append(first)
        return initial_noise(0, size, SHAPE, first)[0], FrameConditions(np.zeros((size, *SHAPE), np.float32))

    settings = SampleSettings(steps=3, window=8, overlap=2)
    seen = Seen({"k": jnp.zeros((1, 3))}, jnp.zeros((1, 1, 2)))
    found = sample_frames(framewise, jnp.float32(0.5), 200, given, seen, SCHEDULE, settings)
    first = next(found)
    assert max(asked) < 60, "the end of the clip is not needed for its beginning"
    rest = list(found)
    assert len(first) + sum(map(len, rest)) == 200
    conditions = ClipConditions(np.zeros((200, *SHAPE), np.float32), *seen)
    whole = sample_latents(framewise, jnp.float32(0.5), initial_noise(0, 200, SHAPE), conditions, SCHEDULE, settings)
    np.testing.assert_allclose(np.concatenate([first, *rest])[None], whole, atol=1e-5)


def test_an_anchor_says_nothing_to_who_treats_every_frame_alone():
    np.testing.assert_allclose(run(steps=2, anchor=True), run(steps=2), atol=1e-5)
    for wrong in ({"overlap": 0}, {"deep_every": 2}):
        with pytest.raises(UserError, match="anchor"):
            SampleSettings(anchor=True, **wrong)


def test_noise_that_a_sampler_adds_is_a_frames_own():
    longer, shorter = run(frames=30, sampler="lcm", window=6, overlap=0), run(frames=18, sampler="lcm", window=6, overlap=0)
    np.testing.assert_allclose(longer[:, :12], shorter[:, :12], atol=1e-5)
    assert np.abs(longer - run(frames=30, window=6, overlap=0)).max() > 0.1


def counted(params, latents, t, context, guidance, person, frames, deep=None, return_deep=False):
    """A denoiser whose deeper part is a constant of the step it was found in."""
    deep = jnp.broadcast_to(t[:, None, None, None, None] / 1000.0, latents.shape) if deep is None else deep
    prediction = framewise(params, latents, t, context, guidance, person, frames) + deep
    return (prediction, deep) if return_deep else prediction


def test_deeper_features_are_kept_between_the_steps_that_run_them():
    """One step from pure noise gives -prediction; of two steps the second reads what the first found."""
    latents = np.zeros((1, 20, *SHAPE), np.float32)
    table = make_table(SCHEDULE, SampleSettings(steps=2))
    for every, deep in ((1, table.t / 1000), (2, [table.t[0] / 1000] * 2)):
        state = start(latents)
        for step in range(2):
            found = framewise(0.5, state.x, 0, jnp.full((1, 1, 2), 0.2), 0.0, {"k": jnp.full((1, 3), 0.1)}, None) + deep[step]
            state = sampler_step(SCHEDULE, table.mix[step], state, found, table.t[step])
        result = run(counted, latents=latents, steps=2, deep_every=every, guidance_scale=1.0)
        np.testing.assert_allclose(result, state.x, atol=1e-5)


def unchanging(params, latents, t, context, guidance, person, frames, deep=None, return_deep=False):
    """A denoiser whose deeper part is always the same: keeping it must change nothing."""
    deep = jnp.full_like(latents, 0.3) if deep is None else deep
    prediction = framewise(params, latents, t, context, guidance, person, frames) + deep
    return (prediction, deep) if return_deep else prediction


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.8)])
def test_kept_features_are_those_of_the_right_half(interval, rows):
    settings = dict(steps=6, guidance_scale=2.0, guidance_interval=interval, window_batch=rows)
    np.testing.assert_allclose(run(unchanging, deep_every=4, **settings), run(unchanging, **settings), atol=1e-5)


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
    conditions = ClipConditions(np.zeros((20, *SHAPE), np.float32), None, jnp.zeros((1, 1, 2)))
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
