"""The launch scripts: they parse, and say what is wrong on a machine that cannot run them."""

import os
import shutil
import stat
import subprocess

import pytest

from tests.contract.source import REPOSITORY

LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh")) + [REPOSITORY / ".ci" / "run"]


def bash(code: str, **environment) -> subprocess.CompletedProcess:
    """Runs `code` after env.sh was sourced."""
    command = ["bash", "-c", f'source "{LAUNCH}/env.sh"; {code}']
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd="/")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses_and_can_be_run(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.name == "env.sh" or script.stat().st_mode & stat.S_IXUSR


def test_the_repository_is_found_from_any_directory():
    assert bash('echo "$REPO"').stdout.strip() == str(REPOSITORY)


def only(folder, *programs) -> str:
    """A PATH with these programs of the system and nothing else."""
    for name in programs:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_a_wrong_python_is_named(tmp_path):
    path = only(tmp_path, "bash", "dirname", "tail")
    old = tmp_path / "python3"
    old.write_text('#!/bin/bash\n[ "$1" = -V ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    done = bash("find_python", PATH=path, PYTHON="")
    assert done.returncode == 2
    assert "error: Python 3.11, 3.12 or 3.13 is needed. Found: python3 (Python 3.9.1)" in done.stderr


def test_no_python_at_all(tmp_path):
    done = bash("find_python", PATH=only(tmp_path, "bash", "dirname", "tail"), PYTHON="")
    assert done.returncode == 2
    assert "Found: none" in done.stderr


def test_a_full_disk_is_said_before_installing():
    done = bash("NEEDED_MB=999999999; check_disk; echo went on")
    assert done.returncode == 2
    assert "999999999 MB are needed" in done.stderr and "went on" not in done.stdout


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken", "packages cannot be downloaded: check the network"),
        ("ERROR: something else", "installing failed, see"),
    ],
)
def test_what_pip_says_becomes_one_line(tmp_path, output, message):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/bash\necho '{output}'\nexit 1\n")
    python.chmod(0o755)
    done = bash("install anything", CHAMP_VENV=str(tmp_path))
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
