"""The curves of a run: broken lines are named, what is asked for and not installed is said; Weights & Biases takes them offline."""

import sys

import pytest

from champ_jax.errors import UserError
from champ_jax.evaluate.run_log import read_lines
from champ_jax.train.log import MetricLog
from champ_jax.train.skips import Skips


def test_a_run_that_goes_on_keeps_the_lines_before_and_drops_none_silently(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.scalars(step, "validation", {"loss": 1 / step})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4, "gro')  # what a kill leaves
    with MetricLog(tmp_path, first=2) as log:
        assert log.validation == [1, 0.5]
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    broken = whole.replace('"step": 2', '"step')
    path.write_text(broken)
    with pytest.raises(UserError, match="metrics.jsonl, line 2: broken .*; mend that line, or remove it"):
        MetricLog(tmp_path, first=3)
    assert path.read_text() == broken
    path.unlink()
    with MetricLog(tmp_path, first=3) as log:
        assert log.validation == []


def test_a_record_of_skips_that_a_kill_cut_off_goes_on(tmp_path):
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"step": 3}\n{"step": 5, "clips": ["a')
    Skips(tmp_path, None)
    assert path.read_text() == '{"step": 3}\n'


def test_wandb_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        MetricLog(tmp_path, wandb_project="champ")


def test_wandb_and_tensorboard_get_the_curves(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with MetricLog(tmp_path, wandb_project="champ") as log:
        log.scalars(1, "train", {"loss": 0.5})
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "group": "train", "loss": 0.5}]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert list((tmp_path / "tensorboard").glob("events.*"))
