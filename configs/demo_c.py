"""Stage C of the demo: temporal modules on clips, everything else as stage B left it.

Command:  champ-jax train --config configs/demo_c.py --workdir runs/demo_c --config.init_from=runs/demo_b/weights
Hardware, time, memory and expected metrics: docs/demo.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Everything that the run depends on; the model is that of `init_from` with temporal modules added."""
    config = ConfigDict()
    config.stage = "C"
    config.seed = 0
    config.init_from = ""
    config.compute_dtype = "float32"
    config.model = ConfigDict({"unet": {"temporal": {"heads": 4, "groups": 16, "max_frames": 32, "ff_mult": 2}}})
    config.mesh = ConfigDict({"replica": -1})
    config.data = ConfigDict(
        {
            "directory": "runs/demo_data",
            "split": "train",
            "validation_split": "test",
            "size": 96,
            "batch_size": 2,
            # Clips grow from first_frames to frames in equal shares of the run.
            "first_frames": 8,
            "frames": 12,
            "stride": 1,
            "augment": "mild",
            "cache": True,
            "latent_cache": False,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 120,
            "learning_rate": 1e-3,
            "warmup": 20,
            "decay": 0.5,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.99,
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
        }
    )
    # What `load_pipeline` samples with when nothing else is asked for.
    config.sampling = ConfigDict({"steps": 1, "guidance_scale": 1.0})
    config.log = ConfigDict({"scalars": 25, "evaluate": 100, "save": 100, "validation_batches": 4, "sample_steps": 0, "wandb": ""})
    return config
