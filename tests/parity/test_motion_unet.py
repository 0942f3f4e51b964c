"""Our UNet with temporal modules against diffusers' UNetMotionModel."""

import dataclasses

import numpy as np
import pytest

from champ_jax.convert.champ import TEMPORAL_RULES, UNET_POINTWISE, UNET_RULES, join_temporal, split_temporal
from champ_jax.convert.mapping import Layout, abstract, their_shapes, to_ours
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
ANIMATEDIFF = (
    (".transformer_blocks.", ".temporal_transformer.transformer_blocks."),
    (".attn1.", ".attention_blocks.0."),
    (".attn2.", ".attention_blocks.1."),
    (".norm1.", ".norms.0."),
    (".norm2.", ".norms.1."),
    (".norm3.", ".ff_norm."),
    (".norm.", ".temporal_transformer.norm."),
    (".proj_in.", ".temporal_transformer.proj_in."),
    (".proj_out.", ".temporal_transformer.proj_out."),
)


def animatediff(key):
    """AnimateDiff's name of a parameter of diffusers' motion modules."""
    for old, new in ANIMATEDIFF if "motion_modules" in key else ():
        key = key.replace(old, new)
    return key


def parameters(state):
    """Our parameters of a state dict with AnimateDiff's names; no name may be left over."""
    spatial, temporal = split_temporal(abstract(UNet, CONFIG))
    layouts = Layout(UNET_RULES, UNET_POINTWISE), Layout(TEMPORAL_RULES)
    expected = their_shapes(spatial, layouts[0]) | their_shapes(temporal, layouts[1])
    assert expected == {key: array.shape for key, array in state.items()}
    return join_temporal(to_ours(state, spatial, layouts[0]), to_ours(state, temporal, layouts[1]))


@pytest.mark.parametrize("frames", [FRAMES, 1])
def test_numbers(frames, compare):
    shapes, outputs = recorded("motion_unet")
    params = parameters({animatediff(key): array for key, array in seeded_state(shapes).items()})
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
