"""The training stages as values: what is trained, what a batch must hold, and the loss.

A trains M2P alone; B the guidance encoders, both UNets and, late and slowly, M2P on single frames; C the temporal
modules on clips; D, on clips too, the whole denoiser, to do in few steps what a frozen copy of it does in many. The VAE
and CLIP stay frozen in all of them, as in CHAMP; `clip` joins B only where a configuration asks for it, because no
pretrained tower of that size exists.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from champ_jax.diffusion import losses
from champ_jax.diffusion.schedule import add_noise, to_x0
from champ_jax.models.animator import Animator
from champ_jax.models.lora import LORA
from champ_jax.models.m2p import predict as predict_motion
from champ_jax.models.m2p_loss import PROTOTYPE, REGRESS, m2p_losses
from champ_jax.train.conditions import MusicDriven, draw_timesteps, keep, make_example, music_driven, predict
from champ_jax.train.distil import loss_d

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    trained(path, config) -> bool: which parameters learn, by their path in the model.
    loss(model, batch, key, step, config, schedule, training) -> (scalar, metrics); `training` turns dropout inside M2P on.
    batches: "A", "B" or "C": the stage whose kind of batch it reads.
    """

    trained: Callable[[str, object], bool]
    loss: Callable[..., tuple[jax.Array, Metrics]]
    batches: str


M2P_WEIGHTS = {"regress": REGRESS, "prototype": PROTOTYPE}


def m2p_loss(model: Animator, motion: dict, key: jax.Array | None, preset: str) -> tuple[jax.Array, dict, Metrics]:
    """Loss of M2P on a window of music, weighted by a preset of `M2P_WEIGHTS`, its outputs, and all terms for the log."""
    outputs = predict_motion(model.m2p, motion, key)
    terms = m2p_losses(outputs, motion)
    loss = sum(weight * terms[name] for name, weight in M2P_WEIGHTS[preset].items())
    return loss, outputs, {f"m2p_{name}": value for name, value in terms.items()}


def loss_a(model, batch, key, step, config, schedule, training) -> tuple[jax.Array, Metrics]:
    """Stage A: pose and face losses of M2P; the batch is a motion window [B,F,...]."""
    loss, _, metrics = m2p_loss(model, batch, key if training else None, config.loss.m2p)
    return loss, metrics


def denoising_loss(model, batch, key, step, config, schedule, music: MusicDriven | None = None):
    """Diffusion loss of frames or clips [B,F,...]; also the predicted x0, the true one, and t, for further terms.

    Follows CHAMP's training loop: noise offset, min-SNR weighting, everything about the loss in float32.
    """
    x0, noise, given, weights, key_timesteps = make_example(model, batch, key, step, config, music)
    t = draw_timesteps(key_timesteps, x0.shape[0], schedule, config.loss.last_step)
    noisy = add_noise(schedule, x0, noise, t)
    prediction = predict(model.denoiser, given, schedule, noisy, t, temporal=config.stage == "C")
    loss = losses.diffusion_loss(schedule, prediction, x0, noise, t, weights, config.loss.snr_gamma, config.loss.get("snr_form", "champ"))
    return loss, to_x0(schedule, noisy, prediction, t), x0, t


def loss_b(model, batch, key, step, config, schedule, training) -> tuple[jax.Array, Metrics]:
    """Stage B: diffusion on single frames; with M2P present also its pose and face losses, late in the run.

    From `music_start` on, a growing share of the samples is driven by the skeleton that M2P predicts for the frame's
    own music and start pose, drawn on the device, so that the diffusion loss reaches M2P as well.
    """
    if model.m2p is None:
        loss, *_ = denoising_loss(model, batch, key, step, config, schedule)
        return loss, {"diffusion": loss}
    key_denoise, key_m2p, key_coin = jax.random.split(key, 3)
    start = config.loss.music_start
    share = config.loss.music_share * jnp.clip((step / config.optim.steps - start) / (1.0 - start), 0.0, 1.0)
    pose_loss, outputs, metrics = m2p_loss(model, batch["motion"], key_m2p if training else None, config.loss.m2p)
    # A clip without music keeps its own skeleton.
    mask = batch["motion"]["music_mask"]
    driven = (1.0 - keep(key_coin, mask.shape[0], share)) * mask
    music = music_driven(batch, outputs, driven)
    diffusion, *_ = denoising_loss(model, batch, key_denoise, step, config, schedule, music)
    late = jnp.where(step >= start * config.optim.steps, 1.0, 0.0)
    return diffusion + late * config.loss.m2p_weight * pose_loss, {"diffusion": diffusion, "music_share": share, **metrics}


def loss_c(model, batch, key, step, config, schedule, training) -> tuple[jax.Array, Metrics]:
    """Stage C: diffusion on clips plus a term on frame differences against the ground truth's differences."""
    diffusion, predicted, x0, t = denoising_loss(model, batch, key, step, config, schedule)
    temporal = losses.temporal_loss(schedule, predicted, x0, t)
    return diffusion + config.loss.temporal * temporal, {"diffusion": diffusion, "temporal": temporal}


def trained_b(path: str, config) -> bool:
    """Denoiser without temporal modules, reference UNet, guidance encoders; M2P if present; CLIP only if asked for."""
    parts = ("denoiser", "reference", "guidance", "fusion", "face_id", "m2p") + (("clip",) if config.train_clip else ())
    return path.split("/")[0] in parts and "/temporal" not in path


def is_trained(path: str, config) -> bool:
    """Whether a run of `config` trains the parameter at this path: what its stage does, or a LoRA alone."""
    return path.startswith(f"{LORA}/") if config.get("lora") else STAGES[config.stage].trained(path, config)


STAGES = {
    "A": Stage(lambda path, config: path.startswith("m2p/"), loss_a, "A"),
    "B": Stage(trained_b, loss_b, "B"),
    "C": Stage(lambda path, config: path.startswith("denoiser/") and "/temporal" in path, loss_c, "C"),
    "D": Stage(lambda path, config: path.startswith("denoiser/"), loss_d, "C"),
}
