"""16 TPU v5e in one slice, 16 GB each: one clip, or one 768-pixel sample, a chip.

Command:  champ-jax plan --config stage_c --hw v5e-16, and champ-jax train with the same words. Planned figures: planned.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Topology, slices, and what suits each stage on it."""
    return ConfigDict(
        {
            "topology": "v5e:4x4",
            "slices": 1,
            "overrides": {
                "B": {"data": {"batch_size": 16}},
                "C": {"data": {"batch_size": 16}},
            },
        }
    )
