"""`champ-jax animate`: the person of a photo moves as a folder of guidance maps says."""

import argparse
from pathlib import Path

from champ_jax.cli import sampling
from champ_jax.cli.progress import progress


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "animate",
        help="photo + guidance maps -> video",
        description="Animates the person of a photo with guidance maps: FOLDER/{depth,normal,semantic_map,dwpose,mask}/*.png, "
        "of any kinds the checkpoint knows, or FOLDER/keypoints.npz instead of dwpose.",
        epilog="example: champ-jax animate --checkpoint assets/weights/demo --image photo.png --guidance motion --out out.mp4",
    )
    sampling.add_model(parser)
    sampling.add_photos(parser)
    parser.add_argument("--guidance", required=True, type=Path, metavar="FOLDER", help="one sub-folder a kind, one image a frame")
    parser.add_argument("--people", type=int, nargs="+", metavar="NUMBER", help="with FOLDER/instances/*.png, whose grey values say whose "
                        "each pixel is (0: nobody's): the person each photo shows (default: 1 2 and on)")  # fmt: skip
    parser.add_argument(
        "--fps", type=float, help="frames a second of the guidance, of which each is one frame of the result (default: the checkpoint's)"
    )
    sampling.add_video(parser)
    sampling.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Samples and writes the video."""
    from champ_jax.errors import UserError
    from champ_jax.infer.film import check_place

    if args.fps is not None and not 0.1 <= args.fps <= 1000:
        raise UserError(f"--fps is {args.fps:g}: give 0.1 to 1000")
    given = sampling.sampling_arguments(args)
    check_place(args.out)
    pipe = sampling.open_pipeline(args)
    with progress("animate") as on_progress:
        rendering = pipe.render_animation(args.image, args.guidance, people=args.people, fps=args.fps, on_progress=on_progress, **given)
        return sampling.finish(rendering, args)
