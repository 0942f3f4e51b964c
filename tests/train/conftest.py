"""A run of each stage, shrunk to what compiles in seconds, on clips drawn for the tests."""

import pytest
from ml_collections import ConfigDict

from champ_jax.checkpoint.weights import save_weights
from champ_jax.config import load_config
from champ_jax.data.records import write_records
from champ_jax.models.animator import init_params
from tests.data.conftest import example
from tests.infer.tiny import tiny_config

M2P = {
    "music_dim": 4, "width": 16, "layers": 1, "heads": 2, "ff": 16, "projection": 16, "music_layers": 1, "pose_tokens": 1,
    "joint_dim": 4, "bins_x": 8, "bins_y": 8, "face_dim": 8,
}  # fmt: skip
UNET = {"channels": (16,), "attention_levels": (True,), "layers": 1, "heads": 2, "groups": 4, "context_dim": 8, "ff_mult": 1}
VAE = {"channels": (), "latent_channels": 4, "patch": 4}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Six clips with frames, music and faces; splits train and test."""
    return write_clips(tmp_path_factory.mktemp("records"), train=4, test=2)


def write_clips(directory, **counts):
    """Records with so many clips in each split."""
    for split, count in counts.items():
        clips = (example(f"{split}{i}", frames=20, stored=8, identity=i, seed=i) for i in range(count))
        write_records(directory, split, clips)
    return directory


@pytest.fixture
def eight_clips(tmp_path):
    """(records with as many clips as a test has devices, the geometry of a tiny M2P)."""
    return write_clips(tmp_path / "records", train=8, test=8), M2P


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A random VAE as `init_from`, which no stage trains."""
    config = tiny_config()
    model = {"vae": VAE, "unet": {**UNET, "in_channels": 4, "out_channels": 4}}
    model["guidance"] = {"channels": (8,), "patch": 4, "attention": False, "out_channels": 16}
    params = init_params(type(config).build({**model, "kinds": ("dwpose",)}), 0)
    return save_weights(tmp_path_factory.mktemp("weights") / "vae", {"vae": params["vae"]}, {"vae": VAE})


@pytest.fixture(scope="session")
def small(data, weights):
    """small(stage, **changes) -> configuration of a tiny run of a stage; changes such as steps=4."""

    def build(stage: str, name: str | None = None, **changes) -> ConfigDict:
        config = load_config(name or {"A": "demo_a", "B": "demo_b", "C": "demo_c"}[stage]).unlock()
        config.data.update({"directory": str(data), "split": "train", "validation_split": "test", "size": 32, "batch_size": 2})
        config.log.update({"scalars": 1, "evaluate": 100, "save": 100, "validation_batches": 1})
        config.optim.update({"steps": 4, "warmup": 1})
        if stage == "A":
            config.data.frames = 8
            config.model = ConfigDict({"m2p": M2P})
        else:
            config.init_from = str(weights)
            config.train_clip = False
            config.data.latent_cache = False
            guidance = {"channels": (8,), "patch": 4, "attention": False}
            config.model = ConfigDict({"kinds": ("dwpose",), "unet": dict(UNET), "guidance": guidance, "clip": None})
        for path, value in changes.items():
            group, leaf = path.split("__") if "__" in path else ("optim", path)
            config[group][leaf] = value
        return config.lock()

    return build
