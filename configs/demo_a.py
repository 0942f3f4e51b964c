"""Stage A of the demo, from scratch: music to pose, for the people and songs of the rendered set.

Command:  champ-jax train --config configs/demo_a.py --workdir runs/demo_a
Hardware, time, memory and expected metrics: docs/demo.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Everything that the run depends on."""
    config = ConfigDict()
    config.stage = "A"
    config.seed = 0
    config.init_from = ""
    config.compute_dtype = "float32"
    config.model = ConfigDict(
        {
            "m2p": {
                "music_dim": 192,
                "width": 128,
                "layers": 3,
                "heads": 4,
                "ff": 256,
                "projection": 256,
                "music_layers": 2,
                "bins_x": 64,
                "bins_y": 64,
                "face_dim": 128,
            },
        }
    )
    config.mesh = ConfigDict({"replica": -1})
    config.data = ConfigDict(
        {
            "directory": "runs/demo_data",
            "split": "motion",
            "validation_split": "test_motion",
            "size": 96,
            "batch_size": 8,
            "frames": 96,
            "augment": "none",
            "cache": True,
        }
    )
    config.optim = ConfigDict(
        {
            "steps": 600,
            "learning_rate": 5e-4,
            "warmup": 100,
            "decay": 0.6,
            "weight_decay": 1e-2,
            "clip": 1.0,
            "ema": 0.998,
            "accumulation": 1,
        }
    )
    config.loss = ConfigDict({"m2p": "regress"})
    config.log = ConfigDict({"scalars": 25, "evaluate": 500, "save": 500, "validation_batches": 2, "sample_steps": 0, "wandb": ""})
    return config
