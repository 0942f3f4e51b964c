"""Faces by insightface's ONNX models: SCRFD finds them with five points, ArcFace embeds what these align. Both lie in one folder.

Expected are `det_10g.onnx` (or another SCRFD with points) and `w600k_r50.onnx` or `glintr100.onnx`, as in insightface's packs buffalo_l and
antelopev2. Embeddings of two recognisers cannot be compared; the file's name goes into the records.
"""

from pathlib import Path

import cv2
import numpy as np

from champ_jax.data.estimate.faces import FaceModel
from champ_jax.data.estimate.onnx_session import open_session
from champ_jax.errors import UserError

DETECTION, ANCHORS, STRIDES, SCORE = 320, 2, (8, 16, 32), 0.5
CHIP = 112
TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)], np.float32)
"""Where eyes, nose and corners of the mouth lie in a chip."""


def open_arcface(folder: Path) -> FaceModel:
    """The face model of a folder. Raises UserError where it does not hold one detector and one recogniser."""
    sessions = {path: open_session(path) for path in sorted(folder.glob("*.onnx"))}
    finders = [path for path, session in sessions.items() if len(session.get_outputs()) == 3 * len(STRIDES)]
    names = [path for path, session in sessions.items() if _is_recogniser(session)]
    if len(finders) != 1 or len(names) != 1:
        raise UserError(
            f"{folder}: expected one SCRFD with points (det_10g.onnx: nine outputs) and one ArcFace (w600k_r50.onnx: input "
            f"112x112, output [1,512]); "
            f"found {', '.join(path.name for path in sessions) or 'no ONNX file'}"
        )
    detector, recogniser = sessions[finders[0]], sessions[names[0]]
    dim = recogniser.get_outputs()[0].shape[-1]

    def embed(crop: np.ndarray) -> tuple[np.ndarray, bool]:
        points = find_points(detector, crop)
        if points is None:
            return np.zeros(dim, np.float32), False
        matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
        if matrix is None:
            return np.zeros(dim, np.float32), False
        chip = cv2.warpAffine(crop, matrix, (CHIP, CHIP))
        (vector,) = recogniser.run(None, {recogniser.get_inputs()[0].name: (chip.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]})
        vector = vector[0].astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-9), True

    return FaceModel(embed, dim, names[0].stem)


def _is_recogniser(session) -> bool:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return len(outputs) == 1 and len(outputs[0].shape) == 2 and list(inputs[0].shape[2:]) == [CHIP, CHIP]


def find_points(session, image: np.ndarray) -> np.ndarray | None:
    """f32 [5,2] pixels of the surest face of an image u8 [H,W,3], or None."""
    scale = DETECTION / max(image.shape[:2])
    small = cv2.resize(image, (int(image.shape[1] * scale), int(image.shape[0] * scale)))
    padded = np.zeros((DETECTION, DETECTION, 3), np.uint8)
    padded[: small.shape[0], : small.shape[1]] = small
    outputs = session.run(None, {session.get_inputs()[0].name: ((padded.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]})
    best, points = SCORE, None
    for level, stride in enumerate(STRIDES):
        scores, offsets = (outputs[level + kind * len(STRIDES)].reshape(-1, width) for kind, width in ((0, 1), (2, 10)))
        number = int(scores.argmax())
        if scores[number, 0] <= best:
            continue
        cells = DETECTION // stride
        row, column = divmod(number // ANCHORS, cells)
        best = float(scores[number, 0])
        points = (np.array([column, row]) * stride + offsets[number].reshape(5, 2) * stride) / scale
    return None if points is None else points.astype(np.float32)
