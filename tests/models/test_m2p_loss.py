"""The terms of M2P's loss: zero where they should be, blind to what is hidden, the same at every frame rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.models import m2p_loss
from champ_jax.models.m2p import M2P, bin_centres, predict
from champ_jax.pose import normalise as norm
from champ_jax.pose import skeleton as sk
from tests.models.m2p_batch import TINY, motion_batch


def perfect(batch):
    """The outputs of a network that is right."""
    names = ("keypoints", "confidence", "reference_keypoints", "reference_confidence")
    target, _ = norm.normalise(*(batch[name] for name in names))
    local, root = norm.split(target, batch["confidence"])
    centres = bin_centres(64, 5.0)
    logits = -0.5 * ((centres - local[..., None]) / (2 * (centres[1] - centres[0]))) ** 2
    speed = np.linalg.norm(np.diff(np.asarray(target)[:, :, list(sk.CONTACT_JOINTS)], axis=1), axis=-1) * 24
    calls = np.where(speed < m2p_loss.CONTACT_SPEED, 9.0, -9.0)
    return {
        "keypoints": target, "local": local, "root": root,
        "confidence": jnp.where(batch["confidence"] > 0.5, 9.0, -9.0), "logits_x": logits[..., 0, :], "logits_y": logits[..., 1, :],
        "bins_x": centres, "bins_y": centres, "pose_mean": jnp.zeros((sk.J, 2)), "pose_std": jnp.ones((sk.J, 2)),
        "contact": jnp.asarray(np.concatenate([calls[:, :1], calls], 1)), "face": batch["face"],
    }  # fmt: skip


def test_terms_are_those_that_the_presets_weigh():
    batch = motion_batch()
    terms = m2p_loss.m2p_losses(perfect(batch), batch)
    assert set(terms) == set(m2p_loss.REGRESS)
    assert set(m2p_loss.PROTOTYPE) < set(terms)
    assert all(value.shape == () for value in terms.values())


def test_a_perfect_network_has_nothing_to_pay():
    batch = motion_batch()
    terms = m2p_loss.m2p_losses(perfect(batch), batch)
    for name in ("pos", "vel", "acc", "bone", "beat", "conf"):
        assert terms[name] < 2e-3, name
    assert terms["foot"] < 0.2  # standing feet tremble
    assert terms["face"] < 0.02  # the true face changes a little
    entropy = 0.5 * np.log(2 * np.pi * np.e * m2p_loss.HEATMAP_SIGMA**2)
    assert terms["hm"] == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize("name", ["hm", "pos", "vel", "bone", "face"])
def test_every_term_notices_its_error(name):
    batch = motion_batch()
    outputs = perfect(batch)
    before = m2p_loss.m2p_losses(outputs, batch)[name]
    noise = np.random.default_rng(0).normal(0, 0.3, outputs["keypoints"].shape)
    worse = {**outputs, "keypoints": outputs["keypoints"] + noise, "logits_x": -outputs["logits_x"], "face": -outputs["face"]}
    assert m2p_loss.m2p_losses(worse, batch)[name] > before + 0.05


def test_hidden_joints_and_samples_without_music_do_not_count():
    batch = motion_batch()
    outputs = perfect(batch)
    batch["confidence"] = batch["confidence"].copy()
    batch["confidence"][:, :, 3] = 0.2
    wrong = {**outputs, "keypoints": outputs["keypoints"].at[:, :, 3].add(5.0).at[1].add(jnp.linspace(0, 9, 24)[:, None, None])}
    batch["music_mask"] = np.array([1.0, 0.0], np.float32)
    terms = m2p_loss.m2p_losses(wrong, batch)
    for name in ("pos", "vel", "acc", "bone", "beat"):
        assert terms[name] < 2e-3, name


def test_face_points_do_not_outvote_the_body():
    weight = jnp.ones((1, 1, sk.J))
    error = jnp.zeros((1, 1, sk.J)).at[..., sk.FACE].set(1.0)
    assert m2p_loss.part_mean(error, weight) == pytest.approx(0.3 / 3.05, rel=1e-5)
    body_only = weight.at[..., 18:].set(0)
    assert m2p_loss.part_mean(jnp.ones((1, 1, sk.J)), body_only) == pytest.approx(1)
    assert m2p_loss.part_mean(error, 0 * weight) == 0


def test_rates_do_not_depend_on_the_frame_rate():
    time = {fps: np.arange(2 * fps + 1) / fps for fps in (24, 48)}
    velocity = []
    for fps, seconds in time.items():
        moving = jnp.asarray(seconds)[None, :, None, None] * jnp.ones((1, 1, sk.J, 2))
        weight = jnp.ones(moving.shape[:3])
        velocity.append(m2p_loss.rate_loss(moving, 0 * moving, weight, jnp.array([fps]), 1))
    np.testing.assert_allclose(velocity, 2 / 30, rtol=1e-4)
    assert m2p_loss.frame_rate(jnp.asarray(time[48])[None])[0] == pytest.approx(48)


def test_a_slow_dance_costs_by_its_energy():
    batch = motion_batch()
    outputs = perfect(batch)
    still = {**outputs, "keypoints": jnp.repeat(outputs["keypoints"][:, :1], 24, 1)}
    assert m2p_loss.m2p_losses(still, batch)["beat"] > 1


def test_gradients_are_finite_even_when_nothing_is_seen_and_for_one_frame():
    graphdef, state = nnx.split(M2P(TINY, nnx.Rngs(0)))

    @jax.jit
    def gradient(state, batch):
        total = lambda s: sum(m2p_loss.m2p_losses(predict(nnx.merge(graphdef, s), batch), batch).values())  # noqa: E731
        return jax.grad(total)(state)

    batch = motion_batch()
    unseen = {**batch, "confidence": 0 * batch["confidence"], "reference_confidence": 0 * batch["reference_confidence"]}
    for case in (batch, unseen, motion_batch(2, 1)):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient(state, case)))
