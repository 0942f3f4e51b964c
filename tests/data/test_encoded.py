"""The encoder cache: right rows for each clip, and refused when it belongs to something else."""

import json

import numpy as np
import pytest

from champ_jax.data.encoded import build_encoded, open_encoded
from champ_jax.data.loader import make_loader
from champ_jax.data.records import open_records, write_records
from champ_jax.errors import UserError

SIZE = (32, 32)


def encode(images):
    """Mean colours of 8x8 cells: a stand-in for a VAE that tells which frame it saw."""
    assert images.shape[1:] == (32, 32, 3) and images.dtype == np.uint8
    cells = images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4)) / 255
    return {"moments": cells, "token": cells.mean((1, 2))}


def test_batches_hold_the_latents_of_their_frames(records, tmp_path):
    calls = []

    def counted(images):
        calls.append(len(images))
        return encode(images)

    encoded = build_encoded(records, tmp_path / "cache", counted, "vae-1", SIZE, chunk=7)
    assert calls == [7, 7, 7, 7]  # 24 frames; the last call is filled up
    settings = dict(stage="B", batch_size=4, frames=2, size=32, augment="none", seed=2)
    plain, cached = make_loader(records, **settings), make_loader(records, **settings, encoded=encoded)
    for _ in range(4):
        a, b = next(plain), next(cached)
        assert "video" not in b and "reference" not in b
        assert b["moments"].shape == (4, 2, 4, 4, 3) and b["moments"].dtype == np.float16
        video, reference = encode(a["video"].reshape(-1, 32, 32, 3)), encode(a["reference"][:, 0])
        np.testing.assert_allclose(b["moments"], video["moments"].reshape(4, 2, 4, 4, 3), atol=1e-3)
        np.testing.assert_allclose(b["reference_moments"][:, 0], reference["moments"], atol=1e-3)
        np.testing.assert_allclose(b["reference_token"][:, 0], reference["token"], atol=1e-3)
        np.testing.assert_array_equal(a["guidance"]["dwpose"], b["guidance"]["dwpose"])


def test_another_vae_size_or_data_is_refused(records, tmp_path, make_example):
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="no readable encoder cache"):
        open_encoded(records, cache, "vae-1", SIZE)
    encoded = build_encoded(records, cache, encode, "vae-1", SIZE)
    with pytest.raises(UserError, match="encoders vae-1, but the model's are vae-2"):
        open_encoded(records, cache, "vae-2", SIZE)
    with pytest.raises(UserError, match=r"size \[32, 32\], expected \[48, 48\]"):
        open_encoded(records, cache, "vae-1", (48, 48))
    write_records(tmp_path / "other", "train", [make_example("x")])
    with pytest.raises(UserError, match="made of other records"):
        open_encoded(open_records(tmp_path / "other", "train"), cache, "vae-1", SIZE)
    with pytest.raises(UserError, match="switch augmentation off"):
        make_loader(records, stage="B", batch_size=4, frames=2, size=32, encoded=encoded)


def test_an_interrupted_build_is_no_cache(records, tmp_path):
    cache = tmp_path / "cache"
    build_encoded(records, cache, encode, "vae-1", SIZE)

    def stop(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_encoded(records, cache, stop, "vae-2", SIZE)
    for name in ("vae-1", "vae-2"):
        with pytest.raises(UserError, match="no readable encoder cache"):
            open_encoded(records, cache, name, SIZE)


def test_motion_alone_has_nothing_to_encode(records, tmp_path):
    with pytest.raises(UserError, match="zero frames"):
        build_encoded(open_records(records.directory, "motion"), tmp_path, encode, "vae-1", SIZE)


def test_the_files_say_what_they_are(records, tmp_path):
    build_encoded(records, tmp_path, encode, "vae-1", SIZE)
    about = json.loads((tmp_path / "encoded-train.json").read_text())
    assert about["weights"] == "vae-1" and about["clips"]["c1"] == [6, 6]
    assert about["shapes"] == {"moments": [24, 4, 4, 3], "token": [24, 3]}


def test_clips_that_changed_are_encoded_again(tmp_path, make_example):
    write_records(tmp_path / "data", "train", [make_example("x")])
    build_encoded(open_records(tmp_path / "data", "train"), tmp_path / "cache", encode, "vae-1", SIZE)
    changed = make_example("x")
    changed["frames"] = changed["frames"][::-1]
    write_records(tmp_path / "data", "train", [changed], overwrite=True)
    with pytest.raises(UserError, match="made of other records"):
        open_encoded(open_records(tmp_path / "data", "train"), tmp_path / "cache", "vae-1", SIZE)
