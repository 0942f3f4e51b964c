"""What exact savings take off a denoising step of one window, at full size.

python -m benchmarks.window_step [--size 512] [--frames 24]

First the demo's denoiser runs both ways on the same window and the outputs are compared; then CHAMP's full geometry is
counted, without weights: by the compiler (XLA's cost analysis) and operation by operation (champ_jax.parallel.flops).
The plain way is that of CHAMP's pipeline: both halves of the guidance attend to the photo's tokens, repeated and projected
anew for each frame, the unconditional half attends once more without them, and all query the one context token.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.champ_way import ONE_TOKEN, UNPROJECTED, plainly
from benchmarks.common import DEMO, make_parser
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.models.animator import AnimatorConfig, merge, reference_config, split
from champ_jax.models.reference import reference_features
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn import kernels
from champ_jax.nn.attention import Attention
from champ_jax.nn.keys import ParamKeys
from champ_jax.parallel import flops


def both_halves(self, x, reference, share, coarse=None, strength=None):
    """Attention.with_reference of CHAMP's pipeline: x [2*B,F,N,D], the conditional half first."""
    batch, frames, tokens, width = x.shape
    own = x.reshape(batch * frames, tokens, width)
    bank = jnp.repeat(reference[0][:, 0], frames, axis=0)
    found = self(own, jnp.concatenate([own, bank], axis=1)).reshape(x.shape)
    alone = self(own[batch // 2 * frames :]).reshape(batch // 2, *x.shape[1:])
    # Held back from the compiler: what is computed for the unconditional half is thrown away, but computed it is.
    found, alone = jax.lax.optimization_barrier((found, alone))
    return jnp.concatenate([found[: batch // 2], alone])


def champs_way():
    """While tracing inside, the network does the plain way's work."""
    return plainly([(Attention, "with_reference", both_halves), UNPROJECTED, ONE_TOKEN])


def functions(graphdef):
    """(ours, plain): each of (params, x [1,F,h,w,C], context [1,1,Dc], guidance [1,F,h,w,D0], features, projected) -> [2,F,h,w,C]."""

    def ours(params, x, context, guidance, features, projected):
        net = merge(graphdef, params)
        cond = net(x, 500, context, guidance, projected, jnp.ones((1, 1)))
        return jnp.concatenate([cond, net(x, 500, 0 * context, guidance)])

    def plain(params, x, context, guidance, features, projected):
        net, twice = merge(graphdef, params), lambda tree: jax.tree.map(lambda a: jnp.concatenate([a, a]), tree)
        return net(twice(x), 500, jnp.concatenate([context, 0 * context]), twice(guidance), twice(features), jnp.ones((2, 1)))

    return ours, plain


def abstract(config: UNetConfig) -> UNet:
    """The network with shapes in place of parameters."""
    return nnx.eval_shape(lambda: UNet(config, ParamKeys(0)))


def inputs(config: UNetConfig, frames: int, side: int):
    """Latents, context and guidance of a window, described."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return of(1, frames, side, side, config.in_channels), of(1, 1, config.context_dim), of(1, frames, side, side, config.channels[0])


def main() -> None:
    """Compares the outputs at the demo's size, and counts at full size."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", default=DEMO, help="whose outputs are compared")
    parser.add_argument("--size", type=int, default=512, help="pixels, a side")
    parser.add_argument("--frames", type=int, default=24, help="of the window")
    args = parser.parse_args()

    pipe = load_pipeline(args.checkpoint)
    rng, config = np.random.default_rng(0), pipe.config.unet
    graphdef, _ = split(abstract(config))
    x, context, guidance = (rng.standard_normal(each.shape).astype(np.float32) for each in inputs(config, 12, 24))
    reference = split(abstract(reference_config(config)))[0]
    features = jax.jit(lambda p, x, c: reference_features(merge(reference, p), x, c))(pipe.params["reference"], x[:, :1], context[:, None])
    projected = jax.jit(lambda p, f: merge(graphdef, p).project_reference(f))(pipe.params["denoiser"], features)
    ours, plain = functions(graphdef)
    found = jax.jit(ours)(pipe.params["denoiser"], x, context, guidance, features, projected)
    with champs_way():
        other = jax.jit(plain)(pipe.params["denoiser"], x, context, guidance, features, projected)
    print(
        f"{args.checkpoint}, one window: outputs differ by {float(jnp.abs(found - other).max()):.1e} of {float(jnp.abs(other).max()):.1f}"
    )

    full = AnimatorConfig().unet
    graphdef, params = split(abstract(full))
    described = inputs(full, args.frames, args.size // 8)
    reference, its_params = split(abstract(reference_config(full)))
    features = jax.eval_shape(
        lambda p, x, c: reference_features(merge(reference, p), x, c),
        its_params,
        jax.ShapeDtypeStruct((1, 1, *described[0].shape[2:]), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, 1, full.context_dim), jnp.float32),
    )
    projected = jax.eval_shape(lambda p, f: merge(graphdef, p).project_reference(f), params, features)
    counts = {}
    # In one piece: the compiler counts a loop's body once.
    with mock.patch.multiple(kernels, MAX_LOGITS=2**60, CPU_LOGITS=2**60):
        for name, function, way in zip(("exact savings", "plain"), functions(graphdef), (contextlib.nullcontext, champs_way)):
            with way():
                traced = jax.jit(function).trace(params, *described, features, projected)
            counts[name] = traced.lower().cost_analysis()["flops"] / 1e12, flops.count(traced.jaxpr, 128).model / 1e12
    print(f"one window of {args.frames} frames at {args.size} px, both halves, full size, TFLOP a step:")
    for name, (compiler, analytic) in counts.items():
        base = counts["plain"]
        print(
            f"  {name:16}compiler {compiler:8.2f} {compiler / base[0] - 1:+7.1%}   analytic {analytic:8.2f} {analytic / base[1] - 1:+7.1%}"
        )


if __name__ == "__main__":
    main()
