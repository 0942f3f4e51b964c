"""The spatial UNet of Stable Diffusion 1.5 at any size, for both the reference network and the denoiser.

Frames are folded into the batch for all spatial work. The denoiser adds guidance after its first convolution, reads a
reference in its self-attentions and may hold temporal modules; the reference network is the same class without head
and temporal modules. Shapes and names follow diffusers' UNet2DConditionModel and CHAMP's UNet3DConditionModel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.dims import check_shape
from champ_jax.errors import UserError
from champ_jax.models.temporal import first_transformer
from champ_jax.models.unet_config import UNetConfig
from champ_jax.models.unet_levels import DownLevel, MidLevel, ProjectedReference, ReferenceFeatures, SideInputs, UpLevel
from champ_jax.nn.blocks import BlockFeatures, BlockReference, SpatialTransformer
from champ_jax.nn.frames import fold_frames, unfold_frames
from champ_jax.nn.kernels import shares
from champ_jax.nn.layers import GroupNorm, TimeEmbedding, conv, place_sinusoids
from champ_jax.nn.policy import Policy

COARSE = "@2"
"""After a block's name: what the block offers of the references at half their size."""


class UNet(nnx.Module):
    """The UNet; submodules conv_in, time_embedding, down_0.., mid, up_0.. (the coarsest first), norm_out, conv_out."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        """Args: config its geometry; rngs the source of initial parameters; policy its precision."""
        self.config = config
        self.compute = policy.compute
        channels, layers, last = config.channels, config.layers, len(config.channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], rngs, policy)
        self.time_embedding = TimeEmbedding(channels[0], rngs, policy)
        if config.temporal and config.temporal.kind == "modelscope":
            self.temporal_first = first_transformer(channels[0], config.temporal, rngs, policy)

        width, skips = channels[0], [channels[0]]
        for i, out in enumerate(channels):
            widths_in = [width] + [out] * (layers - 1)
            level = DownLevel(f"down_{i}", i, widths_in, config, rngs, policy, resample=i < last)
            setattr(self, f"down_{i}", level)
            skips += [out] * (layers + (i < last))
            width = out
        self.mid = MidLevel(config, rngs, policy)
        for i, out in enumerate(reversed(channels)):
            widths_in = [(width if j == 0 else out) + skips.pop() for j in range(layers + 1)]
            level = UpLevel(f"up_{i}", last - i, widths_in, config, rngs, policy, resample=i < last)
            setattr(self, f"up_{i}", level)
            width = out
        if config.head:
            self.norm_out = GroupNorm(channels[0], config.groups, rngs, policy)
            self.conv_out = conv(channels[0], config.out_channels, rngs, policy)

    def __call__(
        self,
        latents: jax.Array,
        t: jax.Array,
        context: jax.Array | None,
        guidance: jax.Array | None = None,
        reference: ReferenceFeatures | ProjectedReference | None = None,
        reference_weight: jax.Array | None = None,
        face: tuple[jax.Array, jax.Array] | None = None,
        temporal: bool = True,
        deep: jax.Array | None = None,
        return_deep: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Predicts from noisy latents.

        Args:
          latents: [B,F,h,w,C], any h and w.
          t: timesteps, [B] or a scalar for all.
          context: tokens [B,L,Dc]; one token takes the exact short cut past queries and keys. Or [B,R,1,Dc], a token of each
            reference, which count as these do, without a face. None only where the configuration has no context_dim.
          guidance: [B,F,h,w,channels[0]], added after the first convolution.
          reference: features of a reference network, or those projected by `project_reference`, which saves doing it
            in each call.
          reference_weight: what each of R references counts beside the others, of at least 0: [B,R], or [B,F,h,w,R] where
            each cell has references of its own (several people); where all are 0 (the unconditional half, dropout, no
            person's cell) no reference is seen. None makes all alike.
          face: tokens [B,F,n,Dc] of each frame's face, or [B,1,n,Dc] for all frames, and [B], 0 for rows that have none;
            None for none at all.
          temporal: False passes the temporal modules by, for frames that do not follow each other.
          deep: what the levels below the finest gave in an earlier step, [B,F,h,w,channels[1]], in place of running them
            (DeepCache, Ma et al. 2023, arXiv 2312.00858). Networks of one level have none.
          return_deep: whether to return that of this step too.

        Returns:
          [B,F,h,w,out_channels] in the compute dtype; without a head the last hidden state, [B,F,h,w,channels[0]]. With
          return_deep a pair of that and [B,F,h,w,channels[1]].

        Raises:
          UserError: shapes that do not fit each other, or a reference whose blocks are not this network's.
        """
        side = self.side_inputs(latents, t, context, reference, reference_weight, face, temporal)
        hidden, _, deep = self.run(latents, side, guidance, None if deep is None else fold_frames(deep).astype(self.compute))
        if self.config.head:
            hidden = self.conv_out(jax.nn.silu(self.norm_out(hidden)))
        prediction, deep = (unfold_frames(x, side.batch) for x in (hidden, deep))
        return (prediction, deep) if return_deep else prediction

    def run(
        self, latents: jax.Array, side: SideInputs, guidance: jax.Array | None = None, deep: jax.Array | None = None
    ) -> tuple[jax.Array, ReferenceFeatures, jax.Array]:
        """Does the work of `__call__`, without the head.

        Args:
          latents, guidance: as there.
          side: of `side_inputs`.
          deep: as there, but [B*F,h,w,channels[1]] in the compute dtype.

        Returns:
          The last hidden state [B*F,h,w,channels[0]], the features of every attention block by name (tokens [B,F*N,D], moments
          [B*F,2,C]), and the hidden state that the levels below the finest leave to it, [B*F,h,w,channels[1]].
        """
        x = self.conv_in(fold_frames(latents.astype(self.compute)))
        if guidance is not None:
            check_shape("guidance", guidance, f"B F h w {self.config.channels[0]}", dict(zip("BFhw", latents.shape)))
            x = x + fold_frames(guidance).astype(x.dtype)
        if self.config.positions:
            x = x + place_sinusoids(x.shape[1:]).astype(x.dtype)
        if side.temporal and hasattr(self, "temporal_first"):
            x = self.temporal_first(x, side.batch, side.seen_over_frames(x.shape[1:3]))
        levels, finest = len(self.config.channels), self.config.layers + 1
        skips, features = [x], {}
        for i in range(levels if deep is None else 1):
            x, new, found = getattr(self, f"down_{i}")(x, side)
            skips += new
            features |= found
        if deep is None:
            x, found = self.mid(x, side)
            features |= found
            for i in range(levels - 1):
                x, found = getattr(self, f"up_{i}")(x, [skips.pop() for _ in range(finest)][::-1], skips[-1].shape[1:3], side)
                features |= found
            deep = x
        last = getattr(self, f"up_{levels - 1}")
        x, found = last(deep, skips[:finest], deep.shape[1:3], side)
        return x, features | found, deep

    def side_inputs(self, latents, t, context, reference=None, reference_weight=None, face=None, temporal: bool = True) -> SideInputs:
        """What the layers read besides the latents: the time embedded, tokens in compute dtype, the reference projected, shares.

        Arguments and errors as of `__call__`.
        """
        self._check(latents, context, reference_weight, face)
        time = jax.nn.silu(self.time_embedding(jnp.broadcast_to(t, latents.shape[:1])))
        if reference and isinstance(next(iter(reference.values())), BlockFeatures):
            reference = self.project_reference(reference)
        context = None if context is None else context.astype(self.compute)
        face = None if face is None else (face[0].astype(self.compute), face[1])
        share = None if reference_weight is None else shares(reference_weight.astype(jnp.float32))
        return SideInputs(time, context, reference or {}, share, face, temporal)

    def project_reference(self, features: ReferenceFeatures) -> ProjectedReference:
        """What each attention block of this network makes of `features`, paired by name.

        Raises:
          UserError: the names are not exactly those of this network's attention blocks, or a block reads a smaller picture
            of the reference and there is none.
        """
        blocks = self.attention_blocks()
        own = {name: part for name, part in features.items() if not name.endswith(COARSE)}
        if own.keys() != blocks.keys():
            raise UserError(
                f"reference features for blocks {sorted(own)} given to a denoiser with attention in "
                f"{sorted(blocks)}: both networks need the same levels, layers and attention_levels."
            )
        return {name: self._project(block, name, features) for name, block in blocks.items()}

    def _project(self, block: SpatialTransformer, name: str, features: ReferenceFeatures) -> BlockReference:
        keys, coarse = (None, None), None
        if self.config.reference_attention:
            keys = block.attn1.project(features[name].tokens.astype(self.compute))
        if block.coarse is not None:
            if name + COARSE not in features:
                raise UserError(f"{name} reads the reference at half its size too, and its features are not there.")
            coarse = block.attn1.project(features[name + COARSE].tokens.astype(self.compute))
        return BlockReference(*keys, coarse, features[name].moments)

    def attention_blocks(self) -> dict[str, SpatialTransformer]:
        """Every spatial attention block by name, such as "down_0/attention_1" or "mid/attention_0"."""
        names = [f"{side}_{i}" for side in ("down", "up") for i in range(len(self.config.channels))]
        found = {}
        for level in names + ["mid"]:
            for i in range(self.config.layers + 1):
                block = getattr(getattr(self, level), f"attention_{i}", None)
                if block is not None:
                    found[f"{level}/attention_{i}"] = block
        return found

    def _check(self, latents, context, reference_weight, face):
        sizes = check_shape("latents", latents, f"B F h w {self.config.in_channels}")
        if self.config.context_dim is not None:
            each = context.ndim == 4 and face is None
            sizes = check_shape("context", context, f"B R 1 {self.config.context_dim}" if each else f"B L {self.config.context_dim}", sizes)
        if reference_weight is not None:
            check_shape("reference_weight", reference_weight, "B F h w R" if reference_weight.ndim == 5 else "B R", sizes)
