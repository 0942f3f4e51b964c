"""MediaPipe on a real video, against a recorded track of it; skipped where launch/pose_env.sh has made no environment."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from champ_jax.cli.main import main
from champ_jax.data.estimate.pose_mediapipe import BODY_POINTS, find_python
from champ_jax.data.media import read_frames
from champ_jax.data.prepare.check_records import check_records
from champ_jax.data.records import open_records
from champ_jax.errors import UserError

FOLDER = Path(__file__).parents[2] / "fixtures" / "real_video"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    try:
        find_python()
    except UserError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("records")
    words = ["--fps", "60", "--clip-seconds", "2", "--least-seconds", "0.5", "--validation", "0", "--faces", "none"]
    assert main(["prepare", str(FOLDER), "--out", str(out), *words]) == 0
    return out


def test_the_person_is_found_where_the_record_says(prepared):
    clip = open_records(prepared, "train")[0]
    keypoints, confidence = clip.keypoints(np.arange(clip.n_frames))
    recorded = np.load(FOLDER / "cam03_mediapipe33.npy")[:, list(BODY_POINTS.values()), :2] * clip.size[::-1]
    found = (confidence[:, :18] > 0.3).mean(1) > 0.5
    assert len(found) == len(recorded) == 100 and found.sum() >= 98
    height = np.ptp(recorded[..., 1], axis=1)
    error = np.linalg.norm(keypoints[:, list(BODY_POINTS)] - recorded, axis=-1) / height[:, None]
    seen = confidence[:, list(BODY_POINTS)] > 0.3
    print(f"found in {found.sum()} of 100 frames, {100 * error[seen].mean():.2f} % of body height, {100 * error[seen].max():.2f} % at most")
    assert error[seen].mean() < 0.03 and np.percentile(error[seen], 99) < 0.03
    assert check_records(prepared)[1] == {}


def test_frames_are_those_of_the_video(prepared):
    clip = open_records(prepared, "train")[0]
    frames = read_frames(FOLDER / "cam03.mp4", Fraction(60), longest=max(clip.size))
    for number, frame in enumerate(frames):
        if number % 25 == 0:
            assert np.abs(clip.image("frames", number).astype(int) - frame).mean() < 4
