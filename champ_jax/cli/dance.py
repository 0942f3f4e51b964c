"""`champ-jax dance`: the person of a photo dances to a song."""

import argparse
import math
from pathlib import Path

from champ_jax.cli.sampling import add_sampling, finish, open_pipeline, progress, sampling_arguments


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "dance",
        help="photo + song -> video",
        description="Makes the person of a photo dance to a song. Beside NAME.mp4 lie NAME.skeleton.mp4, the pose that drives "
        "it, and NAME.motion.npz, its keypoints. The photo's pose is read from --pose, or from a .json file of the photo's name beside it: "
        '{"keypoints": [[x, y, confidence], ... 134 in DWPose order], "size": [width, height]}.',
        epilog="example: champ-jax dance --checkpoint assets/weights/demo --image photo.png --music song.wav --out dance.mp4",
    )
    parser.add_argument("--music", required=True, type=Path, help="wav, flac, ogg or mp3")
    parser.add_argument(
        "--pose", type=Path, nargs="+", metavar="FILE", help="JSON file with the pose of the person in the photo; one for each"
    )
    parser.add_argument(
        "--guidance", type=Path, metavar="FOLDER", help="guidance maps to mix with the skeleton that music drives, as for animate"
    )
    parser.add_argument("--music-share", type=float, default=0.7, help="what the music counts beside these maps, 0 to 1 (default: 0.7)")
    parser.add_argument("--seconds", type=float, help="how much of the song (default: all of it)")
    add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks, samples, and writes the video with its song."""
    from champ_jax.errors import UserError
    from champ_jax.infer.film import check_place

    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise UserError(f"--seconds is {args.seconds:g}: give more than 0, or leave it away for the whole song")
    sampling = sampling_arguments(args)
    check_place(args.out)
    pipe = open_pipeline(args)
    with progress("dance") as on_progress:
        rendering = pipe.render_dance(
            args.image, args.music, seconds=args.seconds, pose=args.pose, guidance=args.guidance, music_share=args.music_share,
            on_progress=on_progress, **sampling,
        )  # fmt: skip
        return finish(rendering, args, audio=args.music)
