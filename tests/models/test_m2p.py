"""M2P: its heads, its reference, its statistics, and what its gradients reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from champ_jax.errors import UserError
from champ_jax.models.m2p import M2P, MAX_FACE_STEP, M2PConfig, bin_centres, predict, soft_argmax, to_pixels
from champ_jax.models.m2p_loss import REGRESS, m2p_losses
from champ_jax.models.m2p_statistics import measure_statistics, with_statistics
from champ_jax.pose import skeleton as sk
from champ_jax.pose.differentiable import pose_map
from tests.models.m2p_batch import TINY, motion_batch


@pytest.fixture(scope="module")
def model():
    return M2P(TINY, nnx.Rngs(0))


@pytest.fixture(scope="module")
def run(model):
    graphdef, state = nnx.split(model)
    compiled = jax.jit(lambda batch: predict(nnx.merge(graphdef, state), batch))
    return lambda batch: jax.tree.map(np.asarray, compiled(batch))


def count(config):
    shapes = nnx.state(nnx.eval_shape(lambda: M2P(config, nnx.Rngs(0))))
    return {name: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(part)) for name, part in nnx.to_pure_dict(shapes).items()}


def test_full_size():
    parts = count(M2PConfig())
    trunk = sum(parts[f"layer_{i}"] for i in range(6))
    assert trunk == 6 * (4 * 1024**2 + 2 * 1024 * 4096 + 9 * 1024 + 4096)
    assert parts["music_1"] + parts["music_2"] == 4801 * 2048 + 2049 * 1024
    assert sum(parts.values()) == 123_081_317


def test_shapes_and_ranges(run):
    out = run(motion_batch(2, 24))
    expected = {
        "keypoints": (2, 24, 134, 2), "local": (2, 24, 134, 2), "root": (2, 24, 2), "confidence": (2, 24, 134),
        "logits_x": (2, 24, 134, 24), "logits_y": (2, 24, 134, 24), "contact": (2, 24, 4), "face": (2, 24, 8),
    }  # fmt: skip
    assert {name: out[name].shape for name in expected} == expected
    assert all(np.isfinite(x).all() for x in out.values())


def test_soft_argmax_of_a_delta_is_its_bin():
    centres = bin_centres(16, 2.0)
    logits = jnp.where(jnp.eye(16, dtype=bool), 0.0, -1e9)
    np.testing.assert_array_equal(soft_argmax(logits, centres), centres)
    assert centres[0] == -centres[-1] == -2 + 2 / 16


def test_a_joints_place_depends_on_its_own_logits_only():
    logits = jax.random.normal(jax.random.key(0), (3, 5, 16))
    centres = bin_centres(16, 1.0)
    order = np.array([4, 1, 0, 3, 2])
    # Not bit for bit: a compiler may sum the last joints of an array in another order than the first.
    np.testing.assert_allclose(soft_argmax(logits[:, order], centres), soft_argmax(logits, centres)[:, order], rtol=1e-6)
    changed = soft_argmax(logits.at[:, 2].add(jnp.arange(16.0)), centres)
    np.testing.assert_allclose(np.delete(changed, 2, 1), np.delete(soft_argmax(logits, centres), 2, 1), rtol=1e-6)


def test_face_is_the_references_at_the_start(run):
    batch = motion_batch()
    out = run(batch)
    np.testing.assert_allclose(out["face"], np.repeat(batch["reference_face"][:, None], 24, 1), atol=1e-6)
    without = run({**batch, "reference_face": np.zeros((2, 8), np.float32)})
    assert (without["face"] == 0).all()


def test_face_step_is_bounded(model):
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    params["face_scale"] = jnp.ones(1)
    params["face"]["kernel"] = 100 * params["face"]["kernel"]
    batch = motion_batch()
    face = predict(nnx.merge(graphdef, params), batch)["face"]
    cosine = (face * batch["reference_face"][:, None]).sum(-1)
    assert cosine.min() >= np.sqrt(1 - MAX_FACE_STEP**2) - 1e-4 and cosine.min() < 0.999
    np.testing.assert_allclose(jnp.linalg.norm(face, axis=-1), 1, rtol=1e-5)


def test_size_and_place_of_the_photo_do_not_matter_and_its_pose_does(run):
    batch = motion_batch()
    out = run(batch)
    for name in ("keypoints", "reference_keypoints"):
        batch[name] = 3 * batch[name] + 11
    np.testing.assert_allclose(run(batch)["keypoints"], out["keypoints"], atol=1e-4)
    batch["reference_keypoints"] = batch["keypoints"][:, 12]
    assert np.abs(run(batch)["keypoints"] - out["keypoints"]).max() > 1e-3


def test_hidden_reference_joints_are_not_looked_at(run):
    batch = motion_batch()
    batch["reference_confidence"] = batch["reference_confidence"].copy()
    batch["reference_confidence"][:, [4, *range(24, 134)]] = 0.1
    moved = {**batch, "reference_keypoints": batch["reference_keypoints"].copy()}
    moved["reference_keypoints"][:, [4, *range(24, 134)]] += 40
    np.testing.assert_allclose(run(moved)["keypoints"], run(batch)["keypoints"], atol=1e-5)


def test_dropout_needs_a_key_and_repeats_with_it():
    config = M2PConfig(**{**TINY.__dict__, "dropout": 0.5})
    model, batch = M2P(config, nnx.Rngs(0)), motion_batch(1, 6)
    draws = [predict(model, batch, key)["keypoints"] for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2), None)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0 and np.abs(draws[0] - draws[3]).max() > 0


def test_features_of_another_width_are_refused(model):
    batch = motion_batch(music_dim=14)
    with pytest.raises(UserError, match="music features have 14 numbers, this model reads 12"):
        predict(model, batch)


def test_gradient_reaches_the_music_through_the_drawn_map(model):
    batch = motion_batch(1, 2)
    for name in ("keypoints", "reference_keypoints"):
        batch[name] = batch[name] / 4
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, with_statistics(nnx.to_pure_dict(state), measure_statistics([motion_batch()])))

    @jax.jit
    @jax.grad
    def gradient(music):
        keypoints, confidence = to_pixels(predict(model, {**batch, "music": music}), batch)
        return jnp.square(pose_map(keypoints, confidence, (24, 24)) - 0.5).sum()

    value = np.asarray(gradient(batch["music"]))
    assert np.isfinite(value).all() and np.abs(value).max() > 1e-6


def test_statistics_standardise_and_get_no_gradient(model):
    batch = motion_batch()
    batch["music"] = 50 + 20 * batch["music"]
    statistics = measure_statistics([batch, batch])
    np.testing.assert_allclose(statistics["music_mean"], batch["music"].mean((0, 1)), rtol=1e-4)
    assert statistics["pose_std"].shape == (268,) and statistics["pose_std"].min() > 0
    graphdef, state = nnx.split(model)
    params = with_statistics(nnx.to_pure_dict(state), statistics)
    music = nnx.merge(graphdef, params).statistics.music(batch["music"])
    np.testing.assert_allclose(music.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(music.std((0, 1)), 1, atol=1e-2)
    loss = lambda p: m2p_losses(predict(nnx.merge(graphdef, p), batch), batch)["pos"]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    assert all((x == 0).all() for x in gradient["statistics"].values())


def test_one_clip_is_learned():
    batch = motion_batch(1, 64)
    config = M2PConfig(**{**TINY.__dict__, "width": 64, "ff": 128, "joint_dim": 16, "bins_x": 32, "bins_y": 32})
    graphdef, state = nnx.split(M2P(config, nnx.Rngs(0)))
    params = with_statistics(nnx.to_pure_dict(state), measure_statistics([batch]))
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 200))

    def loss(params):
        outputs = predict(nnx.merge(graphdef, params), batch)
        return sum(REGRESS[name] * value for name, value in m2p_losses(outputs, batch).items()), outputs["keypoints"]

    @jax.jit
    def step(params, moments):
        (_, keypoints), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, keypoints

    moments = optimizer.init(params)
    for _ in range(200):
        params, moments, keypoints = step(params, moments)
    pixels, _ = to_pixels({"keypoints": keypoints, "confidence": batch["confidence"]}, batch)
    torso = np.linalg.norm(batch["reference_keypoints"][0, sk.NECK] - batch["reference_keypoints"][0, [8, 11]].mean(0))
    error = np.linalg.norm(np.asarray(pixels) - batch["keypoints"], axis=-1) / torso
    assert (error < 0.05).mean() > 0.99, np.percentile(error, [50, 90, 99])
