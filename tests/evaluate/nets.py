"""Networks with seeded weights, as files and in memory."""

import functools
import json
from pathlib import Path

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, write_safetensors
from champ_jax.convert import perceptual
from champ_jax.convert.formats import read
from champ_jax.evaluate.networks import Component, Network, Networks
from tests.seeded import seeded_state

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "torch"


def shapes(file: str, key: str | None = None) -> dict[str, tuple[int, ...]]:
    with np.load(RECORDED / f"{file}.npz") as held:
        found = json.loads(str(held["shapes"]))
    found = found[key] if key else found
    return {name: tuple(shape) for name, shape in found.items() if not name.startswith("classifier")}


@functools.cache
def alexnet() -> dict[str, np.ndarray]:
    return seeded_state(shapes("lpips", "alex"))


@functools.cache
def heads(net: str) -> dict[str, np.ndarray]:
    return {name: np.abs(value) for name, value in seeded_state(shapes("lpips", f"{net}/heads")).items()}


@functools.cache
def vgg16() -> dict[str, np.ndarray]:
    return seeded_state(shapes("lpips", "vgg"))


@functools.cache
def inception() -> dict[str, np.ndarray]:
    """As in tests/fixtures/make_metrics.py."""
    weights = seeded_state(shapes("inception"))
    return {name: value * np.float32(2**0.5) if name.endswith("conv.weight") else value for name, value in weights.items()}


STATES = {
    "alexnet": (perceptual.ALEXNET, alexnet),
    "vgg16": (perceptual.VGG16, vgg16),
    "lpips_alex": (perceptual.LPIPS_HEADS, lambda: heads("alex")),
    "lpips_vgg": (perceptual.LPIPS_HEADS, lambda: heads("vgg")),
    "inception": (perceptual.INCEPTION, inception),
}


def networks(*components: str) -> Networks:
    """Networks made of these components, without files."""
    found = Networks()
    for name in components:
        format, state = STATES[name]
        lazy = {key: LazyArray(value.shape, value.dtype, lambda value=value: value) for key, value in state().items()}
        weights = read(lazy, {}, format, name)
        found.components[name] = Component(weights.config[name], weights.params[name], f"{name}.pth", "0" * 64)
    return found


def _places(frames: np.ndarray) -> np.ndarray:
    """[n,24] of frames [n,H,W,3]: mean colours of some of 4 x 4 places, and how much they vary."""
    count, height, width, _ = frames.shape
    places = frames.reshape(count, 4, height // 4, 4, width // 4, 3).astype(np.float32) / 255
    return np.concatenate([places.mean((2, 4)).reshape(count, -1)[:, ::4], places.std((2, 4)).reshape(count, -1)[:, ::4]], 1)


def quick(name: str) -> Network:
    """In place of a large network, where only what is made of its features matters; of a window it gives the mean over its frames."""

    def call(images: np.ndarray) -> np.ndarray:
        if images.ndim == 4:
            return _places(images)
        return np.stack([_places(window).mean(0) for window in images])

    return Network(call, {f"{name}.pth": "0" * 64})


def save_alex(folder: Path) -> None:
    """AlexNet and its heads as files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "alexnet.safetensors", alexnet(), {"format": "pt"})
    write_safetensors(folder / "heads.safetensors", heads("alex"), {"format": "pt"})
