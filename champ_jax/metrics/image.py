"""Image quality against the truth, over the frame and inside the person, and whose colours a person wears.

PSNR and SSIM are dm_pix's: PSNR as the mean of per-frame decibels, SSIM as in Wang et al. 2004 (11x11 Gaussian window,
sigma 1.5, population covariance, per channel, valid windows only). All images are float32 in [0,1].
"""

from collections.abc import Sequence

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

# The half width of SSIM's 11x11 window: its map is this much smaller on every side.
_SSIM_MARGIN = 5


def psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of y against x, both [...,H,W,3] in [0,1]: f32 [...] in dB; inf when they are equal."""
    return dm_pix.psnr(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """Structural similarity of y to x, both [...,H,W,3] in [0,1] and at least 11x11: f32 [...] in [-1,1]."""
    return dm_pix.ssim(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def masked_psnr(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """PSNR over the pixels where mask [...,H,W] is 1: f32 [...]; nan where the mask is empty."""
    x, y, mask = (jnp.asarray(value, jnp.float32) for value in (x, y, mask))
    error = jnp.sum(mask[..., None] * (x - y) ** 2, (-3, -2, -1)) / (3 * jnp.sum(mask, (-2, -1)))
    return -10 * jnp.log10(error)


def masked_ssim(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """SSIM averaged over the windows whose centre lies where mask [...,H,W] is 1: f32 [...]; nan if there is none."""
    values = dm_pix.ssim(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), return_map=True).mean(-1)
    inner = slice(_SSIM_MARGIN, -_SSIM_MARGIN)
    mask = jnp.asarray(mask, jnp.float32)[..., inner, inner]
    return jnp.sum(mask * values, (-2, -1)) / jnp.sum(mask, (-2, -1))


def mean_finite(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the finite ones of values [N]: identical frames (inf dB) and empty masks (nan) do not count. nan if none is left."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def srgb_to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB [...,3] in [0,1] to CIE L*a*b* (D65) f32 [...,3]; equal distances there look about equally different."""
    image = np.asarray(image, np.float32)
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    ratio = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    cube_root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = np.moveaxis(cube_root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def region_colours(frames: np.ndarray, regions: np.ndarray, count: int, min_pixels: int = 8) -> np.ndarray:
    """Mean Lab colour of each body region: f32 [F,count,3], nan where a region has fewer than `min_pixels` pixels.

    frames: [F,H,W,3] in [0,1]. regions: int [F,H,W], the region's number 0..count-1, or -1 outside the person.
    """
    lab = srgb_to_lab(frames)
    colours = np.full((len(frames), count, 3), np.nan, np.float32)
    for index, (picture, label) in enumerate(zip(lab, regions, strict=True)):
        for region in range(count):
            pixels = picture[label == region]
            if len(pixels) >= min_pixels:
                colours[index, region] = pixels.mean(0)
    return colours


def identity_top1(colours: np.ndarray, gallery: np.ndarray, identity: int) -> np.ndarray:
    """Whether each frame's region colours are nearer to person `identity` than to anyone else in the gallery.

    colours: f32 [F,regions,3] of one person's frames (`region_colours`). gallery: f32 [P,regions,3], the colours of P
    people, of whom the right one is number `identity`. The distance of two people is the mean Lab distance over the
    regions that are visible in both; a frame without any visible region is wrong. Returns bool [F]; with frames that
    say nothing about the person the mean is about 1/P.
    """
    apart = np.linalg.norm(colours[:, None] - gallery[None], axis=-1)
    visible = np.isfinite(apart)
    distance = np.where(visible, apart, 0).sum(-1) / np.maximum(visible.sum(-1), 1)
    distance = np.where(visible.any(-1), distance, np.inf)
    return (distance.argmin(-1) == identity) & np.isfinite(distance[:, identity])
