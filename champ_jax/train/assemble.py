"""The model of a run: geometry from the configuration and from the weights it starts from, parameters, exact accounting."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from champ_jax.checkpoint.partial import account
from champ_jax.checkpoint.weights import TEACHER, save_weights
from champ_jax.convert.checkpoints import import_checkpoint
from champ_jax.convert.components import gather
from champ_jax.data.records import Records
from champ_jax.diffusion.schedule import Schedule, make_schedule
from champ_jax.errors import UserError
from champ_jax.models.animator import Animator, AnimatorConfig, split
from champ_jax.models.lora import LORA, new_lora
from champ_jax.models.m2p import M2P
from champ_jax.models.unet import UNetConfig
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from champ_jax.nn.quantised import refuse_quantised
from champ_jax.parallel.mesh import fetch
from champ_jax.parallel.multihost import barrier, is_first
from champ_jax.train.distil import Taught
from champ_jax.train.stages import STAGES, is_trained
from champ_jax.train.state import TrainState
from champ_jax.trees import flatten, unflatten

Params = dict[str, Any]

CHANGEABLE = ("remat",)
"""Values of a geometry that may differ from what the weights were trained with: they change memory, not numbers."""


class MusicModel(nnx.Module):
    """The part of an Animator that stage A trains; it needs no other network in memory."""

    def __init__(self, config: AnimatorConfig, rngs: nnx.Rngs, policy: Policy = Policy()):
        self.config = config
        self.m2p = M2P(config.m2p, rngs, policy)


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What a run trains on.

    config: geometry; graphdef: what `merge` takes; params: nested dict of host arrays; schedule: of the diffusion;
    described: plain dict, geometry and pipeline settings as stored with weights; passengers: components of `init_from`
    that this stage does not need and hands on unchanged; fresh: components that start from random values; frozen_hash:
    names the values of all that the stage leaves as it is, which a resumed run must find unchanged.
    """

    config: AnimatorConfig
    graphdef: nnx.GraphDef
    params: Params
    schedule: Schedule
    described: dict[str, Any]
    passengers: Params
    fresh: frozenset[str]
    frozen_hash: str

    @property
    def encoders_hash(self) -> str:
        """Names the weights of VAE and CLIP: what an encoder cache must match."""
        return _fingerprint(flatten({name: self.params[name] for name in ("vae", "clip") if name in self.params}))


def assemble(config, records: Records) -> Assembled:
    """Builds the model of a run on `records`.

    `config.init_from` is a whole model, `config.init` names single networks that take the place of its own.
    `config.model` may leave out what these weights already say; where both speak they must agree,
    parameter by parameter. Fresh parameters are only allowed in what the stage trains.
    Raises UserError otherwise, listing the parameters.
    """
    given_parts = {name: path for name, path in config.get("init", {}).items() if path}
    source = ", ".join(filter(None, [config.init_from, *given_parts.values()]))
    loaded, described = gather(config.init_from, given_parts)
    refuse_quantised(loaded, source)
    described = _overlay(described, config.model.to_dict(), source)
    if (described.get("unet") or {}).get("identity"):
        described["face_id"] = _of_faces(described.get("face_id") or {}, records)
    geometry, build, graphdef, expected = _expected(described, config)
    expected = flatten(expected)
    if config.stage == "D":  # what is learned from is what is started from
        loaded[TEACHER] = loaded.get("denoiser", {})
    passengers = {name: part for name, part in loaded.items() if not any(p.startswith(name + "/") for p in expected)}
    given = flatten({name: part for name, part in loaded.items() if name not in passengers})
    fresh = _fresh(expected, given, config)
    if config.stage != "A" and geometry.reference and "clip" not in described:
        raise UserError(
            f"a model with a reference network also sees the photo through CLIP, and {source or 'init_from, which is empty,'} has none: "
            'give it in --config.init.clip or, to train without, say "clip": None in config.model'
        )
    account(
        {path: tuple(value.shape) for path, value in given.items()},
        {path: tuple(value.shape) for path, value in expected.items() if path not in fresh},
        source=source,
    )
    params = {path: np.asarray(value, np.float32) for path, value in given.items()}
    if fresh:
        # Not jitted: compiling hundreds of random draws takes longer than making them one by one.
        created = flatten(split(build(ParamKeys(config.seed)))[1])
        params |= {path: np.asarray(created[path]) for path in fresh}
        # As in AnimateAnyone and CHAMP: both networks start alike, so that the denoiser's queries fit the photo's keys.
        twins = {path: path.replace("reference/", "denoiser/", 1) for path in fresh if path.startswith("reference/")}
        params |= {path: params[twin] for path, twin in twins.items()}
    if config.get("lora"):
        params |= _new_lora(params, config)
    frozen = {path: value for path, value in params.items() if not is_trained(path, config)}
    return Assembled(
        geometry,
        graphdef,
        unflatten(params),
        make_schedule(**dataclasses.asdict(geometry.schedule)),
        with_pipeline_settings(_complete(described, geometry, config.stage), config, records),
        passengers,
        frozenset(path.split("/")[0] for path in fresh),
        _fingerprint(frozen | flatten(passengers)),
    )


