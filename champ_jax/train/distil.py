"""Stage D: the denoiser learns to do in few steps, without classifier-free guidance, what a frozen copy of it does in many.

"consistency" is latent consistency distillation (LCM, Luo et al., arXiv 2310.04378; of clips AnimateLCM, arXiv
2402.00769): the student's clean data at one step of the teacher's solver must be its clean data at the next. "guidance" is
the first stage of Meng et al. (arXiv 2210.03142) at one scale: as many steps as before, each at half the cost.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.diffusion import losses
from champ_jax.diffusion.consistency import consistency
from champ_jax.diffusion.guidance import classifier_free
from champ_jax.diffusion.samplers import ddim_step, previous_timesteps, timesteps
from champ_jax.diffusion.schedule import Schedule, add_noise, to_epsilon, to_x0
from champ_jax.models.animator import Animator, AnimatorConfig
from champ_jax.models.unet import UNet
from champ_jax.nn.policy import Policy
from champ_jax.train.conditions import Example, TrainingConditions, draw_timesteps, make_example, predict


class Taught(Animator):
    """An Animator beside the frozen `teacher`, a UNet as its denoiser; all other networks serve both."""

    def __init__(self, config: AnimatorConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        super().__init__(config, rngs, policy)
        self.teacher = UNet(config.unet, rngs, policy)


def predict_guided(teacher: UNet, given: TrainingConditions, schedule: Schedule, x: jax.Array, t: jax.Array, scale: float) -> jax.Array:
    """`predict` with classifier-free guidance as in sampling, where the unconditional half sees the guidance maps and no photo.

    At a scale of 1 that half is left out. No gradient passes.
    """
    seen = jax.lax.stop_gradient(predict(teacher, given, schedule, x, t))
    if scale == 1:
        return seen
    context = None if given.context is None else jnp.zeros_like(given.context)
    unseen = TrainingConditions(context, given.guidance, None, None, None)
    return classifier_free(jax.lax.stop_gradient(predict(teacher, unseen, schedule, x, t)), seen, scale)


def draw_solver_steps(key: jax.Array, batch: int, schedule: Schedule, steps: int, last_share: float) -> tuple[jax.Array, jax.Array]:
    """(t, where the solver goes from t), int32 [B]: uniform over a solver's `steps`, `last_share` of them its first, from pure noise.

    The grid is that of `timesteps`; below 0 is clean data.
    """
    visited = timesteps(schedule, steps)
    previous = jnp.asarray(previous_timesteps(schedule, visited))
    key_uniform, key_last = jax.random.split(key)
    index = jax.random.randint(key_uniform, (batch,), 0, steps)
    index = jnp.where(jax.random.uniform(key_last, (batch,)) < last_share, 0, index)
    return jnp.asarray(visited)[index], previous[index]


def consistency_loss(model: Taught, example: Example, schedule: Schedule, config) -> jax.Array:
    """Pseudo-Huber distance, scalar float32, between the student's clean data at t and at the teacher's next DDIM step from there.

    config: its `loss` block. The target is the student as it is now, without gradient: improved consistency training
    (arXiv 2310.14189) and LCM-LoRA do so, and an average would be gathered from all devices in every step.
    """
    given = example.given
    t, t_next = draw_solver_steps(example.key, example.x0.shape[0], schedule, config.solver_steps, config.last_step)
    x = add_noise(schedule, example.x0, example.noise, t)
    taught = predict_guided(model.teacher, given, schedule, x, t, config.teacher_scale)
    x_next = jax.vmap(partial(ddim_step, schedule))(x, taught, t, t_next)
    # A step to clean data is its own target, whatever the network says there.
    wanted = consistency(schedule, x_next, predict(model.denoiser, given, schedule, x_next, jnp.maximum(t_next, 0)), t_next)
    made = consistency(schedule, x, predict(model.denoiser, given, schedule, x, t), t)
    return jnp.mean(example.weights * losses.pseudo_huber(made - jax.lax.stop_gradient(wanted), config.huber))


def guidance_loss(model: Taught, example: Example, schedule: Schedule, config) -> jax.Array:
    """Min-SNR weighted squared error, scalar float32, of the student's prediction against the teacher's guided one; arguments as above."""
    t = draw_timesteps(example.key, example.x0.shape[0], schedule, config.last_step)
    x = add_noise(schedule, example.x0, example.noise, t)
    taught = predict_guided(model.teacher, example.given, schedule, x, t, config.teacher_scale)
    made = predict(model.denoiser, example.given, schedule, x, t)
    # What the teacher holds for clean data and noise takes the place of the true ones.
    clean, noise = to_x0(schedule, x, taught, t), to_epsilon(schedule, x, taught, t)
    return losses.diffusion_loss(schedule, made, clean, noise, t, example.weights, config.snr_gamma, config.get("snr_form", "champ"))


LESSONS = {"consistency": consistency_loss, "guidance": guidance_loss}
NEEDS = {"consistency": ("solver_steps", "huber"), "guidance": ("snr_gamma",)}
"""What each lesson reads of `config.loss` that the other does not."""


def loss_d(model: Taught, batch, key, step, config, schedule, training) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Stage D: the loss that `config.loss.distil` names, of clips [B,F,...]. Teacher and student are told the same."""
    loss = LESSONS[config.loss.distil](model, make_example(model, batch, key, step, config), schedule, config.loss)
    return loss, {config.loss.distil: loss}
