"""CHAMP's whole long-video pipeline: windows that wrap, counters, guidance, DDIM, decoding; by the sampler we ship."""

import jax
import numpy as np

from champ_jax.diffusion.windows import champ_windows
from champ_jax.infer import sample
from champ_jax.models.animator import merge, split
from champ_jax.models.clip import CLIP, clip_pixels
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.reference import reference_features, round_like_champ
from champ_jax.models.unet import UNet
from champ_jax.models.vae import vae_images, vae_latents
from tests.parity.networks import AFTER_FLOAT16, channels_last, jitted


def guidance_features(networks, recorded) -> np.ndarray:
    """[F,h,w,D0] of the recorded maps."""
    encoders = networks.guidance()
    maps = {kind: recorded[f"guidance_u8.{kind}"][None].astype(np.float32) / 255 for kind in encoders}
    parts = {kind: split(encoder) for kind, encoder in encoders.items()}

    def encode(params, maps):
        return fuse_guidance({kind: merge(graph, params[kind]) for kind, (graph, _) in parts.items()}, maps)

    return np.asarray(jax.jit(encode)({kind: params for kind, (_, params) in parts.items()}, maps))[0]


def photo_conditions(networks, photo: np.ndarray):
    """Projected reference, rounded as CHAMP does, and the context token [1,1,Dc] of a photo u8 [H,W,3]."""
    pixels = clip_pixels(photo[None], "inference", networks.clip().config.image_size)
    context = jitted(networks.clip(), CLIP.__call__)(pixels)[:, None]
    latents = jitted(networks.vae(), vae_latents)(photo[None].astype(np.float32) / 127.5 - 1)
    features = round_like_champ(jitted(networks.reference(), reference_features)(latents[:, None], context[:, None]))
    return jitted(networks.denoiser(), UNet.project_reference)(features), context


def test_long_video(networks, load, compare, manifest, monkeypatch):
    recorded, info = load("io_e2e"), manifest["files"]["io_e2e.safetensors"]
    own = info["params"]
    assert champ_windows(own["frames"], own["context_frames"], own["context_overlap"]) == info["windows"]
    reference, context = photo_conditions(networks, recorded["ref_pil_u8"])
    graphdef, params = split(networks.denoiser())

    def denoise(params, latents, t, context, guidance, reference, frames):
        return merge(graphdef, params)(latents, t, context, guidance, reference=reference)

    steps, run_orders = [], sample.run_orders

    def recording(*arguments):
        *before, ring, orders, seed = arguments
        for i in np.flatnonzero(orders.active):
            ring = run_orders(*before, ring, jax.tree.map(lambda x, i=i: x[i : i + 1], orders), seed)
            if (orders.advance[i] >= 0).any():
                steps.append(np.asarray(ring.state.x)[None, : own["frames"]])
        return ring

    monkeypatch.setattr(sample, "run_orders", recording)
    settings = sample.SampleSettings(
        steps=own["steps"],
        guidance_scale=own["gs"],
        window=own["context_frames"],
        overlap=own["context_overlap"],
        compat="champ",
    )
    latents = sample.sample_latents(
        denoise,
        params,
        channels_last(recorded["init_latents"]),
        sample.ClipConditions(guidance_features(networks, recorded), reference, context),
        networks.schedule(load("scheduler.json")["kwargs"]["beta_schedule"]),
        settings,
    )
    assert len(steps) == own["steps"]
    for i, ours in enumerate(steps):
        compare(f"e2e/latents after step {i}", ours, channels_last(recorded[f"latents_after_step.{i:02d}"]), tolerance=AFTER_FLOAT16)
    video = np.asarray(jitted(networks.vae(), vae_images)(latents))
    compare("e2e/video, first frame", video[:, 0], channels_last(recorded["video_frame0_f32"]), tolerance=AFTER_FLOAT16)
    # The other frames are kept as whole levels: what exceeds their rounding is our error.
    levels = channels_last(recorded["video_u8_round"]).astype(np.float64)
    excess = np.sign(255 * video - levels) * np.maximum(np.abs(255 * video - levels) - 0.5, 0)
    compare("e2e/video", (levels + excess) / 255, levels / 255, tolerance=AFTER_FLOAT16)
