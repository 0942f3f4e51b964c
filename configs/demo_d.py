"""Stage D of the demo: few steps from the demo weights, on the committed people.

Command:  champ-jax train --config configs/demo_d.py --workdir runs/demo_d
          (demo_d:guidance learns the teacher's guidance at a scale of 2 alone)
Hardware: 2 CPU cores, 4 GB of memory, 188 GFLOP a step. What to expect, which is little: docs/training.md.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The geometry, the teacher and the start are those of `init_from`; variant: "guidance" or nothing."""
    if variant not in ("", "guidance"):
        raise ValueError("expected guidance or nothing")
    config = ConfigDict()
    config.stage = "D"
    config.seed = 0
    config.init_from = "assets/weights/demo"
    config.compute_dtype = "float32"
    config.model = ConfigDict()
    config.mesh = ConfigDict({"replica": 1})
    config.data = ConfigDict(
        {
            "directory": "assets/dancers",
            "split": "train",
            "validation_split": "test",
            "size": 96,
            "batch_size": 2,
            "first_frames": 12,
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
            "learning_rate": 1e-5,
            "warmup": 20,
            "decay": 0.8,
            "weight_decay": 0.0,
            "clip": 1.0,
            "ema": 0.95,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict(
        {
            "distil": "consistency",
            # The demo is sampled without classifier-free guidance, and so is the teacher.
            "teacher_scale": 1.0,
            "solver_steps": 50,
            "huber": 0.03,
            "noise_offset": 0.0,
            "last_step": 0.1,
            "person": 8.0,
            "face_region": 2.0,
            "condition_scale": (1.0, 1.0, 0.0),
            "reference_dropout": 0.0,
            "clip_dropout": 0.0,
            "guidance_dropout": 0.05,
            "skeleton_only": 0.2,
        }
    )
    # What `load_pipeline` samples with when nothing else is asked for.
    config.sampling = ConfigDict({"steps": 4, "guidance_scale": 1.0, "sampler": "lcm"})
    config.log = ConfigDict({"scalars": 20, "evaluate": 60, "save": 60, "validation_batches": 4, "sample_steps": 0, "wandb": ""})
    if variant == "guidance":
        del config.loss["solver_steps"], config.loss["huber"]
        config.loss.update({"distil": "guidance", "teacher_scale": 2.0, "snr_gamma": 5.0, "snr_form": "champ"})
        config.sampling = ConfigDict({"steps": 20, "guidance_scale": 1.0, "sampler": "ddim"})
    return config
