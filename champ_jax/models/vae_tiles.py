"""The image autoencoder in tiles, for pictures whose feature maps at full size do not fit.

Tiles of one fixed shape overlap and are blended. Two things would tell them apart and leave seams: attention and the
statistics of the group norms, which differ from tile to tile. So the coarsest resolution, where the attention is, runs
on the whole picture (it has at most a quarter of the memory of the finest), and all the tiles normalise with the same
statistics. Those are found by running the tiles before: each with its own, put together for the whole picture. That
leaves no seams, but is not quite what the whole picture would give, since only the first norm's are exact. Run again,
the second norm's are exact too, and so on: `exact` runs once for every norm. The runs between are no better than the
second, as errors of one norm's statistics grow in the next, so there are these two choices and no number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.errors import UserError
from champ_jax.models.vae import VAE, Norm, VAEConfig, mean_and_logvar
from champ_jax.nn.layers import GroupNorm


class Tiles(NamedTuple):
    """Where the T tiles of a picture lie, in pixels: starts int32 [T,2], and what each row and column of a tile counts
    in the blend, float32 [T,tile height] and [T,tile width]; the products sum to 1 at every pixel of the picture."""

    starts: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def decode_tiled(vae: VAE, z: jax.Array, tile: int, overlap: int, exact: bool = False) -> jax.Array:
    """`vae.decode` in tiles: latents [...,h,w,c] -> images [...,H,W,3], one picture and one tile at a time.

    tile, overlap: in pixels of the image, the side of a square tile and the least that neighbours share. A picture that
    fits into a tile is decoded whole, as is one by a VAE of fewer than two resolutions, which has no large feature maps.
    exact: the whole picture's statistics, for as many runs as there are norms (19 runs more for Stable Diffusion's VAE, 12
    to encode, against one); with an overlap of at least twice `reach` that is `vae.decode` up to rounding.
    Raises UserError where either is no multiple of the VAE's downsampling or the overlap is not less than the tile.
    """
    step = vae.config.downsampling
    _check(tile, overlap, step)
    size = (z.shape[-3] * step, z.shape[-2] * step)
    if len(vae.config.channels) < 2 or max(size) <= tile:
        return vae.decode(z)
    tiles = plan_tiles(size, tile, overlap, vae.config)

    def one(z):
        coarse = vae.decoder.coarse(vae.post_quant_conv(z[None]))
        return _in_tiles(vae.decoder.fine, coarse[0], size, tiles, exact)

    images = jax.lax.map(one, z.reshape(-1, *z.shape[-3:]))
    return images.reshape(*z.shape[:-3], *images.shape[1:])


def encode_tiled(vae: VAE, images: jax.Array, tile: int, overlap: int, exact: bool = False) -> tuple[jax.Array, jax.Array]:
    """`vae.encode` in tiles: images [...,H,W,3] in [-1,1] -> mean and log variance, [...,h,w,c]; else as `decode_tiled`.

    Raises UserError as that does, and where H or W is no multiple of the downsampling.
    """
    step = vae.config.downsampling
    _check(tile, overlap, step)
    size = images.shape[-3:-1]
    if len(vae.config.channels) < 2 or max(size) <= tile or size[0] % step or size[1] % step:
        return vae.encode(images)
    tiles = plan_tiles(size, tile, overlap, vae.config)

    def one(image):
        fine = _in_tiles(vae.encoder.fine, image, size, tiles, exact)
        return vae.quant_conv(vae.encoder.coarse(fine[None]))[0]

    moments = jax.lax.map(one, images.reshape(-1, *images.shape[-3:]))
    return mean_and_logvar(moments.reshape(*images.shape[:-3], *moments.shape[1:]))


def reach(config: VAEConfig) -> int:
    """How far from the edge of a tile, in pixels, its values differ from the picture's; a multiple of the downsampling.

    The decoder's 3x3 convolutions at each of the resolutions that run in tiles; the encoder has fewer.
    """
    levels = len(config.channels)
    pixels = config.patch * (2 * (config.layers + 1) * (2 ** (levels - 1) - 1) + 2 ** (levels - 2))
    return -(-pixels // config.downsampling) * config.downsampling


def plan_tiles(size: tuple[int, int], tile: int, overlap: int, config: VAEConfig) -> Tiles:
    """The tiles of a picture of `size` (H, W), evenly spread; arguments as in `decode_tiled`."""
    (tops, rows), (lefts, columns) = (_along(length, tile, overlap, config) for length in size)
    down, across = (index.ravel() for index in np.indices((len(tops), len(lefts))))
    return Tiles(np.stack([tops[down], lefts[across]], 1), rows[down], columns[across])


def _check(tile: int, overlap: int, step: int) -> None:
    if tile < step or tile % step or overlap % step or not 0 <= overlap < tile:
        raise UserError(f"vae: tiles of {tile} pixels that overlap by {overlap}: expected multiples of {step}, and less overlap than tile")


def _along(length: int, tile: int, overlap: int, config: VAEConfig) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the tiles along one side, int32 [n], and the weights of their pixels, float32 [n, tile]."""
    if length <= tile:
        return np.zeros(1, np.int32), np.ones((1, length), np.float32)
    step = config.downsampling
    gaps = -(-(length - tile) // (tile - overlap))
    starts = (length - tile) // step * np.arange(gaps + 1) // gaps * step
    weights = np.ones((gaps + 1, tile))
    for i, shared in enumerate(tile - np.diff(starts)):
        # Blend only where both tiles hold the picture's values, or, if there is no such place, over the middle half.
        margin = reach(config) if shared >= 2 * reach(config) else shared / 4
        ramp = np.clip((np.arange(shared) + 0.5 - margin) / max(shared - 2 * margin, 1), 0, 1)
        weights[i, tile - shared :] *= ramp[::-1]
        weights[i + 1, :shared] *= ramp
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    weights /= np.stack([total[start : start + tile] for start in starts])
    return starts.astype(np.int32), weights.astype(np.float32)


def _in_tiles(
    function: Callable[[jax.Array, Norm], jax.Array], x: jax.Array, size: tuple[int, int], tiles: Tiles, exact: bool
) -> jax.Array:
    """function(x [1,h,w,C], norm) -> [1,h',w',C'] of one picture x [h,w,C] of `size` pixels, run in tiles: [h',w',C'].

    Whatever resolution x and the result have, a tile is the same part of both.
    """
    places = jax.tree.map(jnp.asarray, tiles)
    height, width = tiles.rows.shape[1], tiles.columns.shape[1]
    scale = size[0] // x.shape[0]
    # How much of the picture each tile speaks for.
    share = jnp.asarray(tiles.rows.sum(1) * tiles.columns.sum(1) / (size[0] * size[1]))

    def run(place, statistics):
        """One tile's result, and the [norms,2,groups] means and variances of what its norms were given."""
        corner = (place.starts[0] // scale, place.starts[1] // scale, 0)
        piece = jax.lax.dynamic_slice(x, corner, (height // scale, width // scale, x.shape[-1]))
        found = []

        def norm(layer, value):
            found.append(_statistics(layer, value[0], place))
            return _normalise(layer, value, found[-1] if statistics is None else statistics[len(found) - 1])

        return function(piece[None], norm)[0], jnp.stack(found)

    def run_all(statistics):
        results, found = jax.lax.map(lambda place: run(place, statistics), places)
        mean = jnp.einsum("t,tng->ng", share, found[:, :, 0])
        variance = jnp.einsum("t,tng->ng", share, found[:, :, 1] + jnp.square(found[:, :, 0] - mean))
        return results, jnp.stack([mean, variance], 1)

    first = run_all(None)
    runs = len(first[1]) if exact else 1
    results, _ = jax.lax.fori_loop(0, runs, lambda _, last: run_all(last[1]), first)
    return _blend(results, size, places)


def _statistics(layer: GroupNorm, x: jax.Array, place: Tiles) -> jax.Array:
    """Means and variances of a layer's groups over x [h,w,C], positions weighted as in the blend: float32 [2,groups]."""
    x = x.astype(jnp.float32).reshape(*x.shape[:2], layer.groups, -1)
    rows, columns = _pool(place.rows, x.shape[0]), _pool(place.columns, x.shape[1])
    total = rows.sum() * columns.sum() * x.shape[-1]
    mean = jnp.einsum("hwgc,h,w->g", x, rows, columns) / total
    return jnp.stack([mean, jnp.einsum("hwgc,h,w->g", jnp.square(x - mean[:, None]), rows, columns) / total])


def _normalise(layer: GroupNorm, x: jax.Array, statistics: jax.Array) -> jax.Array:
    """The layer on x [1,h,w,C] with the statistics [2,groups] in place of x's own."""
    mean, variance = jnp.repeat(statistics, x.shape[-1] // layer.groups, axis=-1)
    scale = jax.lax.rsqrt(variance + layer.epsilon) * layer.scale[...].astype(jnp.float32)
    return ((x.astype(jnp.float32) - mean) * scale + layer.bias[...].astype(jnp.float32)).astype(layer.compute)


def _blend(results: jax.Array, size: tuple[int, int], places: Tiles) -> jax.Array:
    """Results of the tiles [T,h,w,C] -> the picture of `size` in pixels at their resolution, in their dtype."""
    _, height, width, channels = results.shape
    scale = places.rows.shape[1] // height

    def add(picture, tile):
        result, place = tile
        weighted = result * _pool(place.rows, height)[:, None, None] * _pool(place.columns, width)[:, None]
        corner = (place.starts[0] // scale, place.starts[1] // scale, 0)
        here = jax.lax.dynamic_slice(picture, corner, weighted.shape)
        return jax.lax.dynamic_update_slice(picture, here + weighted, corner), None

    empty = jnp.zeros((size[0] // scale, size[1] // scale, channels), jnp.float32)
    return jax.lax.scan(add, empty, (results, places))[0].astype(results.dtype)


def _pool(weights: jax.Array, length: int) -> jax.Array:
    """Weights of pixels at a coarser resolution: the means of each cell's, [length]."""
    return weights.reshape(length, -1).mean(1)
