"""The parts of a pipeline as plain functions of named arrays with fixed shapes: what every exported format is made from.

Names of graphs, inputs and outputs are a contract with those who run the files; docs/export.md lists them. Loops over windows,
frames and denoising steps stay outside: `manifest` has the numbers that they need.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from champ_jax.diffusion.samplers import make_steps, timesteps
from champ_jax.diffusion.schedule import network_input, to_x0
from champ_jax.errors import UserError
from champ_jax.infer.music import homing
from champ_jax.infer.photo import MAX_PHOTOS
from champ_jax.infer.pipeline import DECODE_FRAMES, Pipeline
from champ_jax.models.animator import AnimatorConfig, abstract_model, merge
from champ_jax.models.clip import clip_resize
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.m2p import to_pixels
from champ_jax.models.reference import reference_features
from champ_jax.models.vae import vae_images, vae_latents
from champ_jax.nn.blocks import BlockReference
from champ_jax.nn.kernels import shares
from champ_jax.nn.policy import Policy
from champ_jax.nn.quantised import dequantise
from champ_jax.pose import skeleton as sk
from champ_jax.pose.normalise import NormInfo, anchor, to_torso
from champ_jax.trees import flatten, unflatten

Arrays = dict[str, Any]
"""Name to array, or to `jax.ShapeDtypeStruct`."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """One function: `function(params, inputs) -> outputs`, all three dicts of arrays by name.

    params: what it reads of the model, by path, as in "denoiser/down_0/resnet_0/conv1/kernel". inputs, outputs: their shapes
    and dtypes.
    """

    name: str
    function: Callable[[Arrays, Arrays], Arrays]
    params: Arrays
    inputs: Arrays
    outputs: Arrays


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed shapes of an export. size: (height, width) of photos and frames. frames: of a window. photos: R.
    decoded: frames that are decoded at once. steps: denoising steps of the tables in the manifest."""

    size: tuple[int, int]
    frames: int
    steps: int
    photos: int = 1
    decoded: int = DECODE_FRAMES


def choose_shapes(pipe: Pipeline, size=None, frames=None, steps=None, photos: int = 1) -> Shapes:
    """The pipeline's own size, window and steps where they are None. Raises UserError for what the model cannot have."""
    own = pipe.settings
    size = tuple(own.size if size is None else size)
    frames, steps = own.window if frames is None else frames, own.steps if steps is None else steps
    multiple = pipe.config.vae.downsampling
    if any(side < multiple or side % multiple for side in size):
        raise UserError(f"--size is {size[0]}x{size[1]} (height x width): this model needs multiples of {multiple}")
    temporal = pipe.config.unet.temporal
    longest = temporal.max_frames if temporal is not None and temporal.kind == "animatediff" else None
    if frames < 1 or (longest and frames > longest):
        raise UserError(f"--frames is {frames}: this model's windows have 1 to {longest or 'any number of'} frames")
    if frames <= own.overlap and frames != 1:
        raise UserError(f"--frames is {frames}: windows of this model share {own.overlap} frames, so they need more")
    if not 1 <= photos <= MAX_PHOTOS:
        raise UserError(f"--photos is {photos}: give 1 to {MAX_PHOTOS}")
    timesteps(pipe.schedule, steps)
    return Shapes(size, frames, steps, photos)


def make_graphs(pipe: Pipeline, shapes: Shapes, compute: Any = jnp.float32) -> list[Graph]:
    """Every graph that this model's videos need, in the order in which they run.

    compute: float32 or float16, what matrix products and activations are in; norms' statistics, softmax, latents, images, M2P
    and the reference network are float32 either way.
    Raises UserError on a device other than the CPU, whose own attention kernels no other runtime has.
    """
    if jax.default_backend() != "cpu":
        raise UserError(f"export runs on the CPU, not on {jax.default_backend()}: set JAX_PLATFORMS=cpu")
    return _Maker(pipe, shapes, compute).graphs()


