"""AnimateAnyone's pose guider against PyTorch, and its files."""

import numpy as np
import pytest

from champ_jax.convert.formats import read
from champ_jax.convert.pose_guider import POSE_GUIDER
from champ_jax.errors import UserError
from champ_jax.models.animator import AnimatorConfig
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder
from tests.parity.formats import check_accounting, check_round_trip, filled, run
from tests.recorded import recorded
from tests.seeded import seeded, seeded_state


def test_numbers(compare):
    shapes, outputs = recorded("pose_guider")
    weights = read(seeded_state(shapes), {}, POSE_GUIDER, "the file")
    config = AnimatorConfig.build({**weights.config, "reference": False}).guidance
    assert config == GuidanceConfig(channels=(16, 32, 64, 128), attention=False, out_channels=320)
    encoder = filled(GuidanceEncoder, config, weights.params["guidance"]["dwpose"])
    maps = np.moveaxis(seeded("maps", (2, 3, 32, 48)), 1, -1)[None]
    compare("pose_guider", run(encoder, GuidanceEncoder.__call__, maps)[0], np.moveaxis(outputs["encoded"], 1, -1))


def test_file():
    state = seeded_state(recorded("pose_guider")[0])
    weights = check_round_trip(state, POSE_GUIDER)
    assert weights.config["kinds"] == ["dwpose"] and not weights.kept
    check_accounting(state, POSE_GUIDER, "blocks.3.weight")
    check_accounting(state, POSE_GUIDER, "blocks.2.bias")
    check_accounting(state, POSE_GUIDER, "conv_in.weight")


def test_other_files():
    state = seeded_state(recorded("pose_guider")[0])
    assert not POSE_GUIDER.matches([*state, "attentions.5.norm.weight"])
    with pytest.raises(UserError, match="16, 9, 3, 3"):
        read({**state, "conv_in.weight": np.zeros((16, 9, 3, 3), np.float32)}, {}, POSE_GUIDER, "the file")
