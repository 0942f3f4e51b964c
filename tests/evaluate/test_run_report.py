"""The report: from a folder with anything in it, one file without outside references."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from champ_jax.errors import UserError
from champ_jax.evaluate.chart import chart
from champ_jax.evaluate.run_log import read_series
from champ_jax.evaluate.run_report import write_run_report

METRICS = {
    "animate": {
        name: {"psnr": 20.0, "ssim": 0.8, "psnr_person": 18.0, "ssim_person": 0.7, "identity_top1": 0.95}
        for name in ("model", "copy_reference", "no_reference")
    },
    "dance": {"energy_ratio": 0.9, "beat_corrected": 0.3},
    "stages": {stage: {"first": 1.0, "last": 0.5} for stage in "ABC"},
    "seconds": 600.0,
}


def _log(folder, name, losses):
    (folder / name).mkdir(parents=True)
    lines = [json.dumps({"step": i, "group": "train", "loss": loss}) for i, loss in losses]
    (folder / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_everything_is_inside_one_file(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    _log(tmp_path, "B", [(0, 1.0), (10, 0.5)])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "comparison.png")
    (tmp_path / "comparison.json").write_text(json.dumps({"columns": ["photo", "truth"]}))
    (tmp_path / "dance.mp4").write_bytes(b"video")
    page = write_run_report(tmp_path).read_text()
    for expected in ("copy reference", "0.950", "photo | truth", "<polyline", "10.0 minutes", "data:video/mp4"):
        assert expected in page
    sources = re.findall(r"(?:src|href)='?\"?([^'\" >]+)", page)
    assert sources and all(source.startswith("data:") for source in sources)


def test_a_training_run_alone(tmp_path):
    _log(tmp_path.parent, tmp_path.name + "x", [(0, 1.0), (1, 0.9)])
    assert "<polyline" in write_run_report(tmp_path.parent / (tmp_path.name + "x")).read_text()


def test_repeated_steps_of_a_resumed_run_count_once(tmp_path):
    _log(tmp_path, "B", [(0, 1.0), (1, 0.9), (1, 0.8), (2, 0.7)])
    assert read_series(tmp_path / "B") == {"train": {"loss": [(0, 1.0), (1, 0.8), (2, 0.7)]}}


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    _log(tmp_path, "B", [(0, 1.0), (1, 0.9)])
    with open(tmp_path / "B/metrics.jsonl", "a") as file:
        file.write('{"step": 2, "gro')
    assert read_series(tmp_path / "B") == {"train": {"loss": [(0, 1.0), (1, 0.9)]}}


def test_charts_leave_out_what_is_not_finite():
    assert "nan" not in chart("loss", {"train": [(0, 1.0), (1, float("nan")), (2, -1.0)]})
    assert chart("loss", {"train": []}) == ""
    assert "<polyline" in chart("one point", {"train": [(3, 2.0)]})


def test_nothing_to_report_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_run_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="it is an evaluation"):
        write_run_report(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json"):
        write_run_report(tmp_path)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1"):
        write_run_report(tmp_path)
