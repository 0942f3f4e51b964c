"""Windows cover every frame, do not wrap, and blend to a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from champ_jax.diffusion.windows import champ_windows, shifted_windows, window_weights, windows
from champ_jax.errors import UserError

SIZES = st.integers(1, 30).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 120), SIZES, st.sampled_from(["triangular", "uniform"]))
def test_every_frame_is_covered_and_nothing_wraps(n, size_overlap, blend):
    size, overlap = size_overlap
    cut = windows(n, size, overlap)
    assert {frame for window in cut for frame in window} == set(range(n))
    assert all(window == list(range(window[0], window[0] + min(n, size))) for window in cut)
    assert all(len(set(a) & set(b)) >= overlap for a, b in zip(cut, cut[1:], strict=False))
    assert len({tuple(window) for window in cut}) == len(cut)
    weights = window_weights(cut, blend)
    assert weights.shape == (len(cut), min(n, size)) and weights.min() > 0
    total = np.zeros(n)
    np.add.at(total, np.asarray(cut), weights)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), SIZES, st.integers(0, 50))
def test_moved_windows_cover_every_frame_and_keep_their_overlap(n, size_overlap, step):
    size, overlap = size_overlap
    cut = shifted_windows(n, size, overlap, step)
    assert cut[0][0] == 0 and cut[-1][-1] == n - 1 and {frame for window in cut for frame in window} == set(range(n))
    assert all(window == list(range(window[0], window[0] + min(n, size))) for window in cut)
    assert all(0 < b[0] - a[0] <= size - overlap for a, b in zip(cut, cut[1:]))
    assert len(cut) <= max(1.1 * len(windows(n, size, overlap)), len(windows(n, size, overlap)))


def test_windows_move_from_step_to_step():
    starts = {tuple(window[0] for window in shifted_windows(300, 24, 4, step)) for step in range(8)}
    assert len(starts) >= 7 and shifted_windows(300, 24, 4, 0) == shifted_windows(300, 24, 4, 0)


def test_last_window_is_moved_back():
    assert windows(10, 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(9, 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert windows(3, 4, 1) == [[0, 1, 2]]


def test_blends_by_hand():
    cut = windows(6, 4, 2)
    np.testing.assert_allclose(window_weights(cut, "triangular")[0], [1, 1, 2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(window_weights(cut, "uniform")[0], [1, 1, 0.5, 0.5])


def test_champ_mixes_the_beginning_into_the_end():
    assert champ_windows(7, 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 0, 1, 2]]
    weights = window_weights(champ_windows(7, 4, 1), "uniform")
    np.testing.assert_allclose(weights[2], [0.5, 0.5, 0.5, 0.5])


def test_errors():
    for arguments in ((0, 4, 1), (8, 4, 4), (8, 4, -1), (8, 0, 0)):
        for cut in (windows, champ_windows):
            with pytest.raises(UserError):
                cut(*arguments)
    with pytest.raises(UserError, match="blend"):
        window_weights([[0, 1]], "square")
