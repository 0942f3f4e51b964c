"""A photo and a song to a video with the ONNX graphs of this folder: no JAX and no champ_jax.

    python onnx_dance.py --image photo.png --music song.ogg --out dance.mp4 [--seconds 8] [--pose pose.json]

It needs onnxruntime, numpy, scipy, opencv-python-headless, pillow, librosa, soundfile and av. The photo's pose is
read from --pose, or from a .json file of the photo's name beside it. Same photo, song and seed: the same video as
`champ-jax dance` makes, but for rounding and, with the sampler lcm, for the noise that it adds in every step.
"""

import argparse
import functools
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from champ_jax.audio.features import features
from champ_jax.audio.load import load_audio
from champ_jax.errors import UserError
from champ_jax.infer.chain import check_shoulders, fitted_dance, poses_shown
from champ_jax.infer.photo import Photo, load_photo
from champ_jax.infer.video import write_video
from champ_jax.infer.wavefront import make_plan
from champ_jax.pose.draw import draw_clip


class Graphs:
    """The graphs of a folder; `graphs.run(name, input=array, ...)` returns the outputs by name."""

    def __init__(self, folder: Path, providers: list[str] | None = None):
        self.folder, self.manifest = folder, json.loads((folder / "manifest.json").read_text())
        self.providers = providers or onnxruntime.get_available_providers()

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["graphs"]

    @functools.cache  # noqa: B019
    def session(self, name: str) -> onnxruntime.InferenceSession:
        """The session of one graph, opened when it is first needed."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(self.folder / f"{name}.onnx"), options, providers=self.providers)

    def run(self, name: str, **values: np.ndarray) -> dict[str, np.ndarray]:
        """Runs a graph; values are brought to the dtypes that it takes."""
        about = self.manifest["graphs"][name]
        given = {key: np.ascontiguousarray(values[key], spec["dtype"]) for key, spec in about["inputs"].items()}
        names = list(about["outputs"])
        return dict(zip(names, self.session(name).run(names, given)))


def dance(folder: Path, image, song, seconds: float | None = None, pose=None, seed: int = 0, providers=None) -> tuple[np.ndarray, float]:
    """Frames u8 [F,H,W,3] and their rate: the photo's person dances to `seconds` of the song, all by default.

    Raises UserError for a photo, pose or song that cannot be used, and for models that cannot dance.
    """
    graphs = Graphs(Path(folder), providers)
    about = graphs.manifest
    if "m2p" not in graphs or "dwpose" not in about["kinds"]:
        raise UserError("this model cannot dance: it has no M2P or no dwpose encoder; `render` takes guidance maps instead")
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"seconds is {seconds}: give more than 0, or leave it away to dance to the whole song")
    photo = load_photo(image, tuple(about["size"]), pose)
    audio, rate = load_audio(song)
    duration = min(seconds or math.inf, len(audio) / rate)
    keypoints, confidence = dance_keypoints(graphs, photo, audio, rate, duration)
    shown = poses_shown(duration, about["fps"], about["motion_fps"], len(keypoints))
    skeleton = draw_clip(keypoints[shown], confidence[shown], tuple(about["size"]))
    return render(graphs, photo, {"dwpose": skeleton}, seed), about["fps"]


def dance_keypoints(graphs: Graphs, photo: Photo, audio: np.ndarray, rate: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [T,J,2] in pixels and confidence [T,J] at `motion_fps`, for the beginning of a song f32 [S] at `rate` Hz."""
    about = graphs.manifest
    check_shoulders(photo.confidence)  # before the song is looked at, which takes longer
    fps, window = about["motion_fps"], about["motion_window"]
    music = features(audio, rate, fps, about["music_spec"])[: max(1, math.ceil(seconds * fps - 1e-6))]
    width = about["graphs"]["m2p"]["inputs"]["photo_face"]["shape"]
    face = np.zeros(width, np.float32) if photo.face is None else photo.face

    def run(part: np.ndarray, start: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = graphs.run(
            "m2p", music=part, start_keypoints=start, start_confidence=sure, photo_keypoints=photo.keypoints,
            photo_confidence=photo.confidence, photo_face=face,
        )  # fmt: skip
        return found["keypoints"], found["confidence"]

    return fitted_dance(run, music, photo.keypoints, photo.confidence, tuple(about["size"]), fps, window)


def render(graphs: Graphs, photo: Photo, maps: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """Frames u8 [F,H,W,3] of guidance maps {kind: u8 [F,H,W,3]}, all of them counting 1."""
    about = graphs.manifest
    frames = len(next(iter(maps.values())))
    plan = make_plan(frames, len(about["steps"]), about["window"], about["overlap"])
    known, guidance = see_photo(graphs, photo), see_maps(graphs, maps, plan.count)
    draw = lambda *key: np.random.default_rng([seed, *key]).standard_normal(about["latents"], np.float32)  # noqa: E731
    x = np.stack([draw(i) for i in range(plan.count)])
    last = x0_1 = x0_2 = np.zeros_like(x)
    for number, step in enumerate(about["steps"]):
        prediction = np.zeros_like(x)
        for index, weights in zip(plan.frames[number], plan.weights[number]):
            found = predict(graphs, x[index][None], step["t"], guidance[index][None], known)
            prediction[index] += weights[:, None, None, None] * found[0]
        of_x, of_prediction = np.asarray(step["x0"], np.float32)
        x0, mix = of_x * x + of_prediction * prediction, np.asarray(step["mix"], np.float32)
        noise = np.stack([draw(i, 1 + number) for i in range(plan.count)]) if mix[:, -1].any() else np.zeros_like(x)
        x, last = np.tensordot(mix, np.stack([x, last, x0, x0_1, x0_2, noise]), 1)
        x0_1, x0_2 = x0, x0_1
    return decode(graphs, x[:frames])


def see_maps(graphs: Graphs, maps: dict[str, np.ndarray], count: int) -> np.ndarray:
    """What the denoiser reads of guidance maps, [count,h,w,D0]; after their end their last frame stays."""
    about, found = graphs.manifest, []
    for start in range(0, count, about["window"]):
        shown = np.arange(start, start + about["window"])
        pixels = np.zeros((len(shown), len(about["kinds"]), *about["size"], 3), np.uint8)
        weights = np.zeros(pixels.shape[:2], np.float32)
        for kind, clip in maps.items():
            place = about["kinds"].index(kind)
            pixels[:, place], weights[:, place] = clip[np.minimum(shown, len(clip) - 1)], 1
        found.append(graphs.run("guidance", maps=pixels, weights=weights)["guidance"][0])
    return np.concatenate(found)[:count]


def see_photo(graphs: Graphs, photo: Photo) -> dict[str, np.ndarray]:
    """What the denoiser reads of the photo, by the names of its inputs; every photo of the graphs is this one."""
    about = graphs.manifest
    count = about["photos"]
    known = {"reference_weight": np.ones((1, count), np.float32)}
    wanted = about["graphs"]["denoise"]["inputs"]
    if "context" in wanted:
        known["context"] = np.zeros(wanted["context"]["shape"], np.float32)
    if "face" in wanted:
        known |= {"face": np.zeros(wanted["face"]["shape"], np.float32), "face_weight": np.zeros(1, np.float32)}
    if "reference" not in graphs:
        return known
    photos = np.repeat(photo.image[None], count, 0)
    seen = graphs.run("vae_encode", photos=photos)
    if "clip" in graphs:
        seen |= graphs.run("clip", photos=photos, reference_weight=known["reference_weight"])
        known["context"] = seen["context"]
    elif "context" in known:
        seen["tokens"] = np.zeros(about["graphs"]["reference"]["inputs"]["tokens"]["shape"], np.float32)
    if "face" in wanted and photo.face is not None:
        faces = np.repeat(photo.face[None], about["window"], 0)
        known |= graphs.run("face_id", faces=faces, context=known["context"]) | {"face_weight": np.ones(1, np.float32)}
    if "photo_pose" in graphs:
        skeletons = draw_clip(photo.keypoints[None], photo.confidence[None], tuple(about["size"]))
        seen |= graphs.run("photo_pose", skeletons=np.repeat(skeletons, count, 0))
    return known | graphs.run("reference", **seen)


def predict(graphs: Graphs, latents: np.ndarray, t: int, guidance: np.ndarray, known: dict[str, np.ndarray]) -> np.ndarray:
    """The denoiser's prediction for latents [1,F,h,w,C], with classifier-free guidance where the manifest has any."""
    now = {"latents": latents, "t": np.array([t]), "guidance": guidance}
    found = graphs.run("denoise", **now, **known)["prediction"]
    scale = graphs.manifest["guidance_scale"]
    if scale == 1:
        return found
    unseen = ("reference_weight", "context", "face_weight")
    without = {name: np.zeros_like(x) if name in unseen else x for name, x in known.items()}
    empty = graphs.run("denoise", **now, **without)["prediction"]
    return empty + np.float32(scale) * (found - empty)


def decode(graphs: Graphs, latents: np.ndarray) -> np.ndarray:
    """Latents [F,h,w,C] -> frames u8 [F,H,W,3]."""
    chunk, frames = graphs.manifest["decoded"], []
    for start in range(0, len(latents), chunk):
        index = np.minimum(np.arange(start, start + chunk), len(latents) - 1)
        frames.append(graphs.run("vae_decode", latents=latents[index])["images"][: len(latents) - start])
    return np.round(np.concatenate(frames) * 255).astype(np.uint8)


def main() -> int:
    """Reads the command line, dances, writes the video with its song."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, type=Path, help="the photo")
    parser.add_argument("--music", required=True, type=Path, help="wav, flac, ogg or mp3")
    parser.add_argument("--out", required=True, type=Path, help="the video to write, .mp4")
    parser.add_argument("--pose", type=Path, help="JSON file with the pose of the person in the photo")
    parser.add_argument("--seconds", type=float, help="how much of the song (default: all of it)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    args = parser.parse_args()
    try:
        frames, fps = dance(Path(__file__).parent, args.image, args.music, args.seconds, args.pose, args.seed)
        write_video(args.out, frames, fps, args.music)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(frames)} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
