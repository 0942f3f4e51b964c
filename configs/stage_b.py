"""Stage B at full size: guidance encoders, reference UNet and denoiser on single frames, with M2P late and slowly.

Command:  champ-jax train --config configs/stage_b.py --workdir runs/b --config.init_from=WEIGHTS --config.data.directory=DATA
          (stage_b:control adds references, identity, style and fusion of guidance; stage_b:lora trains a LoRA of the weights)
WEIGHTS holds at least the VAE and CLIP; networks that it lacks start from random values, those it has go on training.
Model: CHAMP's, 1.7 billion trained parameters. Hardware: 80 GB a device; by `champ-jax plan` 50 GB
and 0.21 s a step of 4 on one H200, 0.6 hours for 10,000 steps, and what other hardware takes in configs/hw/planned.json (estimated; not
yet run at this size). Expected: the validation loss falls and settles; samples in the run's folder come to show the person.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """variant "control": every further way to hold on to the person, to be chosen; "lora": low-rank changes alone."""
    if variant not in ("", "control", "lora"):
        raise ValueError("expected control, lora or nothing")
    config = ConfigDict()
    config.stage = "B"
    config.seed = 0
    config.init_from = ""
    # Networks from elsewhere in place of those in init_from: any checkpoint that `champ-jax convert` reads.
    config.init = ConfigDict({"denoiser": "", "reference": "", "guidance": "", "vae": "", "clip": "", "m2p": ""})
    config.compute_dtype = "bfloat16"
    config.train_clip = False
    config.model = ConfigDict(
        {
            "unet": {"remat": True},
            # CHAMP trains with this schedule and samples with "linear".
            "schedule": {"kind": "scaled_linear", "prediction": "v"},
        }
    )
    config.mesh = ConfigDict({"slice": 1, "replica": -1, "fsdp": 1, "context": 1})
    config.data = ConfigDict(
        {
            "directory": "data/records",
            "split": "train",
            "validation_split": "validation",
            "size": 768,
            "batch_size": 32,
            "frames": 1,
            "motion_frames": 150,
            "augment": "mild",
            "cache": False,
            "latent_cache": False,
            # Photos of the person in a sample, of different poses; one up to so many count.
            "references": 1,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 10000,
            "learning_rate": 1e-4,
            "m2p_learning_rate": 1e-5,
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
            # Added to 1 on the face: three times the weight of the rest.
            "face_region": 2.0,
            # Strength of the guidance: from, to, over this share of the run.
            "condition_scale": (0.5, 1.0, 0.3),
            "reference_dropout": 0.1,
            "clip_dropout": 0.1,
            "guidance_dropout": 0.1,
            "skeleton_only": 0.2,
            "m2p": "regress",
            "m2p_weight": 0.5,
            # From this share of the run on, up to `music_share` of the samples are driven by M2P's skeleton.
            "music_start": 0.8,
            "music_share": 0.5,
        }
    )
    config.log = ConfigDict({"scalars": 50, "evaluate": 500, "save": 500, "validation_batches": 8, "sample_steps": 20, "wandb": ""})
    if variant == "control":
        # None leaves it as the weights have it; identity is "aligned" or "plain", style and coarse name levels such as (1, 2, 3).
        config.model.unet.update({"identity": None, "style": None, "coarse": None})
        config.model.guidance = ConfigDict({"fusion": None})
        config.data.references = 4
        config.init.update({"face_id": "", "id_adapter": ""})
    if variant == "lora":
        # What the weights say of themselves holds; a LoRA changes which kernels, by their paths.
        config.model = ConfigDict({"unet": {"remat": True}})
        config.lora = ConfigDict({"rank": 16, "modules": "denoiser/.*attn[12]/to_"})
        config.optim.update({"weight_decay": 0.0, "steps": 2000, "warmup": 100})
    return config