def assemble_abstract(config) -> Assembled:
    """What `assemble` would build, with shapes in place of parameters: for planning a run without its weights and data.

    The geometry is that of `config.init_from`, of which the arrays are not read, or, where it is empty, CHAMP's with an
    image encoder and, for configurations that train it, M2P.
    """
    described = dict(import_checkpoint(config.init_from).config) if config.init_from else _champ(config)
    described = _overlay(described, config.model.to_dict(), config.init_from or "CHAMP's geometry")
    geometry, _, graphdef, expected = _expected(described, config)
    if config.get("lora"):
        expected = {**expected, **unflatten(_new_lora(flatten(expected), config))}
    schedule = make_schedule(**dataclasses.asdict(geometry.schedule))
    return Assembled(geometry, graphdef, expected, schedule, described, {}, frozenset(), "")


def _champ(config) -> dict[str, Any]:
    """What `config.model` leaves out because the weights of a full-size run say it: the image encoder, M2P, temporal modules."""
    clips = STAGES[config.stage].batches == "C"
    # Stages on clips get the M2P of stage B handed on, frozen.
    needed = {"clip": config.model.get("reference", True), "m2p": clips or "music_start" in config.get("loss", {})}
    parts = {name: {} for name, wanted in needed.items() if wanted and name not in config.model}
    return parts | ({"unet": {"temporal": {}}} if config.stage == "D" else {})


def _expected(described: dict, config):
    """(geometry, function from keys to the module, its graphdef, its parameters' shapes) of what `config` runs."""
    _derive(described)
    geometry = geometry_of(described)
    policy = Policy(compute=jnp.dtype(config.compute_dtype))
    if config.stage == "A" and geometry.m2p is None:
        raise UserError("stage A trains M2P: give its geometry in config.model.m2p or weights that have one in init_from")
    kind = {"A": MusicModel, "D": Taught}.get(config.stage, Animator)

    def build(keys: ParamKeys) -> nnx.Module:
        return kind(geometry, keys, policy)

    return geometry, build, *split(nnx.eval_shape(lambda: build(ParamKeys(0))))


def _of_faces(face_id: dict, records: Records) -> dict:
    """The geometry of the network to face tokens, with the width of the records' embeddings.

    Raises UserError for records without any where the network is new, or of another face model than the weights were trained with.
    """
    width = max(info.face_dim for info in records.infos)
    if not width and "embedding" in face_id:  # then no token of a face is seen
        return face_id
    if not width:
        raise UserError("config.model.unet.identity reads embeddings of faces, and these records have none: prepare them with --faces")
    if face_id.get("embedding", width) != width:
        raise UserError(
            f"the weights read face embeddings of {face_id['embedding']} numbers, and the records have {width}: another face model"
        )
    return {**face_id, "embedding": width}


def _new_lora(shapes: dict, config) -> dict[str, np.ndarray]:
    """The LoRA that `config.lora` asks for, of what the stage computes; the encoders of pixels stay as they are, since what they make
    may be cached."""
    idle = ("m2p/",) if STAGES[config.stage].batches == "C" else ()
    kernels = {path: shape for path, shape in shapes.items() if not path.startswith(("vae/", "clip/", f"{TEACHER}/", *idle))}
    if config.stage == "D":  # the teacher reads what the other networks make
        kernels = {path: shape for path, shape in kernels.items() if path.startswith("denoiser/")}
    if config.stage == "B":
        kernels = {path: shape for path, shape in kernels.items() if "/temporal" not in path}
    return new_lora(kernels, config.lora.modules, config.lora.rank, config.seed)


def geometry_of(described: dict[str, Any]) -> AnimatorConfig:
    """What `described` says of the networks; values that it leaves out are the defaults."""
    return AnimatorConfig.build({name: value for name, value in described.items() if name != "pipeline"})


def _fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """16 hexadecimal digits that name the values of {path: array}."""
    digest = hashlib.sha256()
    for path, value in sorted(arrays.items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))
    return digest.hexdigest()[:16]


ADDED = ("/temporal", "/style/", "/coarse/", "attn2/id_", "/gate")
"""In the paths of what may stand beside a network's own parameters, and changes nothing while it is new."""


def _fresh(expected: dict, given: dict, config) -> set[str]:
    """Paths that start from random values: components, and what is added to them, that the given weights lack altogether."""

    def group(path: str) -> str:
        return path.split("/")[0] + next((f" ({part.strip('/')})" for part in ADDED if part in path), "")

    present = {group(path) for path in given}
    fresh = {path for path in expected if group(path) not in present}
    untrained = sorted({group(path) for path in fresh if not is_trained(path, config)})
    if untrained:
        raise UserError(
            f"stage {config.stage} needs trained weights of {', '.join(untrained)}, which it keeps frozen, but "
            f"{config.init_from or 'init_from, which is empty,'} has none: give weights that do in --config.init_from, "
            "or single networks in --config.init"
        )
    return fresh


