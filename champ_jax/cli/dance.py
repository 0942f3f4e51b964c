"""`champ-jax dance`: the person of a photo dances to a song."""

import argparse
from pathlib import Path

from champ_jax.cli import sampling
from champ_jax.cli.progress import progress


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
    sampling.add_model(parser)
    sampling.add_photos(parser)
    sampling.add_song(parser)
    parser.add_argument(
        "--guidance", type=Path, metavar="FOLDER", help="guidance maps to mix with the skeleton that music drives, as for animate"
    )
    parser.add_argument("--music-share", type=float, default=0.7, help="what the music counts beside these maps, 0 to 1 (default: 0.7)")
    sampling.add_video(parser)
    sampling.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks, samples, and writes the video with its song."""
    from champ_jax.infer.film import check_place

    sampling.check_seconds(args)
    given = sampling.sampling_arguments(args)
    check_place(args.out)
    pipe = sampling.open_pipeline(args)
    with progress("dance") as on_progress:
        rendering = pipe.render_dance(
            args.image, args.music, seconds=args.seconds, guidance=args.guidance, music_share=args.music_share,
            on_progress=on_progress, **given,
        )  # fmt: skip
        return sampling.finish(rendering, args, audio=args.music)
