"""Eight NVIDIA H100 with 80 GB in one machine; estimated, not compiled.

Command:  champ-jax plan --config stage_c --hw h100-8, and champ-jax train with the same words. Planned figures: planned.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Topology, slices, and what suits each stage on it."""
    return ConfigDict(
        {
            "topology": "h100:8",
            "slices": 1,
            "overrides": {
                "B": {"data": {"batch_size": 16}},
                "C": {"data": {"batch_size": 8}},
                "D": {"data": {"batch_size": 8}},
            },
        }
    )
