"""What a training step saves by what it does not do again, against the plain step of the same model.

    python -m benchmarks.train_step --stage C [--steps 12]

The plain step does what CHAMP's training loop does: it encodes the frames and the photo with the VAE and CLIP in every step,
repeats the photo's tokens over frames and projects them in each, attends to the image's single token by a softmax over it, and
computes the reference network to its end. Ours reads latents that were encoded once, projects the photo once a clip, leaves out
what a softmax over one token cannot change, and drops what follows the last features that the denoiser reads.

Prints the FLOPs of both, with each saving alone, at CHAMP's own size; then, for a model with a tenth of its widths that trains on
assets/dancers, the median time of steps taken in turns from the same state on the same batches, and how far their losses are apart.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.champ_way import ONE_TOKEN, UNPROJECTED, plainly
from benchmarks.common import DANCERS, make_parser
from champ_jax.checkpoint.weights import save_weights
from champ_jax.config import load_config
from champ_jax.data.records import open_records
from champ_jax.models import reference as reference_module
from champ_jax.models.animator import init_params
from champ_jax.nn.attention import Attention
from champ_jax.nn.kernels import attend
from champ_jax.parallel import flops
from champ_jax.parallel.mesh import make_mesh, shard_batch
from champ_jax.train.assemble import assemble, assemble_abstract, geometry_of
from champ_jax.train.compiled import compile_step
from champ_jax.train.feed import Feed
from champ_jax.train.plan import batch_of

WIDTHS = {"unet": {"channels": (32, 64, 128, 128), "context_dim": 76, "heads": 4, "groups": 16},
          "vae": {"channels": (16, 32, 64, 64), "groups": 8},
          "clip": {"hidden": 104, "intermediate": 416, "heads": 4, "projection": 76},
          "guidance": {"channels": (8, 16, 32, 64), "out_channels": 32, "heads": 4, "groups": 8}}  # fmt: skip
SAVINGS = ("encoders", "reference", "token", "dead")


def repeated_reference(self, x, reference, share, coarse=None, strength=None):
    """Attention.with_reference as in CHAMP: the photo's tokens stand behind each frame's own, and both are projected."""
    batch, frames, tokens, width = x.shape
    if reference is None:
        return self(x.reshape(batch * frames, tokens, width)).reshape(x.shape)
    photo = jnp.repeat(reference[0].reshape(batch, 1, -1, width), frames, axis=1)
    both = jnp.concatenate([x, photo], axis=2).reshape(batch * frames, -1, width)
    queries = self._split(self.to_q(x.reshape(batch * frames, tokens, width)))
    return self._join(attend(queries, *self.project(both))).reshape(x.shape)


def to_the_end(unet, latents, context, guidance):
    """reference._features that computes the network's output too."""
    apart = lambda x: None if x is None else x.reshape(-1, *x.shape[2:])  # noqa: E731
    guidance = None if guidance is None else apart(guidance)[:, None]
    out, features, _ = unet.run(apart(latents)[:, None], jnp.zeros((), jnp.int32), apart(context), guidance)
    _, features = jax.lax.optimization_barrier((out, features))
    return jax.tree.map(lambda x: x.reshape(*latents.shape[:2], *x.shape[1:]), features)


PLAIN = {
    "reference": ((Attention, "with_reference", repeated_reference), UNPROJECTED),
    "token": (ONE_TOKEN,),
    "dead": ((reference_module, "_features", to_the_end),),
}


def saving(*savings: str):
    """While tracing inside: the model saves these, and does the rest in the plain way."""
    return plainly(replaced for name, plain in PLAIN.items() if name not in savings for replaced in plain)


