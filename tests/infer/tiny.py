"""A complete model of a few thousand parameters, saved as weights, for tests of pipelines and commands."""

import dataclasses

import jax
import numpy as np

from champ_jax.checkpoint.weights import save_weights
from champ_jax.models.animator import AnimatorConfig, abstract_model

SIZE = (32, 32)
WINDOW = 4
TINY_M2P = {
    "music_dim": 192, "width": 16, "layers": 1, "heads": 2, "ff": 16, "projection": 16, "music_layers": 1, "pose_tokens": 1,
    "joint_dim": 4, "bins_x": 16, "bins_y": 16, "face_dim": 4,
}  # fmt: skip


def tiny_config(m2p=None, reference=True, guidance=None, face_id=None, clip=None, **unet):
    """Two levels, 32 channels, latents of a quarter of the size; kinds depth and dwpose."""
    return AnimatorConfig.build(
        {
            "unet": {
                "channels": (32, 32), "attention_levels": (True, True), "layers": 1, "heads": 4, "groups": 8,
                "context_dim": 16, "temporal": {"heads": 4, "groups": 8, "max_frames": 8}, **unet,
            },
            "guidance": {"channels": (8, 16, 32), "out_channels": 32, "heads": 4, "groups": 8, **(guidance or {})},
            "kinds": ("depth", "dwpose"),
            "vae": {"channels": (8, 8, 16), "layers": 1, "groups": 8},
            "m2p": m2p,
            "clip": clip,
            "reference": reference,
            "face_id": face_id,
        }
    )  # fmt: skip


def tiny_params(config, seed=0):
    """Random parameters without a zero anywhere, which would hide what it multiplies. From NumPy: nothing to compile."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = str(path[-1].key)
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if name == "kernel":
            return noise * float(np.prod(leaf.shape[:-1])) ** -0.5
        return 1 + 0.1 * noise if name.endswith(("scale", "std")) else 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, abstract_model(config)[1])


def save_tiny(directory, config=None, **pipeline):
    """Saves a tiny model; further arguments are PipelineSettings."""
    config = config or tiny_config()
    settings = {"size": list(SIZE), "fps": 12.0, "window": WINDOW, "overlap": 1, "steps": 2, "guidance_scale": 2.0}
    saved = {**dataclasses.asdict(config), "pipeline": {**settings, **pipeline}}
    return save_weights(directory, tiny_params(config), saved)
