"""`champ-jax train` up to the point where training begins."""

import json
import sys
import types

import pytest

from champ_jax.cli.main import main

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"seed": 0, "optim": {"learning_rate": 1e-4, "steps": 10}})
"""


@pytest.fixture
def loop(monkeypatch):
    """Stands in for the training loop and remembers what it was given."""
    calls = []

    def train(config, workdir, resume, profile):
        calls.append((config, workdir, resume))
        return {"first": 2.0, "last": 1.0, "steps": config.optim.steps, "seconds": 3.0, "weights": "w"}

    monkeypatch.setitem(sys.modules, "champ_jax.train.loop", types.SimpleNamespace(train=train))
    return calls


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def test_trains_with_overrides(loop, config_file, tmp_path, capsys):
    workdir = tmp_path / "run"
    words = ["train", "--config", config_file, "--workdir", str(workdir), "--json", "--config.optim.steps=20"]
    assert main(words) == 0
    ((config, folder, resume),) = loop
    assert (config.optim.steps, folder, resume) == (20, workdir, "auto")
    assert json.loads(capsys.readouterr().out)["steps"] == 20


def test_stages_follow_each_other(loop, tmp_path):
    for stage in "AB":
        text = CONFIG.replace('{"seed"', f'{{"stage": "{stage}", "init_from": "", "seed"')
        (tmp_path / f"{stage}.py").write_text(text)
    words = ["train", "--config", str(tmp_path / "A.py"), "--config", str(tmp_path / "B.py"), "--workdir", str(tmp_path / "run")]
    assert main([*words, "--config.init_from=given"]) == 0
    assert [(config.init_from, folder.name) for config, folder, _ in loop] == [("given", "A"), ("w", "B")]
    assert main([*words[:3], *words[1:3], *words[5:]]) == 2 and len(loop) == 2


def test_unknown_key_stops_before_anything_is_written(loop, config_file, tmp_path, capsys):
    words = ["train", "--config", config_file, "--workdir", str(tmp_path / "run"), "--config.optim.step=20"]
    assert main(words) == 2
    assert "did you mean 'optim.steps'" in capsys.readouterr().err
    assert not loop and not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written(loop, config_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--config", config_file, "--workdir", str(tmp_path / "file" / "run")]) == 78
    assert "cannot write to" in capsys.readouterr().err
    assert not loop


def test_a_window_to_profile_that_makes_no_sense(loop, config_file, tmp_path, capsys):
    assert main(["train", "--config", config_file, "--workdir", str(tmp_path / "run"), "--profile", "10"]) == 2
    assert "expected FIRST:STEPS" in capsys.readouterr().err
    assert not loop
