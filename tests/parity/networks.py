"""Builds every network from a fixture set's manifest and its PyTorch weights, with exact accounting of keys."""

import functools

import jax
import numpy as np
from flax import nnx

from champ_jax.convert import clip, guidance, motion, unet, vae
from champ_jax.convert.formats import Format, find, place, read
from champ_jax.diffusion.schedule import Schedule, make_schedule
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.models.animator import merge, split
from champ_jax.models.clip import CLIP, CLIPConfig
from champ_jax.models.guidance import GuidanceConfig, GuidanceEncoder
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.models.vae import VAE, VAEConfig
from tests.parity.formats import materialise

TOLERANCE = 1e-4
# What follows from CHAMP's bank, which it keeps in float16: a feature at a rounding edge moves by up to 5e-4 of itself
# when the last bit before differs, and guided denoising steps amplify that.
AFTER_FLOAT16 = 5e-4
# Small gradients deep in the network behind that bank: in float64 ours agree with the recorded ones to 1.4e-4 without the
# bank and to 9.4e-4 with it; in float32 to 2.7e-3.
DEEP_GRADIENTS = 5e-3

PREDICTIONS = {"v_prediction": "v", "epsilon": "epsilon", "sample": "x0"}


def channels_last(x: np.ndarray) -> np.ndarray:
    """PyTorch's [b,c,f,h,w] or [b,c,h,w] -> [B,F,h,w,C] or [B,h,w,C]."""
    return np.moveaxis(x, 1, -1)


class Networks:
    """One method a network; each returns a model that holds the recorded weights, always the same one."""

    def __init__(self, load):
        self._load = load
        self.manifest = load("manifest.json")

    def unet_config(self, head: bool, temporal: bool) -> UNetConfig:
        """The UNets' geometry."""
        own = self.manifest["unet2d_kwargs"]
        motion = self.manifest["unet3d_kwargs"]["motion_module_kwargs"]
        modules = TemporalConfig(
            heads=motion["num_attention_heads"],
            max_frames=motion["temporal_position_encoding_max_len"],
            blocks=motion["num_transformer_block"],
            attentions=len(motion["attention_block_types"]),
        )
        return UNetConfig(
            channels=tuple(own["block_out_channels"]),
            attention_levels=tuple("CrossAttn" in kind for kind in own["down_block_types"]),
            layers=own["layers_per_block"],
            heads=own["attention_head_dim"],
            groups=own["norm_num_groups"],
            context_dim=own["cross_attention_dim"],
            head=head,
            temporal=modules if temporal else None,
        )

    @functools.cache
    def reference(self) -> UNet:
        """The reference network."""
        graphdef, _ = _abstract(UNet, self.unet_config(head=False, temporal=False))
        return merge(graphdef, params_of(self._load("reference_unet"), unet.REFERENCE, "reference"))

    @functools.cache
    def denoiser(self, temporal: bool = True) -> UNet:
        """The denoiser, with motion modules or without."""
        graphdef, _ = _abstract(UNet, self.unet_config(head=True, temporal=temporal))
        params = params_of(self._load("denoising_unet"), unet.DENOISER, "denoiser")
        if temporal:
            place(params, "", params_of(self._load("motion_module"), motion.ANIMATEDIFF, "motion"))
        return merge(graphdef, params)

    @functools.cache
    def guidance(self) -> dict[str, GuidanceEncoder]:
        """Kind to encoder."""
        own = self.manifest["config"]
        config = GuidanceConfig(channels=tuple(own["gboc"]), out_channels=own["gemb"])
        graphdef, _ = _abstract(GuidanceEncoder, config)
        states = {kind: self._load(f"guidance_encoder_{kind}") for kind in GUIDANCE_KINDS}
        return {kind: merge(graphdef, params_of(state, guidance.champ_encoder(kind), f"guidance/{kind}")) for kind, state in states.items()}

    @functools.cache
    def vae(self) -> VAE:
        """The VAE."""
        own = self.manifest["files"]["io_vae.safetensors"]["kwargs"]
        config = VAEConfig(
            channels=tuple(own["block_out_channels"]),
            layers=own["layers_per_block"],
            groups=own["norm_num_groups"],
            latent_channels=own["latent_channels"],
        )
        return merge(_abstract(VAE, config)[0], params_of(self._load("vae"), vae.SD_VAE, "vae", own))

    @functools.cache
    def clip(self) -> CLIP:
        """The CLIP tower."""
        own = self.manifest["files"]["io_clip.safetensors"]["config"]
        config = CLIPConfig(
            hidden=own["hidden_size"],
            intermediate=own["intermediate_size"],
            layers=own["num_hidden_layers"],
            heads=own["num_attention_heads"],
            patch=own["patch_size"],
            image_size=own["image_size"],
            projection=own["projection_dim"],
            activation=own["hidden_act"],
        )
        return merge(_abstract(CLIP, config)[0], params_of(self._load("image_encoder"), clip.VISION, "clip", own))

    def schedule(self, kind: str, **changes) -> Schedule:
        """The schedule of the recorded scheduler with betas of `kind`; `changes` go to make_schedule."""
        own = self._load("scheduler.json")["kwargs"]
        values = {
            "steps": own["num_train_timesteps"],
            "beta_start": own["beta_start"],
            "beta_end": own["beta_end"],
            "zero_snr": own["rescale_betas_zero_snr"],
            "prediction": PREDICTIONS[own["prediction_type"]],
        }
        return make_schedule(kind, **{**values, **changes})


def params_of(state: dict[str, np.ndarray], format: Format, component: str, config: dict | None = None) -> dict:
    """Parameters of one component of a state dict, float32."""
    return materialise(find(read(state, config or {}, format, "recorded weights").params, component))


def _abstract(model, config) -> tuple[nnx.GraphDef, dict]:
    """Structure and parameter shapes of a model, without allocating it."""
    return split(nnx.eval_shape(lambda: model(config, nnx.Rngs(0))))


def jitted(model, function):
    """`function(model, *args)` compiled, with the model's parameters as an argument rather than as constants."""
    graphdef, params = split(model)
    compiled = jax.jit(lambda params, *args: function(merge(graphdef, params), *args))
    return functools.partial(compiled, params)
