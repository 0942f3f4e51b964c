"""From a folder of weights to videos: `load_pipeline(path).animate(photo, maps)` and `.dance(photo, song)`."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from champ_jax.audio.load import load_audio
from champ_jax.checkpoint.integrity import flatten
from champ_jax.checkpoint.partial import account
from champ_jax.convert.components import gather
from champ_jax.convert.own_lora import read_lora
from champ_jax.data.faces import FaceModel
from champ_jax.diffusion.schedule import Schedule, make_schedule, network_input
from champ_jax.errors import UserError
from champ_jax.infer.maps import DrawnMaps, open_guidance, open_instances
from champ_jax.infer.mix import MUSIC_SHARE, Maps, mix_with_music, whole
from champ_jax.infer.music import music_to_pose
from champ_jax.infer.people import Person, check_instances, who
from champ_jax.infer.photo import load_photos
from champ_jax.infer.rendering import Rendering
from champ_jax.infer.ring import FrameConditions, Seen, on_each_device, window_mesh
from champ_jax.infer.sample import SampleSettings, check_seed, initial_noise, make_table, sample_frames
from champ_jax.infer.video import Video
from champ_jax.models.animator import AnimatorConfig, Params, abstract_model, merge
from champ_jax.models.clip import clip_resize
from champ_jax.models.guidance import fuse_guidance
from champ_jax.models.lora import add_lora
from champ_jax.models.reference import reference_features
from champ_jax.models.vae_tiles import decode_tiled, encode_tiled
from champ_jax.nn.kernels import shares
from champ_jax.nn.policy import Policy
from champ_jax.nn.quantised import dequantise

DECODE_FRAMES = 8
PHOTOS = (1, 2, 4, 8)
"""Numbers of photos that programs are compiled for; others are filled up with photos that count nothing."""
TILE, TILE_OVERLAP = 768, 128
"""Pixels: pictures beyond the largest that CHAMP is trained on go through the autoencoder in tiles."""
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """What weights need besides their geometry; stored with them as `pipeline`.

    size: (height, width) the model was trained at. fps: frames a second of its videos. motion_fps: rate of M2P's poses.
    music_spec: the music features M2P reads, motion_window frames at a time. guidance_strength: what the guidance was
    multiplied by at the end of training. window, overlap, steps, sampler, guidance_scale: defaults of sampling.
    """

    size: tuple[int, int] = (512, 512)
    fps: float = 24.0
    motion_fps: float = 24.0
    music_spec: str = "rich192"
    motion_window: int = 96
    guidance_strength: float = 1.0
    window: int = 24
    overlap: int = 4
    steps: int = 20
    sampler: str = "ddim"
    guidance_scale: float = 3.5


class Pipeline:
    """A model ready to make videos. `settings` are its defaults, `config` its geometry, `params` its parameters; `faces`, if it
    is set, embeds the faces of photos that come without an embedding.

    Compiled functions are kept, so a second video of the same size starts at once.
    """

    def __init__(
        self,
        config: AnimatorConfig,
        params: Params,
        settings: PipelineSettings,
        policy: Policy | None = None,
        source: str = "the parameters",
    ):
        """params: nested dict of an Animator's parameters, of any floating dtype or quantised; `source` names them in errors.
        policy: by default bfloat16 on accelerators and float32 on CPUs, which are no faster in less.
        Raises UserError, listing them, when the parameters are not exactly those that `config` needs."""
        self.config, self.settings = config, settings
        on_cpu = jax.default_backend() == "cpu"
        policy = policy or Policy(compute=jnp.float32 if on_cpu else jnp.bfloat16)
        graphdef, expected = abstract_model(config, policy)
        account(_shapes(params), _shapes(expected), source=source)
        self.params = on_each_device(on_device(params), window_mesh())
        self.schedule = make_schedule(**dataclasses.asdict(config.schedule))
        self.faces: FaceModel | None = None
        self.functions = Functions(config, graphdef, self.schedule)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of guidance map the model understands."""
        return self.config.kinds

    @property
    def guidance_kinds(self) -> tuple[str, ...]:
        """`kinds`, then "music", the skeleton that music drives, where there is an encoder for it."""
        return (*self.kinds, "music") if "dwpose" in self.kinds else self.kinds

    def animate(self, image: Any, guidance: Mapping[str, Any] | str | os.PathLike, **options: Any) -> Video:
        """The person of a photo, or of several, moving as guidance maps say: `render_animation`, whole, in memory."""
        return self.render_animation(image, guidance, **options).video()

    def dance(self, image: Any, song: str | os.PathLike, **options: Any) -> Video:
        """The person of a photo dances to a song: `render_dance`, whole, in memory."""
        return self.render_dance(image, song, **options).video()

    def stream(self, image: Any, chunks: Iterable[np.ndarray], *, rate: int, **options: Any) -> Iterator[Any]:
        """The person of a photo dances to sound that is still arriving, frame by frame: see `champ_jax.infer.stream.stream`."""
        from champ_jax.infer.stream import stream  # which imports what this module does

        return stream(self, image, chunks, rate=rate, **options)

    def render_animation(
        self,
        image: Any,
        guidance: Mapping[str, Any] | str | os.PathLike,
        *,
        pose: Any = None,
        face: np.ndarray | None = None,
        photo_weights: Sequence[float] | None = None,
        people: Sequence[int] | None = None,
        instances: Any = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        on_progress: Progress | None = None,
        **sampling: Any,
    ) -> Rendering:
        """The person of a photo, or of several, moving as guidance maps say, frame by frame as they are done.

        image: path, PIL image or u8 [H,W,3], fitted to `size` (height, width; the model's own by default); a list of up to 8
        are photos of one person, of different poses or views, or with `instances` of several people.
        guidance: {kind: u8 [F,*size,3]} of any of the kinds the model knows, arrays or what is read like them, or a folder (see
        maps.open_guidance).
        pose: the photo's pose, as in `photo.load_photo`, or a list; only models with `reference_pose` look at it.
        face: embedding [E] of the face; by default the mean of the photos' own. photo_weights: what each photo counts, all alike.
        instances: u8 [F,*size], who each pixel of each frame belongs to: 0 nobody, then 1, 2 and on (or the folder's
        instances/). people: whom each photo shows, one after another by default; a person's pixels read that person's photos, and
        no face tokens, which are of one person.
        fps: of the result. steps, guidance_scale: of sampling; on_progress(done, total) is called as it goes on.
        sampling: further fields of SampleSettings. Same seed, same video. The skeleton of the result is the dwpose map; its
        metadata says what made it and how long that took, compiling included.
        Raises UserError for images, maps or sizes that do not fit, before anything is computed.
        """
        began = time.perf_counter()
        size = self.check_size(size)
        settings = self.sample_settings(steps, guidance_scale, sampling)
        photos = load_photos(image, size, pose, self.faces)
        if isinstance(guidance, (str, os.PathLike)):
            folder = Path(guidance)
            guidance = open_guidance(folder, self.kinds, size)
            instances = open_instances(folder, size) if instances is None else instances
        self._check_guidance(guidance, size)
        maps = whole(guidance)
        person = who(photos, photo_weights, face)
        if instances is not None:
            shown = list(people or range(1, len(photos) + 1))
            if len(shown) != len(photos):
                raise UserError(f"people {shown}: say of each of {len(photos)} photos whom it shows")
            check_instances(instances, maps.count, size, shown, person.weights)
            person = person._replace(face=None, instances=instances, people=shown)
        metadata = {"seed": seed, **dataclasses.asdict(settings), "pose_source": photos[0].pose_source}
        frames = self._frames(person, maps, seed, settings, on_progress)
        return Rendering(frames, maps.count, size, fps or self.settings.fps, guidance.get("dwpose"), metadata, began)

    def render_dance(
        self,
        image: Any,
        song: str | os.PathLike,
        *,
        seconds: float | None = None,
        pose: Any = None,
        face: np.ndarray | None = None,
        photo_weights: Sequence[float] | None = None,
        guidance: Mapping[str, Any] | str | os.PathLike | None = None,
        music_share: float | Mapping[str, Any] | np.ndarray = MUSIC_SHARE,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        on_progress: Progress | None = None,
        **sampling: Any,
    ) -> Rendering:
        """The person of a photo dances to a song: music to poses, poses to a drawn skeleton, skeleton to frames as they are done.

        image: a photo, or a list of photos of one person; the first one's pose is where the dance starts.
        song: wav, flac, ogg or mp3. seconds: how much of it; all by default. pose: the photo's pose, as in
        `photo.load_photo`. guidance: maps to mix with the skeleton that music drives, as in `animate`, one for each frame of
        the video. music_share: what the music counts beside them, 0 to 1, for all, for each frame [F], or {kind: either}; the
        skeleton of the music counts that, a given map the rest. The rest as in `render_animation`. The result's metadata holds the
        dance at the rate `motion_fps`, keypoints [T,J,2] in pixels and confidence [T,J], and where the photo's pose came from.
        Raises UserError for a photo or song that cannot be used, and for models without M2P or skeleton guidance.
        """
        if self.config.m2p is None or "dwpose" not in self.kinds:
            raise UserError("this model cannot dance: it has no M2P or no dwpose encoder; animate with guidance maps instead")
        if seconds is not None and not 0 < seconds < math.inf:
            raise UserError(f"seconds is {seconds}: give more than 0, or leave it away to dance to the whole song")
        began = time.perf_counter()
        size = self.check_size(size)
        settings = self.sample_settings(steps, guidance_scale, sampling)
        photos = load_photos(image, size, pose, self.faces)
        if isinstance(guidance, (str, os.PathLike)):
            guidance = open_guidance(guidance, self.kinds, size)
        if guidance is not None:
            self._check_guidance(guidance, size)
        check_seed(seed)
        audio, rate = load_audio(song)
        duration = min(seconds or math.inf, len(audio) / rate)
        person = who(photos, photo_weights, face)
        motion = music_to_pose(self, dataclasses.replace(photos[0], face=person.face), audio, rate, duration)
        shown = self._video_frames(duration, len(motion.keypoints))
        skeleton = DrawnMaps(motion.keypoints[shown], motion.confidence[shown], size)
        maps = whole({"music": skeleton})
        if guidance is not None:
            maps = mix_with_music(guidance, skeleton, music_share)
        if person.face is not None:
            person = person._replace(face=motion.face[shown])
        metadata = {
            "seed": seed, **dataclasses.asdict(settings), "pose_source": photos[0].pose_source,
            "keypoints": motion.keypoints, "confidence": motion.confidence, "motion_fps": self.settings.motion_fps,
        }  # fmt: skip
        frames = self._frames(person, maps, seed, settings, on_progress)
        return Rendering(frames, maps.count, size, self.settings.fps, skeleton, metadata, began)

    def _video_frames(self, seconds: float, poses: int) -> np.ndarray:
        """Which of `poses` at motion_fps each video frame shows, int [F]; F = the whole frames in `seconds`, at least 1."""
        count = max(1, math.floor(seconds * self.settings.fps + 1e-6))
        index = np.round(np.arange(count) * self.settings.motion_fps / self.settings.fps).astype(int)
        return np.minimum(index, poses - 1)

    def _frames(self, person: Person, maps: Maps, seed: int, settings: SampleSettings, on_progress) -> Iterator[np.ndarray]:
        """Frames u8 [m,H,W,3] of guidance maps, as they are done."""
        functions, params = self.functions, self.params
        check_seed(seed)
        # So that few shapes are compiled for any number of photos.
        person = person.padded(next(size for size in PHOTOS if size >= len(person.images)))
        seen, tokens, context = functions.encode_photos(params, person.images, person.skeletons, person.weights)
        height, width = (side // self.config.vae.downsampling for side in person.images.shape[1:3])
        shape = (height, width, self.config.vae.latent_channels)
        face = None
        if self.config.face_id and person.face is not None:
            face = np.broadcast_to(person.face, (maps.count, person.face.shape[-1])).astype(np.float32)

        def given(first: int, size: int) -> tuple[np.ndarray, FrameConditions]:
            index = np.minimum(np.arange(first, first + size), maps.count - 1)
            frames = {}
            if face is not None:
                frames["face"] = functions.encode_face(params, face[index], context)
            if person.instances is not None:
                frames["weight"] = person.weights_of_cells((height, width), index)
            guidance = functions.encode_guidance(params, self.settings.guidance_strength, *maps.read(self.guidance_kinds, index))
            return initial_noise(seed, size, shape, first)[0], FrameConditions(guidance, frames or None)

        latents = sample_frames(
            functions.denoise, params, maps.count, given, Seen(seen, context if person.instances is None else tokens),
            self.schedule, settings, seed, on_progress,
        )  # fmt: skip
        return self._decoded(latents, maps.count, shape)

    def _decoded(self, latents: Iterator[np.ndarray], count: int, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
        """Frames u8 [m,H,W,3] of latents [m,*shape], `count` altogether."""
        waiting, left = np.zeros((0, *shape), np.float32), count
        for found in latents:
            waiting = np.concatenate([waiting, found])
            while len(waiting) >= min(DECODE_FRAMES, left) > 0:
                chunk = waiting[np.minimum(np.arange(DECODE_FRAMES), len(waiting) - 1)]
                frames = np.asarray(self.functions.decode(self.params, chunk))[:left]
                waiting, left = waiting[DECODE_FRAMES:], left - len(frames)
                yield frames

    def sample_settings(self, steps: int | None, guidance_scale: float | None, sampling: Mapping[str, Any]) -> SampleSettings:
        """The model's own settings but for what is given; `sampling`: further fields of SampleSettings.

        Raises UserError for impossible ones, TypeError for names that are none.
        """
        own = self.settings
        known = {field.name for field in dataclasses.fields(SampleSettings)}
        for name in sampling:
            if name not in known:
                raise TypeError(f"unknown argument {name!r}; sampling takes {', '.join(sorted(known))}")
        defaults = {name: getattr(own, name) for name in ("window", "overlap", "sampler")}
        values = {**defaults, "window_batch": jax.local_device_count(), **sampling}
        values["steps"] = own.steps if steps is None else steps
        scale = own.guidance_scale if guidance_scale is None else guidance_scale
        # Without a reference both halves of the guidance would be the same.
        values["guidance_scale"] = scale if self.config.reference else 1.0
        settings = SampleSettings(**values)
        make_table(self.schedule, settings)
        return settings

    def check_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width), the model's own for None; UserError for one that its autoencoder cannot have."""
        size = tuple(size or self.settings.size)
        step = self.config.vae.downsampling
        if any(side < step or side % step for side in size):
            raise UserError(f"size is {size[0]}x{size[1]} (height x width): this model needs multiples of {step}")
        return size

    def _check_guidance(self, guidance: Mapping[str, np.ndarray], size: tuple[int, int]) -> None:
        unknown = [kind for kind in guidance if kind not in self.kinds]
        if unknown or not guidance:
            raise UserError(f"guidance of kind {unknown or 'none'}: this model is guided by {', '.join(self.kinds)}")
        count = len(next(iter(guidance.values())))
        for kind, maps in guidance.items():
            if maps.dtype != np.uint8 or maps.shape != (count, *size, 3) or count == 0:
                raise UserError(
                    f"guidance {kind} is {maps.dtype}{list(maps.shape)}: expected uint8 [{count or 'frames'},"
                    f"{size[0]},{size[1]},3], at least one frame and equally many of each kind"
                )


class Functions:
    """The compiled parts of a pipeline, each a pure function of the parameters and plain arrays."""

    def __init__(self, config: AnimatorConfig, graphdef: nnx.GraphDef, schedule: Schedule):
        step = config.vae.downsampling
        tile, overlap = TILE // step * step, TILE_OVERLAP // step * step

        def encode_photos(params, images, skeletons, weights):
            """u8 [R,H,W,3] each, [R] -> ({"reference": projected [1,...], "weight": [1,R]}, the photos' image tokens [1,R,1,Dc] or
            None, and their mean [1,1,Dc] or None)."""
            model = merge(graphdef, params)
            mean, _ = encode_tiled(model.vae, images.astype(jnp.float32) / 127.5 - 1, tile, overlap)
            latents = mean[None] * config.vae.scaling
            tokens = context = None
            if config.unet.context_dim is not None:
                tokens = jnp.zeros((1, len(images), 1, config.unet.context_dim))
            if model.clip is not None:
                tokens = model.clip(clip_resize(images, config.clip.image_size))[None, :, None]
            if tokens is not None:
                context = (tokens * shares(weights[None])[:, :, None, None]).sum(axis=1)
            if model.reference is None:
                return {}, tokens, context
            pose = None
            if config.reference_pose:
                pose = model.guidance["dwpose"](skeletons.astype(jnp.float32)[None] / 255)
            features = reference_features(model.reference, latents, tokens, pose, coarse=bool(config.unet.coarse))
            return {"reference": model.denoiser.project_reference(features), "weight": weights[None]}, tokens, context

        def encode_guidance(params, strength, maps, weights):
            """u8 [F,G,H,W,3] with the maps of the model's kinds along G, then the skeleton of the music if there is dwpose, and
            f32 [F,G], what each counts -> [F,h,w,D0], times `strength`. A kind that counts nothing costs nothing."""
            model = merge(graphdef, params)

            def encode(kind, i):
                run = lambda x: model.guidance[kind](x.astype(jnp.float32)[None] / 255)  # noqa: E731
                nothing = lambda x: jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(run, x))  # noqa: E731
                return jax.lax.cond((weights[:, i] != 0).any(), run, nothing, maps[:, i])

            encoded = {kind: encode(kind, i) for i, kind in enumerate(config.kinds)}
            counts = {kind: weights[None, :, i] for i, kind in enumerate(config.kinds)}
            music = (encode("dwpose", -1), weights[None, :, -1]) if "dwpose" in config.kinds else None
            as_it_is = dict.fromkeys(config.kinds, lambda x: x)
            return strength * fuse_guidance(as_it_is, encoded, counts, model.fusion, music)[0]

        def encode_face(params, faces, context):
            """Faces [F,E], context [1,1,Dc] -> tokens [F,n,Dc]."""
            return merge(graphdef, params).face_id(faces, jnp.repeat(context, len(faces), 0))

        def denoise(params, latents, t, context, guidance, person, frames, deep=None, return_deep=False):
            person, frames = person or {}, frames or {}
            face = (frames["face"], jnp.ones(len(latents))) if "face" in frames else None
            return merge(graphdef, params).denoiser(
                network_input(schedule, latents, t), t, context, guidance, person.get("reference"),
                frames.get("weight", person.get("weight")), face, deep=deep, return_deep=return_deep,
            )  # fmt: skip

        def decode(params, latents):
            """[F,h,w,C] -> u8 [F,H,W,3]."""
            images = decode_tiled(merge(graphdef, params).vae, latents / config.vae.scaling, tile, overlap)
            return jnp.round(jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0.0, 1.0) * 255).astype(jnp.uint8)

        self.encode_photos = jax.jit(encode_photos)
        self.encode_face = jax.jit(encode_face)
        self.encode_guidance = jax.jit(encode_guidance)
        self.denoise = denoise
        self.decode = jax.jit(decode)


