"""The command line as a user meets it: help, wrong words, wrong input, interruption."""

import gc
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from champ_jax.cli import main as cli
from champ_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def run_cli(*arguments):
    command = [sys.executable, "-m", "champ_jax", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_help_lists_every_command():
    done = run_cli("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert re.search(rf"^    {name}\s", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"example: champ-jax {name}" in " ".join(capsys.readouterr().out.split())


def test_an_error_of_the_user_is_one_line_without_traceback():
    done = run_cli("train", "--config", "no_such_config", "--workdir", "runs/x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no configuration 'no_such_config'")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_unknown_option_gets_a_hint(capsys):
    assert cli.main(["train", "--config", "a", "--workdir", "b", "--workdri=c"]) == 2
    assert "did you mean '--workdir'" in capsys.readouterr().err


def test_overrides_belong_to_commands_with_a_configuration(capsys):
    assert cli.main(["doctor", "--config.a=1"]) == 2
    assert "doctor does not know '--config.a=1'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["dnace"]])
def test_missing_or_unknown_command(words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2


@pytest.mark.parametrize(("raised", "code"), [(UserError("no"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(monkeypatch, capsys, raised, code):
    def run(args):
        raise raised

    monkeypatch.setattr(cli, "parse", lambda arguments: types.SimpleNamespace(run=run))
    assert cli.main([]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_inside_the_garbage_collector_is_not_lost(monkeypatch, capsys):
    """Python prints and drops what a callback of its garbage collector raises, and JAX has such a callback."""

    def callback(phase, info):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)

    def run(args):
        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(60)
        return 0

    monkeypatch.setattr(cli, "parse", lambda arguments: types.SimpleNamespace(run=run))
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is deaf to it
    try:
        assert cli.main([]) == cli.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, heard)
    assert "interrupted" in capsys.readouterr().err
