"""The README's commands, run one after the other as they stand, in a folder that holds what a reader would have by then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.contract.source import REPOSITORY
from tests.docs.pages import blocks, commands
from tests.evaluate.nets import heads

CHAMP = REPOSITORY / "tests" / "fixtures" / "champ_a"
QUICK = ("dance", "doctor", "create", "--check", "inspect", "import", "--to", "evaluate", "compare")
"""A word of each command that takes seconds; the others that are run are slow."""
NOT_RUN = {
    "quickstart.sh": "tests/cli/test_quickstart.py runs it, shortened",
    "test.sh": "it is what runs this",
    "source": "the tests have an environment",
    "pip": "the tests have an environment",
    "app": "a server: tests/app starts it and looks at its page",
    "train": "days on accelerators; the quickstart trains the same stages, small",
    "plan": "the compiler of TPUs is an extra; tests/cli/test_plan.py",
    "pose_env.sh": "installs MediaPipe",
    "VIDEOS": "asks for MediaPipe; tests/data/prepare prepares the real video with poses that are given",
}
"""{a word of the command: why it is not run}"""


def kind_of(words: list[str]) -> str:
    """ "quick", "slow" or "not run"."""
    named = {word.rpartition("/")[2] for word in words}
    return "not run" if named & set(NOT_RUN) else "quick" if set(words) & set(QUICK) else "slow"


def readme() -> list[list[str]]:
    return [words for block in blocks("bash") if block.page == "README.md" for words in commands(block.text)]


def before(words: list[str], place: Path) -> None:
    """Puts there what the command needs of the reader, or of a command that is not run."""
    if "FOLDER" in words:
        (place / "FOLDER").mkdir()
        shutil.copy(place / "dance.motion.npz", place / "FOLDER" / "keypoints.npz")
        shutil.copy(REPOSITORY / "assets" / "photo.png", place / "photo.png")
    if "data/mine" in words:
        (place / "data").mkdir()
        (place / "data" / "mine").symlink_to(REPOSITORY / "assets" / "dancers")
    if "motion_module.pth" in words:
        shutil.copy(CHAMP / "motion_module.safetensors", place / "motion_module.pth")
    if "champ/" in words:
        (place / "champ").mkdir()
        parts = [
            *CHAMP.glob("guidance_encoder_*"),
            *(CHAMP / f"{name}.safetensors" for name in ("denoising_unet", "reference_unet", "motion_module")),
        ]
        for path in parts:
            shutil.copy(path, place / "champ")
    if "runs/c" in words:
        shutil.copytree(place / "models" / "champ", place / "runs" / "c")
    if "truth/" in words:
        for name in ("out", "truth"):
            (place / name).mkdir()
            shutil.copy(place / "dance.mp4", place / name)
        (place / "metric_weights").mkdir()
        np.savez(place / "metric_weights" / "heads.npz", **heads("alex"))
    if "runs/eval_old" in words:
        shutil.copytree(place / "runs" / "eval", place / "runs" / "eval_old")


def run(words: list[str], place: Path) -> None:
    before(words, place)
    program = {"champ-jax": [sys.executable, "-m", "champ_jax"], "python": [sys.executable]}.get(words[0], [words[0]])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DRY_RUN": "1", "ZONE": "us-west4-a", "TYPE": "v5litepod-256"}
    done = subprocess.run([*program, *words[1:]], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-1500:]}"


@pytest.fixture
def place(tmp_path):
    for name in ("assets", "configs", "launch"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def test_quick_commands(place):
    for words in readme():
        if kind_of(words) == "quick":
            run(words, place)
    assert (place / "dance.skeleton.mp4").is_file() and (place / "runs" / "eval" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_commands(place):
    for words in readme():
        if kind_of(words) != "not run":
            run(words, place)
    (snippet,) = (block.text for block in blocks("python") if block.page == "README.md")
    (place / "snippet.py").write_text(snippet)
    run(["python", "snippet.py"], place)


def test_what_is_not_run_is_there():
    words = {word.rpartition("/")[2] for one in readme() for word in one}
    assert set(NOT_RUN) <= words and set(QUICK) <= {word for one in readme() for word in one}
