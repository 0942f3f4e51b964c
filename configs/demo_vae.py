"""The demo's autoencoder, in closed form: 96x96 pixels to 24x24x16 latents, the principal components of 4x4 patches.

Command:  champ-jax train --config configs/demo_vae.py --workdir runs/demo_vae
Hardware: 1 CPU core, 1 GB of memory. Time: below a minute.
Expected: `psnr_person` about 30 dB in metrics.jsonl.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Everything that the run depends on."""
    config = ConfigDict()
    config.stage = "vae"
    config.data = ConfigDict({"directory": "assets/dancers", "split": "train", "size": (96, 96)})
    config.vae = ConfigDict({"channels": (), "latent_channels": 16, "patch": 4})
    return config
