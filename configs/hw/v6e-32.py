"""32 TPU v6e, 32 GB each: one clip, or one 768-pixel sample, a chip.

Command:  champ-jax plan --config stage_c --hw v6e-32, and champ-jax train with the same words. Planned figures: planned.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Topology, slices, and what suits each stage on it."""
    return ConfigDict(
        {
            "topology": "v6e:4x8",
            "slices": 1,
            "overrides": {
                "B": {"data": {"batch_size": 32}},
                "C": {"data": {"batch_size": 32}},
            },
        }
    )
