"""Pose estimators and face models by name, or by the folder of a user's ONNX files.

"mediapipe" runs MediaPipe holistic, whose weights are in its wheel, in an environment of its own (launch/pose_env.sh makes it); a folder
with a whole-body model and a person detector as ONNX files is DWPose's or RTMPose's way (pose_onnx.py). Faces are embedded by "dlib", or
by a folder with a detector (SCRFD) and an ArcFace (faces_onnx.py).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from champ_jax.data.estimate.faces import FaceModel
from champ_jax.data.estimate.faces_dlib import FACE_DIM, FACE_MODEL, check_face_model, embed_face
from champ_jax.data.estimate.faces_onnx import open_arcface
from champ_jax.data.estimate.people import Estimator
from champ_jax.data.estimate.pose_mediapipe import open_mediapipe
from champ_jax.data.estimate.pose_onnx import open_onnx
from champ_jax.errors import UserError

MEDIAPIPE = "mediapipe"


@contextlib.contextmanager
def open_estimator(name: str | os.PathLike) -> Iterator[Estimator]:
    """A pose estimator by name, or by the folder of its ONNX files.

    Raises:
      UserError: it cannot be opened; says what to install or which file it wants.
    """
    if name == MEDIAPIPE:
        with open_mediapipe() as estimator:
            yield estimator
        return
    if not Path(name).exists():
        raise UserError(
            f"pose estimator {str(name)!r}: expected {MEDIAPIPE!r}, or a folder with a whole-body pose model and a detector (*.onnx)"
        )
    yield Estimator(open_onnx(Path(name)))


def open_faces(which: str | os.PathLike) -> FaceModel:
    """The face model "dlib", or that of a folder with a detector (SCRFD) and an ArcFace as ONNX files.

    Raises:
      UserError: it cannot be opened; says what to install or which file it wants.
    """
    if which == "dlib":
        check_face_model()
        return FaceModel(embed_face, FACE_DIM, FACE_MODEL)
    if not Path(which).exists():
        raise UserError(f"face model {str(which)!r}: expected 'dlib', 'none', or a folder with a detector and an ArcFace as ONNX files")
    return open_arcface(Path(which))
