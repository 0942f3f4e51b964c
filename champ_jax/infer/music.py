"""A whole song to a dance of the photo's person: M2P window after window, then retargeting."""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from champ_jax.audio.features import features
from champ_jax.errors import UserError
from champ_jax.infer.chain import check_shoulders, fitted_dance
from champ_jax.infer.photo import Photo
from champ_jax.models.animator import merge
from champ_jax.models.m2p import M2P, M2PConfig, to_pixels
from champ_jax.pose.normalise import NormInfo, anchor, to_torso

HOMING = 0.5  # share of the way back to the photo's place that a window walks


class Motion(NamedTuple):
    """A dance: keypoints f32 [F,J,2] in pixels of the photo, confidence f32 [F,J] 0..1, face f32 [F,E] embeddings."""

    keypoints: np.ndarray
    confidence: np.ndarray
    face: np.ndarray


def check_dances(model: Any) -> None:
    """Raises UserError for a `Pipeline` without M2P or skeleton guidance."""
    if model.config.m2p is None or "dwpose" not in model.kinds:
        raise UserError("this model cannot dance: it has no M2P or no dwpose encoder; animate with guidance maps instead")


def music_to_pose(pipeline: Any, photo: Photo, audio: np.ndarray, rate: int, seconds: float) -> Motion:
    """The dance of a photo's person to the first `seconds` of a song, at the pipeline's motion_fps.

    pipeline: a `Pipeline` whose model has M2P. audio: f32 [S] at `rate` Hz, the whole song: tempo, beats and loudness are
    those of the whole, as in training, however much of it is danced to.
    """
    settings, config = pipeline.settings, pipeline.config.m2p
    check_shoulders(photo.confidence)  # before the song is looked at, which takes longer
    music = features(audio, rate, settings.motion_fps, settings.music_spec)
    music = music[: max(1, math.ceil(seconds * settings.motion_fps - 1e-6))]
    face = np.zeros(config.face_dim, np.float32) if photo.face is None else photo.face
    return dance_keypoints(
        config, pipeline.params["m2p"], music, photo.keypoints, photo.confidence, face, photo.image.shape[:2],
        settings.motion_fps, settings.motion_window,
    )  # fmt: skip


def dance_keypoints(
    config: M2PConfig,
    params: dict[str, Any],
    music: np.ndarray,
    reference_keypoints: np.ndarray,
    reference_confidence: np.ndarray,
    reference_face: np.ndarray,
    size: tuple[int, int],
    fps: float,
    window: int,
) -> Motion:
    """Dances to any length of music.

    Windows follow each other: each starts in the pose that the last one has at its first frame, as M2P learned it,
    and where they overlap one fades into the other. The result has the bones of the photo's person, starts in the photo's
    pose and stays inside the frame.

    Args:
        config, params: M2P's geometry and parameters (nested dict).
        music: [F,Dm] features at `fps` frames a second.
        reference_keypoints: [J,2] pixels of the photo; reference_confidence: [J] 0..1; reference_face: [E].
        size: (H, W) of the photo.
        window: frames of a window; the next one starts in its middle.
    Raises:
        UserError: features or face of another width than the model's, or a photo without a visible body.
    """
    photo = anchor(reference_keypoints, reference_confidence)
    run = functools.partial(dance_window, compiled_m2p(config), params, reference_face, photo)
    return Motion(*fitted_dance(run, music, reference_keypoints, reference_confidence, size, fps, window))


def dance_window(function, params, face, photo: NormInfo, music, start, confidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One window from the pose `start` [J,2] px, in units of the photo's torso so that the size cannot drift.

    function: of `compiled_m2p`. face: [E]. photo: the photo's own torso units. music: [F,Dm]. confidence: [J] of `start`. Returns
    keypoints [F,J,2] px, their confidence [F,J] and faces [F,E].
    """
    own = anchor(start, confidence)
    info = NormInfo(own.root, photo.torso)
    outputs = function(params, music[None], np.asarray(to_torso(start[None], info)), confidence[None], face[None])
    keypoints, sure = to_pixels(outputs, jax.tree.map(lambda x: x[None], info))
    way = np.asarray(photo.root) - np.asarray(own.root)
    return np.asarray(keypoints[0]) + homing(len(music))[:, None, None] * way, np.asarray(sure[0]), np.asarray(outputs["face"][0])


def homing(frames: int) -> np.ndarray:
    """The share of the way back to the photo's place that a window's frames have walked, f64 [F]: steps of many windows would add up
    to a walk out of the frame."""
    return HOMING * (0.5 - 0.5 * np.cos(np.pi * np.arange(frames) / max(frames - 1, 1)))


@functools.cache
def compiled_m2p(config: M2PConfig):
    """M2P as a jitted function of (params, music, pose, confidence, face)."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: M2P(config, nnx.Rngs(0))))

    @jax.jit
    def run(params, music, keypoints, confidence, face):
        outputs = merge(graphdef, params)(music, keypoints, confidence, face)
        return {name: outputs[name] for name in ("keypoints", "confidence", "face")}

    return run
