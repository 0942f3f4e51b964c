"""The autoencoder in tiles against the whole picture: likeness, seams and memory, on a photo with random weights.

    python -m benchmarks.vae_tiles [--size 320] [--tile 160] [--overlaps 96 32] [--exact]

`seam` is how much the gradient across the lines where tiles meet stands out from that elsewhere, over the same for the
untiled picture (1: no seam). `own` gives every tile its own statistics of the norms, as tiling usually does.
Memory is the compiler's figure for what it needs beside weights, input and output.
"""

from unittest import mock

import jax
import numpy as np
from flax import nnx
from PIL import Image

from benchmarks.common import PHOTO, make_parser
from champ_jax.models import vae_tiles
from champ_jax.models.vae import VAE, VAEConfig

CONFIG = VAEConfig(channels=(32, 64, 128, 128), groups=8)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=int, default=320, help="pixels of a side of the picture")
    parser.add_argument("--tile", type=int, default=160, help="pixels of a side of a tile")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[96, 32], help="pixels that tiles share")
    parser.add_argument("--exact", action="store_true", help="also with the whole picture's statistics (slow)")
    args = parser.parse_args()
    graphdef, state = nnx.split(VAE(CONFIG, nnx.Rngs(0)))

    def run(function, x):
        compiled = jax.jit(lambda state, x: function(nnx.merge(graphdef, state), x)).lower(state, x).compile()
        return np.asarray(compiled(state, x)), compiled.memory_analysis().temp_size_in_bytes / 2**20

    photo = Image.open(PHOTO).convert("RGB").resize((args.size,) * 2)
    mean, _ = run(lambda vae, x: vae.encode(x)[0], np.asarray(photo, np.float32) / 127.5 - 1)
    whole, memory = run(VAE.decode, mean)
    print(f"decode {args.size} x {args.size} whole: {memory:.0f} MiB")
    for overlap in args.overlaps:
        for kind in ("own", "shared") + ("exact",) * args.exact:
            with mock.patch.object(vae_tiles, "_normalise", lambda layer, x, _: layer(x)) if kind == "own" else mock.MagicMock():
                tiled, memory = run(lambda vae, z, o=overlap, e=kind == "exact": vae_tiles.decode_tiled(vae, z, args.tile, o, e), mean)
            seam = prominence(tiled, args.tile, overlap) / prominence(whole, args.tile, overlap)
            psnr = 10 * np.log10(np.ptp(whole) ** 2 / np.mean((tiled - whole) ** 2))
            print(f"tile {args.tile} overlap {overlap} {kind}: PSNR {psnr:.1f} dB, seam {seam:.3f}, {memory:.0f} MiB", flush=True)


def prominence(image: np.ndarray, tile: int, overlap: int) -> float:
    """Mean gradient along rows at the middles of the overlaps, over that elsewhere."""
    starts = np.unique(vae_tiles.plan_tiles(image.shape[:2], tile, overlap, CONFIG).starts[:, 1])
    middles = (starts[1:] + starts[:-1] + tile) // 2
    gradient = np.abs(np.diff(image, axis=1)).mean((0, 2))
    seam = np.isin(np.arange(len(gradient)), np.add.outer(middles, np.arange(-2, 2)).ravel())
    return gradient[seam].mean() / gradient[~seam].mean()


if __name__ == "__main__":
    main()
