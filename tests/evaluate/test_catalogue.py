"""Every score that is computed has its row in the catalogue, without which it would be lost."""

import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.evaluate.catalogue import GROUPS, METRICS, PROTOCOLS
from champ_jax.evaluate.clips import Clip, frames_of
from champ_jax.evaluate.judge import Judge, judge_clips
from champ_jax.evaluate.networks import FILES
from champ_jax.metrics import beats, disco, image, motion, pose, temporal
from tests.evaluate.films import film, swaying
from tests.metrics.real import recorded


def test_every_score_has_a_row():
    truth, other = recorded()["frames"], recorded()["worse"]
    flow, seen = np.zeros((2, *truth.shape[1:3], 2), np.float32), np.ones((2, *truth.shape[1:3]), bool)
    body = swaying()
    track = (body.keypoints, body.confidence)
    found = [image.scores(truth, other), image.person_scores(truth, other, np.ones(truth.shape[:3])), disco.scores(truth, other)]
    found += [temporal.scores(other), temporal.scores_between(other), temporal.scores_along(other, flow, seen)]
    found += [temporal.scores_against(truth, other), pose.scores(*track, *track)]
    found += [motion.scores(*track, body.fps, body.size), motion.scores_3d(np.zeros((5, 24, 3)), 30.0)]
    found += [beats.scores(np.array([0.5]), np.array([0.5, 1.0]), body.keypoints, body.fps)]
    names = {name for scores in found for name in scores}
    assert names <= METRICS.keys() and len(names) == 29


def test_rows_name_what_there_is():
    for name, metric in METRICS.items():
        assert metric.group in GROUPS and metric.network in {"", *FILES} and metric.protocol in {"", *PROTOCOLS}, name


def test_a_score_without_a_row_is_refused():
    clip = Clip("a", 12.0, frames_of(film()), frames_of(film()), scores=lambda frames, first: {"ssin": np.ones(len(frames))})
    with pytest.raises(UserError, match="clip a: there is no metric 'ssin', did you mean 'ssim'"):
        judge_clips({"a": lambda: clip}, Judge())
