"""`champ-jax app`: a page in the browser on which to try a model."""

import argparse
import signal
import sys
import threading

from champ_jax.cli.sampling import add_model, open_pipeline


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "app",
        help="a page to try a model in the browser",
        description="Serves a page on which to upload a photo and a song and watch the dance. Nothing leaves this machine, and only this "
        "machine can reach the page unless --host says otherwise. Ctrl-C ends it.",
        epilog="example: champ-jax app --checkpoint assets/weights/demo",
    )
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to serve at; 0.0.0.0: to everybody (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="the port to serve at; 0: any that is free (default: 7860)")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="the longest video to make (default: 60)")
    parser.add_argument("--queue", type=int, default=8, help="how many may wait while one dance is made (default: 8)")
    parser.add_argument("--max-upload-mb", type=float, default=20.0, help="the largest file to take (default: 20)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Loads the model and serves until Ctrl-C (130)."""
    from champ_jax.app.jobs import Limits
    from champ_jax.app.serve import check_port, is_loopback, serving
    from champ_jax.errors import UserError

    limits = Limits(args.max_seconds, args.queue, args.max_upload_mb)
    check_port(args.host, args.port)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({error}): pip install 'champ-jax[app]'") from error
    pipe = open_pipeline(args)
    # A service manager's way to say Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with serving(pipe, args.checkpoint.resolve().name, limits, args.host, args.port) as url:
        if not is_loopback(args.host):
            print(f"note: everybody who can reach {args.host} can use the page; it asks for no password", file=sys.stderr)
        print(f"{url}: ready. Ctrl-C ends it.", flush=True)
        threading.Event().wait()
    return 0
