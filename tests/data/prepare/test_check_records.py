"""`prepare --check`: each thing that training cannot use is named with its clip."""

import json

import numpy as np
import pytest

from champ_jax.cli.main import main
from champ_jax.data.records import write_records
from tests.data.conftest import example


def nowhere(clip):
    clip["kps"][3, 0] = np.nan


def unseen(clip):
    clip["kps_conf"][:] = 0


def far_away(clip):
    clip["kps"][5, 4] = 200.0


def broken_music(clip):
    clip["music"][1] = np.inf


def short_music(clip):
    clip["music"] = clip["music"][:2]


def long_face(clip):
    clip["face_emb"][2] *= 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nowhere, "a keypoint is not a number"),
        (unseen, "not one joint is seen in it"),
        (far_away, "frame 5: a joint that is seen lies far outside the picture"),
        (broken_music, "its music has features that are not numbers"),
        (short_music, "its music ends 0.4 s before the motion"),
        (long_face, "an embedding of its face is not of unit length"),
    ],
)
def test_what_is_wrong_with_a_clip(change, reason, tmp_path, capsys):
    clip = example("spoilt")
    change(clip)
    write_records(tmp_path, "train", [clip, example("whole")])
    write_records(tmp_path, "validation", [example("other", identity=1)])
    assert main(["prepare", "--check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"train/spoilt: {reason}" in said and "1 clips are wrong" in said and "validation: clips 1" in said
    assert main(["prepare", "--check", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == {"train/spoilt": reason}
