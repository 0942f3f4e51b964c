"""Checkpoints that hold several networks in one file, told apart by what their names begin with."""

from __future__ import annotations

from typing import Any

from champ_jax.convert import guidance, motion, unet, vae
from champ_jax.convert.formats import Component, Config, Format, Shapes, merge_config
from champ_jax.convert.mapping import Layout
from champ_jax.dims import GUIDANCE_KINDS

SD_KEPT = {
    "cond_stage_model.*": "the text encoder, which a model that looks at a photo has no use for",
    "model_ema.*": "averages of the weights, as training keeps them; the weights themselves are read",
    **{name: "the noise schedule, which is computed" for name in ("betas", "alphas_cumprod*", "sqrt_*", "log_one_minus_*", "posterior_*")},
    "logvar": "of training",
}
VAE_PREFIX = "first_stage_model."


def _sd_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    return unet.original_geometry(shapes) | vae.prefixed_geometry(shapes, VAE_PREFIX)


def _sd_components(config: Config) -> dict[str, Component]:
    denoiser = unet.components("denoiser")(config)["denoiser"].shapes
    layout = unet.original_layout(config)
    autoencoder = vae.original_components(VAE_PREFIX.replace(".", "/"))(config)
    return {"denoiser": Component(denoiser, Layout(layout.rules, layout.pointwise, SD_KEPT)), **autoencoder}


STABLE_DIFFUSION = Format(
    "Stable Diffusion 1.x (original single file)",
    ("model.diffusion_model.input_blocks.0.0.weight", f"{VAE_PREFIX}encoder.conv_in.weight"),
    _sd_geometry,
    _sd_components,
)


def _within(prefix: str, component: Component) -> Component:
    """A component whose names all begin with `prefix`."""
    layout = component.layout
    rules = (*layout.rules, (r"^", f"{prefix}/"))
    return Component(component.shapes, Layout(rules, layout.pointwise, {f"{prefix}.{name}": why for name, why in layout.kept.items()}))


def _part(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(f"{prefix}."): shape for name, shape in shapes.items() if name.startswith(f"{prefix}.")}


def _champ_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    denoiser = _part(shapes, "denoising_unet")
    spatial = {name: shape for name, shape in denoiser.items() if ".motion_modules." not in name}
    temporal = {name: shape for name, shape in denoiser.items() if ".motion_modules." in name}
    found = unet.DENOISER.geometry(spatial, {})
    found = merge_config(found, unet.REFERENCE.geometry(_part(shapes, "reference_unet"), {}), "reference_unet")
    if temporal:
        found = merge_config(found, motion.ANIMATEDIFF.geometry(temporal, {}), "denoising_unet's motion modules")
    for kind in GUIDANCE_KINDS:
        if part := _part(shapes, f"guidance_encoder_{kind}"):
            found = merge_config(found, guidance.geometry(kind)(part, {}), f"guidance_encoder_{kind}")
    return found


def _champ_components(config: Config) -> dict[str, Component]:
    found = {"reference": _within("reference_unet", unet.components("reference")(config)["reference"])}
    found["denoiser"] = _within("denoising_unet", unet.components("denoiser")(config)["denoiser"])
    if config["unet"].get("temporal"):
        found["denoiser/"] = _within("denoising_unet", motion.components("denoiser")(config)["denoiser"])
    for kind in config["kinds"]:
        found[f"guidance/{kind}"] = _within(f"guidance_encoder_{kind}", guidance.encoder(config))
    return found


def _champ_absent(config: Config):
    found = {}
    if config["unet"].get("temporal"):
        found |= {f"denoising_unet.{name}": value for name, value in motion.ANIMATEDIFF.absent(config).items()}
    for kind in config["kinds"]:
        found |= {f"guidance_encoder_{kind}.{name}": value for name, value in guidance.unused(config).items()}
    return found


CHAMP = Format(
    "CHAMP (single file)",
    ("reference_unet.conv_in.weight", "denoising_unet.conv_in.weight"),
    _champ_geometry,
    _champ_components,
    absent=_champ_absent,
)
