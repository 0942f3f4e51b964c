"""Every command that a page names is one that exists, with options that its parser takes and values that its configuration has."""

import argparse
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from champ_jax.cli import main as cli
from champ_jax.config import load_config, load_hardware, with_hardware
from champ_jax.errors import UserError
from tests.contract.source import REPOSITORY
from tests.docs.pages import INLINE, blocks, commands, pages, prose

NOT_OURS = {"source", "export", "git", "docker", "bash", "sbatch", "cd", "cp", "mkdir", "python3.11", "curl", "unzip", "tensorboard"}
"""Programs whose options are for others to check; a script of ours among their words is checked all the same."""

STANDS_FOR = {"COMMAND", "NAME"}
"""Words of a sentence in whose place a reader puts something that a parser would look up."""

OURS = ("champ-jax ", "python -m champ_jax ", "python -m benchmarks.", "pytest ", "launch/", "./launch/", "pip install")


def check(words: list[str], whole: bool) -> None:
    """Raises AssertionError or UserError for a command that does not exist; with `whole` nothing that it needs may be missing."""
    program, *rest = words
    if program in ("python", "python3") and rest[:1] == ["-m"]:
        program, *rest = rest[1:]
    if program in ("champ-jax", "champ_jax"):
        check_champ_jax(rest, whole)
    elif program.startswith("benchmarks."):
        check_benchmark(program, rest)
    elif program in ("python", "python3"):
        check_python(rest)
    elif program == "pytest":
        check_pytest(rest)
    elif program == "pip":
        check_extras(rest)
    elif any("launch/" in word for word in words):
        check_script(words)
    else:
        assert program in NOT_OURS, f"nobody checks {program!r}"


def check_champ_jax(words: list[str], whole: bool) -> None:
    try:
        args = parse(words, whole)
    except SystemExit as stop:
        assert stop.code == 0 and words[-1] in ("--help", "--version"), "argparse refuses it"
        return
    configs = args.config if isinstance(getattr(args, "config", None), list) else [getattr(args, "config", None)]
    for config in configs:
        if config:
            load_config(config, with_hardware(config, getattr(args, "hw", None), args.overrides))
        elif getattr(args, "hw", None):
            load_hardware(args.hw)


def parse(words: list[str], whole: bool) -> argparse.Namespace:
    """By the real parser; of which nothing is required unless `whole`, for options that a sentence names without their values."""
    if whole:
        return cli.parse(words)
    real = cli.build_parser

    def lenient():
        parser = real()
        for inner in every_parser(parser):
            for action in inner._actions:
                action.required = False
                if action.option_strings and action.nargs is None:
                    action.nargs = "?"
        return parser

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "build_parser", lenient)
        return cli.parse(words)


def every_parser(parser: argparse.ArgumentParser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in set(action.choices.values()):
                yield from every_parser(inner)


class Parsed(Exception):
    """The program has read its options: what comes after is not for this test."""


def parse_in_main(module, words: list[str]) -> None:
    """Runs main() of a program until its options are read."""
    real = argparse.ArgumentParser.parse_known_args

    def then_stop(self, *args):
        unknown = [word for word in real(self, *args)[1] if not word.startswith("--config.")]
        assert not unknown, f"unknown: {unknown}"
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", then_stop)
        patch.setattr(sys, "argv", ["program", *words])
        with pytest.raises(Parsed):
            module.main()


def check_benchmark(name: str, words: list[str]) -> None:
    module = importlib.import_module(name)
    if words:
        parse_in_main(module, words)


def check_python(words: list[str]) -> None:
    script = words[0].rsplit("/", 1)[-1]
    if script == "onnx_dance.py":
        parse_in_main(importlib.import_module("champ_jax.export.onnx_dance"), words[1:])
    else:
        assert (REPOSITORY / words[0]).is_file(), f"{words[0]} is not there"


def check_pytest(words: list[str]) -> None:
    for word in words:
        if word.startswith("tests"):
            assert (REPOSITORY / word.split("::")[0]).exists(), f"{word} is not there"


def check_extras(words: list[str]) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    for word in words:
        for extra in re.findall(r"\[(.*)\]", word):
            assert set(extra.split(",")) <= set(setup["options.extras_require"]), f"setup.cfg has no extra {extra}"
            assert word.startswith("."), f"{word}: the package is installed from a checkout"


def check_script(words: list[str]) -> None:
    """A script of launch/: it is there, and what it would train exists."""
    (place, *_) = [number for number, word in enumerate(words) if "launch/" in word and " " not in word] or [None]
    if place is None:  # a whole program within quotes
        return
    script = REPOSITORY / words[place]
    assert script.is_file(), f"{words[place]} is not there"
    assert script.suffix != ".sh" or os.access(script, os.X_OK) or script.name == "env.sh"
    overrides = [word for word in words if word.startswith("--config.")]
    known = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}
    trained = [word for word in words[place + 1 :] if word.split(":")[0] in known]
    assert trained or not overrides, "no configuration for the overrides"
    for config in trained:
        load_config(config, overrides)


def failures(found: list[list[str]], whole: bool) -> list[str]:
    wrong = []
    for words in found:
        try:
            check(words, whole)
        except (AssertionError, UserError, ImportError) as error:
            wrong.append(f"{' '.join(words)}\n    {error}")
    return wrong


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: f"{block.page}:{block.line}")
def test_commands_of_a_block(block):
    wrong = failures(commands(block.text), whole=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", pages())
def test_commands_within_sentences(page):
    spans = [span.strip() for span in INLINE.findall(prose(page))]
    found = [words for span in spans if span.startswith(OURS) and " " in span for words in commands(span)]
    found = [words for words in found if not STANDS_FOR & set(words)]
    wrong = failures(found, whole=False)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page}:{block.line}")
def test_python_is_python(block):
    compile(block.text, block.page, "exec")


def test_every_command_is_in_the_table_of_commands():
    table = (REPOSITORY / "docs/reference/commands.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(cli.COMMANDS)


@pytest.mark.skipif(not shutil.which("bash"), reason="scripts of launch/ need bash")
@pytest.mark.parametrize("name", sorted({word for block in blocks("bash") for words in commands(block.text) for word in words[:1]
                                         if "launch/" in word and word.endswith(("pod.sh", "jobset.sh", "gpu.sh"))}))  # fmt: skip
def test_training_scripts_say_what_they_would_do(name):
    """Each line of a block that starts training is printed by a dry run, and no word of it is refused."""
    lines = [words for block in blocks("bash") for words in commands(block.text) if words[0] == name]
    settings = {"ZONE": "zone", "TYPE": "v5litepod-256", "NFS": "10.0.0.2:/share", "IMAGE": "image", "VOLUME": "work",
                "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "16x16", "DRY_RUN": "1"}  # fmt: skip
    for words in lines:
        done = subprocess.run(words, cwd=REPOSITORY, env={**os.environ, **settings}, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
