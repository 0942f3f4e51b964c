"""Low-rank changes of kernels (LoRA, Hu et al. 2021): made, trained beside frozen weights, and added to them.

They live under the component "lora", at the path of the kernel that they change:
lora/denoiser/down_0/attention_0/attn1/to_q/{down,up}, of shapes [I,r] and [r,O], with I the kernel's rows times its window. What is
added to the kernel is down @ up, without a further scale: alpha is the rank.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from champ_jax.errors import UserError
from champ_jax.trees import flatten, unflatten

LORA = "lora"


def new_lora(shapes: Mapping[str, Any], modules: str, rank: int, seed: int) -> dict[str, np.ndarray]:
    """Changes that change nothing yet: {path: float32 array}, `down` uniform in +-1/sqrt(I) as PEFT draws it, `up` zero.

    Args:
      shapes: path ("denoiser/.../kernel") to anything with a shape.
      modules: regular expression, searched for in the paths of kernels without "/kernel".
      rank: r of each.
      seed: of the draws.

    Raises:
      UserError: an expression that is none, or that finds no kernel, or a rank below 1.
    """
    if rank < 1:
        raise UserError(f"config.lora.rank is {rank}: expected 1 or more")
    try:
        wanted = re.compile(modules)
    except re.error as error:
        raise UserError(f"config.lora.modules is {modules!r}, which is no regular expression: {error}") from error
    paths = sorted(path.removesuffix("/kernel") for path in shapes if path.endswith("/kernel"))
    chosen = [path for path in paths if wanted.search(path)]
    if not chosen:
        raise UserError(f"config.lora.modules is {modules!r}, and no kernel's path has that; one of them is {paths[0]}")
    rng, made = np.random.default_rng(seed), {}
    for path in chosen:
        *rows, columns = shapes[f"{path}/kernel"].shape
        bound = 1 / math.sqrt(math.prod(rows))
        made[f"{LORA}/{path}/down"] = rng.uniform(-bound, bound, (math.prod(rows), rank)).astype(np.float32)
        made[f"{LORA}/{path}/up"] = np.zeros((rank, columns), np.float32)
    return made


def changed_kernels(params: Mapping[str, Any]) -> set[str]:
    """The paths of the kernels that the component "lora" of nested parameters changes."""
    return {f"{path.rpartition('/')[0]}/kernel" for path in flatten(params.get(LORA, {}))}


def with_lora(params: Mapping[str, Any], source: str = "this") -> Mapping[str, Any]:
    """Parameters with their component "lora", if there is one, added to the kernels that it changes and gone.

    Raises UserError, naming the source, where nothing is there that it could change.
    """
    if LORA not in params:
        return params
    if len(params) == 1:
        raise UserError(f"{source} is a LoRA: give the model that it was trained on, and this with --lora.")
    return add_lora({name: part for name, part in params.items() if name != LORA}, params[LORA])


def add_lora(params: Mapping[str, Any], lora: Mapping[str, Any], scale: float = 1.0, source: str = "the LoRA") -> dict[str, Any]:
    """Parameters with a LoRA, `scale` times, added to their kernels, each in its own dtype.

    Sums are float32 and then rounded. Differentiable.
    Raises UserError, naming it, for a kernel that there is not or that is of another shape.
    """
    kernels, changes = flatten(params), flatten(lora)
    for path in sorted({path.rpartition("/")[0] for path in changes}):
        down, up = (jnp.asarray(changes[f"{path}/{part}"], jnp.float32) for part in ("down", "up"))
        kernel = kernels.get(f"{path}/kernel")
        if kernel is None:
            raise UserError(f"{source} changes {path}, which this model has not: it was trained on another one.")
        if (math.prod(kernel.shape[:-1]), kernel.shape[-1]) != (down.shape[0], up.shape[1]):
            raise UserError(f"{source}: {path} changes a kernel of {down.shape[0]}x{up.shape[1]}, and this model's is {kernel.shape}.")
        changed = jnp.asarray(kernel, jnp.float32) + scale * (down @ up).reshape(kernel.shape)
        kernels[f"{path}/kernel"] = changed.astype(kernel.dtype)
    return unflatten(kernels)
