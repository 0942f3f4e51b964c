"""Stage A at full size: M2P from music and poses; the first rows of the user's table.

Command:  champ-jax train --config configs/stage_a.py --workdir runs/a --config.data.directory=DATA
Model: 90 million parameters, 4800 numbers of music a frame. Hardware: an accelerator with 24 GB, less with a smaller batch; by
`champ-jax plan` 20 GB and 0.03 s a step on one H200, minutes for 5,000 steps (estimated; not yet run at this size).
Expected: the validation loss falls below that of a still pose and settles.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Everything that the run depends on."""
    config = ConfigDict()
    config.stage = "A"
    config.seed = 0
    config.init_from = ""
    # Networks from elsewhere in place of those in init_from: any checkpoint that `champ-jax convert` reads.
    config.init = ConfigDict({"denoiser": "", "reference": "", "motion": "", "guidance": "", "vae": "", "clip": "", "m2p": ""})
    config.compute_dtype = "bfloat16"
    config.model = ConfigDict({"m2p": {"music_dim": 4800, "face_dim": 512}})
    config.mesh = ConfigDict({"slice": 1, "replica": -1, "fsdp": 1, "context": 1})
    config.data = ConfigDict(
        {
            "directory": "data/records",
            "split": "train",
            "validation_split": "validation",
            "size": 512,
            "batch_size": 64,
            "frames": 150,
            "augment": "mild",
            "cache": False,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 5000,
            "learning_rate": 1e-4,
            "warmup": 500,
            "decay": 1.0,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.999,
            "accumulation": 1,
        }
    )
    # "prototype" weighs the terms as the PyTorch prototype did.
    config.loss = ConfigDict({"m2p": "regress"})
    config.log = ConfigDict({"scalars": 50, "evaluate": 500, "save": 500, "validation_batches": 8, "sample_steps": 0, "wandb": ""})
    return config
