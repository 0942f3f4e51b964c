"""A model put together from checkpoints: one for the whole, others for single components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.convert.checkpoints import import_checkpoint
from champ_jax.convert.formats import Weights, find, merge_config, place
from champ_jax.convert.motion import split_temporal
from champ_jax.errors import UserError, did_you_mean
from champ_jax.trees import flatten, unflatten

HEAD = ("norm_out", "conv_out")


def _denoiser(weights: Weights) -> tuple[Any, dict[str, Any]]:
    config = {name: weights.config[name] for name in ("unet", "schedule") if name in weights.config}
    return find(weights.params, "denoiser"), config


def _reference(weights: Weights) -> tuple[Any, dict[str, Any]]:
    """A reference network, or any UNet of its geometry without head and temporal modules."""
    found = find(weights.params, "reference") or find(weights.params, "denoiser")
    if not found:
        return None, {}
    own = ("channels", "attention_levels", "layers", "context_dim", "in_channels", "ff_mult", "heads", "head_dim", "groups")
    unet = {name: value for name, value in weights.config["unet"].items() if name in own}
    return {name: part for name, part in split_temporal(found)[0].items() if name not in HEAD}, {"unet": unet}


def _motion(weights: Weights) -> tuple[Any, dict[str, Any]]:
    found = find(weights.params, "motion") or split_temporal(find(weights.params, "denoiser") or {})[1]
    if not found:
        return None, {}
    unet = weights.config.get("unet", {})
    return found, {"unet": {name: unet[name] for name in ("channels", "layers", "temporal") if name in unet}}


def _id_adapter(weights: Weights) -> tuple[Any, dict[str, Any]]:
    """StableAnimator's projections, at full strength, as it has no other."""
    found = find(weights.params, "id_adapter")
    if not found:
        return None, {}
    flat = flatten(found)
    strengths = {path.replace("/id_to_k/kernel", "/id_strength/value"): np.ones((1,), np.float32) for path in flat if "/id_to_k/" in path}
    return unflatten({**flat, **strengths}), {"unet": {"identity": "aligned"}}


def _same(name: str) -> Callable[[Weights], tuple[Any, dict[str, Any]]]:
    """The component of that name with its own part of the configuration."""

    def take(weights: Weights) -> tuple[Any, dict[str, Any]]:
        about = (name, "kinds") if name == "guidance" else (name,)
        return find(weights.params, name), {key: weights.config[key] for key in about if key in weights.config}

    return take


PARTS = {
    "denoiser": ("denoiser", _denoiser),
    "reference": ("reference", _reference),
    "motion": ("denoiser", _motion),
    "id_adapter": ("denoiser", _id_adapter),
    "guidance": ("guidance", _same("guidance")),
    "face_id": ("face_id", _same("face_id")),
    "vae": ("vae", _same("vae")),
    "clip": ("clip", _same("clip")),
    "m2p": ("m2p", _same("m2p")),
}
"""What can be given by itself, to the component it goes into and how it is taken from a checkpoint."""


def gather(whole: str | Path | None, parts: Mapping[str, str | Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and configuration of a model.

    Args:
      whole: a checkpoint of any kind that `import_checkpoint` reads, or None.
      parts: a name of PARTS to a checkpoint from which that part is taken, in place of what `whole` has of it. A
        checkpoint of a whole model will do for each. "motion" goes into the denoiser.

    Returns:
      (component to nested dict of arrays in memory, in the dtype they are stored in; configuration).

    Raises:
      UserError: a checkpoint that cannot be read or lacks the part, or checkpoints whose geometries contradict each other.
    """
    params: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if whole:
        weights = import_checkpoint(whole)
        params, config = dict(weights.params), dict(weights.config)
        if motion := params.pop("motion", None):
            place(params, "denoiser", motion)
    for name, path in sorted(parts.items(), key=lambda item: list(PARTS).index(item[0]) if item[0] in PARTS else -1):
        if name not in PARTS:
            raise UserError(f"no component {name!r}{did_you_mean(name, PARTS)}; these can be given: {', '.join(PARTS)}.")
        component, take = PARTS[name]
        found, about = take(import_checkpoint(path))
        if not found:
            raise UserError(f"{path} has no {name}: give a checkpoint that has one.")
        if name == "denoiser":
            # A denoiser for images leaves the temporal modules that are there.
            kept = {} if split_temporal(found)[1] else split_temporal(params.get("denoiser") or {})[1]
            params["denoiser"] = {}
            place(params, "denoiser", kept)
            if not kept:
                config = _without(config, "temporal")
        elif name == "motion":
            params["denoiser"] = split_temporal(params.get("denoiser") or {})[0]
            config = _without(config, "temporal")
        elif name == "id_adapter":
            kept = {path: array for path, array in flatten(params.get("denoiser") or {}).items() if "/attn2/id_" not in path}
            params["denoiser"] = unflatten(kept)
            config = _without(config, "identity")
        elif name != "guidance":
            params.pop(name, None)
            config.pop(name, None)
        place(params, component, found)
        config = merge_config(config, about, str(path))
    return {name: _in_memory(part) for name, part in params.items()}, config


def _without(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration, in which nothing is said of `name` of the UNet."""
    return {**config, "unet": {key: value for key, value in config.get("unet", {}).items() if key != name}}


def _in_memory(part: Mapping[str, Any]) -> dict[str, Any]:
    """The file may be gone when the arrays are needed."""
    return unflatten({path: np.array(array) for path, array in flatten(part).items()})