def manifest(pipe: Pipeline, shapes: Shapes, graphs: list[Graph]) -> dict[str, Any]:
    """What those who run the graphs need besides: their inputs and outputs, windows, rates, and the sampler's table.

    Of a denoising step the row has t; x0, two numbers, of which `x0[0] * latents + x0[1] * prediction` is the clean data; and mix
    (2 rows of 6), what the next latents (0) and the next `last` (1) take of latents, last, the clean data now, those of one and of two
    steps ago, and fresh noise, as in `champ_jax.diffusion.samplers`.
    """
    own, config = pipe.settings, pipe.config
    one, nothing = jnp.ones(()), jnp.zeros(())
    rows = []
    for t, mix in zip(*map(np.ndarray.tolist, make_steps(pipe.schedule, shapes.steps, own.sampler))):
        # Clean data are linear in both; what becomes of a 1 is the factor.
        x0 = [float(to_x0(pipe.schedule, *pair, t)) for pair in ((one, nothing), (nothing, one))]
        rows.append({"t": t, "x0": x0, "mix": mix})
    listed = lambda arrays: {name: {"shape": list(x.shape), "dtype": np.dtype(x.dtype).name} for name, x in arrays.items()}  # noqa: E731
    return {
        "graphs": {graph.name: {"inputs": listed(graph.inputs), "outputs": listed(graph.outputs)} for graph in graphs},
        "sampler": own.sampler,
        "steps": rows,
        "guidance_scale": own.guidance_scale if config.reference else 1.0,
        "size": list(shapes.size), "fps": own.fps, "window": shapes.frames, "overlap": min(own.overlap, shapes.frames - 1),
        "decoded": shapes.decoded, "photos": shapes.photos, "kinds": list(config.kinds),
        "latents": [shapes.size[0] // config.vae.downsampling, shapes.size[1] // config.vae.downsampling, config.vae.latent_channels],
        "motion_fps": own.motion_fps, "motion_window": own.motion_window, "music_spec": own.music_spec,
    }  # fmt: skip


class _Maker:
    """Builds the graphs of one pipeline at one set of shapes; each method makes one."""

    def __init__(self, pipe: Pipeline, shapes: Shapes, compute):
        self.config: AnimatorConfig = pipe.config
        self.settings, self.schedule, self.shapes = pipe.settings, pipe.schedule, shapes
        self.compute = compute
        self.graphdef, expected = abstract_model(pipe.config, Policy(compute=compute))
        self.exact, _ = abstract_model(pipe.config, Policy(compute=jnp.float32))
        self.expected = flatten(expected)
        self.values = flatten(dequantise(pipe.params))
        self.made: dict[str, Graph] = {}

    def graphs(self) -> list[Graph]:
        config = self.config
        if config.reference:
            self.vae_encode()
        if config.clip is not None:
            self.clip()
        if config.reference_pose:
            self.photo_pose()
        if config.reference:
            self.reference()
        self.guidance()
        if config.face_id is not None:
            self.face_id()
        self.denoise()
        self.vae_decode()
        if config.m2p is not None:
            self.m2p()
        return list(self.made.values())

    def add(self, name: str, function: Callable[[Any, Arrays], Arrays], inputs: Mapping[str, Any], exact: bool = False) -> None:
        """function(model, inputs) -> outputs; the graph keeps the parameters that reach an output. exact: in float32 always."""
        graphdef = self.exact if exact else self.graphdef

        def whole(params: Arrays, inputs: Arrays) -> Arrays:
            # NumPy's zeros: what nobody computes with leaves no trace, and these take no memory.
            unused = {path: np.broadcast_to(np.zeros((), x.dtype), x.shape) for path, x in self.expected.items() if path not in params}
            return function(merge(graphdef, unflatten({**unused, **params})), inputs)

        used, outputs = reached(whole, self.expected, inputs)
        params = {path: self.values[path] for path in self.expected if path in used}
        self.made[name] = Graph(name, whole, params, dict(inputs), outputs)

    def array(self, *shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def pictures(self, count: int) -> jax.ShapeDtypeStruct:
        return self.array(count, *self.shapes.size, 3, dtype=jnp.uint8)

    def context(self, *leading: int) -> dict[str, Any]:
        """The context tokens, for models that read any."""
        return {} if self.config.unet.context_dim is None else {"context": self.array(*leading, 1, self.config.unet.context_dim)}

    def vae_encode(self) -> None:
        def run(model, x):
            return {"latents": vae_latents(model.vae, x["photos"].astype(jnp.float32) / 127.5 - 1)[None].astype(jnp.float32)}

        self.add("vae_encode", run, {"photos": self.pictures(self.shapes.photos)})

    def clip(self) -> None:
        def run(model, x):
            tokens = model.clip(clip_resize(x["photos"], self.config.clip.image_size)).astype(jnp.float32)[None, :, None]
            return {"tokens": tokens, "context": (tokens * shares(x["reference_weight"])[:, :, None, None]).sum(axis=1)}

        photos = self.shapes.photos
        self.add("clip", run, {"photos": self.pictures(photos), "reference_weight": self.array(1, photos)})

    def photo_pose(self) -> None:
        def run(model, x):
            return {"pose": model.guidance["dwpose"](x["skeletons"].astype(jnp.float32)[None] / 255)}

        self.add("photo_pose", run, {"skeletons": self.pictures(self.shapes.photos)})

    def reference(self) -> None:
        config = self.config

        def run(model, x):
            features = reference_features(model.reference, x["latents"], x.get("tokens"), x.get("pose"), bool(config.unet.coarse))
            flat = _flat_reference(model.denoiser.project_reference(features), model.denoiser)
            return {name: x if name.endswith("/moments") else x.astype(self.compute) for name, x in flat.items()}

        inputs = {"latents": self.made["vae_encode"].outputs["latents"]}
        if config.unet.context_dim is not None:
            inputs["tokens"] = self.context(1, self.shapes.photos)["context"]
        if config.reference_pose:
            inputs["pose"] = self.made["photo_pose"].outputs["pose"]
        # It runs once a clip, and its residual stream goes beyond what halves can hold (the demo's to 23,000 before a product).
        self.add("reference", run, inputs, exact=True)

    def guidance(self) -> None:
        kinds = self.config.kinds

        def run(model, x):
            maps = x["maps"].astype(jnp.float32)[None] / 255
            each = {kind: maps[:, :, i] for i, kind in enumerate(kinds)}
            counts = {kind: x["weights"][None, :, i] for i, kind in enumerate(kinds)}
            return {"guidance": self.settings.guidance_strength * fuse_guidance(model.guidance, each, counts, model.fusion)}

        frames, count = self.shapes.frames, len(kinds)
        maps = self.array(frames, count, *self.shapes.size, 3, dtype=jnp.uint8)
        self.add("guidance", run, {"maps": maps, "weights": self.array(frames, count)})

    def face_id(self) -> None:
        def run(model, x):
            return {"face": model.face_id(x["faces"], jnp.repeat(x["context"], len(x["faces"]), 0))[None]}

        faces = self.array(self.shapes.frames, self.config.face_id.embedding)
        self.add("face_id", run, {"faces": faces, **self.context(1)})

    def denoise(self) -> None:
        config, shapes = self.config, self.shapes

        def run(model, x):
            blocks = list(model.denoiser.attention_blocks())
            read = _nested_reference(x, blocks) if config.reference else None
            face = (x["face"], x["face_weight"]) if "face" in x else None
            latents = network_input(self.schedule, x["latents"], x["t"])
            found = model.denoiser(latents, x["t"], x.get("context"), x["guidance"], read, x.get("reference_weight"), face)
            return {"prediction": found.astype(jnp.float32)}

        height, width = (side // config.vae.downsampling for side in shapes.size)
        inputs = {
            "latents": self.array(1, shapes.frames, height, width, config.vae.latent_channels),
            "t": self.array(1, dtype=jnp.int32),
            "guidance": self.made["guidance"].outputs["guidance"],
            **self.context(1),
        }
        if config.reference:
            inputs |= {"reference_weight": self.array(1, shapes.photos), **self.made["reference"].outputs}
        if config.face_id is not None:
            inputs |= {"face": self.made["face_id"].outputs["face"], "face_weight": self.array(1)}
        self.add("denoise", run, inputs)

    def vae_decode(self) -> None:
        def run(model, x):
            return {"images": vae_images(model.vae, x["latents"])}

        latents = self.made["denoise"].inputs["latents"]
        self.add("vae_decode", run, {"latents": self.array(self.shapes.decoded, *latents.shape[2:])})

    def m2p(self) -> None:
        """One window of the dance in pixels, as `infer.music.dance_window`: it starts in a pose and walks half way home."""
        config, window = self.config.m2p, self.settings.motion_window

        def run(model, x):
            photo = anchor(x["photo_keypoints"], x["photo_confidence"])
            own = anchor(x["start_keypoints"], x["start_confidence"])
            info = NormInfo(own.root, photo.torso)
            start = to_torso(x["start_keypoints"][None], info)
            outputs = model.m2p(x["music"][None], start, x["start_confidence"][None], x["photo_face"][None])
            keypoints, confidence = to_pixels(outputs, jax.tree.map(operator.itemgetter(None), info))
            moved = keypoints[0] + homing(window).astype(np.float32)[:, None, None] * (photo.root - own.root)
            return {"keypoints": moved, "confidence": confidence[0], "face": outputs["face"][0]}

        pose, sure = self.array(sk.J, 2), self.array(sk.J)
        inputs = {
            "music": self.array(window, config.music_dim), "start_keypoints": pose, "start_confidence": sure,
            "photo_keypoints": pose, "photo_confidence": sure, "photo_face": self.array(config.face_dim),
        }  # fmt: skip
        self.add("m2p", run, inputs, exact=True)  # a pose that is off by a fraction of a pixel is another picture


def _flat_reference(projected: Mapping[str, BlockReference], denoiser) -> Arrays:
    """What the denoiser reads of each block, by names such as "down_1/attention_0/keys"."""
    flat = {}
    for name, block in denoiser.attention_blocks().items():
        read = projected[name]
        if read.keys is not None:
            flat |= {f"{name}/keys": read.keys, f"{name}/values": read.values}
        if read.coarse is not None:
            flat |= {f"{name}/coarse_keys": read.coarse[0], f"{name}/coarse_values": read.coarse[1]}
        if block.style is not None:
            flat[f"{name}/moments"] = read.moments
    return flat


def _nested_reference(flat: Mapping[str, Any], blocks: list[str]) -> dict[str, BlockReference]:
    """The inverse of `_flat_reference`; None for moments that no block reads."""
    read = {}
    for name in blocks:
        keys, values, coarse_keys, coarse_values, moments = (
            flat.get(f"{name}/{part}") for part in ("keys", "values", "coarse_keys", "coarse_values", "moments")
        )
        read[name] = BlockReference(keys, values, None if coarse_keys is None else (coarse_keys, coarse_values), moments)
    return read


def reached(
    function: Callable[[Arrays, Arrays], Arrays], params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[set[str], dict[str, jax.ShapeDtypeStruct]]:
    """Names of the parameters that an output of `function(params, inputs)` depends on, and the outputs' shapes and dtypes."""
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(dict(params), dict(inputs))
    jaxpr = closed.jaxpr
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
    # Dictionaries are flattened in the order of their sorted keys.
    return {name for name, variable in zip(sorted(params), jaxpr.invars) if id(variable) in needed}, dict(outputs)
