"""Stage D at full size: the denoiser learns from itself to make a clip in 4 steps without classifier-free guidance.

Command:  champ-jax train --config configs/stage_d.py --workdir runs/d --config.init_from=runs/c/weights --config.data.directory=DATA
          (stage_d:guidance only saves the second half of each of 20 steps; stage_d:lora trains a LoRA for 4 steps)
          or behind the others: champ-jax train --config stage_b --config stage_c --config stage_d --workdir runs/all ...
Model: 1.3 billion trained parameters, and as many frozen ones of the teacher. Hardware: 80 GB a device; by `champ-jax plan` one clip on
one H200 takes 35 GB (stage C 17) and 203 TFLOP a step (stage C 98), 0.45 s at the planned efficiency: half an hour for 4,000 steps
on 8 of them (estimated; not yet run at this size).
Expected: the validation loss settles; samples at 4 steps come to look like the teacher's at 20 with guidance.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The model and the teacher are those of `init_from`; variant "guidance" or "lora" as said above."""
    if variant not in ("", "guidance", "lora"):
        raise ValueError("expected guidance, lora or nothing")
    config = ConfigDict()
    config.stage = "D"
    config.seed = 0
    config.init_from = ""
    # Networks from elsewhere in place of those in init_from: any checkpoint that `champ-jax convert` reads.
    config.init = ConfigDict({"denoiser": "", "reference": "", "motion": "", "guidance": "", "vae": "", "clip": "", "m2p": ""})
    config.compute_dtype = "bfloat16"
    config.model = ConfigDict({"unet": {"remat": True}})
    config.mesh = ConfigDict({"slice": 1, "replica": -1, "fsdp": 1, "context": 1})
    config.data = ConfigDict(
        {
            "directory": "data/records",
            "split": "train",
            "validation_split": "validation",
            "size": 512,
            "batch_size": 8,
            # Clips grow from first_frames to frames in equal shares of the run.
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
            "steps": 4000,
            "learning_rate": 8e-6,
            "warmup": 200,
            "decay": 0.5,
            "weight_decay": 0.0,
            "clip": 1.0,
            "ema": 0.99,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict(
        {
            "distil": "consistency",
            # Classifier-free guidance of the teacher, which the student has without it; 1 saves the teacher's second pass.
            "teacher_scale": 3.5,
            # Steps of the teacher's solver, each of which is one lesson, and where its loss goes over from squares to absolute values.
            "solver_steps": 50,
            "huber": 0.001,
            "noise_offset": 0.0,
            "last_step": 0.0,
            "person": 0.0,
            "face_region": 2.0,
            "condition_scale": (1.0, 1.0, 0.0),
            # A student without classifier-free guidance always sees the photo.
            "reference_dropout": 0.0,
            "clip_dropout": 0.0,
            "guidance_dropout": 0.1,
            "skeleton_only": 0.2,
        }
    )
    # What `load_pipeline` samples with when nothing else is asked for.
    config.sampling = ConfigDict({"steps": 4, "guidance_scale": 1.0, "sampler": "lcm"})
    config.log = ConfigDict({"scalars": 50, "evaluate": 500, "save": 500, "validation_batches": 8, "sample_steps": 4, "wandb": ""})
    if variant == "guidance":
        del config.loss["solver_steps"], config.loss["huber"]
        config.loss.update({"distil": "guidance", "snr_gamma": 5.0, "snr_form": "champ"})
        config.sampling = ConfigDict({"steps": 20, "guidance_scale": 1.0, "sampler": "ddim"})
        config.log.sample_steps = 20
    if variant == "lora":
        config.lora = ConfigDict({"rank": 64, "modules": "denoiser/.*to_"})
        config.optim.learning_rate = 1e-4
    return config
