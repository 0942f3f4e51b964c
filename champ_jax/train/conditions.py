"""What a batch of frames becomes before a diffusion loss: latents, noise, and what the denoiser is told, with its dropouts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from champ_jax.diffusion import losses
from champ_jax.diffusion.schedule import Schedule, network_input
from champ_jax.models.animator import Animator
from champ_jax.models.clip import clip_resize
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.m2p import to_pixels
from champ_jax.models.reference import reference_features
from champ_jax.models.unet import ReferenceFeatures, UNet
from champ_jax.models.vae import latents_of, vae_latents
from champ_jax.nn.kernels import devices, shares
from champ_jax.pose.differentiable import FRAMES_AT_ONCE, pose_map

Batch = dict[str, Any]


class TrainingConditions(NamedTuple):
    """The denoiser's inputs besides noisy latents and their timesteps.

    context [B,1,Dc] or None; guidance [B,F,h,w,D0]; reference, its features, or None; reference_weight [B,R];
    face ([B,F or 1,n,Dc], [B] of 0/1) or None.
    """

    context: jax.Array | None
    guidance: jax.Array
    reference: ReferenceFeatures | None
    reference_weight: jax.Array
    face: tuple[jax.Array, jax.Array] | None


class Example(NamedTuple):
    """What a diffusion loss is made of: clean latents and noise [B,F,h,w,C], what the denoiser is told, weights of the loss
    [B,F,h,w,1], and the key to draw timesteps with."""

    x0: jax.Array
    noise: jax.Array
    given: TrainingConditions
    weights: jax.Array
    key: jax.Array


class MusicDriven(NamedTuple):
    """Samples that M2P drives: skeleton [B,F,H,W,3] in [0,1]; face [B,F,E]; driven [B], 1 where they take over."""

    skeleton: jax.Array
    face: jax.Array
    driven: jax.Array


def keep(key: jax.Array, batch: int, drop: float) -> jax.Array:
    """Independent 0/1 draws per sample, [B] float32; 0 with probability `drop`."""
    return (jax.random.uniform(key, (batch,)) >= drop).astype(jnp.float32)


def guidance_weights(key: jax.Array, kinds: tuple[str, ...], batch: int, config) -> dict[str, jax.Array]:
    """Per sample and kind 0/1 weights [B]: each kind dropped alone, and sometimes all but the skeleton.

    The skeleton is what music can drive; a model that never saw it alone cannot dance.
    """
    keys = jax.random.split(key, len(kinds) + 1)
    weights = {kind: keep(k, batch, config.guidance_dropout) for kind, k in zip(kinds, keys)}
    if "dwpose" in kinds:
        skeleton_only = 1.0 - keep(keys[-1], batch, config.skeleton_only)
        weights = {kind: w * (1.0 - skeleton_only) for kind, w in weights.items()}
        weights["dwpose"] = jnp.maximum(weights["dwpose"], skeleton_only)
    return weights


def condition_scale(config, step: jax.Array, steps: int) -> jax.Array:
    """Guidance strength: linear from `condition_scale[0]` to `[1]` over the first `[2]` share of the run."""
    start, end, share = config.condition_scale
    return start + (end - start) * jnp.clip(step / max(1.0, share * steps), 0.0, 1.0)


def music_driven(batch: Batch, outputs: dict[str, jax.Array], driven: jax.Array) -> MusicDriven:
    """The skeleton map and the face that M2P predicts for the target frames; differentiable. driven: [B]."""
    motion = batch["motion"]
    keypoints, confidence = to_pixels(outputs, motion)
    index = motion["index"][..., None]
    keypoints = jnp.take_along_axis(keypoints, index[..., None], axis=1)
    confidence = jnp.take_along_axis(confidence, index, axis=1)
    height, width = batch["mask"].shape[2:]
    skeleton = pose_map(keypoints, confidence, (height, width), at_once=FRAMES_AT_ONCE * devices())
    return MusicDriven(skeleton, jnp.take_along_axis(outputs["face"], index, axis=1), driven)


def make_example(model: Animator, batch: Batch, key: jax.Array, step: jax.Array, config, music: MusicDriven | None = None) -> Example:
    """The example that frames or clips [B,F,...] are at this step of the run; music as in `make_conditions`."""
    key_latents, key_noise, key_timesteps, key_conditions = jax.random.split(key, 4)
    x0, reference_latents = batch_latents(model, batch, key_latents)
    noise = losses.offset_noise(key_noise, x0.shape, config.loss.noise_offset)
    scale = condition_scale(config.loss, step, config.optim.steps)
    given = make_conditions(model, batch, reference_latents, key_conditions, config.loss, scale, music)
    weights = losses.pixel_weights(batch["mask"], batch["face_box"], x0.shape[2:4], config.loss.person, config.loss.face_region)
    return Example(x0, noise, given, weights, key_timesteps)


def predict(denoiser: UNet, given: TrainingConditions, schedule: Schedule, x: jax.Array, t: jax.Array, temporal: bool = True) -> jax.Array:
    """What a denoiser predicts, float32 [B,F,h,w,C], of noisy clips x [B,F,h,w,C] at t [B]; `temporal` False: of frames alone."""
    seen = {"reference": given.reference, "reference_weight": given.reference_weight, "face": given.face, "temporal": temporal}
    return denoiser(network_input(schedule, x, t), t, given.context, given.guidance, **seen).astype(jnp.float32)


def make_conditions(
    model: Animator,
    batch: Batch,
    reference_latents: jax.Array,
    key: jax.Array,
    config,
    scale: jax.Array,
    music: MusicDriven | None = None,
) -> TrainingConditions:
    """Encodes references, image token, face and guidance of a batch, with independent dropouts per sample.

    reference_latents [B,R,h,w,C]; scale: guidance strength; music: whose samples see its skeleton and no other map, as
    when dancing, since the other maps would give the true pose away.
    A dropped reference is dropped whole: neither its features nor its image token nor its face are seen.
    """
    size = batch["mask"].shape[0]
    key_reference, key_clip, key_kinds = jax.random.split(key, 3)
    keep_reference = keep(key_reference, size, config.reference_dropout)
    keep_token = keep_reference * keep(key_clip, size, config.clip_dropout)

    weight = batch["reference_weight"]
    tokens = reference_tokens(model, batch)
    context = None if tokens is None else mean_token(tokens, weight) * keep_token[:, None, None]

    maps = {kind: image.astype(jnp.float32) / 255.0 for kind, image in batch["guidance"].items()}
    weights = guidance_weights(key_kinds, model.config.kinds, size, config)
    if music is not None:
        driven = music.driven[:, None, None, None, None]
        maps["dwpose"] = jnp.where(driven > 0, music.skeleton, maps["dwpose"])
        weights = {kind: jnp.where(music.driven > 0, float(kind == "dwpose"), weight) for kind, weight in weights.items()}
    guidance = scale * fuse_guidance(model.guidance, maps, weights, model.fusion)

    reference = None
    if model.reference is not None:
        pose = None
        if model.config.reference_pose:
            pose = model.guidance["dwpose"](batch["reference_pose"].astype(jnp.float32) / 255.0)
        own = None if tokens is None else tokens * keep_token[:, None, None, None]
        reference = reference_features(model.reference, reference_latents, own, pose, coarse=bool(model.config.unet.coarse))
    face = None
    if model.face_id is not None:
        seen = keep_reference * jnp.any(batch["reference_face"] != 0, axis=-1)
        face = face_tokens(model, batch["reference_face"], context, music), seen
    return TrainingConditions(context, guidance, reference, weight * keep_reference[:, None], face)


def reference_tokens(model: Animator, batch: Batch) -> jax.Array | None:
    """Image tokens [B,R,1,Dc] of the references; zeros for a model without CLIP, None for one without context."""
    width = model.config.unet.context_dim
    if width is None:
        return None
    if model.clip is None:
        return jnp.zeros((*batch["reference_weight"].shape, 1, width))
    if "reference_token" in batch:
        return batch["reference_token"].astype(jnp.float32)[:, :, None]
    photos = batch["reference"]
    return image_token(model, photos.reshape(-1, *photos.shape[2:])).reshape(*photos.shape[:2], 1, -1)


def mean_token(tokens: jax.Array, weight: jax.Array) -> jax.Array:
    """Tokens [B,R,1,Dc] of R photos as one context [B,1,Dc], by the weights [B,R]: their order says nothing."""
    return (tokens * shares(weight)[:, :, None, None]).sum(axis=1)


def face_tokens(model: Animator, face: jax.Array, context: jax.Array, music: MusicDriven | None = None) -> jax.Array:
    """Tokens [B,1,n,Dc] of faces [B,E], or where M2P drives, [B,F,n,Dc] of the faces that it gives each frame."""
    faces = face[:, None]
    if music is not None:
        faces = jnp.where(music.driven[:, None, None] > 0, music.face, faces)
    every = jnp.repeat(context, faces.shape[1], axis=0)
    return model.face_id(faces.reshape(-1, faces.shape[-1]), every).reshape(*faces.shape[:2], -1, context.shape[-1])


def image_token(model: Animator, images: jax.Array) -> jax.Array:
    """CLIP's embedding [B,D] of uint8 images [B,H,W,3]."""
    return model.clip(clip_resize(images, model.config.clip.image_size))