def _overlay(base: dict, over: dict, source: str, where: str = "config.model") -> dict:
    """`base`, which the weights in `source` say of themselves, with what `over` adds.

    Raises UserError where the two differ: much of a geometry (heads, groups, the noise schedule) changes no array's
    shape, and weights trained with one value would go on with another without a word.
    """
    merged = dict(base)
    for name, value in over.items():
        known, place = merged.get(name), f"{where}.{name}"
        if isinstance(value, dict) and isinstance(known, dict):
            merged[name] = _overlay(known, value, source, place)
            continue
        if value is None:  # as the weights say
            merged.setdefault(name, None)
            continue
        plain = list(value) if isinstance(value, tuple) else value
        if known is not None and plain != known and name not in CHANGEABLE:
            raise UserError(
                f"{place} is {value!r}, but the weights in {source} were trained with {known!r}: "
                f"go on so with --{place}={known}, or leave it out"
            )
        merged[name] = value
    return merged


def _complete(described: dict, geometry: AnimatorConfig, stage: str) -> dict:
    """`described` with every value of the networks that this run holds, so that later defaults cannot change them."""
    full = dataclasses.asdict(geometry)
    if stage == "A":
        return {**described, "m2p": full["m2p"]}
    return {**described, **{name: value for name, value in full.items() if name != "reference" or not value}}


def _derive(described: dict) -> None:
    """Fills in what follows from the rest: widths at which one network meets another."""
    unet = {"channels": UNetConfig.channels, "context_dim": UNetConfig.context_dim, **described.get("unet", {})}
    latents = described.get("vae", {}).get("latent_channels", UNetConfig.in_channels)
    described["unet"] = {"in_channels": latents, "out_channels": latents, **unet}
    described["guidance"] = {"out_channels": unet["channels"][0], **described.get("guidance", {})}
    if described.get("clip"):
        described["clip"] = {"projection": unet["context_dim"], **described["clip"]}
    if unet.get("identity"):
        # IP-Adapter's plain tokens are of the face alone; StableAnimator's layers read the image's embedding too.
        described["face_id"] = ({} if unet["identity"] == "aligned" else {"layers": 0}) | (described.get("face_id") or {})
    if described.get("face_id") is not None:
        width = {"width": unet["context_dim"], "clip_width": unet["context_dim"]}
        embedding = {"embedding": described["m2p"]["face_dim"]} if described.get("m2p") else {}
        described["face_id"] = {**width, **embedding, **described["face_id"]}


def with_pipeline_settings(described: dict[str, Any], config, records: Records) -> dict[str, Any]:
    """`described` with what inference must know of this stage's training; see infer.pipeline.PipelineSettings."""
    if config.stage == "A":
        # Python sorts stably: clips with music come first, in their order.
        clip = next(records.readable(sorted(range(len(records)), key=lambda i: not records.infos[i].music_dim)))
        settings = {
            "motion_fps": 1.0 / clip.frame_seconds,
            "music_spec": clip["music_spec"].split("@")[0],
            "motion_window": config.data.frames,
        }
    else:
        settings = {"size": [config.data.size] * 2, "guidance_strength": float(config.loss.condition_scale[1])}
    if STAGES[config.stage].batches == "C":
        clip = next(records.readable(i for i, info in enumerate(records.infos) if info.stored > 1), None)
        if clip is None:
            raise UserError(
                f"{config.data.directory}, split {config.data.split}: stage {config.stage} needs clips with frames, and none here has any"
            )
        # Seconds between the frames of a training clip are the ones between the frames of a video.
        between = np.median(np.diff(clip["frame_index"])) * config.data.stride * clip.frame_seconds
        settings |= {"window": config.data.frames, "overlap": config.data.frames // 4, "fps": float(1.0 / between)}
    stored = described.get("pipeline", {})
    if config.stage in ("B", "C") and stored.get("sampler") == "lcm":
        # These unlearn the few steps of stage D; stage A hands on a denoiser that still knows them.
        stored = {name: value for name, value in stored.items() if name not in ("sampler", "steps", "guidance_scale")}
    return {**described, "pipeline": {**stored, **settings, **config.get("sampling", {})}}


def export_weights(directory: Path, state: TrainState, assembled: Assembled) -> Path:
    """Writes averaged parameters, and the passengers, as a folder that `load_pipeline` and `init_from` read; of a LoRA that alone.

    What was frozen is written as it was given: the state may hold it in less precision.
    """
    trained = fetch(state.ema)
    params = unflatten({**flatten(assembled.params), **flatten(trained)})
    if is_first():
        whole = {name: part for name, part in {**params, **assembled.passengers}.items() if name != TEACHER}
        save_weights(directory, {LORA: trained[LORA]} if LORA in trained else whole, assembled.described)
    barrier("weights")
    return directory
