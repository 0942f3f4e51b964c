"""LoRAs of ours: read from a folder of training or from a PyTorch file, and written with the names of diffusers and PEFT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from champ_jax.checkpoint.run import is_model, open_model
from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.convert.hub import local_path
from champ_jax.convert.lora import layers_of, left_out, peft_alpha
from champ_jax.convert.mapping import Layout
from champ_jax.convert.motion import ADAPTER_LAYOUT, ANIMATEDIFF_LAYOUT
from champ_jax.convert.state import open_state
from champ_jax.convert.unet import DIFFUSERS
from champ_jax.errors import UserError
from champ_jax.models.animator import AnimatorConfig, abstract_model
from champ_jax.models.lora import LORA
from champ_jax.trees import flatten, unflatten

FILES = {"denoiser": "pytorch_lora_weights.safetensors", "reference": "reference_lora_weights.safetensors"}
"""What is written of each component; the first is the name that diffusers looks for."""


def read_lora(path: str | Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """The changes {component: nested dict of down and up} of a LoRA for a model with these parameters.

    path: the folder of a run or of its weights, or a file with the names of diffusers, PEFT or kohya, which changes the denoiser.
    Raises UserError when it is neither, or when some of it changes nothing here; it lists that.
    """
    path = local_path(path)
    if is_model(path):
        return _of_ours(path)[0]
    file = open_state(path)
    if "denoiser" not in params:
        raise UserError(f"{path} changes a denoiser, and there is none among {', '.join(sorted(params))}.")
    kernels = {name: shape for name, shape in flatten(params["denoiser"]).items() if name.endswith("/kernel")}
    layouts = (DIFFUSERS, ANIMATEDIFF_LAYOUT, ADAPTER_LAYOUT)
    names = {layout.name(kernel).removesuffix(".weight"): kernel for kernel in kernels for layout in layouts}
    alpha = peft_alpha(file)
    layers, unused = layers_of(file.tensors, names, str(path))
    if unused or not layers:
        listed = "".join(f"\n  {key}" for key in sorted(unused)[:12]) or f" {len(left_out(file.tensors))} tensors are of a text encoder."
        raise UserError(f"{path}: {len(unused)} of its {len(file.tensors)} tensors change no kernel of this model's denoiser.{listed}")
    changes = {}
    for kernel, (down, up, own) in layers.items():
        place, rank = kernel.removesuffix("/kernel"), down.shape[0]
        scale = (own if own is not None else rank if alpha is None else alpha) / rank
        changes[f"{place}/down"] = np.moveaxis(np.asarray(down, np.float32), 1, -1).reshape(rank, -1).T
        changes[f"{place}/up"] = np.asarray(up, np.float32).reshape(up.shape[0], -1).T * np.float32(scale)
    return {"denoiser": unflatten(changes)}


def export_lora(path: str | Path, out: str | Path) -> list[Path]:
    """Writes a LoRA that training made, as diffusers' `load_lora_weights` reads it; the files that were written.

    Raises UserError for a folder that is no LoRA, or for changes of networks that diffusers does not have.
    """
    lora, config = _of_ours(path)
    kind = ((config.get("unet") or {}).get("temporal") or {}).get("kind", "animatediff")
    own = re.compile(r"attn2/id_" if kind == "animatediff" else r"attn2/id_|temporal")
    places = {name: _layers(changes) for name, changes in lora.items()}
    unknown = [f"{name}/{place}" for name, layers in places.items() for place in layers if name not in FILES or own.search(place)]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its changes are of layers that diffusers does not have: {', '.join(sorted(unknown)[:3])} ... "
            "Written are those of UNets and of AnimateDiff's temporal modules."
        )
    _, shapes = abstract_model(AnimatorConfig.build({name: values for name, values in config.items() if name != "pipeline"}))
    written = []
    for component, layers in places.items():
        kernels, tensors = flatten(shapes[component]), {}
        for place, parts in layers.items():
            layout = ADAPTER_LAYOUT if "temporal_" in place else DIFFUSERS
            name = f"unet.{layout.name(f'{place}/kernel').removesuffix('.weight')}"
            a, b = _their_matrices(parts, kernels[f"{place}/kernel"].shape, layout, f"{place}/kernel")
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        target = Path(out) / FILES[component]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(target, tensors, {"format": "pt"})
        written.append(target)
    return written


def _of_ours(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The LoRA of a folder of weights or of a run, in memory, and the configuration of its model."""
    found, config = open_model(path)
    if LORA not in found:
        raise UserError(f"{path} is no LoRA, but a model of {', '.join(sorted(found))}: give it as the checkpoint.")
    return jax.tree.map(np.asarray, found[LORA]), config


def _layers(changes: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{place: {"down", "up"}} of nested changes."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for path, array in flatten(changes).items():
        place, _, part = path.rpartition("/")
        layers.setdefault(place, {})[part] = np.asarray(array)
    return layers


def _their_matrices(parts: Mapping[str, np.ndarray], shape, layout: Layout, path: str) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) of a layer: (r, in) and (out, r), of a convolution (r, in, window) and (out, r, 1, ...)."""
    *window, width, out = shape
    if layout.pointwise and re.search(layout.pointwise, path):
        window = [1, 1]
    rank = parts["up"].shape[0]
    a = np.moveaxis(parts["down"].T.reshape(rank, *window, width), -1, 1)
    return np.ascontiguousarray(a), np.ascontiguousarray(parts["up"].T.reshape(out, rank, *(1 for _ in window)))
