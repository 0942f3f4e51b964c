"""Ranges of layers' inputs, seen while a few clips are made: what static quantisation of activations needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from champ_jax.infer.functions import Functions
from champ_jax.infer.pipeline import Pipeline
from champ_jax.models.animator import abstract_model, split


def input_ranges(pipe: Pipeline, run: Callable[[Pipeline], Any]) -> dict[str, float]:
    """The largest magnitude of what each layer of the denoiser reads while `run(pipe)` makes videos.

    Returns {path of the layer, denoiser/down_0/attention_0/attn1/to_q: magnitude}; layers that were not used are not there. The
    pipeline's functions are compiled anew with a look at every input, and set back.
    """
    found: dict[str, float] = {}

    def watch(path: str, peak: jax.Array) -> None:
        found[path] = max(found.get(path, 0.0), float(peak))

    graphdef, params = abstract_model(pipe.config)
    model = nnx.merge(graphdef, params)
    for parts, layer in nnx.iter_modules(model.denoiser):
        path = "/".join(map(str, ("denoiser", *parts)))
        if isinstance(layer, nnx.Linear):
            layer.dot_general = _watched(jax.lax.dot_general, partial(watch, path))
        elif isinstance(layer, nnx.Conv):
            layer.conv_general_dilated = _watched(jax.lax.conv_general_dilated, partial(watch, path))
    own = pipe.functions
    pipe.functions = Functions(pipe.config, split(model)[0], pipe.schedule)
    try:
        run(pipe)
        jax.effects_barrier()
    finally:
        pipe.functions = own
    return found


def _watched(multiply: Callable[..., jax.Array], watch: Callable[[jax.Array], None]) -> Callable[..., jax.Array]:
    """`multiply`, which also tells `watch` the largest magnitude of its input."""

    def watched(x: jax.Array, *args, **options) -> jax.Array:
        jax.debug.callback(watch, jnp.abs(x).max())
        return multiply(x, *args, **options)

    return watched
