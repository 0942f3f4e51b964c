"""64 TPU v5p, 95 GB each: one clip, or two 768-pixel samples, a chip.

Command:  champ-jax plan --config stage_c --hw v5p-64, and champ-jax train with the same words. Planned figures: planned.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Topology, slices, and what suits each stage on it."""
    return ConfigDict(
        {
            "topology": "v5p:4x4x4",
            "slices": 1,
            "overrides": {
                "B": {"data": {"batch_size": 128}},
                "C": {"data": {"batch_size": 64}},
            },
        }
    )
