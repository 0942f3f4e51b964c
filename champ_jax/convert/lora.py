"""Low-rank changes of weights (LoRA), merged into the weights they change.

Every layer that a file changes has a `down` matrix (rank, in), an `up` matrix (out, rank) and maybe an `alpha`:
weight + scale * alpha / rank * up @ down. The files differ in names alone:

- diffusers, old: `down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight`
- diffusers, new: `unet.down_blocks.0...attn1.to_q.lora.down.weight`
- PEFT: `unet.down_blocks.0...attn1.to_q.lora_A.weight`, or `base_model.model.` in front
- kohya: `lora_unet_down_blocks_0_..._attn1_to_q.lora_down.weight`; LoCon has convolutions too
- motion LoRA of AnimateDiff: old diffusers names of `motion_modules`, as AnimateDiff or as diffusers calls these
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, lazy
from champ_jax.convert.state import State
from champ_jax.errors import UserError

SUFFIXES = (
    (re.compile(r"\.lora_(?:A|down)(?:\.[^.]+)?\.weight$"), "down"),
    (re.compile(r"\.lora_(?:B|up)(?:\.[^.]+)?\.weight$"), "up"),
    (re.compile(r"(?:\.lora|_lora|\.lora_linear_layer)\.(down|up)\.weight$"), None),
    (re.compile(r"(?:\.lora|_lora|\.lora_linear_layer)?\.alpha$"), "alpha"),
)
"""Ends of names and the part they are; None where the end says so itself. PEFT may write the adapter's name in between."""
PREFIXES = re.compile(r"^(?:module_|base_model_model_|lora_unet_|unet_)+")
TEXT = re.compile(r"^(?:lora_te\d?_|text_encoder(?:_\d)?\.)")
TEXT_REASON = "of the text encoder, which no model here has"
LISTED = 12
"""Names listed in an error before the rest is only counted."""


def merge_lora(
    state: Mapping[str, Any], lora: Mapping[str, Any], scale: float = 1.0, alpha: float | None = None, source: str = "the LoRA"
) -> dict[str, LazyArray]:
    """The weights of a UNet or a motion module with a LoRA merged in; each is read and computed when it is asked for.

    Args:
      state: PyTorch name to array of the weights, named as by diffusers or, for motion modules, by AnimateDiff.
      lora: PyTorch name to array of the LoRA, in any of the forms above; one with a `state_dict` inside counts as that.
      scale: how strongly it works, 1 as trained.
      alpha: for layers whose alpha the file does not hold, as in PEFT's adapter_config.json; the rank by default.
      source: the LoRA's file, for messages.

    Returns:
      All names of `state`. Sums are float32 and then rounded to the dtype of the weight.

    Raises:
      UserError: some names of the LoRA are of no use here, or the shapes do not fit; it lists them. Names of a text
        encoder are passed by, see `left_out`.
    """
    lora = unwrap(lora)
    merged = {name: lazy(array) for name, array in state.items()}
    weights = {_flat(name.removesuffix(".weight")): name for name in state if name.endswith(".weight")}
    layers, unused = _layers(lora)
    for layer, parts in layers.items():
        name = weights.get(layer)
        if name is None or not {"down", "up"} <= parts.keys():
            unused += [key for key, _ in parts.values()]
            continue
        merged[name] = _merged(name, merged[name], parts, scale, alpha, source)
    if unused:
        rest = [f"  ... and {len(unused) - LISTED} more"] if len(unused) > LISTED else []
        raise UserError(
            f"{source}: {len(unused)} of its {len(lora)} tensors change no weight here. Was it trained for another model, or is it "
            "not a plain LoRA (of up, down and alpha)?\n" + "\n".join([f"  {key}" for key in sorted(unused)[:LISTED]] + rest)
        )
    if not layers:
        raise UserError(f"{source} holds nothing that changes a UNet or a motion module ({len(left_out(lora))} tensors of a text encoder).")
    return merged


def layers_of(
    lora: Mapping[str, Any], names: Mapping[str, str], source: str
) -> tuple[dict[str, tuple[LazyArray, LazyArray, float | None]], list[str]]:
    """({what `names` says of a layer: (down, up, alpha or None)}, names of the LoRA that are of no layer in `names`).

    names: a layer's name, as diffusers or AnimateDiff write it, to anything. Raises UserError for a pair of other ranks.
    """
    flat = {_flat(name): meant for name, meant in names.items()}
    layers, unused = _layers(unwrap(lora))
    found = {}
    for layer, parts in layers.items():
        if layer not in flat or not {"down", "up"} <= parts.keys():
            unused += [key for key, _ in parts.values()]
            continue
        (key, down), (_, up) = parts["down"], parts["up"]
        if down.shape[:1] != up.shape[1:2]:
            raise UserError(f"{source}: {key} {down.shape} and its up {up.shape} are of different ranks.")
        alpha = float(np.asarray(parts["alpha"][1]).reshape(())) if "alpha" in parts else None
        found[flat[layer]] = down, up, alpha
    return found, unused


