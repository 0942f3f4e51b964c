"""A pass of the denoiser, and a clip from noise to frames, against the same in PyTorch: diffusers' UNetMotionModel and AutoencoderKL.

    python -m benchmarks.denoise --torch PYTHON [--size 16 32] [--clip] [--rounds 5] [--gpu]

PYTHON is an interpreter that has torch, diffusers and safetensors; it runs denoise_torch.py in a process of its own. Both sides
have the same architecture (temporal modules, no reference), the same weights, which our converter imports, and the same inputs,
and their outputs are compared first: nothing is timed that is further apart than a tolerance. PyTorch runs in channels_last, with
fused attention, without gradients, both plainly and through torch.compile, where that works. Both sides have the same two threads
(--threads) and are timed in turns, ours first and last. Widths are half of Stable Diffusion 1.5's unless --width says otherwise.

Prints for each row the median time with 10th and 90th percentile, and the ratio of PyTorch's faster way to ours: above 1 ours
is faster. Its spread is that of the ratios of the rounds. First calls, which compile, are apart.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import make_parser, seconds

TOKENS = 77
STEPS = 4
TOLERANCE = {"step": 1e-4, "clip": 1e-3}
"""How far apart outputs may be in float32, whose root mean square is about 1; in bfloat16 0.1 of it on average."""


class Torch:
    """The other process."""

    def __init__(self, python: str, folder: Path, threads: int, gpu: bool):
        script = Path(__file__).with_name("denoise_torch.py")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
        self.log = open(folder / "torch.log", "w+")
        self.process = subprocess.Popen(
            [python, script, folder, str(threads), "gpu" if gpu else "cpu"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )  # fmt: skip

    def __call__(self, do: str, **request) -> dict:
        """The answer to a request; ends the benchmark with what the process printed if it died."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            self.log.seek(0)
            sys.exit(f"PyTorch's side died at {do!r}:\n{self.log.read()[-2000:]}")

    def close(self) -> None:
        """Lets the process end."""
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def unet_config(width: float, heads: int):
    """Our geometry of diffusers' UNetMotionModel, at `width` times Stable Diffusion 1.5's widths."""
    from champ_jax.models.temporal import TemporalConfig
    from champ_jax.models.unet import UNetConfig

    full = UNetConfig(heads=heads, temporal=TemporalConfig(heads=heads, clip_norm=True))
    return dataclasses.replace(full, channels=tuple(round(width * c) for c in full.channels))


class Ours:
    """Our networks with PyTorch's weights."""

    def __init__(self, folder: Path, config, vae: bool, gpu: bool):
        import jax.numpy as jnp
        from flax import nnx

        from champ_jax.checkpoint.tensors import read_safetensors
        from champ_jax.convert.formats import place
        from champ_jax.convert.mapping import abstract, to_ours
        from champ_jax.convert.motion import ADAPTER_LAYOUT, split_temporal
        from champ_jax.convert.unet import DIFFUSERS
        from champ_jax.convert.vae import DIFFUSERS as VAE_LAYOUT
        from champ_jax.models.animator import split
        from champ_jax.models.unet import UNet
        from champ_jax.models.vae import VAE, VAEConfig
        from champ_jax.nn.keys import ParamKeys
        from champ_jax.nn.policy import Policy

        self.dtype = jnp.bfloat16 if gpu else jnp.float32
        spatial, temporal = split_temporal(abstract(UNet, config))
        state, _ = read_safetensors(folder / "unet.safetensors")
        params = {"unet": to_ours(state, spatial, DIFFUSERS)}
        place(params["unet"], "", to_ours(state, temporal, ADAPTER_LAYOUT))
        made = {"unet": (UNet, config), "vae": (VAE, VAEConfig())} if vae else {"unet": (UNet, config)}
        if vae:
            state, _ = read_safetensors(folder / "vae.safetensors")
            params["vae"] = to_ours(state, abstract(VAE, VAEConfig()), VAE_LAYOUT)
        self.params = {name: _loaded(params[name], self.dtype) for name in made}
        policy = Policy(compute=self.dtype)
        self.graphs = {
            name: split(nnx.eval_shape(lambda kind=kind, config=config: kind(config, ParamKeys(0), policy)))[0]
            for name, (kind, config) in made.items()
        }

    def step(self, latents, t, context):
        """One pass, latents [B,F,h,w,C]: a function without arguments that waits for its result."""
        import jax
        import jax.numpy as jnp

        from champ_jax.models.animator import merge

        inputs = jnp.asarray(latents, self.dtype), jnp.asarray(t), jnp.asarray(context, self.dtype)
        denoise = jax.jit(lambda params, *inputs: merge(self.graphs["unet"], params)(*inputs))
        return lambda: denoise(self.params["unet"], *inputs).block_until_ready()

    def clip(self, noise, steps, context):
        """Sampling and decoding, as `denoise_torch.Side._clip` does it."""
        import jax
        import jax.numpy as jnp

        from champ_jax.models.animator import merge

        noise, context = (jnp.asarray(x, self.dtype) for x in (noise, context))

        @jax.jit
        def advance(params, x, step, context):
            t, here, there = step
            found = merge(self.graphs["unet"], params)(x, t.astype(jnp.int32), context)
            clean = (x - jnp.sqrt(1 - here) * found) / jnp.sqrt(here)
            return (jnp.sqrt(there) * clean + jnp.sqrt(1 - there) * found).astype(x.dtype)

        decode = jax.jit(lambda params, x: merge(self.graphs["vae"], params).decode(x / 0.18215))

        def call():
            x = noise
            for step in steps:
                x = advance(self.params["unet"], x, jnp.asarray(step, jnp.float32), context)
            return decode(self.params["vae"], x).block_until_ready()

        return call


