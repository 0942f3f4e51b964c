"""Our UNet with temporal modules against diffusers' UNetMotionModel."""

import dataclasses

import numpy as np
import pytest

from champ_jax.convert.formats import place
from champ_jax.convert.mapping import abstract, their_shapes, to_ours
from champ_jax.convert.motion import ADAPTER_LAYOUT, split_temporal
from champ_jax.convert.unet import DIFFUSERS
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from tests.parity.formats import filled, run
from tests.recorded import recorded
from tests.seeded import seeded, seeded_state

BATCH, FRAMES = 2, 3
CONFIG = UNetConfig(
    channels=(32, 64),
    attention_levels=(True, False),
    layers=1,
    heads=4,
    groups=16,
    context_dim=24,
    temporal=TemporalConfig(heads=2, groups=16, clip_norm=True),
)


def parameters(state):
    """Our parameters of a state dict of UNetMotionModel; only the buffers of positions may be left over."""
    spatial, temporal = split_temporal(abstract(UNet, CONFIG))
    expected = their_shapes(spatial, DIFFUSERS) | their_shapes(temporal, ADAPTER_LAYOUT)
    assert expected == {key: array.shape for key, array in state.items() if not key.endswith("pos_embed.pe")}
    params = to_ours(state, spatial, DIFFUSERS)
    place(params, "", to_ours(state, temporal, ADAPTER_LAYOUT))
    return params


@pytest.mark.parametrize("frames", [FRAMES, 1])
def test_numbers(frames, compare):
    shapes, outputs = recorded("motion_unet")
    params = parameters(seeded_state(shapes))
    args = np.moveaxis(seeded(f"latents_{frames}", (BATCH, 4, frames, 8, 10)), 1, -1), np.array([7, 903]), seeded("context", (BATCH, 5, 24))
    expected = np.moveaxis(outputs[f"out_{frames}"], 1, -1)
    compare(f"motion_unet/{frames} frames", run(filled(UNet, CONFIG, params), UNet.__call__, *args), expected)
    # AnimateDiff's own norm sees each frame apart: the same for one frame alone, and not for more.
    own = dataclasses.replace(CONFIG, temporal=dataclasses.replace(CONFIG.temporal, clip_norm=False))
    out = run(filled(UNet, own, params), UNet.__call__, *args)
    if frames == 1:
        compare("motion_unet/one frame, own norm", out, expected)
    else:
        assert np.abs(out - expected).max() > 0.01 * np.sqrt(np.mean(expected**2))
