"""The rasteriser against hand-made triangles."""

import numpy as np

from champ_jax.data.dancers.raster import interpolate, pattern, rasterise

# A triangle that covers the left lower half of a 16 x 16 frame (focal 16, centred), facing the camera, at depth 2.
LOWER = np.array([[-1, -1, 2], [-1, 1, 2], [1, 1, 2]], np.float32)
FACE = np.array([[0, 1, 2]], np.int32)


def draw(points, faces=FACE, keep=None, two_sided=False, size=16):
    keep = np.ones(len(points), np.float32) if keep is None else np.asarray(keep, np.float32)
    return rasterise(np.asarray(points, np.float32), 16.0, 8.0, 8.0, faces, keep, np.full(len(faces), two_sided), size, size)


def test_coverage_depth_and_weights():
    triangle, weights, depth = draw(LOWER)
    rows, columns = np.mgrid[:16, :16]
    np.testing.assert_array_equal(triangle >= 0, columns <= rows)
    np.testing.assert_allclose(depth[triangle >= 0], 2, rtol=1e-5)
    assert (depth[triangle < 0] == 0).all()
    out = np.zeros((16, 16, 3), np.float32)
    interpolate(triangle, weights, FACE, LOWER, out)
    np.testing.assert_allclose(out[..., 0][triangle >= 0], ((columns + 0.5 - 8) / 8)[triangle >= 0], atol=1e-5)


def test_interpolation_is_perspective_correct():
    slanted = np.array([[-1, -1, 2], [-4, 4, 8], [4, 4, 8]], np.float32)
    triangle, weights, depth = draw(slanted)
    out = np.zeros((16, 16, 3), np.float32)
    interpolate(triangle, weights, FACE, slanted, out)
    inside = triangle >= 0
    rows, columns = np.mgrid[:16, :16]
    np.testing.assert_allclose((16 * out[..., 0] / np.where(inside, out[..., 2], 1) + 8)[inside], columns[inside] + 0.5, atol=1e-3)
    np.testing.assert_allclose(out[..., 2][inside], depth[inside], rtol=1e-5)


def test_the_nearer_surface_wins_in_either_order():
    near = LOWER * 0.5
    points = np.concatenate([LOWER, near])
    for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        depth = draw(points, np.array(faces, np.int32))[2]
        np.testing.assert_allclose(depth[depth > 0], 1, rtol=1e-5)


def test_back_faces_show_only_when_two_sided():
    turned = LOWER[::-1]
    assert (draw(turned)[0] < 0).all()
    assert (draw(turned, two_sided=True)[0] >= 0).any()


def test_surfaces_are_cut_where_keep_is_negative():
    triangle = draw(LOWER, keep=[-1, 1, 1])[0]  # zero half way down
    assert (triangle[:8] < 0).all() and (triangle[8:, 0] >= 0).all()


def test_nothing_behind_the_camera():
    assert (draw(LOWER * (1, 1, -1), two_sided=True)[0] < 0).all()


def test_stripes_alternate():
    shares = [pattern(1, 0.0, y, 0.1, 0.0, 0.1) for y in (0.01, 0.06, 0.11)]
    assert shares == [1.0, 0.0, 1.0] or shares == [0.0, 1.0, 0.0]
