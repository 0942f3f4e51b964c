"""Views: all maps stay aligned, nothing of the person is cut, mirroring is its own inverse."""

import numpy as np
import pytest

from champ_jax.data import transforms
from champ_jax.data.transforms import Augment, View, fit, recolour, swap_colours, vary

PERSON = np.array([60.0, 20.0, 100.0, 110.0])
PAIRS = np.array([[[200, 30, 30], [30, 30, 200]], [[9, 0, 0], [0, 0, 9]]], np.uint8)


def disc(centre, radius, size=(120, 160)):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2).astype(np.uint8)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weight = image.astype(float).reshape(*image.shape[:2], -1).sum(-1)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(96, 96), (240, 240), (40, 40), (100, 60)])
@pytest.mark.parametrize("seed", range(3))
def test_all_maps_and_keypoints_stay_aligned(size, seed):
    view = vary(fit((120, 160), size, PERSON), PERSON, Augment(crop=0.3), True, np.random.default_rng(seed))
    mask = disc((75, 60), 12)
    colour = mask[..., None] * np.array([200, 30, 30], np.uint8)
    point, _ = view.points(np.full((134, 2), (75.0, 60.0)), np.ones(134))
    maps = {
        "photo": view.photo(colour),
        "depth": view.map(mask * np.uint8(150)),
        "normal": view.normal(mask[..., None] * np.array([0, 127, 255], np.uint8)),
        "semantic_map": view.semantic_map(colour, PAIRS),
        "mask": view.mask(mask),
        "flow": np.abs(view.flow(mask[..., None] * np.ones(2, np.float32))),
    }
    for name, moved in maps.items():
        assert moved.shape[:2] == size, name
        np.testing.assert_allclose(centroid(moved), point[0], atol=0.35, err_msg=name)
    box = view.boxes(np.array([63.0, 48.0, 87.0, 72.0]))
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, point[0], atol=0.01)
    area = maps["mask"].sum() / mask.sum()
    np.testing.assert_allclose(area, view.scale**2, rtol=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_the_person_is_never_cut(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [100, 70])
    person = np.concatenate([low, low + rng.uniform(5, [60, 50])])
    for size in ((64, 64), (96, 48), (48, 96)):
        view = vary(fit((120, 160), size, person), person, Augment(crop=0.5), True, rng)
        box = view.boxes(person)
        assert (box[:2] >= -1e-4).all() and (box[2:] <= np.array(size[::-1]) + 1e-4).all()
        expected = (person[2:] - person[:2]).prod() * view.scale**2
        np.testing.assert_allclose((box[2:] - box[:2]).prod(), expected, rtol=1e-4)


def test_a_portrait_frame_keeps_head_and_feet():
    person = np.array([30.0, 5.0, 60.0, 155.0])
    view = fit((160, 90), (64, 64), person)
    box = view.boxes(person)
    assert box[3] - box[1] == pytest.approx(150 * view.scale) and view.scale >= 64 / 160
    edge = view.photo(np.full((160, 90, 3), 77, np.uint8))
    assert (edge == 77).all()  # the photo's border goes on
    assert view.mask(np.ones((160, 90), np.uint8))[32, 0] == 0  # maps end


def test_the_whole_frame_is_passed_through_untouched():
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    view = fit((32, 32), (32, 32), np.array([3.0, 3.0, 20.0, 30.0]))
    np.testing.assert_array_equal(view.photo(image), image)
    np.testing.assert_array_equal(view.points(np.ones((134, 2)), np.ones(134))[0], np.ones((134, 2)))


def test_mirroring_twice_changes_nothing():
    rng = np.random.default_rng(0)
    view = View((0.0, 0.0, 32.0, 32.0), (32, 32), mirrored=True)
    image = rng.integers(1, 255, (32, 32, 3), dtype=np.uint8)
    labels = PAIRS.reshape(-1, 3)[rng.integers(0, 4, (32, 32))]
    np.testing.assert_array_equal(view.photo(view.photo(image)), image)
    np.testing.assert_array_equal(view.normal(view.normal(image)), image)
    np.testing.assert_array_equal(view.semantic_map(view.semantic_map(labels, PAIRS), PAIRS), labels)
    flow = rng.normal(size=(32, 32, 2)).astype(np.float32)
    np.testing.assert_array_equal(view.flow(view.flow(flow)), flow)
    keypoints, confidence = rng.uniform(0, 32, (134, 2)).astype(np.float32), rng.random(134)
    again = view.points(*view.points(keypoints, confidence))
    np.testing.assert_allclose(again[0], keypoints, atol=1e-5)
    np.testing.assert_array_equal(again[1], confidence)
    box = np.array([3.0, 4.0, 10.0, 20.0])
    np.testing.assert_allclose(view.boxes(view.boxes(box)), box, atol=1e-5)


def test_mirrored_maps_are_those_of_the_mirrored_person():
    view = View((0.0, 0.0, 8.0, 8.0), (8, 8), mirrored=True)
    labels = np.zeros((8, 8, 3), np.uint8)
    labels[2, 1], labels[2, 6], labels[4, 4] = (200, 30, 30), (30, 30, 200), (5, 6, 7)
    mirrored = view.semantic_map(labels, PAIRS)
    assert tuple(mirrored[2, 6]) == (30, 30, 200) and tuple(mirrored[2, 1]) == (200, 30, 30)
    assert tuple(mirrored[4, 3]) == (5, 6, 7)  # a part without a counterpart
    normals = np.zeros((8, 8, 3), np.uint8)
    normals[2, 1] = (255, 127, 127)  # faces right
    assert tuple(view.normal(normals)[2, 6]) == (0, 127, 127)
    assert not view.normal(normals)[0].any()  # the background stays black


def test_boxes_that_leave_the_view_become_zeros():
    view = View((0.0, 0.0, 16.0, 16.0), (32, 32))
    boxes = view.boxes(np.array([[0, 0, 0, 0], [20, 2, 30, 8], [12, 12, 20, 20]]))
    np.testing.assert_array_equal(boxes, [[0, 0, 0, 0], [0, 0, 0, 0], [24, 24, 32, 32]])


def test_colours_change_alike_and_grey_stays_grey():
    rng = np.random.default_rng(1)
    assert transforms.draw_colours(Augment(hue=0, saturation=0, brightness=0), rng) is None
    matrix = transforms.draw_colours(Augment(hue=0.5, saturation=0.3, brightness=0.0, permute=1.0), rng)
    grey = recolour(np.full((2, 2, 3), 120, np.uint8), matrix)
    np.testing.assert_allclose(grey, 120, atol=1)
    red = recolour(np.full((2, 2, 3), (180, 60, 60), np.uint8), matrix)
    assert red.std(-1).mean() > 10  # still a colour
    np.testing.assert_array_equal(recolour(red, None), red)


def test_swap_leaves_colours_without_a_partner():
    image = np.array([[[0, 0, 0], [9, 0, 0], [0, 0, 9], [1, 2, 3], [255, 255, 255]]], np.uint8)
    swapped = [[[0, 0, 0], [0, 0, 9], [9, 0, 0], [1, 2, 3], [255, 255, 255]]]
    np.testing.assert_array_equal(swap_colours(image, PAIRS), swapped)
