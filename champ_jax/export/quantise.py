"""Trained weights in smaller numbers: which kernels become what, which stay as they are, and what that does to videos.

int8   kernels of 8-bit integers with a scale an output channel, made into numbers again where they are used
w8a8   so, and in the denoiser, which runs in every step, the layers' inputs become 8-bit integers too
fp8    kernels of 8-bit floats (e4m3), and the inputs of the denoiser's linear layers; convolutions have no 8-bit floats to multiply
bf16, fp16   all arrays of 16 bits
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import ml_dtypes
import numpy as np

from champ_jax.errors import UserError
from champ_jax.infer.pipeline import Pipeline, on_device
from champ_jax.nn.quantised import RANGE, SCALE, VALUES, dequantise, to_eight_bits
from champ_jax.trees import flatten, unflatten

SIXTEEN = {"bf16": np.dtype(ml_dtypes.bfloat16), "fp16": np.dtype(np.float16)}
EIGHT = {"int8": "int8", "w8a8": "int8", "fp8": "float8_e4m3fn"}
PRECISIONS = (*EIGHT, *SIXTEEN)
KERNEL = "/kernel"
Params = Mapping[str, Any]
Videos = Callable[[Pipeline], list[np.ndarray]]
"""A few clips as a pipeline makes them: u8 [F,H,W,3] each."""


def block_of(path: str) -> str:
    """The block that a kernel's path belongs to: denoiser/down_0/attention_0/attn1/to_q/kernel -> denoiser/down_0/attention_0."""
    return "/".join(path.removesuffix(KERNEL).split("/")[:3])


def blocks(params: Params) -> list[str]:
    """All blocks that have kernels, in order."""
    return list(dict.fromkeys(block_of(path) for path in flatten(params) if path.endswith(KERNEL)))


def quantise(params: Params, precision: str, exclude: Collection[str] = (), ranges: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Nested parameters in another precision; what is not a kernel, and kernels of excluded blocks, stay as they are.

    Args:
      params: {component: nested dict of arrays}, kernels with output channels last.
      precision: one of PRECISIONS.
      exclude: blocks, as `blocks` names them; 16 bits are for all.
      ranges: layer's path to the largest magnitude of its input, for "w8a8" and "fp8"; without, each row's own is taken.

    Raises UserError for another precision, blocks that there are not, and parameters that are quantised already.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    flat = flatten(params)
    if any(path.endswith(f"{KERNEL}/{VALUES}") for path in flat):
        raise UserError("these weights are quantised already: give those that they were made of")
    if unknown := sorted(set(exclude) - set(blocks(params))):
        raise UserError(f"there is no block {unknown[0]!r} to leave out; one is {blocks(params)[0]!r}")
    if precision in SIXTEEN:
        return unflatten({path: np.asarray(array).astype(SIXTEEN[precision]) for path, array in flat.items()})
    made = {}
    for path, array in flat.items():
        if not path.endswith(KERNEL) or block_of(path) in exclude:
            made[path] = array
            continue
        made[f"{path}/{VALUES}"], made[f"{path}/{SCALE}"] = to_eight_bits(np.asarray(array), EIGHT[precision])
        if path.startswith("denoiser/") and (precision == "w8a8" or precision == "fp8" and array.ndim == 2):
            limit = [] if ranges is None else [ranges.get(path.removesuffix(KERNEL), 0.0)]
            # A layer that no clip has used has no range, and takes each row's own.
            made[f"{path}/{RANGE}"] = np.asarray([x for x in limit if x > 0], np.float32)
    return unflatten(made)


def array_bytes(params: Params) -> int:
    """Bytes of all arrays."""
    return sum(array.size * array.dtype.itemsize for array in flatten(params).values())


def parameter_count(params: Params) -> int:
    """How many numbers the model has, however they are stored."""
    return sum(array.size for array in flatten(jax.eval_shape(dequantise, params)).values())


def psnr(videos: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Decibels between two lists of videos u8 [F,H,W,3], over all their pixels; infinite when they are the same."""
    error = sum(np.square(one.astype(np.float64) - other).sum() for one, other in zip(videos, others, strict=True))
    if error == 0:
        return float("inf")
    return float(10 * np.log10(255**2 * sum(one.size for one in videos) / error))


@dataclass
class Choice:
    """What a search found. lost: decibels of PSNR to the truth that quantising costs; all_lost: that without leaving blocks out.

    to_whole: PSNR of the videos to those of the weights as they were. errors: of each block quantised alone, decibels to the same
    videos, the worst first; empty where nothing had to be left out.
    """

    lost: float
    all_lost: float
    to_whole: float
    exclude: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)


def search(
    pipe: Pipeline,
    params: Params,
    precision: str,
    videos: Videos,
    truth: list[np.ndarray],
    budget: float,
    ranges: Mapping[str, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Which blocks to leave as they are, so that no more than `budget` decibels of PSNR to the truth are lost.

    With all blocks quantised first. If that loses more, each block is quantised alone, and the worst 1, 2, 4, ... of them are
    left out until the budget holds, but never all: then `lost` stays above it. Blocks are ranked by what rounding their kernels
    does; inputs are not rounded there, also for "w8a8" and "fp8", so that nothing is compiled anew. The loss itself is measured
    with both.

    Args:
      pipe: of `params`; its parameters are changed and set back.
      videos, truth: what a pipeline makes of a few held-out clips, and the clips themselves.

    Raises UserError for a budget below 0, which nothing keeps.
    """
    if not budget >= 0:
        raise UserError(f"budget is {budget:g} dB: give 0 or more")
    own = pipe.params

    def made(candidate: Params) -> list[np.ndarray]:
        pipe.params = on_device(candidate)
        try:
            return videos(pipe)
        finally:
            pipe.params = own

    whole = videos(pipe)
    best = psnr(whole, truth)
    found = made(quantise(params, precision, (), ranges))
    all_lost = best - psnr(found, truth)
    choice = Choice(all_lost, all_lost, psnr(found, whole))
    if all_lost <= budget or precision in SIXTEEN:
        return choice
    names = blocks(params)
    for done, name in enumerate(names):
        alone = quantise(params, precision, set(names) - {name})
        choice.errors[name] = psnr(made(dequantise(alone)), whole)
        if on_progress is not None:
            on_progress(done + 1, len(names))
    choice.errors = dict(sorted(choice.errors.items(), key=lambda item: item[1]))
    for count in _doublings(len(names) - 1):
        choice.exclude = list(choice.errors)[:count]
        found = made(quantise(params, precision, choice.exclude, ranges))
        choice.lost, choice.to_whole = best - psnr(found, truth), psnr(found, whole)
        if choice.lost <= budget:
            break
    return choice


def _doublings(most: int) -> Iterator[int]:
    """1, 2, 4, ... and at last `most`; nothing below 1."""
    count = 1
    while count < most:
        yield count
        count *= 2
    if most >= 1:
        yield most
