"""The demo's autoencoder, from scratch: 96x96 pixels to 24x24x8 latents, 341 thousand parameters.

Command:  champ-jax train --config configs/demo_vae.py --workdir runs/demo_vae
Hardware: 2 CPU cores, 2 GB of memory. Time: 0.33 s a step, 33 minutes in all.
Expected: `psnr_person` in metrics.jsonl; docs/demo.md has the curve.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Everything that the run depends on."""
    config = ConfigDict()
    config.stage = "vae"
    config.seed = 0
    config.batch_size = 16
    config.log_every = 50
    # Weight of the latents' divergence from a unit normal.
    config.kl = 1e-4
    config.data = ConfigDict({"directory": "assets/dancers", "split": "train", "size": (96, 96)})
    # No convolution at full size: at 16 channels it costs more than everything else together.
    config.vae = ConfigDict(
        {"channels": (32, 64), "layers": 1, "groups": 8, "latent_channels": 8, "patch": 2, "middle": False}
    )
    config.optim = ConfigDict({"steps": 6000, "learning_rate": 2e-3})
    return config