def encode_images(model: Animator, images: jax.Array, key: jax.Array | None) -> jax.Array:
    """Latents of uint8 images [...,H,W,3]: a sample of the posterior, or its mean when `key` is None."""
    return jax.lax.stop_gradient(vae_latents(model.vae, images.astype(jnp.float32) / 127.5 - 1.0, key))


def batch_latents(model: Animator, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(target latents [B,F,h,w,C], reference latents [B,R,h,w,C]), drawn alike from the encoder cache and from pixels."""
    key_target, key_reference = jax.random.split(key)
    if "moments" in batch:
        target, reference = (jnp.split(batch[name].astype(jnp.float32), 2, axis=-1) for name in ("moments", "reference_moments"))
        return latents_of(model.vae, *target, key_target), latents_of(model.vae, *reference, key_reference)
    return encode_images(model, batch["video"], key_target), encode_images(model, batch["reference"], key_reference)


def draw_timesteps(key: jax.Array, batch: int, schedule: Schedule, last_share: float) -> jax.Array:
    """int32 [B], uniform over the schedule; `last_share` of the samples at its very end.

    With zero terminal SNR the last step alone decides layout and colours, and is 1 draw in 1000 otherwise.
    """
    steps = schedule.alphas_cumprod.shape[0]
    key_uniform, key_last = jax.random.split(key)
    t = jax.random.randint(key_uniform, (batch,), 0, steps)
    return jnp.where(jax.random.uniform(key_last, (batch,)) < last_share, steps - 1, t)
