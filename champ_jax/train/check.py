"""What a configuration must say before anything is compiled."""

from champ_jax.diffusion.losses import SNR_FORMS
from champ_jax.diffusion.samplers import LCM_GRID
from champ_jax.errors import UserError
from champ_jax.train.assemble import Assembled
from champ_jax.train.distil import LESSONS, NEEDS
from champ_jax.train.stages import M2P_WEIGHTS, STAGES

COMPUTE_DTYPES = ("float32", "bfloat16")
POSITIVE = {
    "optim": ("steps", "accumulation"),
    "data": ("batch_size", "frames", "first_frames", "stride", "size", "references"),
    "loss": ("solver_steps", "teacher_scale"),
    "log": ("scalars", "evaluate", "save", "validation_batches"),
}


def check(config) -> None:
    """Raises UserError for values that no run can use."""
    if config.stage not in STAGES:
        raise UserError(f"config.stage is {config.stage!r}: expected one of {', '.join(STAGES)}")
    for group, names in POSITIVE.items():
        for name in names:
            if name in config[group] and config[group][name] < 1:
                raise UserError(f"config.{group}.{name} is {config[group][name]}: expected 1 or more")
    for name in ("learning_rate", "clip"):
        if not config.optim[name] > 0:
            raise UserError(f"config.optim.{name} is {config.optim[name]}: expected more than 0")
    if config.compute_dtype not in COMPUTE_DTYPES:
        raise UserError(f"config.compute_dtype is {config.compute_dtype!r}: expected one of {', '.join(COMPUTE_DTYPES)}")
    if config.loss.get("snr_form", "champ") not in SNR_FORMS:
        raise UserError(f"config.loss.snr_form is {config.loss.snr_form!r}: expected one of {', '.join(SNR_FORMS)}")
    if config.data.get("latent_cache", False) and config.data.augment != "none":
        raise UserError("config.data.latent_cache holds frames as they are: set config.data.augment=none, or do without the cache")
    if config.data.get("latent_cache", False) and config.get("train_clip", False):
        raise UserError("config.data.latent_cache holds what a frozen CLIP makes of photos: set config.train_clip=false, or leave it off")
    if "m2p" in config.loss and config.loss.m2p not in M2P_WEIGHTS:
        raise UserError(f"config.loss.m2p is {config.loss.m2p!r}: expected one of {', '.join(M2P_WEIGHTS)}")
    if config.stage == "D":
        _check_lesson(config.loss)
    if "huber" in config.loss and not config.loss.huber > 0:
        raise UserError(f"config.loss.huber is {config.loss.huber}: expected more than 0")
    if config.data.batch_size % config.optim.accumulation:
        raise UserError(
            f"config.data.batch_size {config.data.batch_size} must be a multiple of config.optim.accumulation {config.optim.accumulation}"
        )


def _check_lesson(loss) -> None:
    lesson = loss.get("distil")
    if lesson not in LESSONS:
        raise UserError(f"config.loss.distil is {lesson!r}: expected one of {', '.join(LESSONS)}")
    if absent := [name for name in NEEDS[lesson] if name not in loss]:
        variant = ":guidance" if lesson == "guidance" else ""
        raise UserError(
            f"config.loss.distil is {lesson!r}, but config.loss has no {' and no '.join(absent)}: take the configuration "
            f"stage_d{variant} or demo_d{variant}"
        )


def check_model(config, assembled: Assembled) -> None:
    """Raises UserError when a model cannot be trained as the configuration says: frames that it cannot encode, steps that its
    schedule or sampler has not, or M2P in a stage B whose settings say nothing of it."""
    step = assembled.config.vae.downsampling
    if config.stage != "A" and config.data.size % step:
        raise UserError(f"config.data.size is {config.data.size}: this model's VAE needs a multiple of {step}")
    if config.loss.get("teacher_scale", 1) != 1 and not assembled.config.reference:
        raise UserError(
            f"config.loss.teacher_scale is {config.loss.teacher_scale}, but this model never sees a photo, so that there is nothing to "
            "guide towards: set 1"
        )
    if config.loss.get("solver_steps", 1) > assembled.schedule.steps:
        raise UserError(
            f"config.loss.solver_steps is {config.loss.solver_steps}: this model's schedule has {assembled.schedule.steps} steps"
        )
    grid = min(LCM_GRID, assembled.schedule.steps)
    if config.get("sampling", {}).get("sampler") == "lcm" and config.loss.get("solver_steps", grid) % grid:
        raise UserError(
            f"config.loss.solver_steps is {config.loss.solver_steps}: the sampler lcm visits {grid} timesteps, which only a multiple of "
            f"{grid} teaches"
        )
    if config.stage != "B" or assembled.config.m2p is None:
        return
    needed = {"data": ("motion_frames",), "loss": ("m2p", "m2p_weight", "music_start", "music_share")}
    absent = [f"{group}.{name}" for group, names in needed.items() for name in names if name not in config[group]]
    if absent:
        raise UserError(
            f"{config.init_from or 'config.model'} holds M2P, which stage B trains together with the image networks, but the "
            f"configuration lacks {', '.join(absent)}: take configs/stage_b.py or quickstart:B, or weights without M2P"
        )
    if not 0 <= config.loss.music_start < 1:
        raise UserError(
            f"config.loss.music_start is {config.loss.music_start}: expected 0 up to less than 1; music_share=0 keeps music out of it"
        )
    if "dwpose" not in assembled.config.kinds:
        raise UserError(f"M2P drives the dwpose encoder, but this model's kinds are {', '.join(assembled.config.kinds)}")
