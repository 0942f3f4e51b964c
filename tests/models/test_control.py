"""Several references, people apart, style, identity: what each must leave as it is, and what it must change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.face_id import FaceID, FaceIDConfig
from champ_jax.models.reference import halve, reference_features
from champ_jax.models.temporal import TemporalConfig, temporal_layers
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.models.unet_levels import share_at
from champ_jax.nn.attention import Attention
from champ_jax.nn.kernels import attend, attend_to_shared, attend_with_shared, shares, sources_seen
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from champ_jax.nn.style import channel_moments, joint_moments
from tests.models.filled import filled

B, F, H, W, R = 2, 3, 6, 8, 3
PLAIN = UNetConfig(channels=(8, 16), attention_levels=(True, True), layers=1, heads=2, groups=4, context_dim=12, ff_mult=2)
CONTROLS = {
    "aligned": {"identity": "aligned"},
    "plain": {"identity": "plain"},
    "style": {"style": (0, 1)},
    "style without the person": {"style": (1,), "reference_attention": False},
    "coarse": {"coarse": (0, 1)},
}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    """A function from photos' latents [B,R,h,w,C] to the features of one reference network."""
    graphdef, params = split(filled(lambda: UNet(dataclasses.replace(PLAIN, head=False), ParamKeys(0)), 1))
    run = jax.jit(lambda params, x, c: reference_features(merge(graphdef, params), x, c, coarse=True))
    return lambda photos: run(params, photos, np.broadcast_to(draw(9, 1, 1, 1, 12), (*photos.shape[:2], 1, 12)))


def denoiser(strength=None, jit=True, **control):
    """A function of the denoiser's arguments, with parameters that are not zero but for the strengths, unless given one."""

    def fill(path, leaf):
        name = [key.key for key in path]
        if name[-1] == "value":
            return jnp.full(leaf.shape, strength or 0.0)
        return leaf

    graphdef, params = split(filled(lambda: UNet(dataclasses.replace(PLAIN, **control), ParamKeys(0)), 0))
    # Parameters that the plain network has too are the same, whatever control stands beside them.
    own = split(filled(lambda: UNet(PLAIN, ParamKeys(0)), 0))[1]
    params = _overlaid(jax.tree_util.tree_map_with_path(fill, params), own)
    run = lambda params, *args: merge(graphdef, params)(*args)  # noqa: E731
    run = jax.jit(run) if jit else run
    return lambda *args: np.asarray(run(params, *args))


def _overlaid(params, own):
    return {
        name: _overlaid(value, own[name]) if isinstance(value, dict) and name in own else own.get(name, value)
        for name, value in params.items()
    }


LATENTS, T, CONTEXT = draw(0, B, F, H, W, 4), np.array([10, 700]), draw(1, B, 1, 12)
PHOTOS = draw(2, B, R, H, W, 4)
FACE = (draw(3, B, 1, 4, 12), np.ones(B, np.float32))


@pytest.fixture(scope="module")
def plain():
    return denoiser()


@pytest.mark.parametrize("name", CONTROLS)
def test_at_first_nothing_changes(name, reference):
    # Not compiled: the compiler orders the sums of two programs differently.
    features = reference(PHOTOS)
    with_it = denoiser(jit=False, **CONTROLS[name])(LATENTS, T, CONTEXT, None, features, None, FACE)
    without = denoiser(jit=False)(LATENTS, T, CONTEXT, None, None if "without" in name else _only_tokens(features))
    np.testing.assert_allclose(with_it, without, atol=1e-6)


@pytest.mark.parametrize("name", CONTROLS)
def test_with_strength_it_does(name, plain, reference):
    features = reference(PHOTOS)
    run = denoiser(strength=0.5, **CONTROLS[name])
    with_it = run(LATENTS, T, CONTEXT, None, features, None, FACE)
    without = plain(LATENTS, T, CONTEXT, None, None if "without" in name else _only_tokens(features))
    assert np.abs(with_it - without).max() > 1e-3
    # Rows that may see neither photo nor face are as if nothing were there.
    nobody = run(LATENTS, T, CONTEXT, None, features, np.array([[0, 0, 0], [1, 1, 1]], np.float32), (FACE[0], np.array([0.0, 1.0])))
    np.testing.assert_allclose(nobody[0], plain(LATENTS, T, CONTEXT)[0], atol=1e-5)
    np.testing.assert_allclose(nobody[1], with_it[1], atol=1e-5)


def _only_tokens(features):
    return {name: part for name, part in features.items() if "@" not in name}


@pytest.mark.parametrize("control", [{}, {"style": (0, 1), "coarse": (0, 1)}], ids=["attention", "all"])
def test_references_are_a_set(control, reference):
    """Their order changes nothing, copies of one are as one, and those of no weight as if they were not there."""
    run = denoiser(strength=0.5, **control)
    out = lambda photos, weight=None: run(LATENTS, T, CONTEXT, None, reference(photos), weight)  # noqa: E731
    weight = np.array([[1, 2, 0.5], [0, 1, 1]], np.float32)
    mixed = out(PHOTOS, weight)
    np.testing.assert_allclose(out(PHOTOS[:, ::-1], weight[:, ::-1]), mixed, atol=1e-5)
    np.testing.assert_allclose(out(PHOTOS[1:, 1:].repeat(2, 0))[1], mixed[1], atol=1e-5)
    one = out(PHOTOS[:, :1])
    for count in (2, 8):
        np.testing.assert_allclose(out(PHOTOS[:, :1].repeat(count, 1)), one, atol=1e-5)
    assert np.abs(mixed - one).max() > 1e-3


