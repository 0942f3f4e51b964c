"""What projecting the photo's keys and values once a clip saves, per denoising pass.

python -m benchmarks.reference [--frames 16] [--size 24] [--width 1]

Prints milliseconds a pass (median of 7, taken in turns) of the demo's denoiser, times `width`, on a clip, with reference keys and values
- projected once before sampling, as `Pipeline` does;
- projected in every pass from the features;
- projected in every pass for each frame, as CHAMP and its relatives do, which repeat the features over frames.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import in_turns, make_parser
from champ_jax.models.animator import merge, split
from champ_jax.models.reference import reference_features
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn.keys import ParamKeys

ROUNDS = 7
CONFIG = UNetConfig(
    in_channels=16, out_channels=16, channels=(64, 96, 128), attention_levels=(False, True, True), layers=1, heads=4, groups=16,
    context_dim=64, ff_mult=2, positions=True,
)  # fmt: skip


def main() -> None:
    """Measures the three and prints them with their ratio to the first."""
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=int, default=16, help="frames of the clip")
    parser.add_argument("--size", type=int, default=24, help="cells of the latent grid, a side")
    parser.add_argument("--width", type=int, default=1, help="times the demo's widths")
    args = parser.parse_args()
    config = UNetConfig(**{**CONFIG.__dict__, "channels": tuple(args.width * c for c in CONFIG.channels)})
    graphdef, params = split(UNet(config, ParamKeys(0)))
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.standard_normal((1, args.frames, args.size, args.size, 16)), jnp.float32)
    context = jnp.zeros((1, 1, 64))
    features = reference_features(merge(graphdef, params), clip[:, :1], context[:, None])
    projected = merge(graphdef, params).project_reference(features)

    @jax.jit
    def denoise(params, clip, reference):
        return merge(graphdef, params)(clip, 500, context, reference=reference)

    @jax.jit
    def each_frame(params, clip, features):
        repeated = jax.tree.map(lambda x: jnp.repeat(x, args.frames, 0), features)
        return merge(graphdef, params)(clip[0][:, None], 500, jnp.repeat(context, args.frames, 0), reference=repeated)

    np.testing.assert_allclose(denoise(params, clip, projected)[0], each_frame(params, clip, features)[:, 0], atol=1e-4)
    rows = {
        "projected once a clip": lambda: denoise(params, clip, projected),
        "projected every pass": lambda: denoise(params, clip, features),
        "projected every pass and frame": lambda: each_frame(params, clip, features),
    }
    print(f"{jax.devices()[0].device_kind}, {args.frames} frames of {args.size}x{args.size} cells, widths {config.channels}")
    medians = {name: 1e3 * float(np.median(times)) for name, times in in_turns(rows, ROUNDS).items()}
    first = next(iter(medians.values()))
    for name, ms in medians.items():
        print(f"{name:32}{ms:9.1f} ms{ms / first:8.2f}x")


if __name__ == "__main__":
    main()
