"""The optimiser and the moving average of every stage."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def learning_rate(config) -> optax.Schedule:
    """Linear warm-up, constant plateau, cosine decay to zero over the last `decay` share of the run.

    config: the `optim` block: learning_rate, warmup (steps), steps, decay (0 constant .. 1 all cosine).
    """
    decay_steps = max(1, int(config.decay * config.steps))
    plateau_end = max(config.warmup, config.steps - decay_steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, max(1, config.warmup)),
            optax.constant_schedule(config.learning_rate),
            optax.cosine_decay_schedule(config.learning_rate, max(1, config.steps - plateau_end)),
        ],
        [config.warmup, plateau_end],
    )


def make_optimizer(config, m2p_scale: float = 1.0) -> optax.GradientTransformation:
    """AdamW with global-norm clipping; M2P learns at `m2p_scale` times the common rate.

    Matrices and kernels decay, vectors (biases, norms) do not.
    """

    def scale_m2p(updates, params):
        return {name: jax.tree.map(lambda u: u * m2p_scale, part) if name == "m2p" else part for name, part in updates.items()}

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate(config),
            b1=0.9,
            b2=0.999,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
        optax.stateless(scale_m2p),
    )


def update_ema(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """ema <- d ema + (1 - d) params, with d rising as (1 + step) / (10 + step) up to `decay`.

    Without the rise a long average still holds the random start after a short run.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: d * e + (1.0 - d) * p, ema, params)
