"""ruff finds nothing; its rules are in pyproject.toml."""

import subprocess
import sys

from tests.contract.source import REPOSITORY


def test_ruff():
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "."]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
