"""Networks from a folder: found by what they are, refused when they are not what they say, empty when they are not there."""

import hashlib

import numpy as np
import pytest

from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.errors import UserError
from champ_jax.evaluate.catalogue import PROTOCOLS
from champ_jax.evaluate.networks import BUILDERS, FILES, Networks
from champ_jax.evaluate.quality import frame_scores
from champ_jax.evaluate.sets import FeatureSets
from tests.evaluate import nets
from tests.metrics.real import recorded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights")
    nets.save_alex(place)
    return place


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lpips_is_the_packages_in_both_ranges(folder, protocol):
    scores = frame_scores(recorded()["frames"], recorded()["worse"], protocol, Networks(folder))
    np.testing.assert_allclose(scores["lpips_alex"], recorded()[f"lpips_alex/{protocol}"], atol=1e-5, rtol=1e-4)
    assert "lpips_vgg" not in scores
    scores = frame_scores(recorded()["frames"], recorded()["worse"], protocol, nets.networks("vgg16", "lpips_vgg"))
    np.testing.assert_allclose(scores["lpips_vgg"], recorded()[f"lpips_vgg/{protocol}"], atol=1e-5, rtol=1e-4)


def test_fid_is_pytorch_fids_through_the_network():
    def tiles(frames):
        return frames.reshape(3, 3, 64, 3, 64, 3).transpose(0, 1, 3, 2, 4, 5).reshape(27, 64, 64, 3)

    sets = FeatureSets(nets.networks("inception"), "strict")
    sets.begin("tiles", 0)
    for first in range(0, 27, 9):
        block = slice(first, first + 9)
        sets.add(tiles(recorded()["worse"])[block], tiles(recorded()["frames"])[block])
    found = sets.distances()
    assert found["fid"].value == pytest.approx(float(recorded()["fid"]), rel=1e-3)
    assert found["fid"].counts == (27, 27) and found["kid"].value > 0


def test_files_are_named_with_their_hash(folder):
    networks = Networks(folder)
    digest = hashlib.sha256((folder / "alexnet.safetensors").read_bytes()).hexdigest()
    assert networks["lpips_alex"].files["alexnet.safetensors"] == digest
    assert digest[:12] in networks["lpips_alex"].label and set(networks["lpips_alex"].files) == {"alexnet.safetensors", "heads.safetensors"}


def test_what_is_not_there_says_what_it_needs(folder):
    networks = Networks(folder)
    assert networks["inception"] is None and "pt_inception" in networks.missing("inception")
    assert "--weights" in Networks().missing("fid" if "fid" in FILES else "i3d")
    assert set(BUILDERS) == set(FILES)


def test_a_file_that_is_not_what_it_says_is_refused(tmp_path):
    nets.save_alex(tmp_path)
    good = hashlib.sha256((tmp_path / "heads.safetensors").read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{good}  heads.safetensors\n{'0' * 64}  alexnet.safetensors\n")
    with pytest.raises(UserError, match="alexnet.safetensors: its SHA-256 is .* SHA256SUMS says 0000"):
        Networks(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("what?\n")
    with pytest.raises(UserError, match="sha256sum"):
        Networks(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "alexnet.safetensors").rename(tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(UserError, match="its name says 7be5be79"):
        Networks(tmp_path)


def test_foreign_and_double_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Networks(tmp_path / "none")
    nets.save_alex(tmp_path)
    (tmp_path / "README.txt").write_text("about these files")
    assert Networks(tmp_path)["lpips_alex"] is not None
    write_safetensors(tmp_path / "twice.safetensors", nets.alexnet(), {"format": "pt"})
    with pytest.raises(UserError, match="are both alexnet"):
        Networks(tmp_path)
    write_safetensors(tmp_path / "twice.safetensors", {"a.weight": np.zeros((2, 2), np.float32)}, {"format": "pt"})
    with pytest.raises(UserError, match="no checkpoint that is known"):
        Networks(tmp_path)
