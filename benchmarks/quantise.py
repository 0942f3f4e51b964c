"""What each precision does to the demo's size, speed and videos.

    python -m benchmarks.quantise [--checkpoint DIR] [--data DIR] [--people 8] [--frames 24]

Every row is a folder written as `champ-jax quantise` writes it and read by `load_pipeline`; bf16 and fp16 also compute in their
16 bits, the others in float32. Bytes are of all files. The time is of one pass of the denoiser over one window, the median of 11
(quartiles in brackets), taken in turns. Then PSNR to the videos of f32, and the scores of held-out people against the truth.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.checkpoint.weights import save_weights
from champ_jax.convert.components import gather
from champ_jax.data.records import open_records
from champ_jax.evaluate import held_out
from champ_jax.export.calibrate import input_ranges
from champ_jax.export.quantise import psnr, quantise
from champ_jax.infer.pipeline import Pipeline, load_pipeline
from champ_jax.nn.policy import Policy

ROWS = ("f32", "bf16", "fp16", "int8", "w8a8", "w8a8 static", "fp8")
COMPUTE = {"bf16": jnp.bfloat16, "fp16": jnp.float16}
SCORES = ("psnr", "psnr_person", "ssim_person", "identity_top1")
ROUNDS = 11


def denoise_pass(pipe: Pipeline, clip: held_out.HeldOutClip):
    """A function that denoises one window of latents of the clip's person, and waits for it; compiled already."""
    functions, window = pipe._functions, pipe.settings.window
    height, width = (side // pipe.config.vae.downsampling for side in pipe.settings.size)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, window, height, width, pipe.config.vae.latent_channels)).astype(np.float32)
    guidance = np.zeros((1, window, height, width, pipe.config.unet.channels[0]), np.float32)
    person, _, context = functions.encode_photos(pipe.params, clip.photos[:1], clip.guidance["dwpose"][:1], jnp.ones(1))
    denoise = jax.jit(functions.denoise)

    def once() -> None:
        jax.block_until_ready(denoise(pipe.params, latents, 500, context, guidance, person, None))

    once()
    return once


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def times_in_turns(passes: dict) -> dict[str, np.ndarray]:
    """Milliseconds of every call of each, one call of each after the other."""
    times = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name, once in passes.items():
            start = time.perf_counter()
            once()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(each) for name, each in times.items()}


def main() -> None:
    """Writes, reads, animates, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="assets/weights/demo", help="(default: %(default)s)")
    parser.add_argument("--data", default="assets/dancers", help="records with splits train and test (default: %(default)s)")
    parser.add_argument("--people", type=int, default=8, help="clips of test, at most (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=24, help="of each (default: %(default)s)")
    args = parser.parse_args()
    params, config = gather(args.checkpoint, {})
    plain = load_pipeline(args.checkpoint)
    train, test = (open_records(args.data, split) for split in ("train", "test"))
    clips = [held_out.read_clip(test[number], plain.settings.size, args.frames) for number in range(min(args.people, len(test)))]
    seen = [held_out.read_clip(train[number], plain.settings.size, args.frames) for number in range(0, len(train), 10)]
    ranges = input_ranges(plain, lambda pipe: held_out.animate_clips(pipe, seen))
    sizes, passes, outputs = {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for row in ROWS:
            name, _, static = row.partition(" ")
            folder = Path(scratch) / row
            made = params if row == "f32" else quantise(params, name, (), ranges if static else None)
            save_weights(folder, made, config, "float32" if row == "f32" else None)
            pipe = load_pipeline(folder, Policy(compute=COMPUTE[name]) if name in COMPUTE else None)
            sizes[row] = folder_bytes(folder)
            outputs[row] = held_out.animate_clips(pipe, clips)
            passes[row] = denoise_pass(pipe, clips[0])
            print(f"{row}: {sizes[row]} bytes", flush=True)
    scores = held_out.score_outputs(outputs, clips, held_out.make_judge(args.data, plain.settings.size))
    times = times_in_turns(passes)
    print(f"{jax.devices()[0].device_kind}, {len(clips)} people, {args.frames} frames")
    print("| precision | MB | smaller | denoiser, ms | PSNR to f32 | PSNR | PSNR, person | SSIM, person | identity top-1 |")
    print("|" + "---|" * 9)
    for row in ROWS:
        low, middle, high = np.percentile(times[row], (25, 50, 75))
        values = {score["name"]: score["value"] for score in scores[row]["metrics"] if score["n"]}
        own = " | ".join(f"{values[name]:.{digits}f}" for name, digits in zip(SCORES, (3, 3, 4, 2)))
        print(f"| {row} | {sizes[row] / 1e6:.2f} | {sizes['f32'] / sizes[row]:.2f} | {middle:.0f} ({low:.0f}-{high:.0f}) | "
              f"{psnr(outputs[row], outputs['f32']):.1f} | {own} |")  # fmt: skip


if __name__ == "__main__":
    main()
