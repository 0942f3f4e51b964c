"""What each precision does to the demo's size, speed and videos.

    python -m benchmarks.quantise [--checkpoint DIR] [--data DIR] [--people 8] [--frames 24] [--rows ROW ...]

Every row is a folder written as `champ-jax quantise` writes it and read by `load_pipeline`; bf16 also computes in its 16 bits,
the others as by default, on a CPU in float32 (in fp16 the demo overflows). Bytes are of all files. The time is of one pass of the
denoiser over one window, the median of 11 (quartiles in brackets), taken in turns. Then PSNR to the videos of f32, and the scores of
held-out people against the truth.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import DANCERS, DEMO, in_turns, make_parser, print_header, print_row, size_mb
from champ_jax.checkpoint.weights import save_weights
from champ_jax.convert.components import gather
from champ_jax.data.records import open_records
from champ_jax.evaluate import held_out
from champ_jax.export.calibrate import input_ranges
from champ_jax.export.quantise import psnr, quantise
from champ_jax.infer.pipeline import Pipeline, load_pipeline
from champ_jax.nn.policy import Policy

ROWS = ("f32", "bf16", "fp16", "int8", "w8a8", "w8a8 static", "fp8")
COMPUTE = {"bf16": jnp.bfloat16}
SCORES = ("psnr", "psnr_person", "ssim_person", "identity_top1")
ROUNDS = 11


def denoise_pass(pipe: Pipeline, clip: held_out.HeldOutClip):
    """A function that denoises one window of latents of the clip's person."""
    functions, window = pipe.functions, pipe.settings.window
    height, width = (side // pipe.config.vae.downsampling for side in pipe.settings.size)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, window, height, width, pipe.config.vae.latent_channels)).astype(np.float32)
    guidance = np.zeros((1, window, height, width, pipe.config.unet.channels[0]), np.float32)
    person, _, context = functions.encode_photos(pipe.params, clip.photos[:1], clip.guidance["dwpose"][:1], jnp.ones(1))
    denoise = jax.jit(functions.denoise)
    return partial(denoise, pipe.params, latents, 500, context, guidance, person, None)


def write_and_read(row: str, folder: Path, params, config, ranges) -> Pipeline:
    """The pipeline of a row, from the folder that it is written to; `ranges()` is asked for by a static one."""
    name, _, static = row.partition(" ")
    made = params if row == "f32" else quantise(params, name, (), ranges() if static else None)
    save_weights(folder, made, config, "float32" if row == "f32" else None)
    return load_pipeline(folder, Policy(compute=COMPUTE[name]) if name in COMPUTE else None)


def seen_ranges(pipe: Pipeline, data: str, frames: int) -> dict[str, float]:
    """Static ranges, seen in every tenth clip of the split `train`."""
    train = open_records(data, "train")
    clips = [held_out.read_clip(train[number], pipe.settings.size, frames) for number in range(0, len(train), 10)]
    return input_ranges(pipe, partial(held_out.animate_clips, clips=clips))


def main() -> None:
    """Writes, reads, animates, scores and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", default=DEMO, help="the model to quantise")
    parser.add_argument("--data", default=DANCERS, help="records with splits train and test")
    parser.add_argument("--people", type=int, default=8, help="clips of test, at most")
    parser.add_argument("--frames", type=int, default=24, help="of each")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="precisions")
    args = parser.parse_args()
    rows = list(dict.fromkeys(("f32", *args.rows)))
    params, config = gather(args.checkpoint, {})
    plain = load_pipeline(args.checkpoint)
    size, test = plain.settings.size, open_records(args.data, "test")
    clips = [held_out.read_clip(test[number], size, args.frames) for number in range(min(args.people, len(test)))]
    people = held_out.make_judge(args.data, size)
    lines, passes, whole = {}, {}, 0
    print(f"{jax.devices()[0].device_kind}, {len(clips)} people, {args.frames} frames")
    for row in rows:
        with tempfile.TemporaryDirectory() as scratch:
            pipe = write_and_read(row, Path(scratch), params, config, partial(seen_ranges, plain, args.data, args.frames))
            size_now = size_mb(Path(scratch))
        videos = held_out.animate_clips(pipe, clips)
        if row == "f32":
            whole, expected = size_now, videos
        result = held_out.score_outputs({row: videos}, clips, people)[row]
        values = {score["name"]: score["value"] for score in result["metrics"] if score["n"]}
        own = " | ".join(f"{values[name]:.{digits}f}" for name, digits in zip(SCORES, (3, 3, 4, 2)))
        lines[row] = f"{size_now:.2f} | {whole / size_now:.2f} | {psnr(videos, expected):.1f} | {own}"
        print(f"{row}: {lines[row]}", flush=True)
        passes[row] = denoise_pass(pipe, clips[0])
    print_header(("precision", "MB", "smaller", "PSNR to f32", "PSNR", "PSNR, person", "SSIM, person", "identity top-1", "denoiser, ms"))
    for row, times in in_turns(passes, ROUNDS).items():
        low, middle, high = 1e3 * np.percentile(times, (25, 50, 75))
        print_row(row, lines[row], f"{middle:.0f} ({low:.0f}-{high:.0f})")


if __name__ == "__main__":
    main()
