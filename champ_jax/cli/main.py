"""`champ-jax COMMAND`: finds the command, runs it, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong input, 75 interrupted but can be resumed, 78 a run's folder cannot be used,
130 interrupted, 143 saved after a preemption.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from champ_jax import __version__
from champ_jax.config import PREFIX
from champ_jax.errors import INTERRUPTED, WRONG_INPUT, UserError, did_you_mean

COMMANDS = (
    "prepare", "train", "plan", "status", "dance", "animate", "live", "app", "evaluate", "compare", "ablate", "dancers", "quickstart",
    "report", "merge", "convert", "quantise", "export", "doctor",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Command modules import what is heavy inside `run`, so this stays quick."""
    parser = argparse.ArgumentParser(prog="champ-jax", description="From a song and a photo to a dance video.")
    parser.add_argument("--version", action="version", version=f"champ-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"champ_jax.cli.{name}")
        module.add_parser(subparsers).set_defaults(run=module.run)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; `--config.a.b=c` of commands that take a configuration are collected in `args.overrides`.

    Raises UserError for an option that the command does not know.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    takes_config = "config" in args
    args.overrides = [word for word in rest if takes_config and word.startswith(PREFIX)]
    unknown = [word for word in rest if word not in args.overrides]
    if unknown:
        known = [f"--{name.replace('_', '-')}" for name in vars(args) if name not in ("run", "command", "overrides")]
        hint = did_you_mean(unknown[0].partition("=")[0], known)
        raise UserError(f"{args.command} does not know {unknown[0]!r}{hint}. See champ-jax {args.command} --help.")
    return args


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Sends a Ctrl-C again that Python printed and dropped, as it does inside destructors and callbacks of the garbage collector.

    JAX has such a callback, so that it happens to long runs.
    """
    before, waiting = sys.unraisablehook, []

    def hook(dropped) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            # Later: sent at once it would arrive in this very place.
            waiting.append(threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)))
            waiting[-1].start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        late = [timer for timer in waiting if timer.is_alive()]
        for timer in late:
            timer.cancel()
    if late:  # the command was done before it was sent
        raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` defaults to those of the process."""
    if hasattr(sys.stdout, "reconfigure"):
        # A file whose name is no text must not end a long run when it is named; standard error is like this anyway.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = parse(arguments)
        with no_interrupt_lost():
            return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
