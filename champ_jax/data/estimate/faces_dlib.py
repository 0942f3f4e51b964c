"""Face embeddings of rendered people by a real embedder: dlib's face ResNet (128 numbers, L2-normalised).

dlib and its weights (package `face_recognition_models`, CC0) come with the extra `dancers`. The embedding is dlib's own chain: HOG
detector, five landmarks, aligned 150-pixel chip, ResNet. Never compare these with embeddings of another model.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from champ_jax.errors import UserError

FACE_MODEL = "dlib_resnet_v1"
FACE_DIM = 128


def embed_face(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """The embedding of the largest face of a photo.

    image: u8 [H,W,3], a face of at least about 100 pixels. Returns (f32 [128] of unit length, True), or (zeros, False) when the
    detector finds no face. Raises UserError when dlib or its weights are missing.
    """
    detect, landmarks, network = _models()
    image = np.ascontiguousarray(image)
    for upsample in (0, 1):
        faces = detect(image, upsample)
        if faces:
            face = max(faces, key=lambda box: box.area())
            vector = np.array(network.compute_face_descriptor(image, landmarks(image, face)), np.float32)
            return vector / np.linalg.norm(vector), True
    return np.zeros(FACE_DIM, np.float32), False


def check_face_model() -> None:
    """Raises UserError when dlib or its weights are missing."""
    if importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None:
        raise UserError(
            "embedding faces needs the packages 'dlib' and 'face_recognition_models': run `pip install -e '.[dancers]'` in the repository"
        )


@functools.lru_cache(maxsize=1)
def _models() -> tuple:
    check_face_model()
    weights = importlib.util.find_spec("face_recognition_models")
    import dlib

    # the package itself imports pkg_resources, which new setuptools lack: only its folder is used
    folder = Path(weights.submodule_search_locations[0]) / "models"
    return (
        dlib.get_frontal_face_detector(),
        dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat")),
    )
