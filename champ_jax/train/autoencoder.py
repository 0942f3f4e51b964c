"""Training a small VAE from scratch, for models that do not start from Stable Diffusion's.

Reconstruction in L1 and L2, more on the person than on the background, and a light pull of the latents towards a unit
normal distribution, all in float32. No adversarial or perceptual term: at the sizes this is for they cost more than
they give.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from champ_jax.checkpoint.weights import save_weights
from champ_jax.data import transforms
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.models.animator import Params, merge, split
from champ_jax.models.vae import VAE, VAEConfig
from champ_jax.train.log import MetricLog, ProgressLine

Log = Callable[[int, dict[str, float]], None]


def reconstruction_loss(
    vae: VAE, images: jax.Array, masks: jax.Array, key: jax.Array, person: float = 4.0, kl: float = 1e-4
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of decoding a sample of the posterior, and its parts.

    Args:
      vae: the autoencoder.
      images: [B,H,W,3] in [-1,1].
      masks: [B,H,W], 1 on the person.
      key: for the sample.
      person: extra weight of a person's pixel over a pixel of the background, which has 1.
      kl: weight of the divergence from a unit normal, a mean over all latent values in nats.

    Returns:
      Scalar loss; metrics psnr and psnr_person (dB, over the batch) and kl.
    """
    mean, logvar = vae.encode(images)
    noise = jax.random.normal(key, mean.shape)
    error = vae.decode(mean + jnp.exp(0.5 * logvar) * noise) - images
    masks = masks[..., None].astype(jnp.float32)
    weights = 1.0 + person * masks
    reconstruction = jnp.sum(weights * (jnp.abs(error) + jnp.square(error))) / (3 * jnp.sum(weights))
    divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
    squares = jnp.square(error)
    on_person = jnp.sum(masks * squares) / jnp.maximum(3 * jnp.sum(masks), 1.0)
    metrics = {"psnr": _psnr(squares.mean()), "psnr_person": _psnr(on_person), "kl": divergence}
    return reconstruction + kl * divergence, metrics


def _psnr(squared_error: jax.Array) -> jax.Array:
    """In dB, for values that span [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / jnp.maximum(squared_error, 1e-10))


def train_autoencoder(
    frames: np.ndarray,
    masks: np.ndarray,
    config: VAEConfig,
    steps: int,
    batch: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    log: Log | None = None,
    kl: float = 1e-4,
) -> tuple[Params, float]:
    """Trains a VAE on frames held in memory.

    Args:
      frames: uint8 [N,H,W,3]; shown mirrored and with permuted colour channels too, since clothes come in any colour.
      masks: uint8 or bool [N,H,W], 1 on the person.
      config: geometry; its `scaling` is not used.
      steps, batch, learning_rate: AdamW with a short warm-up and cosine decay to zero.
      seed: of parameters, batches and samples; step i depends on (seed, i) only.
      log: called as log(step, metrics) after every step; metrics are device arrays until someone reads them.
      kl: see `reconstruction_loss`.

    Returns:
      (float32 parameters as a nested dict, the scaling with which latents of these frames have unit variance).

    Raises:
      UserError: no frames, frames and masks that differ, or a size that the geometry does not divide.
    """
    step_unit = config.downsampling
    if len(frames) == 0 or frames.shape[:3] != masks.shape:
        raise UserError(f"training a VAE: frames {frames.shape} and masks {masks.shape} must be equally many, at least one.")
    if frames.shape[1] % step_unit or frames.shape[2] % step_unit:
        raise UserError(f"training a VAE: frames of {frames.shape[1:3]} pixels, expected multiples of {step_unit}.")
    graphdef, params = split(VAE(config, nnx.Rngs(seed)))
    warmup = max(1, min(100, steps // 10))
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))
    step_fn = make_autoencoder_step(graphdef, optimizer, seed, kl)
    state = (params, optimizer.init(params))
    for step in range(steps):
        state, metrics = step_fn(state, *_draw(frames, masks, batch, seed, step), step)
        if log is not None:
            log(step + 1, metrics)
    return state[0], latent_scaling(graphdef, state[0], frames, batch)


def make_autoencoder_step(graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, seed: int, kl: float):
    """The jitted `step((params, optimizer state), images u8 [B,H,W,3], masks [B,H,W], step) -> (state, metrics)`."""

    def loss_fn(params, images, masks, key):
        return reconstruction_loss(merge(graphdef, params), images, masks, key, kl=kl)

    def step_fn(state, images, masks, step):
        params, optimizer_state = state
        images = images.astype(jnp.float32) / 127.5 - 1.0
        key = jax.random.fold_in(jax.random.key(seed), step)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, images, masks, key)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), {"loss": loss, **metrics}

    return jax.jit(step_fn, donate_argnums=0)


def _draw(frames: np.ndarray, masks: np.ndarray, batch: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Batch number `step`: random frames, mirrored and with colour channels permuted at random."""
    rng = np.random.default_rng((seed, step))
    index = rng.integers(len(frames), size=batch)
    images, mask = frames[index][..., rng.permutation(3)], masks[index]
    mirrored = rng.random(batch) < 0.5
    images[mirrored], mask[mirrored] = images[mirrored, :, ::-1], mask[mirrored, :, ::-1]
    return images, mask.astype(np.uint8)


