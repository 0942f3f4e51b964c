"""Every benchmark explains itself, and every command that the numbers name is there and takes these options."""

import argparse
import importlib
import re
import shlex
from functools import cache

import pytest

from champ_jax.cli.main import build_parser
from champ_jax.config import PREFIX
from tests.contract.source import REPOSITORY

HELPERS = {"__init__", "common", "champ_way", "denoise_torch"}
NAMES = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem not in HELPERS)
COMMANDS = sorted(
    {
        (path.name, " ".join(command.split()))
        for path in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
        for command in re.findall(r"`(python -m benchmarks[^`]*|champ-jax [^`]*|pytest [^`]*)`", path.read_text())
        if path.name == "numbers.md" or command.startswith("python -m benchmarks")
    }
)


class Asked(Exception):
    """Carries the parser that was about to read the command line."""


@cache
def parser_of(name):
    """A benchmark's parser, without running it."""

    def stop(parser, *_):
        raise Asked(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        try:
            importlib.import_module(f"benchmarks.{name}").main()
        except Asked as asked:
            return asked.args[0]
    raise AssertionError(f"benchmarks/{name}.py reads no options")


@pytest.mark.parametrize("name", NAMES)
def test_help_is_enough(name):
    parser = parser_of(name)
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert not unexplained and f"python -m benchmarks.{name}" in parser.description


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_of_the_docs(page, command):
    words = [word for word in shlex.split(command) if word != "..."]
    if words[0] == "pytest":
        assert all((REPOSITORY / word).exists() for word in words[1:] if word.startswith("tests/"))
        return
    if words[0] == "champ-jax":
        parser, options = build_parser(), words[1:]
        if not options[0].startswith("--"):
            (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
            parser, options = subparsers.choices[options[0]], options[1:]
    else:
        parser, options = parser_of(words[2].removeprefix("benchmarks.")), words[3:]
    known = {option for action in parser._actions for option in action.option_strings}
    unknown = [word for word in options if word.startswith("--") and word.partition("=")[0] not in known and not word.startswith(PREFIX)]
    assert not unknown, f"{page}: {command}"
