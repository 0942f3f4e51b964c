"""RAFT, optical flow from all pairs of places (Teed and Deng 2020, princeton-vl/RAFT), the large network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.nn.convnet import BatchNorm, conv_nd
from champ_jax.nn.policy import Policy

CELL = 8
"""Pixels along the side of a place."""
SMALLEST = 128
"""Pixels: smaller images have nothing left at the coarsest of the levels."""
HIDDEN = 128
POINT, SQUARE = (1, 1), (3, 3)


@dataclasses.dataclass(frozen=True)
class RAFTConfig:
    """Geometry of the correlations: levels of the pyramid, and places looked at in each direction; as released."""

    levels: int = 4
    radius: int = 4


def _instance_norm(x: jax.Array) -> jax.Array:
    """x [B,h,w,C] with mean 0 and deviation 1 in each image and channel."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean((1, 2), keepdims=True) + 1e-5)


class Unit(nnx.Module):
    """Convolution and norm: by the image itself, without parameters, or by stored statistics."""

    def __init__(self, width_in, width, window, stride, stored, rngs, policy):
        self.conv = conv_nd(width_in, width, window, rngs, policy, stride, bias=True)
        self.norm = BatchNorm(width, rngs, policy) if stored else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h',w',C']."""
        x = self.conv(x)
        return _instance_norm(x) if self.norm is None else self.norm(x)


