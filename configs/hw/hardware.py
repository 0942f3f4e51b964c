"""The hardware that `--hw NAME` names: its topology, and the values that suit each stage on it.

Command:  champ-jax plan --config stage_c --hw v5e-256, and champ-jax train with the same words.
Memory, step time and hours of each stage: planned.json, by `champ-jax plan --all --write`; GPUs are estimated, not compiled.
"""


def batches(**sizes: int) -> dict:
    """Overrides by stage of the batch size, over all chips."""
    return {stage: {"data": {"batch_size": size}} for stage, size in sizes.items()}


HARDWARE = {
    # Stage A is a small network, which fits all: its 64 samples, or one a chip.
    # NVIDIA: one H200 with 141 GB, a machine of eight H100 with 80 GB.
    "h200-1": {"topology": "h200:1", "overrides": batches(A=64, B=4, C=1, D=1)},
    "h100-8": {"topology": "h100:8", "overrides": batches(A=64, B=16, C=8, D=8)},
    # TPU v5e, 16 GB each: one clip, or one 768-pixel sample, a chip. Stage D needs 27 GB for a clip.
    "v5e-16": {"topology": "v5e:4x4", "overrides": batches(A=64, B=16, C=16)},
    "v5e-256": {"topology": "v5e:16x16", "overrides": batches(A=256, B=256, C=256)},
    # TPU v5p, 95 GB each: one clip, or two 768-pixel samples, a chip.
    "v5p-64": {"topology": "v5p:4x4x4", "overrides": batches(A=64, B=128, C=64, D=64)},
    # TPU v6e, 32 GB each: one clip, or one 768-pixel sample, a chip.
    "v6e-32": {"topology": "v6e:4x8", "overrides": batches(A=64, B=32, C=32, D=32)},
    "v6e-256": {"topology": "v6e:16x16", "overrides": batches(A=256, B=256, C=256, D=256)},
}
