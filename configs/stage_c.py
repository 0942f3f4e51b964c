"""Stage C at full size: temporal modules on clips, everything else as stage B left it.

Command:  champ-jax train --config configs/stage_c.py --workdir runs/c --config.init_from=runs/b/weights --config.data.directory=DATA
          (stage_c:lora trains a LoRA of the temporal modules that the weights have, for a kind of motion)
Model: 453 million trained parameters (AnimateDiff's shape). Hardware: 24 GB a device. A pass over 24 frames at 512x512
is 30 TFLOP; by `champ-jax plan` one clip a step takes 17 GB and 0.24 s on one H200, an hour for 15,000 steps (estimated; not yet run at
this size). Expected: the validation loss falls and settles; frames that follow each other differ as the truth's do.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The model is that of `init_from` with temporal modules added; variant "lora": low-rank changes of those that it has."""
    if variant not in ("", "lora"):
        raise ValueError("expected lora or nothing")
    config = ConfigDict()
    config.stage = "C"
    config.seed = 0
    config.init_from = ""
    # Networks from elsewhere in place of those in init_from: any checkpoint that `champ-jax convert` reads.
    config.init = ConfigDict({"denoiser": "", "reference": "", "motion": "", "guidance": "", "vae": "", "clip": "", "m2p": ""})
    config.compute_dtype = "bfloat16"
    config.model = ConfigDict({"unet": {"remat": True, "temporal": {"kind": "animatediff", "max_frames": 32}}})
    config.mesh = ConfigDict({"slice": 1, "replica": -1, "fsdp": 1, "context": 1})
    config.data = ConfigDict(
        {
            "directory": "data/records",
            "split": "train",
            "validation_split": "validation",
            "size": 512,
            "batch_size": 8,
            # Clips grow from first_frames to frames in equal shares of the run; beyond 32 raise temporal.max_frames too.
            "first_frames": 24,
            "frames": 24,
            "stride": 4,
            "augment": "mild",
            "cache": False,
            "latent_cache": False,
            # Photos of the person in a sample, of different poses; one up to so many count.
            "references": 1,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 15000,
            "learning_rate": 5e-5,
            "warmup": 500,
            "decay": 1.0,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.999,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict(
        {
            "snr_gamma": 5.0,
            "snr_form": "champ",
            "noise_offset": 0.05,
            "last_step": 0.0,
            "person": 0.0,
            "face_region": 2.0,
            "condition_scale": (1.0, 1.0, 0.0),
            "reference_dropout": 0.1,
            "clip_dropout": 0.1,
            "guidance_dropout": 0.1,
            "skeleton_only": 0.2,
            "temporal": 0.1,
        }
    )
    config.log = ConfigDict({"scalars": 50, "evaluate": 500, "save": 500, "validation_batches": 8, "sample_steps": 20, "wandb": ""})
    if variant == "lora":
        # What the weights say of themselves holds; a LoRA changes which kernels, by their paths.
        config.model = ConfigDict({"unet": {"remat": True}})
        config.lora = ConfigDict({"rank": 16, "modules": "denoiser/.*temporal.*to_"})
        config.optim.update({"weight_decay": 0.0, "steps": 2000, "warmup": 100})
    return config