class Block(nnx.Module):
    """Two units around which the input goes; a shortcut where the size changes."""

    def __init__(self, width_in, width, stride, stored, rngs, policy):
        self.unit_1 = Unit(width_in, width, SQUARE, stride, stored, rngs, policy)
        self.unit_2 = Unit(width, width, SQUARE, 1, stored, rngs, policy)
        self.shortcut = Unit(width_in, width, POINT, stride, stored, rngs, policy) if stride != 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> [B,h',w',C']."""
        hidden = jax.nn.relu(self.unit_2(jax.nn.relu(self.unit_1(x))))
        return jax.nn.relu(hidden + (x if self.shortcut is None else self.shortcut(x)))


class Encoder(nnx.Module):
    """Image to features of places; submodules unit_in, layer_1_0.., conv_out."""

    def __init__(self, width_out: int, stored: bool, rngs: nnx.Rngs, policy: Policy):
        self.unit_in = Unit(3, 64, (7, 7), 2, stored, rngs, policy)
        width_in = 64
        for layer, (width, stride) in enumerate(((64, 1), (96, 2), (128, 2)), 1):
            setattr(self, f"layer_{layer}_0", Block(width_in, width, stride, stored, rngs, policy))
            setattr(self, f"layer_{layer}_1", Block(width, width, 1, stored, rngs, policy))
            width_in = width
        self.conv_out = conv_nd(width_in, width_out, POINT, rngs, policy, bias=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pixels x [B,H,W,3] -> [B,H/8,W/8,C]."""
        x = jax.nn.relu(self.unit_in(x))
        for layer in (1, 2, 3):
            for block in (0, 1):
                x = getattr(self, f"layer_{layer}_{block}")(x)
        return self.conv_out(x)


class MotionEncoder(nnx.Module):
    """Correlations and flow to features of motion, the flow among them."""

    def __init__(self, correlations: int, rngs: nnx.Rngs, policy: Policy):
        self.corr_1 = conv_nd(correlations, 256, POINT, rngs, policy, bias=True)
        self.corr_2 = conv_nd(256, 192, SQUARE, rngs, policy, bias=True)
        self.flow_1 = conv_nd(2, 128, (7, 7), rngs, policy, bias=True)
        self.flow_2 = conv_nd(128, 64, SQUARE, rngs, policy, bias=True)
        self.out = conv_nd(256, HIDDEN - 2, SQUARE, rngs, policy, bias=True)

    def __call__(self, correlations: jax.Array, flow: jax.Array) -> jax.Array:
        """correlations [B,h,w,C], flow [B,h,w,2] -> [B,h,w,128]."""
        seen = jax.nn.relu(self.corr_2(jax.nn.relu(self.corr_1(correlations))))
        moved = jax.nn.relu(self.flow_2(jax.nn.relu(self.flow_1(flow))))
        return jnp.concatenate([jax.nn.relu(self.out(jnp.concatenate([seen, moved], -1))), flow], -1)


class ConvGRU(nnx.Module):
    """A gated recurrent unit over a row of places, then one over a column."""

    def __init__(self, width_in: int, rngs: nnx.Rngs, policy: Policy):
        for turn, window in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                setattr(self, f"{gate}_{turn}", conv_nd(HIDDEN + width_in, HIDDEN, window, rngs, policy, bias=True))

    def __call__(self, hidden: jax.Array, x: jax.Array) -> jax.Array:
        """hidden [B,h,w,128], x [B,h,w,C] -> the next hidden."""
        for turn in (1, 2):
            update, reset, new = (getattr(self, f"{gate}_{turn}") for gate in "zrq")
            both = jnp.concatenate([hidden, x], -1)
            share = jax.nn.sigmoid(update(both))
            candidate = jnp.tanh(new(jnp.concatenate([jax.nn.sigmoid(reset(both)) * hidden, x], -1)))
            hidden = (1 - share) * hidden + share * candidate
        return hidden


class RAFT(nnx.Module):
    """Two images to the flow between them; submodules features, context, motion, gru, flow_1, flow_2, mask_1, mask_2."""

    def __init__(self, config: RAFTConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.features = Encoder(256, False, rngs, policy)
        self.context = Encoder(2 * HIDDEN, True, rngs, policy)
        self.motion = MotionEncoder(config.levels * (2 * config.radius + 1) ** 2, rngs, policy)
        self.gru = ConvGRU(2 * HIDDEN, rngs, policy)
        self.flow_1 = conv_nd(HIDDEN, 256, SQUARE, rngs, policy, bias=True)
        self.flow_2 = conv_nd(256, 2, SQUARE, rngs, policy, bias=True)
        self.mask_1 = conv_nd(HIDDEN, 256, SQUARE, rngs, policy, bias=True)
        self.mask_2 = conv_nd(256, 9 * CELL * CELL, POINT, rngs, policy, bias=True)

    def __call__(self, first: jax.Array, second: jax.Array, iterations: int = 20) -> jax.Array:
        """Where each pixel of the first image is in the second: images [B,H,W,3] in [-1,1] -> flow [B,H,W,2] (x, y) in pixels.

        Raises:
          UserError: sides that are no multiples of 8, or below 128 pixels.
        """
        sizes = check_shape("RAFT's second image", second, "B H W 3", check_shape("RAFT's first image", first, "B H W 3"))
        if sizes["H"] % CELL or sizes["W"] % CELL or min(sizes["H"], sizes["W"]) < SMALLEST:
            raise UserError(f"RAFT needs sides of {SMALLEST} pixels and more that 8 divides, got {sizes['H']}x{sizes['W']}.")
        one, other = jnp.split(self.features(jnp.concatenate([first, second])), 2)
        pyramid = self._pyramid(one, other)
        hidden, inputs = jnp.split(self.context(first), 2, axis=-1)
        inputs = jax.nn.relu(inputs)
        height, width = one.shape[1:3]
        places = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1).astype(one.dtype)
        graphdef, state = nnx.split((self.motion, self.gru, self.flow_1, self.flow_2))

        def step(carry, _):
            hidden, at = carry
            motion, gru, flow_1, flow_2 = nnx.merge(graphdef, state)
            seen = motion(self._look(pyramid, at), at - places)
            hidden = gru(hidden, jnp.concatenate([inputs, seen], -1))
            return (hidden, at + flow_2(jax.nn.relu(flow_1(hidden)))), None

        start = jnp.tanh(hidden), jnp.broadcast_to(places, (one.shape[0], *places.shape))
        (hidden, at), _ = jax.lax.scan(step, start, None, length=iterations)
        mask = 0.25 * self.mask_2(jax.nn.relu(self.mask_1(hidden)))
        return _upsampled(at - places, mask)

    def _pyramid(self, one: jax.Array, other: jax.Array) -> list[jax.Array]:
        """How alike each place of one image and each of the other are, [B*h*w,h/2^i,w/2^i] for each level i."""
        batch, height, width, channels = one.shape
        products = jnp.einsum("bijc,bklc->bijkl", one, other, precision=jax.lax.Precision.HIGHEST) / channels**0.5
        level = products.reshape(batch * height * width, height, width)
        levels = [level]
        for _ in range(self.config.levels - 1):
            level = nnx.avg_pool(level[..., None], (2, 2), (2, 2))[..., 0]
            levels.append(level)
        return levels

    def _look(self, pyramid: list[jax.Array], at: jax.Array) -> jax.Array:
        """Correlations around places at [B,h,w,2] in every level: [B,h,w,C]; x is the slower of both offsets, as RAFT has it."""
        radius = self.config.radius
        steps = jnp.arange(-radius, radius + 1)
        found = []
        for number, level in enumerate(pyramid):
            x, y = (at[..., axis].reshape(-1, 1, 1) / 2**number for axis in (0, 1))
            values = _bilinear(level, x + steps[:, None], y + steps[None])
            found.append(values.reshape(*at.shape[:3], -1))
        return jnp.concatenate(found, -1)


def _bilinear(maps: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Values of maps [N,h,w] at x and y, which broadcast to [N,a,b]: [N,a,b]; 0 beyond the edge."""
    x, y = jnp.broadcast_arrays(x, y)
    height, width = maps.shape[1:]
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.zeros(x.shape, maps.dtype)
    rows = jnp.arange(len(maps))[:, None, None]
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            share = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.astype(int).clip(0, height - 1), column.astype(int).clip(0, width - 1)
            total += jnp.where(inside, share * maps[rows, *place], 0)
    return total


def _upsampled(flow: jax.Array, mask: jax.Array) -> jax.Array:
    """Flow of places [B,h,w,2] to pixels [B,8h,8w,2]: each a mean of the nine places around it, weighted by mask [B,h,w,9*64]."""
    batch, height, width, _ = flow.shape
    weights = jax.nn.softmax(mask.reshape(batch, height, width, 9, CELL, CELL), axis=3)
    padded = jnp.pad(CELL * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = jnp.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], 3)
    fine = jnp.einsum("bhwkij,bhwkc->bhiwjc", weights, around, precision=jax.lax.Precision.HIGHEST)
    return fine.reshape(batch, CELL * height, CELL * width, 2)


def raft_pixels(images: jax.Array) -> jax.Array:
    """Images [B,H,W,3] of 0..255 -> float32 in [-1,1], the same shape."""
    return 2.0 * (jnp.asarray(images, jnp.float32) / 255.0) - 1.0