def load_pipeline(
    path: str | os.PathLike | None = None,
    policy: Policy | None = None,
    loras: Sequence[tuple[str | os.PathLike, float]] = (),
    **components: str | os.PathLike,
) -> Pipeline:
    """A pipeline from a folder of weights (one sub-folder a component), a training run's folder, or any known checkpoint.

    components: checkpoints for single networks in place of those in `path`, as in
    `load_pipeline("champ", vae="sd-vae-ft-mse", clip="image_encoder")`; their names are in convert.components.PARTS.

    loras: (path, scale) of LoRAs to add to the weights, in any number; of ours, or files of diffusers, PEFT or kohya.

    Of a run that has not finished the newest valid checkpoint is taken, with its averaged parameters.
    Raises UserError, before anything is compiled, when it is neither, when a component is missing, and when the weights
    are not of the geometry that the folder's configuration states.
    """
    params, config = gather(path, components)
    params = dequantise(params) if loras else params
    for lora, scale in loras:
        params = add_lora(params, read_lora(lora, params), scale, str(lora))
    return build_pipeline(params, config, ", ".join(map(str, filter(None, [path, *components.values()]))), policy)


def build_pipeline(params: Params, config: Mapping[str, Any], source: str, policy: Policy | None = None) -> Pipeline:
    """A pipeline of parameters and the configuration stored with them; `source` names them in errors (UserError)."""
    geometry = {name: values for name, values in config.items() if name != "pipeline"}
    settings = _settings(config.get("pipeline", {}), source)
    return Pipeline(AnimatorConfig.build(geometry), params, settings, policy, source=source)


def on_device(params: Params) -> Params:
    """Parameters as JAX arrays; on a CPU, which is no faster in less, those of 16 bits as float32. 8 bits stay as they are."""
    on_cpu = jax.default_backend() == "cpu"
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32 if on_cpu and x.dtype.itemsize > 1 else x.dtype), params)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {path: tuple(array.shape) for path, array in flatten(jax.eval_shape(dequantise, params)).items()}


def _settings(values: Mapping[str, Any], source: str) -> PipelineSettings:
    known = [field.name for field in dataclasses.fields(PipelineSettings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{source}: pipeline has no settings {unknown}; it has {', '.join(known)}")
    values = dict(values)
    return PipelineSettings(**{**values, "size": tuple(values.get("size", PipelineSettings.size))})
