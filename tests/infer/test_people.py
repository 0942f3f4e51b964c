"""Several photos, several people, faces, and maps mixed with music: what a video of them must and must not depend on."""

import dataclasses

import jax
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.infer.mix import mix_with_music
from champ_jax.infer.people import owners, who
from champ_jax.infer.photo import load_photo
from champ_jax.infer.pipeline import Pipeline, PipelineSettings
from tests.infer.tiny import SIZE, TINY_M2P, WINDOW, tiny_config, tiny_params

FACE_ID = {"width": 16, "clip_width": 16, "embedding": 4, "layers": 1, "heads": 2, "head_dim": 8}
SETTINGS = PipelineSettings(size=SIZE, fps=12.0, window=WINDOW, overlap=1, steps=2, guidance_scale=2.0)


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def maps(frames=5, kinds=("depth", "dwpose"), seed=9):
    rng = np.random.default_rng(seed)
    return {kind: rng.integers(0, 256, (frames, *SIZE, 3), np.uint8) for kind in kinds}


def pipeline(**control):
    config = tiny_config(**control)
    strong = lambda path, leaf: leaf * 0 + 1 if path[-1].key == "value" else leaf  # noqa: E731
    return Pipeline(config, jax.tree_util.tree_map_with_path(strong, tiny_params(config)), SETTINGS)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(style=(1,), coarse=(0,), guidance={"fusion": "attention"}, identity="plain", face_id=FACE_ID, m2p=TINY_M2P)


def close(a, b):
    """Equal but for the last bits, which may turn a rounded pixel by one."""
    return np.abs(a.frames.astype(int) - b.frames).max() <= 1


def test_photos_are_a_set(pipe):
    one, both = pipe.animate(photo(0), maps()), pipe.animate([photo(0), photo(1)], maps())
    assert close(pipe.animate([photo(0), photo(0), photo(0)], maps()), one)
    assert close(pipe.animate([photo(1), photo(0)], maps()), both) and not close(both, one)
    assert close(pipe.animate([photo(0), photo(1)], maps(), photo_weights=[1, 0]), one)
    for count, weights, message in ((9, None, "give 1 to 8 photos"), (2, [1], "one for each photo"), (2, [0, 0], "not all 0")):
        with pytest.raises(UserError, match=message):
            pipe.animate([photo(0)] * count, maps(), photo_weights=weights)


def test_each_person_in_their_own_pixels(pipe):
    """Where the frames belong to the second person alone, the first one's photo says nothing but through the image token."""
    second = np.full((5, *SIZE), 2, np.uint8)
    seen = pipe.animate([photo(0), photo(1)], maps(), instances=second)
    assert close(pipe.animate([photo(5), photo(1)], maps(), instances=second), seen)
    assert close(pipe.animate([photo(1), photo(0)], maps(), instances=second, people=[2, 1]), seen)
    assert not close(pipe.animate([photo(0), photo(5)], maps(), instances=second), seen)
    with pytest.raises(UserError, match=r"people \[3\] are in the frames"):
        pipe.animate([photo(0), photo(1)], maps(), instances=second + np.uint8(1))
    with pytest.raises(UserError, match="give each a photo that counts"):
        pipe.animate([photo(0), photo(1)], maps(), instances=second, photo_weights=[1, 0])
    for people, message in (([1], "say of each of 2 photos"), ([0, 2], "numbered from 1")):
        with pytest.raises(UserError, match=message):
            pipe.animate([photo(0), photo(1)], maps(), instances=second, people=people)
    with pytest.raises(UserError, match=r"expected uint8 \[5,32,32\]"):
        pipe.animate(photo(0), maps(), instances=second[1:])


def test_nobodys_pixels_read_all_photos():
    found = owners(np.array([[[0, 1, 2]]], np.uint8), [1, 2, 1])
    np.testing.assert_array_equal(found[0, 0], [[1, 1, 1], [1, 0, 1], [0, 1, 0]])
    person = who([load_photo(photo(i), SIZE) for i in range(2)], [1, 3], None)
    person = person._replace(instances=np.repeat(np.uint8([[[1, 2]], [[0, 2]]]), 2, 1), people=[1, 2])
    np.testing.assert_array_equal(person.weights_of_cells((1, 2), np.array([0])), [[[[1, 0], [0, 3]]]])
    cells = person.padded(4).weights_of_cells((1, 2), np.array([1, 0]))
    np.testing.assert_array_equal(cells, [[[[1, 3, 0, 0], [0, 3, 0, 0]]], [[[1, 0, 0, 0], [0, 3, 0, 0]]]])


def test_faces(pipe):
    plain = pipe.animate(photo(0), maps())
    face = np.array([1, 0, 0, 0], np.float32)
    seen = pipe.animate(photo(0), maps(), face=face)
    assert not close(seen, plain) and not close(pipe.animate(photo(0), maps(), face=-face), seen)
    assert close(pipe.animate(photo(0), maps(), face=np.repeat(face[None], 5, 0)), seen)
    with pytest.raises(UserError, match="face embedding"):
        pipe.animate(photo(0), maps(), face=np.ones(3, np.float32))


def test_strength_of_the_maps_over_the_steps(pipe):
    default, fading = pipe.animate(photo(0), maps()), pipe.animate(photo(0), maps(), guidance_strength=(1.0, 0.0))
    assert close(pipe.animate(photo(0), maps(), guidance_strength=(1.0, 1.0)), default) and not close(fading, default)
    nothing = dict(guidance_strength=(0.0, 0.0))
    assert close(pipe.animate(photo(0), maps(seed=1), **nothing), pipe.animate(photo(0), maps(seed=2), **nothing))
    with pytest.raises(UserError, match="guidance strength"):
        pipe.animate(photo(0), maps(), guidance_strength=(1.0, -1.0))


def test_shares_of_music():
    given, skeleton = maps(6), np.zeros((5, *SIZE, 3), np.uint8)
    mixed = mix_with_music(given, skeleton, 0.7)
    pixels, weights = mixed.read(("depth", "normal", "dwpose", "music"), np.array([4, 0]))
    assert mixed.count == 5 and pixels.shape == (2, 4, *SIZE, 3) and not pixels[:, 1].any()
    np.testing.assert_array_equal(pixels[:, 0], given["depth"][[4, 0]])
    np.testing.assert_allclose(weights, np.repeat([[0.3, 0, 0.3, 0.7]], 2, 0), atol=1e-6)
    fading = np.linspace(0, 1, 5)
    mixed = mix_with_music(given, skeleton, {"dwpose": fading, "depth": 0.0})
    weights = mixed.read(("music", "depth", "dwpose"), np.arange(5))[1]
    np.testing.assert_allclose(weights, np.stack([fading, np.ones(5), 1 - fading], 1), atol=1e-6)
    for share, message in ((1.5, "from 0 to 1"), ({"normal": 0.5}, "the guidance has depth, dwpose"), (np.ones(3), "one for each of 5")):
        with pytest.raises(UserError, match=message):
            mix_with_music(given, skeleton, share)
    with pytest.raises(UserError, match="5 frames, but the guidance only 4"):
        mix_with_music(maps(4), skeleton, 0.7)


def test_style_alone_is_not_the_person():
    """Photos of the same colours in another order have the same style at the finest level's input, up to the VAE's own view."""
    control = dict(style=(0, 1), reference_attention=False)
    config = tiny_config(**control)
    pipe = Pipeline(config, tiny_params(config), dataclasses.replace(SETTINGS, guidance_scale=1.0))
    assert not close(pipe.animate(photo(0), maps()), pipe.animate(np.uint8(photo(0) // 4), maps()))
