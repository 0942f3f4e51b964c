"""What commands that make videos share: their options and what these mean, and the last line."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `open_pipeline` reads."""
    add_checkpoint(parser)
    parser.add_argument("--lora", action="append", default=[], metavar="PATH=SCALE", help="a LoRA to add, of ours or of PyTorch's, so "
                        "many times its strength (default: 1); several add up")  # fmt: skip
    parser.add_argument("--faces", metavar="MODEL", help="embed the photo's face with 'dlib', or a folder with SCRFD and ArcFace as ONNX "
                        "files, where its .json has no embedding; for checkpoints with face_id")  # fmt: skip


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the option of which model to read."""
    parser.add_argument("--checkpoint", required=True, type=Path, help="a folder of weights, or of a training run")


def add_photos(parser: argparse.ArgumentParser) -> None:
    """Adds the options of who is in the video."""
    parser.add_argument("--image", required=True, type=Path, nargs="+", metavar="FILE",
                        help="the photo; its middle is used, at the model's size. Up to 8: further photos of the same person, of other "
                        "poses or views")  # fmt: skip
    parser.add_argument("--pose", type=Path, nargs="+", metavar="FILE", help="JSON file with the pose of the person in the photo; one for "
                        "each photo (default: the .json file of the photo's name beside it)")  # fmt: skip
    parser.add_argument("--photo-weights", type=float, nargs="+", metavar="NUMBER", help="what each photo counts (default: all alike)")


def add_song(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is danced to."""
    parser.add_argument("--music", required=True, type=Path, help="wav, flac, ogg or mp3")
    parser.add_argument("--seconds", type=float, help="how much of the song (default: all of it)")


def add_video(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the video to make: where to, how large, at what cost."""
    parser.add_argument("--out", required=True, type=Path, help="the video to write, .mp4")
    parser.add_argument("--seed", type=int, default=0, help="of the noise: another seed gives another video, "
                        "but not in the one step of the demo's weights, which use no noise (default: 0)")  # fmt: skip
    parser.add_argument("--steps", type=int, help="denoising steps: fewer are faster (default: the checkpoint's)")
    parser.add_argument("--guidance-scale", type=float, help="how strongly photo and maps are followed (default: the checkpoint's)")
    parser.add_argument("--size", metavar="HxW", help="frame size in pixels, or one number for a square (default: the checkpoint's)")
    parser.add_argument("--json", action="store_true", help="print a JSON object about the result")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how to sample a clip, which with those of `add_photos` and `add_video` `sampling_arguments` reads."""
    parser.add_argument("--guidance-strength", type=float, nargs=2, metavar=("FIRST", "LAST"), default=(1.0, 1.0),
                        help="what the maps count in the first denoising step and in the last (default: 1 1)")  # fmt: skip
    parser.add_argument("--sampler", choices=("ddim", "dpm++", "unipc", "euler", "lcm"), help="how steps are taken; dpm++ and unipc "
                        "need fewer, lcm is for distilled weights (default: the checkpoint's)")  # fmt: skip
    parser.add_argument("--guidance-rescale", type=float, metavar="SHARE",
                        help="0 to 1, holds strong guidance back from glaring colours (default: 0)")  # fmt: skip
    parser.add_argument("--guidance-interval", type=float, nargs=2, metavar=("FIRST", "LAST"),
                        help="guide only steps from FIRST to LAST, as shares of all; the others cost half (default: 0 1)")  # fmt: skip
    parser.add_argument("--deep-every", type=int, metavar="STEPS",
                        help="run the UNet's deeper levels every so many steps: faster, at a loss (default: 1, always)")  # fmt: skip
    parser.add_argument("--anchor", action="store_true", default=None, help="let every window see the first frame")
    parser.add_argument("--window", type=int, metavar="FRAMES", help="frames denoised together (default: the checkpoint's)")
    parser.add_argument("--overlap", type=int, metavar="FRAMES", help="frames that windows share (default: the checkpoint's)")
    parser.add_argument("--compat", choices=("champ",), help="reproduce CHAMP's own sampler, with windows that wrap around the end")


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say, as arguments of `Pipeline.render_animation` and `Pipeline.render_dance`; UserError for a wrong size."""
    names = ("sampler", "guidance_rescale", "guidance_interval", "deep_every", "anchor", "window", "overlap", "compat")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "guidance_interval" in given:
        given["guidance_interval"] = tuple(given["guidance_interval"])
    given["guidance_strength"] = tuple(args.guidance_strength)
    given |= {name: getattr(args, name) for name in ("pose", "photo_weights", "seed", "steps", "guidance_scale")}
    return {"size": read_size(args.size), **given}


def open_pipeline(args: argparse.Namespace):
    """The pipeline of --checkpoint with its --lora, and with --faces if it was given."""
    from champ_jax.infer.pipeline import load_pipeline

    faces = None
    if args.faces is not None:
        from champ_jax.data.estimate.models import open_faces

        faces = open_faces(args.faces)
    pipe = load_pipeline(args.checkpoint, loras=[read_lora_option(text) for text in args.lora])
    pipe.faces = faces
    return pipe


def read_lora_option(text: str) -> tuple[str, float]:
    """The path and the scale of "PATH" or "PATH=SCALE", where PATH may have a '=' too; UserError for a scale that is no number."""
    path, equals, scale = text.rpartition("=")
    if not equals or Path(text).exists():
        return text, 1.0
    try:
        return path, float(scale)
    except ValueError as error:
        raise UserError(f"--lora {text}: expected a number behind '=', got {scale!r}.") from error


def check_seconds(args: argparse.Namespace) -> None:
    """Raises UserError for --seconds that are no length of a song."""
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise UserError(f"--seconds is {args.seconds:g}: give more than 0, or leave it away for the whole song")


def read_size(text: str | None) -> tuple[int, int] | None:
    """'96' -> (96, 96), '128x96' -> (128, 96), None -> None; UserError for anything else."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--size is {text!r}: give HEIGHTxWIDTH in pixels, such as 128x96, or one number")
    height, width = (int(part) for part in (parts[0], parts[-1]))
    return height, width


def finish(rendering, args: argparse.Namespace, audio: Path | None = None) -> int:
    """Writes the video as its frames are done and prints where it is: one line, or with --json an object; says so if the pose was
    made up, and what there is if it is interrupted."""
    from champ_jax.infer.film import partial_path
    from champ_jax.infer.video import skeleton_path

    out = args.out
    try:
        rendering.save(out, audio=audio)
    except KeyboardInterrupt:
        if partial_path(out).exists():
            print(f"stopped: about {rendering.done} of {rendering.count} frames are in {partial_path(out)}", file=sys.stderr)
        raise
    if rendering.metadata["pose_source"] == "standing":
        print(
            f"note: no pose was given for {args.image[0]}: a person standing in its middle is assumed. "
            f"Give --pose FILE, or put {args.image[0].with_suffix('.json').name} beside the photo.",
            file=sys.stderr,
        )
    skeleton = skeleton_path(out) if rendering.skeleton is not None else None
    if args.json:
        shown = {key: value for key, value in rendering.metadata.items() if isinstance(value, (str, int, float))}
        result = {"out": str(out), "skeleton": skeleton and str(skeleton), "frames": rendering.count, "fps": rendering.fps, **shown}
        print(json.dumps(result))
    else:
        beside = f"; its skeleton is {skeleton}" if skeleton else ""
        print(f"{out}: {rendering.count} frames, {rendering.count / rendering.fps:.1f} s{beside}")
    return 0
