"""What a newcomer pays: time and size of a fresh virtual environment, and how long the package takes to answer.

    python -m benchmarks.install [--extras dev,dancers]

Makes an environment, in a folder of its own that is removed afterwards, as launch/env.sh does, from a copy of the repository and with
an empty cache, so that downloading is in it. Prints a row for the core and, with --extras, one for the core and these. The answers are
medians of 5 processes, after one that does not count, beside those of an interpreter that does nothing and of `import jax`.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import REPOSITORY, make_parser, print_header, print_row, seconds, size_mb

ANSWERS = {
    "nothing": ("python", "-c", "pass"),
    "import champ_jax": ("python", "-c", "import champ_jax"),
    "champ-jax --help": ("champ-jax", "--help"),
    "import jax": ("python", "-c", "import jax"),
}
TIMES = 5
BESIDE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
ANNY = "anny==0.6.2"  # without what it asks for, as launch/env.sh does


def run(*command: object) -> None:
    """Runs a command in silence; ends the benchmark with what it said where it fails."""
    # Nothing of this process's own environment may answer in the new one's place.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")


def measure(extras: str, folder: Path) -> list[str]:
    """The cells of a row: of an environment made in an empty folder."""
    source, place = folder / "champ_jax", folder / "venv"
    shutil.copytree(REPOSITORY / "champ_jax", source / "champ_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(REPOSITORY / name, source)
    made = seconds(run, sys.executable, "-m", "venv", place)
    install = (place / "bin/python", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--no-input")
    installed = seconds(run, *install, "-e", f"{source}[{extras}]" if extras else source)
    if "dancers" in extras.split(","):
        installed += seconds(run, *install, "--no-deps", ANNY)
    packages = len(list((place / "lib").glob("python*/site-packages/*.dist-info")))
    row = [f"core, {extras}" if extras else "core", f"{made:.0f}", f"{installed:.0f}", f"{size_mb(place):.0f}", packages]
    for command in ANSWERS.values():
        times = [seconds(run, place / "bin" / command[0], *command[1:]) for _ in range(TIMES + 1)]
        row.append(f"{statistics.median(times[1:]):.2f}")
    return row


def main() -> None:
    """Prints a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--extras", default="", metavar="NAMES", help="also an environment with these of setup.cfg, such as dev,dancers")
    args = parser.parse_args()
    print_header(("installed", "making it, s", "installing, s", "MB", "packages", *(f"{name}, s" for name in ANSWERS)))
    for extras in dict.fromkeys(("", args.extras)):
        with tempfile.TemporaryDirectory() as folder:
            print_row(*measure(extras, Path(folder)))


if __name__ == "__main__":
    main()
