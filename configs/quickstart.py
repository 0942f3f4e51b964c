"""The quickstart's three stages: minutes of further training from the demo weights, on the committed people.

Command:  champ-jax quickstart --out runs/quickstart
          (a single stage: champ-jax train --config quickstart:B --workdir runs/b --config.init_from=assets/weights/demo)
Hardware: 2 CPU cores, 4 GB of memory, all stages together under 10 minutes. Expected: each validation loss falls.
"""

from ml_collections import ConfigDict

STEPS = {"A": 100, "B": 80, "C": 40}
# B is slow: eight people must not spoil what a thousand taught.
RATES = {"A": 2e-4, "B": 2e-5, "C": 5e-4}


def get_config(stage: str = "B") -> ConfigDict:
    """stage: "A", "B" or "C". The geometry is that of the weights in `init_from`."""
    if stage not in STEPS:
        raise ValueError("expected A, B or C")
    config = ConfigDict()
    config.stage = stage
    config.seed = 0
    config.init_from = "assets/weights/demo"
    # Networks from elsewhere in place of those in init_from: any checkpoint that `champ-jax convert` reads.
    config.init = ConfigDict({"denoiser": "", "reference": "", "motion": "", "guidance": "", "vae": "", "clip": "", "m2p": ""})
    config.compute_dtype = "float32"
    config.train_clip = True
    config.model = ConfigDict()
    if stage == "C":
        config.model = ConfigDict({"unet": {"temporal": {"heads": 4, "groups": 16, "max_frames": 32, "ff_mult": 2}}})
    config.mesh = ConfigDict({"replica": 1})
    config.data = ConfigDict(
        {
            "directory": "assets/dancers",
            "split": "motion" if stage == "A" else "train",
            "validation_split": "test_motion" if stage == "A" else "test",
            "size": 96,
            "batch_size": {"A": 4, "B": 8, "C": 2}[stage],
            "frames": {"A": 96, "B": 2, "C": 12}[stage],
            "first_frames": 12,
            "stride": 1,
            "motion_frames": 36,
            "augment": "none" if stage == "A" else "mild",
            "cache": True,
            "latent_cache": False,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": STEPS[stage],
            "learning_rate": RATES[stage],
            "m2p_learning_rate": RATES[stage],
            "warmup": 20,
            "decay": 0.8,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.95,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict(
        {
            "snr_gamma": 0.0,
            "noise_offset": 0.0,
            "last_step": 0.7,
            "person": 8.0,
            "face_region": 2.0,
            "condition_scale": (1.0, 1.0, 0.0),
            "reference_dropout": 0.05,
            "clip_dropout": 0.1,
            "guidance_dropout": 0.05,
            "skeleton_only": 0.2,
            "temporal": 5.0,
            "m2p": "regress",
            "m2p_weight": 0.5,
            "music_start": 0.5,
            "music_share": 0.5,
        }
    )
    config.log = ConfigDict({"scalars": 10, "evaluate": 1000, "save": 1000, "validation_batches": 2, "sample_steps": 0, "wandb": ""})
    return config
