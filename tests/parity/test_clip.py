"""CLIP: both ways to prepare a photo, the tower, and its embeddings."""

import numpy as np

from champ_jax.convert.clip import VISION
from champ_jax.convert.formats import read, write
from champ_jax.models.clip import CLIP, MEAN, STD, clip_pixels, clip_resize
from tests.parity.networks import channels_last, jitted


def test_preprocessing(networks, load, compare, manifest):
    recorded = load("io_clip")
    photo = recorded["ref_pil_u8"][None]
    size = networks.clip().config.image_size
    extra = manifest["files"]["io_clip.safetensors"]
    np.testing.assert_allclose([MEAN, STD], [extra["image_mean"], extra["image_std"]], rtol=1e-6)
    inference, train = (clip_pixels(photo, mode, size) for mode in ("inference", "train"))
    levels = np.round((inference[0] * np.float32(STD) + np.float32(MEAN)) * 255)
    np.testing.assert_array_equal(levels, recorded["resized_u8"])
    for name, ours in (("inference", inference), ("train", train)):
        corner = channels_last(recorded[f"pixel_values_{name}_corner"])
        compare(f"clip/pixels {name}, corner", ours[:, : corner.shape[1], : corner.shape[2]], corner)
    mean_std = [train.mean(), train.std(ddof=1)]
    compare("clip/pixels train, mean and deviation", mean_std, recorded["pixel_values_train_mean_std"])
    # PIL computes with fixed-point weights, so a level on the verge of rounding may go the other way.
    difference = np.abs(np.asarray(clip_resize(photo, size)) - inference) * np.float32(STD) * 255
    assert difference.max() < 1.01 and np.mean(difference > 0.5) < 0.01


def test_embeddings(networks, load, compare):
    recorded = load("io_clip")
    photo = recorded["ref_pil_u8"][None]
    clip = networks.clip()
    size = clip.config.image_size
    embed = jitted(clip, CLIP.__call__)
    for mode in ("inference", "train"):
        compare(f"clip/embeds {mode}", embed(clip_pixels(photo, mode, size)), recorded[f"image_embeds_{mode}"])
    zero = np.zeros((1, size, size, 3), np.float32)
    compare("clip/embeds of zero pixels", embed(zero), recorded["image_embeds_of_zero_pixels"])
    tokens = jitted(clip, CLIP.tokens)(clip_pixels(photo, "inference", size))
    compare("clip/last hidden state", tokens, recorded["last_hidden_state"])


def test_round_trip_and_the_old_buffer(networks, load):
    state = load("image_encoder")
    positions = {"vision_model.embeddings.position_ids": np.arange(networks.clip().config.tokens)[None]}
    for given in (state, state | positions):
        again = write(read(given, {}, VISION, "clip"), VISION, "ours")
        assert again.keys() == given.keys()
        assert all(np.asarray(again[name]).tobytes() == given[name].tobytes() for name in given)
