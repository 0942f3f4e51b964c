"""What each choice is worth: the old way, each choice alone, and all of them, on the same data, seeds and steps.

Command:  champ-jax ablate --config configs/ablation.py --out runs/ablation
          (ablation:long trains two variants four times as long; ablation:gpu is larger, for one GPU; docs/control.md says how the
          people are rendered)
Hardware: 2 CPU cores, 4 GB of memory; about 2 hours, in as many sittings as it takes. Expected: docs/ablation.md.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    """preset "long": the old way and encoders with the reference network, 2400 steps, one seed. "gpu": 256x256 pixels, wider
    networks, longer training, for one GPU of 80 GB."""
    if preset not in ("", "long", "gpu"):
        raise ValueError("expected long, gpu or nothing")
    config = ConfigDict()
    config.seeds = (0, 1, 2)
    config.directory = "runs/ablation_data"
    # What is trained, one after another, and how it differs from the configuration it is named after.
    config.base = ConfigDict({"vae": "demo_vae", "B": "demo_b:no_reference", "C": "demo_c"})
    config.same = ConfigDict(
        {
            "vae": {"data": {"size": (64, 64)}},
            "B": {
                "model": {"unet": {"channels": (32, 48, 64), "context_dim": 64}, "guidance": {"learned": False}},
                "data": {"size": 64, "batch_size": 4},
                "optim": {"steps": 600, "learning_rate": 1e-3},
                "sampling": {"steps": 1, "guidance_scale": 1.0},
                "log": {"scalars": 20, "evaluate": 50, "save": 200, "validation_batches": 4},
            },
            "C": {
                "data": {"size": 64, "batch_size": 1, "first_frames": 12},
                "optim": {"steps": 300},
                "log": {"scalars": 10, "evaluate": 50, "save": 150},
            },
        }
    )
    # The image encoder comes with the reference, whose token it makes.
    tower = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": 4, "patch": 16, "image_size": 64}
    config.choices = ConfigDict(
        {
            "encoders": {"B": {"model": {"guidance": {"learned": True}}}},
            "reference": {"B": {"model": {"reference": True, "reference_pose": True, "clip": tower}, "train_clip": True}},
            "identity": {"B": {"model": {"face_id": {"layers": 0, "embedding": 128}, "unet": {"identity": "plain"}}}},
            "style": {"B": {"model": {"unet": {"style": (1, 2)}}}},
            "smaller photo": {"B": {"model": {"unet": {"coarse": (1, 2)}}}},
            "two photos": {"B": {"data": {"references": 2}}},
            "gates": {"B": {"model": {"guidance": {"fusion": "gates"}}}},
            "fusion": {"B": {"model": {"guidance": {"fusion": "attention"}}}},
            **{
                kind: {"C": {"model": {"unet": {"temporal": {"kind": kind}}}}}
                for kind in ("animatediff", "modelscope", "conv3d", "transformer", "hybrid")
            },
        }
    )
    image = ("encoders", "reference", "identity")
    # Names and their choices; the first is the old way, the second the new.
    config.variants = (
        ("old", ()),
        ("new", (*image, "animatediff")),
        *((f"old + {choice}", (choice,)) for choice in (*image, "animatediff")),
        ("image", image),
        *((f"image - {choice}", tuple(other for other in image if other != choice)) for choice in ("encoders", "identity")),
        *((f"image + {choice}", (*image, choice)) for choice in ("style", "smaller photo", "two photos", "gates", "fusion")),
        *((f"image + {kind}", (*image, kind)) for kind in ("modelscope", "conv3d", "transformer", "hybrid")),
    )
    # Of the split `test`: so many clips, and frames of each.
    config.test = ConfigDict({"clips": 12, "frames": 24, "references": 2})
    if preset == "long":
        config.seeds = (0,)
        config.variants = (("old", ()), ("new", ("encoders", "reference")))
        config.same.B.optim.steps = 2400
        config.same.B.log.evaluate = 200
    if preset == "gpu":
        config.directory = "runs/ablation_data_256"
        config.same.vae.data.size = (256, 256)
        config.same.B.data.update({"size": 256, "batch_size": 16})
        config.same.B.optim.update({"steps": 20000, "learning_rate": 4e-4})
        config.same.B.model.unet.channels = (128, 192, 256)
        config.same.B.log.update({"evaluate": 1000})
        config.same.C.data.update({"size": 256, "batch_size": 4})
        config.same.C.optim.steps = 2000
        config.same.C.log.update({"evaluate": 250, "save": 1000})
        config.choices.reference.B.model.clip.image_size = 256
    return config
