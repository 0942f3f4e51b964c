"""Outputs of PyTorch's classes, with the names and shapes of their state dicts, as committed under fixtures/torch."""

import json
from pathlib import Path

import numpy as np

DIRECTORY = Path(__file__).resolve().parent / "fixtures" / "torch"


def record(name: str, shapes: dict, **outputs) -> None:
    """Writes fixtures/torch/NAME.npz: the shapes by name of a state dict, and arrays."""
    text = json.dumps({key: list(shape) for key, shape in shapes.items()})
    DIRECTORY.mkdir(exist_ok=True)
    np.savez_compressed(DIRECTORY / f"{name}.npz", shapes=np.frombuffer(text.encode(), np.uint8), **outputs)


def recorded(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """The shapes and the arrays that `record` wrote."""
    with np.load(DIRECTORY / f"{name}.npz") as file:
        arrays = dict(file)
    shapes = json.loads(arrays.pop("shapes").tobytes())
    return {key: tuple(shape) for key, shape in shapes.items()}, arrays


def with_alphas(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A LoRA's state dict with all alphas 5; diffusers 0.35 reads kohya's files wrongly unless they are all the same."""
    return {key: np.float32(5) if key.endswith(".alpha") else array for key, array in state.items()}