def test_people_do_not_read_each_others_photos():
    """In attention with shares of each position nothing of another person's photo, or cells, arrives: not in value, not in gradient."""
    q, k, v = (draw(i, B, F, H * W, 2, 4) for i in range(3))
    shared_k, shared_v = draw(5, B, 2, 7, 2, 4), draw(6, B, 2, 7, 2, 4)
    mine = np.zeros((B, F, H, W, 2), np.float32)
    mine[:, :, :, :4, 0] = mine[:, :, :, 4:, 1] = 1
    left = mine[..., 0].reshape(B, F, H * W) > 0
    share = shares(mine.reshape(B, F, H * W, 2))

    @jax.jit
    @jax.grad
    def leak(arrays):
        out = attend_with_shared(*arrays, share)
        return jnp.sum(jnp.where(left[..., None, None], out, 0.0) ** 2)

    _, k_leak, v_leak, shared_k_leak, shared_v_leak = leak((q, k, v, shared_k, shared_v))
    for own in (k_leak, v_leak):
        assert not np.any(np.asarray(own)[~left]) and np.any(np.asarray(own)[left])
    for photo in (shared_k_leak, shared_v_leak):
        assert not np.any(np.asarray(photo)[:, 1]) and np.all(np.any(np.asarray(photo)[:, 0], (1, 2, 3)))
    # With its own photo alone a person's cells are what they are with both.
    alone = attend_with_shared(q[:, :, left[0, 0]], k[:, :, left[0, 0]], v[:, :, left[0, 0]], shared_k[:, :1], shared_v[:, :1])
    np.testing.assert_allclose(attend_with_shared(q, k, v, shared_k, shared_v, share)[:, :, left[0, 0]], alone, atol=1e-6)


@pytest.mark.parametrize("over_time", [False, True])
def test_nothing_crosses_masks_by_way_of_nobody_or_of_time(over_time):
    """Attention after attention, with cells that are nobody's, and people who change places: the first one's know nothing of the
    second one's photo."""
    q = draw(0, B, F, H * W, 2, 4)
    photos = draw(5, B, 2, 7, 2, 4)
    mine = np.zeros((B, F, H, W, 2), np.float32)
    mine[:, :, :, :3, 0] = mine[:, :, :, 5:, 1] = 1
    mine[:, :, :, 3:5] = 1
    mine[:, 1] = mine[:, 1, :, ::-1]
    share = shares(mine.reshape(B, F, H * W, 2))
    first = np.asarray(share)[..., 0] == 1
    over = lambda x: x.swapaxes(1, 2).reshape(B * H * W, F, *x.shape[3:])  # noqa: E731

    @jax.jit
    @jax.grad
    def leak(photos):
        x = q
        for _ in range(3):
            x = attend_with_shared(x, x, x, photos, photos, share)
            if over_time:
                along = attend(*3 * (over(x),), sources_seen(over(share)))
                x = along.reshape(B, H * W, F, 2, 4).swapaxes(1, 2)
        return jnp.sum(jnp.where(first[..., None, None], x, 0.0) ** 2)

    found = np.asarray(leak(photos))
    assert not np.any(found[:, 1]) and np.any(found[:, 0])


@pytest.mark.parametrize("kind", ["animatediff", "modelscope", "transformer"])
def test_attention_over_frames_keeps_people_apart(kind):
    """Of a cell whose frames belong to one person, to another and to nobody, a frame reads its own person's; nobody's read all."""
    config = TemporalConfig(kind=kind, heads=2, groups=4, ff_mult=1)
    module = filled(lambda: temporal_layers(8, True, config, ParamKeys(0), Policy())["temporal"])
    seen = np.array([[[1, 0], [0, 1], [1, 0], [1, 1]]], np.float32)
    run = lambda x, seen=seen: module(x[:, None, None], 1, seen).reshape(4, 8)  # noqa: E731
    if kind == "modelscope":  # whose norm is of the whole clip
        module.norm = lambda x: x
    along = np.abs(np.asarray(jax.jacobian(run)(draw(0, 4, 8)))).sum((1, 3)) > 0
    np.testing.assert_array_equal(along, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])


def test_people_are_apart_without_photos_too():
    """The unconditional half of the guidance."""
    attention = filled(lambda: Attention(8, 2, ParamKeys(0), Policy()))
    share = jnp.tile(jnp.eye(2), (2, 1))[None, None]
    along = jax.jacobian(lambda x: attention.with_reference(x[None, None], None, share)[0, 0])(draw(0, 4, 8))
    np.testing.assert_array_equal(np.abs(along).sum((1, 3)) > 0, np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, bool))


