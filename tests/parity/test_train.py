"""CHAMP's training forward and backward: loss, weights, predictions and gradient norms of both stages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from champ_jax.convert.champ import guidance_to_torch, split_temporal, temporal_to_torch, unet_to_torch
from champ_jax.diffusion.losses import diffusion_loss, min_snr_weight, squared_error
from champ_jax.diffusion.schedule import add_noise, target
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.models.animator import merge, split
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.reference import reference_features, round_like_champ
from tests.parity.networks import channels_last

NOISE_OFFSET, GAMMA = 0.05, 5.0
CASES = [(stage, uncond) for stage in (1, 2) for uncond in (False, True)]


class Case:
    """The inputs of one recorded stage, in our layout, and its loss as a function of all parameters."""

    def __init__(self, networks, load, stage: int, uncond: bool):
        recorded = load("io_train")
        inputs = {name.removeprefix(f"stage{stage}."): x for name, x in recorded.items() if name.startswith(f"stage{stage}.")}
        self.uncond = uncond
        self.recorded_loss = load("train.json")[f"stage{stage}.uncond={uncond}"]
        self.recorded = {name: channels_last(inputs[name]) for name in ("noisy_latents", "target_v", f"pred.uncond={uncond}")}
        self.schedule = networks.schedule("scaled_linear")
        self.x0, self.t = channels_last(inputs["x0"]), inputs["timesteps"]
        self.noise = channels_last(inputs["noise_raw"]) + NOISE_OFFSET * channels_last(inputs["noise_offset_randn"])
        self.noisy = add_noise(self.schedule, self.x0, self.noise, self.t)
        self.reference_latents, self.context = channels_last(inputs["ref_latents"]), inputs["encoder_hidden_states"]
        maps = np.split(channels_last(inputs["guidance_u8"]) / np.float32(255), len(GUIDANCE_KINDS), axis=-1)
        self.maps = dict(zip(GUIDANCE_KINDS, maps, strict=True))
        models = {"denoiser": networks.denoiser(temporal=stage == 2), "reference": networks.reference()}
        models |= {f"guidance_{kind}": encoder for kind, encoder in networks.guidance().items()}
        parts = {name: split(model) for name, model in models.items()}
        self.graphs = {name: graphdef for name, (graphdef, _) in parts.items()}
        self.params = {name: params for name, (_, params) in parts.items()}

    def loss(self, params):
        """(loss, prediction): a dropped condition leaves the reference out; its zero image is in `context` already."""
        models = {name: merge(graphdef, params[name]) for name, graphdef in self.graphs.items()}
        guidance = fuse_guidance({kind: models[f"guidance_{kind}"] for kind in self.maps}, self.maps)
        reference = None
        if not self.uncond:
            reference = round_like_champ(reference_features(models["reference"], self.reference_latents, self.context))
        prediction = models["denoiser"](self.noisy, self.t, self.context, guidance, reference=reference)
        return diffusion_loss(self.schedule, prediction, self.x0, self.noise, self.t, gamma=GAMMA), prediction


@pytest.mark.parametrize("stage,uncond", CASES)
def test_forward_and_backward(networks, load, compare, stage, uncond):
    case = Case(networks, load, stage, uncond)
    label, figures = f"train/stage {stage}{', uncond' if uncond else ''}", case.recorded_loss
    (loss, prediction), grads = jax.jit(jax.value_and_grad(case.loss, has_aux=True))(case.params)
    compare(f"{label}/noisy latents", case.noisy, case.recorded["noisy_latents"])
    compare(f"{label}/target", target(case.schedule, case.x0, case.noise, case.t), case.recorded["target_v"])
    compare(f"{label}/prediction", prediction, case.recorded[f"pred.uncond={uncond}"])
    per_sample = squared_error(case.schedule, prediction, case.x0, case.noise, case.t)
    compare(f"{label}/squared error", per_sample, figures["per_sample_mse"])
    weights = min_snr_weight(case.schedule, case.t, GAMMA)
    compare(f"{label}/min-SNR weights", weights, figures["min_snr_weights"])
    compare(f"{label}/loss", loss, figures["loss"])
    check_gradients(grads, figures, stage, label, compare)


def check_gradients(grads, figures, stage, label, compare):
    """Norms of the listed tensors, of all trainable ones together, and how many have a gradient at all."""
    norms = {name: float(jnp.linalg.norm(jnp.asarray(x).ravel())) for name, x in torch_gradients(grads).items()}
    trainable = {name: norm for name, norm in norms.items() if is_trainable(name, stage)}
    total = float(np.sqrt(sum(norm**2 for norm in trainable.values())))
    compare(f"{label}/gradient norm, all", total, figures["total_grad_norm"])
    listed = figures["grad_norms"]
    assert set(listed) <= set(trainable)
    largest = max(listed.values())
    for name, norm in listed.items():
        # A tensor without influence has a gradient of exactly zero there and here.
        assert (norm == 0) == (trainable[name] == 0), name
        compare(f"{label}/gradient norm, {name}", trainable[name], norm, scale=norm or largest)


def torch_gradients(grads) -> dict[str, np.ndarray]:
    """Gradients under the names of CHAMP's training model."""
    spatial, temporal = split_temporal(grads["denoiser"])
    found = {"denoising_unet": {**unet_to_torch(spatial), **(temporal_to_torch(temporal) if temporal else {})}}
    found["reference_unet"] = unet_to_torch(grads["reference"])
    for kind in GUIDANCE_KINDS:
        found[f"guidance_encoder_{kind}"] = guidance_to_torch(grads[f"guidance_{kind}"])
    return flatten_dict(found, sep=".")


def is_trainable(name: str, stage: int) -> bool:
    """CHAMP's freeze matrix: stage 1 all but the reference network's last level, stage 2 the motion modules alone."""
    if stage == 2:
        return "motion_modules" in name
    return not re.match(r"reference_unet\..*up_blocks\.3", name)


def test_reference_mask_is_not_the_leaked_hook(networks, load, compare):
    """CHAMP's first validation leaves hooks behind that hide the reference from the first half of each batch.

    A reference_mask of (0, 1) reproduces that output, and is the switch for it; training here never sets it so.
    """
    case = Case(networks, load, stage=1, uncond=False)
    models = {name: merge(graphdef, case.params[name]) for name, graphdef in case.graphs.items()}
    guidance = fuse_guidance(networks.guidance(), case.maps)
    reference = round_like_champ(reference_features(models["reference"], case.reference_latents, case.context))
    half = len(case.x0) // 2
    mask = (jnp.arange(len(case.x0)) >= half).astype(jnp.float32)
    leaked = models["denoiser"](case.noisy, case.t, case.context, guidance, reference, mask)
    compare("train/leaked hooks", leaked, channels_last(load("io_train")["stage1.pred.leaked_cfg_hooks"]))
