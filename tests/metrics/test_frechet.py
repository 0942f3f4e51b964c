"""Distances of sets: pytorch-fid's on equal features, the same however the set is cut, zero for a set and itself."""

import numpy as np
import pytest

from champ_jax.metrics import frechet
from tests.metrics.real import recorded


def features():
    """As in tests/fixtures/make_metrics.py."""
    draw = np.random.RandomState(1)
    return draw.normal(0, 1, (400, 64)), draw.normal(0.1, 1.2, (300, 64)) @ draw.normal(0, 0.2, (64, 64))


def test_distance_is_pytorch_fids():
    x, y = features()
    assert frechet.frechet_distance(frechet.Moments.of(x), frechet.Moments.of(y)) == pytest.approx(float(recorded()["frechet"]), rel=1e-6)


def test_of_one_dimension_by_hand():
    x, y = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    # means 1 and 7, variances 2 and 8
    assert frechet.frechet_distance(frechet.Moments.of(x), frechet.Moments.of(y)) == pytest.approx(36 + 2 + 8 - 2 * 4)


@pytest.mark.parametrize("cuts", [(1,), (7, 100, 101), (0, 400)])
def test_moments_merge_to_what_they_are_at_once(cuts):
    x, _ = features()
    whole = frechet.Moments.of(x)
    parts = [frechet.Moments.of(part) for part in np.split(x, cuts)]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = frechet.merge(merged, part)
        assert merged.count == whole.count
        np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-9)


def test_a_set_is_no_distance_from_itself_even_without_full_rank():
    x = features()[0][:10]
    moments = frechet.Moments.of(x)
    assert frechet.frechet_distance(moments, moments) == pytest.approx(0, abs=1e-10)
    assert np.isnan(frechet.frechet_distance(moments, frechet.Moments.of(x[:1])))


def test_kernel_distance_is_unbiased_and_grows():
    draw = np.random.default_rng(0)
    same = [frechet.kernel_distance(draw.normal(size=(50, 8)), draw.normal(size=(50, 8))) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5
    x, y = draw.normal(size=(60, 8)), draw.normal(size=(50, 8))
    shifted = [frechet.kernel_distance(x, y + shift) for shift in (0, 0.5, 1.0)]
    assert shifted == sorted(shifted)
    kernel = lambda a, b: (a @ b / 8 + 1) ** 3  # noqa: E731
    by_hand = (
        np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        + np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
        - 2 * np.mean([kernel(a, b) for a in x for b in y])
    )
    assert frechet.kernel_distance(x, y) == pytest.approx(by_hand)


def test_a_sample_does_not_depend_on_order_or_parts():
    x = features()[0].astype(np.float32)
    one = frechet.add_features(frechet.Sample.empty(50, 64), x, "clip", 0, 3)
    parts = [frechet.add_features(frechet.Sample.empty(50, 64), x[a:b], "clip", a, 3) for a, b in ((200, 400), (0, 70), (70, 200))]
    merged = frechet.merge_samples(frechet.merge_samples(parts[0], parts[1]), parts[2])
    assert len(one.features) == 50 and set(one.groups) == {3}
    np.testing.assert_array_equal(one.features, merged.features)
    few = frechet.add_features(frechet.Sample.empty(500, 64), x, "clip", 0, 0)
    assert len(few.features) == 400