def test_the_same_shares_everywhere_are_shares_of_all(reference):
    run, weight = denoiser(strength=0.5, style=(0, 1), coarse=(1,)), np.array([[1, 2, 0], [0, 0, 0]], np.float32)
    features = reference(PHOTOS)
    everywhere = np.broadcast_to(weight[:, None, None, None], (B, F, H, W, R))
    whole = run(LATENTS, T, CONTEXT, None, features, weight)
    np.testing.assert_allclose(run(LATENTS, T, CONTEXT, None, features, everywhere), whole, atol=1e-5)


def test_each_cell_reads_its_own_persons_image_token(plain, reference):
    """Where all cells are the second person's, the first one's token says nothing; equal tokens are as one for all."""
    tokens, features = draw(7, B, R, 1, 12), _only_tokens(reference(PHOTOS))
    mine = np.zeros((B, F, H, W, R), np.float32)
    mine[..., 1] = 1
    one = plain(LATENTS, T, tokens[:, 1], None, features, mine)
    np.testing.assert_allclose(plain(LATENTS, T, tokens, None, features, mine), one, atol=1e-5)
    mixed = np.einsum("br,brlc->blc", np.full((B, R), 1 / R), tokens)
    np.testing.assert_allclose(plain(LATENTS, T, tokens, None, features), plain(LATENTS, T, mixed, None, features), atol=1e-5)


def test_shares_of_smaller_levels_stay_whole():
    weight = np.zeros((1, 1, 5, 6, 2), np.float32)
    weight[..., :3, 0] = weight[..., 3:, 1] = 1
    found = np.asarray(share_at(weight, (3, 2)))
    np.testing.assert_array_equal(found.reshape(3, 2, 2), np.broadcast_to(np.eye(2), (3, 2, 2)))
    assert share_at(None, (3, 2)) is None and share_at(weight[:, 0, 0, 0], (3, 2)).shape == (1, 2)


def test_queries_without_a_source_get_nothing():
    q, k, v = draw(0, 2, 1, 4, 2, 4), draw(1, 2, 1, 5, 2, 4), draw(2, 2, 1, 5, 2, 4)
    out = attend_to_shared(q, k, v, np.array([[0.0], [1.0]], np.float32))
    assert not np.any(out[0]) and np.any(out[1])
    gradient = jax.grad(lambda k: attend_to_shared(q, k, v, np.array([[0.0], [1.0]], np.float32)).sum())(k)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[0])


def test_moments_of_a_set_are_those_of_its_positions():
    x = draw(0, 1, 2, H, W, 5)
    moments = channel_moments(x[0])[None]
    together = channel_moments(x.reshape(1, 2 * H, W, 5))
    np.testing.assert_allclose(joint_moments(moments, None)[:, 0, 0], together, atol=1e-5)
    np.testing.assert_allclose(joint_moments(moments, np.array([[0.0, 1.0]]))[:, 0, 0], moments[:, 1], atol=1e-5)


def test_halving():
    x = np.arange(15, dtype=np.float32).reshape(1, 1, 3, 5, 1)
    np.testing.assert_allclose(halve(x)[0, 0, :, :, 0], [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_face_tokens_of_each_frame(reference):
    run = denoiser(strength=1.0, identity="aligned")
    every = run(LATENTS, T, CONTEXT, None, None, None, (np.repeat(FACE[0], F, 1), FACE[1]))
    np.testing.assert_allclose(every, run(LATENTS, T, CONTEXT, None, None, None, FACE), atol=1e-5)
    other = np.repeat(FACE[0], F, 1)
    other[:, 1] = draw(8, B, 4, 12)
    changed = np.abs(run(LATENTS, T, CONTEXT, None, None, None, (other, FACE[1])) - every).max((0, 2, 3, 4))
    assert changed[1] > 1e-4 and changed[0] < 1e-6 and changed[2] < 1e-6


def test_plain_face_tokens_know_the_face_alone():
    model = FaceID(FaceIDConfig(width=12, embedding=16, clip_width=12, layers=0), ParamKeys(0))
    tokens = model(draw(0, B, 16), draw(1, B, 1, 12))
    assert tokens.shape == (B, 4, 12)
    np.testing.assert_array_equal(tokens, model(draw(0, B, 16), draw(2, B, 1, 12)))


def test_what_cannot_be():
    for wrong, message in (
        ({"identity": "adain"}, "expected one of aligned, plain"),
        ({"identity": "plain", "context_dim": None}, "and a context_dim"),
        ({"style": (2,)}, "unet.style names levels"),
        ({"reference_attention": False}, "leaves the style alone"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(PLAIN, **wrong)


def test_a_coarse_denoiser_asks_for_smaller_photos(reference):
    unet = filled(lambda: UNet(dataclasses.replace(PLAIN, coarse=(1,)), ParamKeys(0)))
    with pytest.raises(UserError, match="down_1/attention_0 reads the reference at half its size"):
        unet.project_reference(_only_tokens(reference(PHOTOS)))