def _loaded(params, dtype):
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), params)


def inputs_of(task: str, size: int, frames: int) -> dict[str, np.ndarray]:
    """What both sides read: latents [1,F,h,w,4], context, and the timestep or the steps (timestep, alpha_bar, the next one)."""
    from champ_jax.diffusion.samplers import previous_timesteps, timesteps
    from champ_jax.diffusion.schedule import alpha_bar, make_schedule

    draw = np.random.default_rng(0).standard_normal
    found = {"latents": draw((1, frames, size, size, 4), np.float32), "context": draw((1, TOKENS, 768), np.float32)}
    if task == "step":
        return found | {"t": np.array([500])}
    schedule = make_schedule("scaled_linear", zero_snr=False, prediction="epsilon")
    visited = timesteps(schedule, STEPS)
    following = previous_timesteps(schedule, visited)
    rows = [visited, alpha_bar(schedule, visited), alpha_bar(schedule, following)]
    return found | {"steps": np.stack(rows, -1).astype(np.float64)}


def compared(theirs: np.ndarray, ours: np.ndarray, task: str, gpu: bool) -> str:
    """How far outputs are apart, as text; ends the benchmark where they are too far. theirs: channels first."""
    theirs = np.moveaxis(theirs, 1, -1)
    ours = np.asarray(ours, np.float32)
    ours = ours[0] if task == "clip" else ours
    error, scale = np.abs(theirs - ours), np.sqrt(np.mean(theirs**2))
    wrong = error.mean() > 0.1 * scale if gpu else error.max() > TOLERANCE[task] * max(scale, 1.0)
    text = f"largest difference {error.max():.1e}, mean {error.mean():.1e}, of outputs with root mean square {scale:.2f}"
    if wrong or not np.isfinite(ours).all():
        sys.exit(f"{task}: outputs differ, nothing is timed: {text}.")
    return text


def measure(task: str, size: int, args, ours: Ours, torch: Torch, folder: Path) -> dict:
    """Compares and times one row and prints it."""
    inputs = inputs_of(task, size, args.frames)
    np.savez(folder / "inputs.npz", **inputs | {"latents": np.moveaxis(inputs["latents"], -1, 1)})
    call = getattr(ours, task)(*(inputs[name] for name in ("latents", "t" if task == "step" else "steps", "context")))
    first = {"ours": seconds(call)}
    out = call()
    ways = torch("load", task=task, compiled=not args.eager)
    print(f"\n{task}, latents {size}x{size}, {args.frames} frames:")
    for way, found in list(ways.items()):
        if "failed" in found:
            print(f"  {way} does not run: {found['failed']}")
            del ways[way]
            continue
        first[way] = found["first_s"]
        print(f"  {way} and ours: {compared(np.load(folder / f'{way}.npy'), out, task, args.gpu)}")
    for way in ways:
        torch("time", way=way, calls=1)
    times = {name: [] for name in ("ours", *ways)}
    for turn in range(args.rounds + 1):
        time.sleep(0.2)  # Threads that still spin for work let go.
        times["ours"].append([1e3 * seconds(call) for _ in range(args.calls)])
        if turn < args.rounds:
            for way in ways:
                time.sleep(0.2)
                times[way].append(torch("time", way=way, calls=args.calls)["ms"])
    result = {"task": task, "size": size, "ms": {}, "first_s": first}
    for name, rounds in times.items():
        low, middle, high = np.percentile(np.concatenate(rounds), (10, 50, 90))
        result["ms"][name] = [low, middle, high]
        print(f"  {name:10}{middle:9.1f} ms   p10 {low:8.1f}   p90 {high:8.1f}   first call {first[name]:6.1f} s")
    best = min(ways, key=lambda way: result["ms"][way][1])
    middles = {name: np.array([np.median(one) for one in rounds]) for name, rounds in times.items()}
    # A round of theirs lies between two of ours.
    ratios = middles[best] / ((middles["ours"][:-1] + middles["ours"][1:]) / 2)
    result |= {"best": best, "ratio": result["ms"][best][1] / result["ms"]["ours"][1], "ratios": ratios.tolist()}
    print(f"  {best} / ours {result['ratio']:.2f} (of rounds {ratios.min():.2f} to {ratios.max():.2f})")
    return result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--torch", required=True, metavar="PYTHON", help="interpreter that has torch and diffusers")
    parser.add_argument("--size", type=int, nargs="+", default=[16, 32], help="cells of the latents, a side")
    parser.add_argument("--frames", type=int, default=8, help="of the clip")
    parser.add_argument("--width", type=float, default=0.5, help="times the widths of Stable Diffusion 1.5")
    parser.add_argument("--heads", type=int, default=8, help="of every attention")
    parser.add_argument("--clip", action="store_true", help=f"also {STEPS} steps and the VAE's decoder, at the last size")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--calls", type=int, default=3, help="calls a round of each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--gpu", action="store_true", help="both sides in bfloat16 on a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    if not args.gpu:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])  # JAX makes a thread a processor.
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax

    config = unet_config(args.width, args.heads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch = Torch(args.torch, folder, args.threads, args.gpu)
        made = torch("build", channels=config.channels, heads=args.heads, vae=args.clip)
        ours = Ours(folder, config, args.clip, args.gpu)
        print(f"JAX {jax.__version__} and PyTorch {made['version']} on {jax.devices()[0].device_kind}, {made['threads']} threads, "
              f"{'bfloat16' if args.gpu else 'float32'}, widths {config.channels}, {made['parameters'] / 1e6:.0f}M parameters")  # fmt: skip
        rows = [measure("step", size, args, ours, torch, folder) for size in args.size]
        if args.clip:
            rows.append(measure("clip", args.size[-1], args, ours, torch, folder))
        torch.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
