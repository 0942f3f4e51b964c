"""The curves of a run: what is asked for and not installed is said; Weights & Biases takes them without a network."""

import sys

import pytest

from champ_jax.errors import UserError
from champ_jax.train.log import MetricLog, read_lines


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