def latent_scaling(graphdef: nnx.GraphDef, params: Params, frames: np.ndarray, batch: int, sample: int = 512) -> float:
    """1 / deviation of the latents of up to `sample` evenly spaced frames, uint8 [N,H,W,3]."""
    encode = jax.jit(lambda params, images: merge(graphdef, params).encode(images / 127.5 - 1.0)[0])
    index = np.unique(np.linspace(0, len(frames) - 1, min(sample, len(frames))).astype(int))
    index = np.resize(index, -(-len(index) // batch) * batch)
    latents = [encode(params, frames[part].astype(np.float32)) for part in index.reshape(-1, batch)]
    return float(1.0 / np.std(np.concatenate(latents)))


def train(config, workdir: str | Path) -> dict[str, Any]:
    """Trains the VAE that `config` describes on records, and writes it as weights of one component.

    config: a ConfigDict as in configs/demo_vae.py. workdir: gets metrics and `weights/vae`.
    Returns {"steps", "seconds", "psnr", "psnr_person" (of the last logged step), "scaling", "weights": path}.
    Raises UserError for records or geometry that cannot be used.
    """
    workdir, started = Path(workdir), time.monotonic()
    geometry = VAEConfig(**{**config.vae.to_dict(), "channels": tuple(config.vae.channels)})
    frames, masks = load_frames(config.data.directory, config.data.split, tuple(config.data.size))
    last: dict[str, float] = {}
    with MetricLog(workdir) as metric_log, ProgressLine("vae", 0, config.optim.steps) as progress:

        def log(step: int, metrics: dict[str, Any]) -> None:
            loss = None
            if step % config.log_every == 0 or step == config.optim.steps:
                last.update({name: float(value) for name, value in metrics.items()})
                metric_log.scalars(step, "train", last)
                loss = last["loss"]
            progress.update(step, loss)

        params, scaling = train_autoencoder(
            frames, masks, geometry, config.optim.steps, config.batch_size, config.optim.learning_rate, config.seed, log,
            config.kl,
        )  # fmt: skip
    geometry = dataclasses.replace(geometry, scaling=scaling)
    weights = save_weights(workdir / "weights", {"vae": params}, {"vae": dataclasses.asdict(geometry)})
    seconds = time.monotonic() - started
    figures = {name: last[name] for name in ("psnr", "psnr_person")}
    return {"steps": config.optim.steps, "seconds": seconds, **figures, "scaling": scaling, "weights": str(weights)}


def load_frames(directory: str | Path, split: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All frames of records with pixels, fitted to `size` (H, W): uint8 [N,H,W,3] and masks uint8 [N,H,W].

    Raises UserError when there are none.
    """
    frames, masks = [], []
    records = open_records(directory, split)
    for clip in records:
        view = transforms.fit(clip.size, size, clip.person_box)
        for number in range(clip.stored):
            frames.append(view.photo(clip.image("frames", number)))
            masks.append(view.mask(clip.mask(number)))
    if not frames:
        raise UserError(f"{records.directory}, split {split}: zero frames with pixels to train a VAE on.")
    return np.stack(frames), np.stack(masks)