def configured(stage: str, small: bool, savings: tuple[str, ...]):
    """The stage's own configuration, with encoder cache or without; a small one for the clips of DANCERS."""
    config = load_config(f"stage_{stage.lower()}").unlock()
    # A dropped photo is masked here and left out by a branch in CHAMP: without dropout both do the same.
    config.loss.reference_dropout = 0.0
    config.data.latent_cache = "encoders" in savings
    if small:
        config.compute_dtype = "float32"
        config.model = {"kinds": ("depth", "normal", "semantic_map", "dwpose")}
        config.data.update({"directory": DANCERS, "size": 96, "batch_size": 1, "augment": "none"})
        config.optim.update({"accumulation": 1, "learning_rate": 1e-3, "warmup": 1})
        config.loss.update({"music_share": 0.0} if stage == "B" else {})
        if stage == "C":
            config.data.update({"frames": 12, "first_frames": 12, "stride": 1})
            config.model.unet = {"temporal": {"heads": 4, "groups": 16}}
        else:
            config.data.batch_size = 8
    return config.lock()


def full_size(stage: str) -> None:
    """Prints what a step of CHAMP's own size multiplies, plain, with each saving alone, and with all."""
    counted = {}
    for savings in ((), *((each,) for each in SAVINGS), SAVINGS):
        config = configured(stage, False, savings)
        assembled = assemble_abstract(config)
        step, described, _ = compile_step(config, assembled, make_mesh({"replica": -1}, jax.devices()[:1]))
        with saving(*savings):
            traced = step.trace(described, batch_of(config, assembled), 0)
        counted[savings] = flops.count(traced.jaxpr, 128).model / 1e12
    plain = counted[()]
    print(f"stage {stage} at full size, {config.data.batch_size} a batch, {config.data.size} px:")
    for savings, count in counted.items():
        name = "plain" if not savings else "all savings" if savings == SAVINGS else f"plain, but {savings[0]}"
        print(f"  {name:24}{count:10.1f} TFLOP a step {count / plain - 1:+8.1%}")


def small_runs(stage: str, steps: int) -> None:
    """Prints the times of both steps in turns, and how far apart their losses are."""
    records = open_records(DANCERS, "train")
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        for name, savings in (("plain", ()), ("ours", SAVINGS)):
            config = configured(stage, True, savings).copy_and_resolve_references().unlock()
            described = {**WIDTHS, "kinds": tuple(config.model.kinds), "reference": True}
            if stage == "C":
                described["unet"] = {**WIDTHS["unet"], "temporal": {"heads": 4, "groups": 16}}
            if not start.is_dir():
                save_weights(start, init_params(geometry_of(described), 0), described)
            config.init_from = str(start)
            assembled = assemble(config.lock(), records)
            mesh = make_mesh({"replica": -1}, jax.devices()[:1])
            feed = Feed(config, assembled, records, Path(folder) / name)
            step, _, create = compile_step(config, assembled, mesh)
            runs[name] = [step, create(), feed, mesh, savings]
        times, losses = {name: [] for name in runs}, {name: [] for name in runs}
        for number in range(steps + 1):
            for name, run in runs.items():
                step, state, feed, mesh, savings = run
                batch = shard_batch(feed.next(number), mesh)
                began = time.perf_counter()
                with saving(*savings):
                    run[1], metrics = step(state, batch, 0)
                losses[name].append(float(jax.block_until_ready(metrics["loss"])))
                times[name].append(time.perf_counter() - began)
    plain, ours = (statistics.median(times[name][1:]) for name in runs)
    apart = max(abs(a - b) / a for a, b in zip(losses["plain"], losses["ours"]))
    print(f"stage {stage} at a tenth of the widths, {jax.devices()[0].device_kind}, float32, {steps} steps of each in turns:")
    print(f"  plain {1000 * plain:8.1f} ms a step   ours {1000 * ours:8.1f} ms {ours / plain - 1:+8.1%}")
    print(f"  losses from {losses['plain'][0]:.4f} to {losses['plain'][-1]:.4f}, at most {apart:.1e} of them apart")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--stage", choices=("B", "C"), default="C", help="whose step")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each")
    args = parser.parse_args()
    full_size(args.stage)
    small_runs(args.stage, args.steps)


if __name__ == "__main__":
    main()
