"""Names and shapes of what diffusers and transformers save, and state dicts made of them."""

import functools
import gzip
import json
from pathlib import Path

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray
from tests.seeded import seeded

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "torch" / "keys.json.gz"


@functools.cache
def recorded() -> dict:
    """What tests/fixtures/make_keys.py wrote."""
    return json.loads(gzip.decompress(FILE.read_bytes()))


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Name to shape of one of the recorded models."""
    return {key: tuple(shape) for key, shape in recorded()[name]["shapes"].items()}


def config_of(name: str) -> dict:
    """The config.json of one of the recorded models."""
    return recorded()[name]["config"]


def empty_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, LazyArray]:
    """A state dict without any numbers."""

    def never():
        raise AssertionError("a tensor was read")

    return {name: LazyArray(shape, np.dtype(np.float32), never) for name, shape in shapes.items()}


def filled_state(shapes: dict[str, tuple[int, ...]], dtype=np.float16) -> dict[str, np.ndarray]:
    """A state dict with numbers that depend on the name and place alone."""
    return {name: seeded(name, shape).astype(dtype) for name, shape in shapes.items()}
