"""The compiled parts of a pipeline: photos, guidance and faces to what the denoiser reads, the denoiser, latents to frames."""

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.diffusion.schedule import Schedule, network_input
from champ_jax.models.animator import AnimatorConfig, merge
from champ_jax.models.clip import clip_resize
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.reference import reference_features
from champ_jax.models.vae_tiles import decode_tiled, encode_tiled
from champ_jax.nn.kernels import shares

TILE, TILE_OVERLAP = 768, 128
"""Pixels: pictures beyond the largest that CHAMP is trained on go through the autoencoder in tiles."""


class Functions:
    """The compiled parts of a pipeline, each a pure function of the parameters and plain arrays."""

    def __init__(self, config: AnimatorConfig, graphdef: nnx.GraphDef, schedule: Schedule):
        step = config.vae.downsampling
        tile, overlap = TILE // step * step, TILE_OVERLAP // step * step

        def encode_photos(params, images, skeletons, weights):
            """u8 [R,H,W,3] each, [R] -> ({"reference": projected [1,...], "weight": [1,R]}, the photos' image tokens [1,R,1,Dc] or
            None, and their mean [1,1,Dc] or None)."""
            model = merge(graphdef, params)
            mean, _ = encode_tiled(model.vae, images.astype(jnp.float32) / 127.5 - 1, tile, overlap)
            latents = mean[None] * config.vae.scaling
            tokens = context = None
            if config.unet.context_dim is not None:
                tokens = jnp.zeros((1, len(images), 1, config.unet.context_dim))
            if model.clip is not None:
                tokens = model.clip(clip_resize(images, config.clip.image_size))[None, :, None]
            if tokens is not None:
                context = (tokens * shares(weights[None])[:, :, None, None]).sum(axis=1)
            if model.reference is None:
                return {}, tokens, context
            pose = None
            if config.reference_pose:
                pose = model.guidance["dwpose"](skeletons.astype(jnp.float32)[None] / 255)
            features = reference_features(model.reference, latents, tokens, pose, coarse=bool(config.unet.coarse))
            return {"reference": model.denoiser.project_reference(features), "weight": weights[None]}, tokens, context

        def encode_guidance(params, strength, maps, weights):
            """u8 [F,G,H,W,3] with the maps of the model's kinds along G, then the skeleton of the music if there is dwpose, and
            f32 [F,G], what each counts -> [F,h,w,D0], times `strength`. A kind that counts nothing costs nothing."""
            model = merge(graphdef, params)

            def encode(kind, i):
                run = lambda x: model.guidance[kind](x.astype(jnp.float32)[None] / 255)  # noqa: E731
                nothing = lambda x: jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(run, x))  # noqa: E731
                return jax.lax.cond((weights[:, i] != 0).any(), run, nothing, maps[:, i])

            encoded = {kind: encode(kind, i) for i, kind in enumerate(config.kinds)}
            counts = {kind: weights[None, :, i] for i, kind in enumerate(config.kinds)}
            music = (encode("dwpose", -1), weights[None, :, -1]) if "dwpose" in config.kinds else None
            as_it_is = dict.fromkeys(config.kinds, lambda x: x)
            return strength * fuse_guidance(as_it_is, encoded, counts, model.fusion, music)[0]

        def encode_face(params, faces, context):
            """Faces [F,E], context [1,1,Dc] -> tokens [F,n,Dc]."""
            return merge(graphdef, params).face_id(faces, jnp.repeat(context, len(faces), 0))

        def denoise(params, latents, t, context, guidance, person, frames, deep=None, return_deep=False):
            person, frames = person or {}, frames or {}
            face = (frames["face"], jnp.ones(len(latents))) if "face" in frames else None
            return merge(graphdef, params).denoiser(
                network_input(schedule, latents, t), t, context, guidance, person.get("reference"),
                frames.get("weight", person.get("weight")), face, deep=deep, return_deep=return_deep,
            )  # fmt: skip

        def decode(params, latents):
            """[F,h,w,C] -> u8 [F,H,W,3]."""
            images = decode_tiled(merge(graphdef, params).vae, latents / config.vae.scaling, tile, overlap)
            return jnp.round(jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0.0, 1.0) * 255).astype(jnp.uint8)

        self.encode_photos = jax.jit(encode_photos)
        self.encode_face = jax.jit(encode_face)
        self.encode_guidance = jax.jit(encode_guidance)
        self.denoise = denoise
        self.decode = jax.jit(decode)