def peft_alpha(file: State) -> float | None:
    """The alpha of a LoRA of PEFT, which stands beside it in adapter_config.json or in its header; None where neither is.

    Raises UserError for settings that are of single layers, and for other kinds of adapters than LoRA.
    """
    beside = file.file.with_name("adapter_config.json")
    try:
        settings = json.loads(beside.read_text()) if beside.is_file() else json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
        settings = {str(name).rpartition(".")[2]: value for name, value in settings.items()}
        alpha, rank = float(settings.get("lora_alpha", 0)), float(settings.get("r", 0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"what {file.file} or {beside} says of its LoRA cannot be read: {error}") from error
    if odd := [name for name in ("alpha_pattern", "rank_pattern", "use_dora") if settings.get(name)]:
        raise UserError(f"{file.file} has {', '.join(odd)}, which cannot be merged here: merge it in PEFT.")
    if not alpha:
        return None
    # rsLoRA divides by the root of the rank.
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha


def left_out(lora: Mapping[str, Any]) -> dict[str, str]:
    """Names of a LoRA that `merge_lora` passes by, each with the reason."""
    return {key: TEXT_REASON for key in unwrap(lora) if TEXT.match(key)}


def unwrap(lora: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict itself, where training wrote it beside other things."""
    inner = lora.get("state_dict")
    return inner if isinstance(inner, Mapping) else lora


def is_lora(names: Iterable[str]) -> bool:
    """Whether these are names of a LoRA's tensors and of nothing else."""
    names = list(names)
    return bool(names) and all(TEXT.match(name) or _split(name)[1] for name in names)


def _flat(name: str) -> str:
    """A layer's name in the one form in which all the others can be written: diffusers', with `_` for `.`."""
    name = PREFIXES.sub("", name.replace(".processor", "").replace(".", "_"))
    name = name.replace("_temporal_transformer_", "_")
    name = re.sub(r"_attention_blocks_(\d+)_", lambda found: f"_attn{int(found[1]) + 1}_", name)
    return re.sub(r"_to_out$", "_to_out_0", name)


def _layers(lora: Mapping[str, Any]) -> tuple[dict[str, dict[str, tuple[str, LazyArray]]], list[str]]:
    """({layer: {part: (its name, array)}}, names that are no part of a layer)."""
    layers: dict[str, dict[str, tuple[str, LazyArray]]] = {}
    unknown = []
    for key, array in lora.items():
        if TEXT.match(key):
            continue
        layer, part = _split(key)
        parts = layers.setdefault(layer, {}) if part else {}
        if part is None or part in parts:
            unknown.append(key)
        else:
            parts[part] = key, lazy(array)
    return layers, unknown


def _split(key: str) -> tuple[str, str | None]:
    """(layer, "down", "up" or "alpha") of a tensor's name; None for what is none of them."""
    for pattern, part in SUFFIXES:
        found = pattern.search(key)
        if found:
            return _flat(key[: found.start()]), part or found[1]
    return key, None


def _merged(name: str, weight: LazyArray, parts, scale: float, alpha: float | None, source: str) -> LazyArray:
    """The weight `name` with one layer of a LoRA added; a convolution is a matrix (out, in * window) here."""
    (down_key, down), (_, up) = parts["down"], parts["up"]
    rank = down.shape[0] if down.shape else 0
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    if not rank or up.shape[:2] != (rows, rank) or up.size != rows * rank or down.size != rank * columns:
        raise UserError(f"{source}: {down_key} {down.shape} and its up {up.shape} do not fit {name} {weight.shape}.")

    def make():
        own = float(np.asarray(parts["alpha"][1]).reshape(())) if "alpha" in parts else rank if alpha is None else alpha
        up_matrix, down_matrix = (np.asarray(array, np.float32).reshape(array.shape[0], -1) for array in (up, down))
        change = np.float32(scale * own / rank) * (up_matrix @ down_matrix)
        return (np.asarray(weight, np.float32) + change.reshape(weight.shape)).astype(weight.dtype)

    return LazyArray(weight.shape, weight.dtype, make)
