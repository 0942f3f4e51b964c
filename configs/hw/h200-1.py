"""One NVIDIA H200 with 141 GB; estimated, not compiled.

Command:  champ-jax plan --config stage_c --hw h200-1, and champ-jax train with the same words. Planned figures: planned.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Topology, slices, and what suits each stage on it."""
    return ConfigDict(
        {
            "topology": "h200:1",
            "slices": 1,
            "overrides": {
                "B": {"data": {"batch_size": 4}},
                "C": {"data": {"batch_size": 1}},
                "D": {"data": {"batch_size": 1}},
            },
        }
    )
