"""Configurations of runs that are planned in tests: the shipped ones, with models that compile in seconds."""

from ml_collections import ConfigDict

from champ_jax.config import load_config

UNET = {"channels": (64, 128), "attention_levels": (True, True), "layers": 1, "heads": 4, "groups": 16, "context_dim": 64, "remat": True}
MODEL = {
    "kinds": ("depth", "dwpose"),
    "guidance": {"channels": (8, 16, 32, 64), "heads": 4, "groups": 16},
    "vae": {"channels": (16, 32, 32, 32), "layers": 1, "groups": 16},
    "clip": {"hidden": 64, "intermediate": 128, "layers": 2, "heads": 4, "patch": 14, "image_size": 56},
    "m2p": None,
    "schedule": {"kind": "scaled_linear", "prediction": "v"},
}


def small(stage: str, batch: int, size: int = 128, frames: int = 1, **mesh) -> ConfigDict:
    """Stage B, C or D as shipped, of a small model without M2P."""
    config = load_config(f"stage_{stage.lower()}").unlock()
    temporal = {"temporal": {"heads": 4, "groups": 16}} if stage in "CD" else {}
    config.model = ConfigDict({**MODEL, "unet": {**UNET, **temporal}})
    config.data.update({"batch_size": batch, "size": size, "frames": frames})
    config.mesh.update(mesh)
    return config.lock()
