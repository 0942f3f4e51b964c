"""The quickstart's bookkeeping: parts run once, a stop loses nothing, and what is missing is said at once."""

import json
import shutil

import pytest

from champ_jax.cli import quickstart
from champ_jax.cli.main import main
from champ_jax.cli.quickstart import Parts, check_assets, check_place
from champ_jax.config import REPOSITORY
from champ_jax.errors import UserError
from tests.infer.tiny import TINY_M2P, save_tiny, tiny_config

NEEDED = ("dancers", "songs", "photo.png", "weights/demo", "weights/no_reference")


def test_a_part_runs_once_and_keeps_its_result(tmp_path):
    calls = []
    work = lambda value: calls.append(value) or {"value": value}  # noqa: E731
    assert Parts(tmp_path, "key")("one", work, 3)["value"] == 3
    again = Parts(tmp_path, "key")
    assert again("one", work, 4)["value"] == 3 and calls == [3]
    assert again("two", work, 5)["value"] == 5
    assert again.seconds == sum(result["part_seconds"] for result in again.done.values())


def test_a_stop_keeps_what_is_done_and_repeats_what_is_not(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    part = Parts(tmp_path, "key")
    part("one", dict)
    with pytest.raises(KeyboardInterrupt):
        part("two", stopped)
    assert list(json.loads((tmp_path / "parts.json").read_text())["parts"]) == ["one"]
    with pytest.raises(UserError, match="another --out"):
        Parts(tmp_path, "other")
    assert [path.name for path in tmp_path.iterdir()] == ["parts.json"]


def test_interrupted_quickstart_can_be_resumed(tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("champ_jax.cli.quickstart.run_parts", stopped)
    monkeypatch.setattr("champ_jax.cli.quickstart.check_assets", lambda _: None)
    assert main(["quickstart", "--out", str(tmp_path)]) == 75
    assert "goes on" in capsys.readouterr().err


def test_missing_assets_are_listed(tmp_path):
    (tmp_path / "dancers").mkdir()
    with pytest.raises(UserError, match="lacks songs, photo.png, weights/demo, weights/no_reference"):
        check_assets(tmp_path)
    for name in NEEDED:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    check_assets(tmp_path)


def test_a_place_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        check_place(tmp_path / "file" / "out")
    monkeypatch.setattr("champ_jax.cli.quickstart.NEEDED_MB", 1e12)
    with pytest.raises(UserError, match="are free on this disk"):
        check_place(tmp_path)


def test_everything_after_training_with_a_tiny_model(tmp_path, monkeypatch, capsys):
    """Dance, animation, scores and report from the committed dancers; only the training is left out."""
    config = tiny_config(TINY_M2P)
    trained = save_tiny(tmp_path / "trained", config)
    assets = tmp_path / "assets"
    for name in ("dancers", "songs", "photo.png", "photo.json"):
        assets.mkdir(exist_ok=True)
        (assets / name).symlink_to(REPOSITORY / "assets" / name)
    save_tiny(assets / "weights" / "no_reference", tiny_config(reference=False))
    shutil.copytree(trained, assets / "weights" / "demo")
    stage = {"first": 1.0, "last": 0.5, "weights": str(trained)}
    monkeypatch.setattr(quickstart, "train_stage", lambda *_: stage)
    monkeypatch.setattr(quickstart, "TEST_FRAMES", 2)
    monkeypatch.setattr(quickstart, "DANCE_SECONDS", 2.0)
    out = tmp_path / "out"
    command = ["quickstart", "--out", str(out), "--assets", str(assets)]
    assert main(command) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics) == ["animate", "dance", "stages", "seconds"]
    assert set(metrics["animate"]) == {"model", "no_reference", "copy_reference"}
    for row in metrics["animate"].values():
        assert {"psnr", "ssim", "psnr_person", "ssim_person", "identity_top1", "flicker"} <= set(row)
    assert {"energy_ratio", "beat_corrected"} <= set(metrics["dance"])
    assert (out / "evaluation" / "model" / "report.html").is_file()
    assert metrics["stages"]["C"] == {"first": 1.0, "last": 0.5}
    assert {"dance.mp4", "dance.skeleton.mp4", "animate.mp4", "report.html", "model"} <= {path.name for path in out.iterdir()}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 6
