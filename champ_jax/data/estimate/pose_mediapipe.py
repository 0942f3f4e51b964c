"""MediaPipe holistic as a pose estimator: one person, 33 body points, 468 of the face, 21 of each hand, as our 134.

It needs versions of NumPy and protobuf that JAX cannot have, so it runs in an environment of its own. The toes are its foot_index
and nothing more: small toes have confidence 0. A face of 468 points gives the 68 of iBUG.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from champ_jax.data.estimate.people import Estimator, EstimatorLost, People, boxes_of
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import FACE, LEFT_HAND, LEFT_SHOULDER, NECK, RIGHT_HAND, RIGHT_SHOULDER, THRESHOLD, J

WORKER = Path(__file__).with_name("mediapipe_worker.py")
PYTHON = "CHAMP_POSE_PYTHON"
ROWS = {"pose": 33, "face": 468, "left_hand": 21, "right_hand": 21}
BODY_POINTS = {
    0: 0, 2: 12, 3: 14, 4: 16, 5: 11, 6: 13, 7: 15, 8: 24, 9: 26, 10: 28, 11: 23, 12: 25, 13: 27, 14: 5, 15: 2, 16: 8, 17: 7,
    18: 31, 20: 29, 21: 32, 23: 30,
}  # fmt: skip
"""{our point: MediaPipe's}; the neck is the middle of the shoulders."""
FACE_POINTS = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)  # fmt: skip
"""The points of the 468 that lie where iBUG's 68 do, in their order."""


def to_keypoints(found: dict[str, np.ndarray], size: tuple[int, int]) -> People:
    """MediaPipe's landmarks {part: f32 [n,4] of x, y, z, visibility} of an image of `size` (H, W) as one
    person of 134 points, or nobody."""
    if "pose" not in found:
        return People.nobody()
    scale = np.array([size[1], size[0]], np.float32)
    keypoints, confidence = np.zeros((J, 2), np.float32), np.zeros(J, np.float32)
    ours, theirs = list(BODY_POINTS), list(BODY_POINTS.values())
    keypoints[ours], confidence[ours] = found["pose"][theirs, :2] * scale, found["pose"][theirs, 3]
    confidence[NECK] = confidence[[RIGHT_SHOULDER, LEFT_SHOULDER]].min()
    keypoints[NECK] = keypoints[[RIGHT_SHOULDER, LEFT_SHOULDER]].mean(0)
    # These come without visibility: they are there, or not found at all.
    if "face" in found:
        keypoints[FACE], confidence[FACE] = found["face"][list(FACE_POINTS), :2] * scale, 1.0
    for name, part in (("left_hand", LEFT_HAND), ("right_hand", RIGHT_HAND)):
        if name in found:
            keypoints[part], confidence[part] = found[name][:, :2] * scale, 1.0
    outside = (keypoints < 0).any(-1) | (keypoints > scale).any(-1)  # guessed beyond the edge of the image
    confidence = np.where(outside, np.minimum(confidence, THRESHOLD / 2), confidence.clip(0, 1))
    return People(keypoints[None], confidence[None], boxes_of(keypoints, confidence, THRESHOLD)[None])


def find_python() -> str:
    """The Python of MediaPipe's environment. Raises UserError where there is none."""
    place = Path(os.environ.get(PYTHON) or Path(__file__).resolve().parents[3] / ".venv-pose" / "bin" / "python")
    if not place.is_file():
        raise UserError(
            f"MediaPipe's environment is not there ({place}): make it with launch/pose_env.sh, or name its Python in {PYTHON}. "
            "Or give --estimator a folder of DWPose's ONNX files"
        )
    return str(place.absolute())


@contextlib.contextmanager
def open_mediapipe() -> Iterator[Estimator]:
    """The estimator; images of a video are to be given in their order, since it follows the person.

    Raises:
      UserError: its environment is missing or does not work.
    """
    command = [find_python(), str(WORKER)]
    # In a session of its own: a Ctrl-C is for us, and ends it by the end of its input.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **pipes)

    lost = EstimatorLost(f"MediaPipe ended ({' '.join(command)}): run launch/pose_env.sh again, which says what is wrong with it")

    def tell(data: bytes) -> None:
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except BrokenPipeError:
            raise lost from None

    def answer() -> dict:
        line = process.stdout.readline()
        if not line:
            raise lost
        return json.loads(line)

    def landmarks(part: str) -> np.ndarray:
        data = process.stdout.read(16 * ROWS[part])
        if len(data) < 16 * ROWS[part]:
            raise lost
        return np.frombuffer(data, np.float32).reshape(-1, 4)

    def estimate(image: np.ndarray) -> People:
        height, width = image.shape[:2]
        tell(json.dumps({"height": height, "width": width}).encode() + b"\n" + np.ascontiguousarray(image).tobytes())
        return to_keypoints({part: landmarks(part) for part in answer()["found"]}, (height, width))

    try:
        answer()
        yield Estimator(estimate, lambda: tell(b'{"reset": true}\n'))
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.terminate()
        process.wait()
        process.stdout.close()
