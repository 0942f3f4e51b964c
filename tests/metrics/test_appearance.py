"""Style and identity: what is equal is nearest, the sizes of pictures do not matter, frames without a face are told apart."""

import numpy as np
import pytest

from champ_jax.metrics import appearance


def test_gram_distance():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(8, 6, 4)), rng.normal(size=(4, 3, 5))]
    assert appearance.gram_distance(layers, layers) == 0
    by_hand = np.einsum("hwc,hwd->cd", layers[0], layers[0]) / layers[0].size
    np.testing.assert_allclose(appearance.gram_matrix(layers[0]), by_hand)
    larger = [layer.repeat(2, 0).repeat(3, 1) for layer in layers]
    assert appearance.gram_distance(layers, larger) == pytest.approx(0, abs=1e-20)
    values = [appearance.gram_distance(layers, [layer * (1 + s) for layer in layers]) for s in (0, 0.1, 0.3, 1)]
    assert values == sorted(values)


def test_cosines_with_and_without_what_all_faces_share():
    shared, own, other = np.array([10.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])
    faces = np.stack([shared + own, shared + other])
    assert appearance.cosines(faces, shared + own).min() > 0.99
    np.testing.assert_allclose(appearance.cosines(faces, shared + own, shared), [1, 0], atol=1e-12)


def test_identity_counts_the_frames_without_a_face():
    reference = np.array([1.0, 0])
    found = appearance.identity(np.array([[1.0, 0], [0, 1], [9, 9]]), [True, True, False], reference, np.array([0.0, -1.0]))
    assert found.csim == pytest.approx(0.5) and found.detected == pytest.approx(2 / 3) and found.all_frames == pytest.approx(1 / 3)
    assert found.centred < 1
    none = appearance.identity(np.zeros((2, 2)), [False, False], reference)
    assert np.isnan(none.csim) and none.detected == 0 and none.all_frames == 0
