"""A linear autoencoder of pixel patches, for models that do not start from Stable Diffusion's VAE.

Its latents are the first principal components of squares of pixels, found in closed form. Components keep their
variances, so that an error in the latents weighs what it weighs in the image: networks of a few million parameters that
predict x0 learn faster on such patches than on the latents of a small convolutional VAE (compare "Back to Basics: Let
Denoising Generative Models Denoise", arXiv 2511.13720).
"""

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.checkpoint.weights import save_weights
from champ_jax.config import write_record
from champ_jax.data import transforms
from champ_jax.data.records import open_records
from champ_jax.errors import UserError
from champ_jax.metrics.image import masked_psnr, mean_finite, psnr
from champ_jax.models.animator import Params
from champ_jax.models.vae import LOGVAR_RANGE, VAEConfig
from champ_jax.train.log import MetricLog

# A person's patch counts as much more than one of the background as in stage B's loss.
PERSON = 4.0


@dataclasses.dataclass
class PatchStatistics:
    """Weighted moments of patches [P], summed over frames: `weight`, `total` [P], `products` [P,P], float64."""

    weight: float
    total: np.ndarray
    products: np.ndarray


def patch_statistics(frames: Iterable[tuple[np.ndarray, np.ndarray]], patch: int) -> PatchStatistics:
    """Moments of the patches of (frame uint8 [H,W,3], mask [H,W], 1 on the person), as if every frame were also
    mirrored and shown with its colour channels in every order, since clothes come in any colour.

    Raises UserError for no frames, or frames that patches of patch x patch pixels do not fill.
    """
    size = 3 * patch**2
    sums = PatchStatistics(0.0, np.zeros(size), np.zeros((size, size)))
    for frame, mask in frames:
        if frame.shape[0] % patch or frame.shape[1] % patch:
            raise UserError(f"frames of {frame.shape[:2]} pixels cannot be cut into patches of {patch}: change data.size.")
        rows = _patches(frame.astype(np.float64) / 127.5 - 1.0, patch)
        weights = 1.0 + PERSON * _patches(mask[..., None].astype(np.float64), patch).mean(1)
        sums.weight += weights.sum()
        sums.total += weights @ rows
        sums.products += (rows * weights[:, None]).T @ rows
    if not sums.weight:
        raise UserError("zero frames with pixels to fit an autoencoder to.")
    index = np.arange(size).reshape(patch, patch, 3)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    changes = [turned[..., order].ravel() for turned in (index, index[:, ::-1]) for order in orders]
    total = np.mean([sums.total[change] for change in changes], axis=0)
    products = np.mean([sums.products[np.ix_(change, change)] for change in changes], axis=0)
    return PatchStatistics(sums.weight, total, products)


def _patches(image: np.ndarray, patch: int) -> np.ndarray:
    """[H,W,C] -> [H/patch * W/patch, patch*patch*C], values in the order of `nn.layers.fold_patches`."""
    height, width, channels = image.shape
    x = image.reshape(height // patch, patch, width // patch, patch, channels).swapaxes(1, 2)
    return x.reshape(-1, patch * patch * channels)


def _from_patches(rows: np.ndarray, shape: tuple[int, ...], patch: int) -> np.ndarray:
    """The inverse of `_patches` for an image of this shape."""
    height, width, channels = shape
    x = rows.reshape(height // patch, width // patch, patch, patch, channels).swapaxes(1, 2)
    return x.reshape(shape)


def fit_autoencoder(statistics: PatchStatistics, config: VAEConfig) -> tuple[Params, VAEConfig]:
    """(float32 parameters of a VAE without convolutions, its configuration with the scaling to unit variance).

    Raises UserError for a configuration with convolutions, or more latent channels than a patch has values.
    """
    size, latents = len(statistics.total), config.latent_channels
    if config.channels or latents > size or size != 3 * config.patch**2:
        raise UserError(f"vae: expected channels () and at most {size} latent_channels, got {config.channels} and {latents}.")
    mean = statistics.total / statistics.weight
    covariance = statistics.products / statistics.weight - np.outer(mean, mean)
    variances, vectors = np.linalg.eigh(covariance)
    basis = vectors[:, ::-1][:, :latents]
    basis = basis * np.where(basis.sum(0) < 0, -1.0, 1.0)
    params = {
        "quant_conv": {
            "kernel": np.concatenate([basis, np.zeros_like(basis)], 1),
            # No noise: the smallest variance there is.
            "bias": np.concatenate([-mean @ basis, np.full(latents, LOGVAR_RANGE[0])]),
        },
        "post_quant_conv": {"kernel": basis.T, "bias": mean},
    }
    params = {name: {k: v.astype(np.float32) for k, v in layer.items()} for name, layer in params.items()}
    scaling = float(1.0 / np.sqrt(variances[::-1][:latents].mean()))
    return params, dataclasses.replace(config, scaling=scaling)


def train(config, workdir: str | Path) -> dict[str, Any]:
    """Fits the autoencoder that `config` describes to records, and writes it as weights of one component.

    config: a ConfigDict as in configs/demo_vae.py. workdir: gets metrics and `weights/vae`.
    Returns {"steps" (frames read), "seconds", "psnr", "psnr_person" (dB, means over frames), "scaling", "weights": path}.
    Raises UserError for records or geometry that cannot be used.
    """
    workdir, started = Path(workdir), time.monotonic()
    geometry = VAEConfig(**{**config.vae.to_dict(), "channels": tuple(config.vae.channels)})
    frames = load_frames(config.data.directory, config.data.split, tuple(config.data.size))
    params, geometry = fit_autoencoder(patch_statistics(frames, geometry.patch), geometry)
    figures = {"psnr": 0.0, "psnr_person": 0.0, "scaling": geometry.scaling}
    figures["psnr"], figures["psnr_person"] = _quality(frames, params, geometry.patch)
    write_record(config, workdir / "config.json")
    weights = save_weights(workdir / "weights", {"vae": params}, {"vae": dataclasses.asdict(geometry)})
    with MetricLog(workdir) as metric_log:
        metric_log.scalars(len(frames), "train", figures)
    return {"steps": len(frames), "seconds": time.monotonic() - started, **figures, "weights": str(weights)}


def _quality(frames: list[tuple[np.ndarray, np.ndarray]], params: Params, patch: int) -> tuple[float, float]:
    """Mean PSNR in dB of encoded and decoded frames, and of the persons in them."""
    basis, mean = params["post_quant_conv"]["kernel"], params["post_quant_conv"]["bias"]
    whole, person = [], []
    for frame, mask in frames:
        rows = _patches(frame.astype(np.float32) / 127.5 - 1.0, patch) - mean
        decoded = _from_patches(rows @ basis.T @ basis + mean, frame.shape, patch)
        pixels = np.round((decoded + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
        whole.extend(psnr(frame[None], pixels[None]))
        person.extend(masked_psnr(frame[None], pixels[None], mask[None]))
    return mean_finite(whole), mean_finite(person)


def load_frames(directory: str | Path, split: str, size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """All frames of records with pixels, fitted to `size` (H, W): (uint8 [H,W,3], mask uint8 [H,W]).

    Raises UserError when there are none.
    """
    frames = []
    records = open_records(directory, split)
    for clip in records:
        view = transforms.fit(clip.size, size, clip.person_box)
        frames += [(view.photo(clip.image("frames", i)), view.mask(clip.mask(i))) for i in range(clip.stored)]
    if not frames:
        raise UserError(f"{records.directory}, split {split}: zero frames with pixels to fit an autoencoder to.")
    return frames
