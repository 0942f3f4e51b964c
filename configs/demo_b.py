"""Stage B of the demo, from scratch: photo and maps to single frames of people at 96x96.

Command:  champ-jax train --config configs/demo_b.py --workdir runs/demo_b --config.init_from=runs/demo_vae/weights
          (demo_b:no_reference trains the same model without ever showing it the photo)
Hardware, time, memory and expected metrics: docs/demo.md.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """variant "no_reference": a denoiser that never sees the photo, neither through a reference network nor as a token."""
    if variant not in ("", "no_reference"):
        raise ValueError("expected no_reference or nothing")
    config = ConfigDict()
    config.stage = "B"
    config.seed = 0
    config.init_from = ""
    config.compute_dtype = "float32"
    # No pretrained image encoder of this size exists, so it learns with the rest.
    config.train_clip = True
    config.model = ConfigDict(
        {
            "reference_pose": True,
            "unet": {
                "channels": (64, 96, 128),
                "attention_levels": (False, True, True),
                "layers": 1,
                "heads": 4,
                "groups": 16,
                "context_dim": 64,
                "ff_mult": 2,
                "positions": True,
            },
            # No convolution at full size and no attention: on a CPU they would cost more than the denoiser.
            "guidance": {"channels": (24,), "patch": 4, "attention": False},
            "clip": {"hidden": 64, "intermediate": 128, "layers": 2, "heads": 4, "patch": 16, "image_size": 96},
            # Predicting x0 leaves no grain after a short training; the sampler converts.
            "schedule": {"kind": "scaled_linear", "prediction": "x0", "scale_input": True},
        }
    )
    config.mesh = ConfigDict({"replica": -1})
    config.data = ConfigDict(
        {
            "directory": "runs/demo_data",
            "split": "train",
            "validation_split": "test",
            "size": 96,
            "batch_size": 4,
            # Targets that share one reference, so that the reference network runs once for them.
            "frames": 2,
            "augment": "mild",
            "cache": True,
            "latent_cache": False,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 6000,
            "learning_rate": 8e-4,
            "warmup": 100,
            "decay": 0.6,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.998,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict(
        {
            # All timesteps weigh alike.
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
        }
    )
    if variant == "no_reference":
        del config.model.clip
        config.model.reference = config.model.reference_pose = config.train_clip = False
    config.log = ConfigDict({"scalars": 50, "evaluate": 1000, "save": 500, "validation_batches": 2, "sample_steps": 0, "wandb": ""})
    return config
