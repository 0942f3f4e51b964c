"""DWPose and RTMPose whole-body models as pose estimators: a person detector and a pose model as ONNX files in one folder.

As in DWPose (Yang et al. 2023; IDEA-Research/DWPose, ControlNet-v1-1-nightly/annotator/dwpose): YOLOX finds the people in an image of
640 x 640, each is cut out with a quarter more room and turned into 133 keypoints by SimCC, whose two rows of scores a keypoint are
twice as fine as the image. Expected are `yolox_l.onnx` and `dw-ll_ucoco_384.onnx`, or exports of the same kind under any name.
"""

from pathlib import Path

import cv2
import numpy as np

from champ_jax.data.estimate.onnx_session import open_session
from champ_jax.data.estimate.people import People, boxes_of
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import THRESHOLD, J

SCORE, OVERLAP, PERSON = 0.3, 0.45, 0
ROOM = 1.25
MEAN, STD = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
SPLIT = 2.0
WHOLE_BODY = 133
FROM_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""The COCO joint of each of our 18 body points; -1 is the neck, the middle of the shoulders."""


def open_onnx(folder: Path):
    """The estimator of a folder's two models: image u8 [H,W,3] to People.

    Raises:
      UserError: they are not both there, or not what is expected.
    """
    files = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    sessions = {path: open_session(path) for path in files}
    pose = [path for path, session in sessions.items() if _is_pose(session)]
    finder = [path for path, session in sessions.items() if _is_detector(session)]
    if len(pose) != 1 or len(finder) != 1:
        found = "; ".join(f"{path.name}: {_shapes(session)}" for path, session in sessions.items()) or "no ONNX file"
        raise UserError(
            f"{folder}: expected one detector (yolox_l.onnx: one output [1,N,85]) and one whole-body pose model "
            f"(dw-ll_ucoco_384.onnx: outputs "
            f"[1,133,2W] and [1,133,2H]); found {found}"
        )
    detector, estimator = sessions[finder[0]], sessions[pose[0]]

    def estimate(image: np.ndarray) -> People:
        boxes = detect(detector, image)
        if not len(boxes):
            return People.nobody()
        keypoints, confidence = zip(*(pose_in(estimator, image, box) for box in boxes))
        keypoints, confidence = np.stack(keypoints), np.stack(confidence)
        return People(
            keypoints,
            confidence,
            np.where((confidence >= THRESHOLD).any(1, keepdims=True), boxes_of(keypoints, confidence, THRESHOLD), boxes),
        )

    return estimate


def _shapes(session) -> str:
    return ", ".join(f"{value.name} {value.shape}" for value in session.get_outputs())


def _is_pose(session) -> bool:
    shapes = [value.shape for value in session.get_outputs()]
    return len(shapes) == 2 and all(len(shape) == 3 and shape[1] == WHOLE_BODY for shape in shapes)


def _is_detector(session) -> bool:
    shapes = [value.shape for value in session.get_outputs()]
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 85


def detect(session, image: np.ndarray) -> np.ndarray:
    """f32 [P,4] xyxy of the people in an image."""
    (entry,) = session.get_inputs()
    height, width = entry.shape[2:]
    scale = min(height / image.shape[0], width / image.shape[1])
    small = cv2.resize(image, (int(image.shape[1] * scale), int(image.shape[0] * scale)), interpolation=cv2.INTER_LINEAR)
    padded = np.full((height, width, 3), 114, np.uint8)
    padded[: small.shape[0], : small.shape[1]] = small
    # YOLOX was trained on BGR as it is.
    (output,) = session.run(None, {entry.name: padded[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)})
    places, strides = _grid(height, width)
    centre, side = (output[0, :, :2] + places) * strides, np.exp(output[0, :, 2:4]) * strides
    scores = output[0, :, 4] * output[0, :, 5 + PERSON]
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1) / scale
    kept = cv2.dnn.NMSBoxes(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], -1).tolist(), scores.tolist(), SCORE, OVERLAP)
    return boxes[np.asarray(kept, int).ravel()].astype(np.float32)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(cell [N,2], stride [N,1]) of YOLOX's outputs."""
    places, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: height // stride, : width // stride]
        places.append(np.stack([columns, rows], -1).reshape(-1, 2))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(places), np.concatenate(strides)


def pose_in(session, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keypoints f32 [134,2] pixels of the image, confidence f32 [134]) of the person in a box f32 [4]."""
    (entry,) = session.get_inputs()
    height, width = entry.shape[2:]
    centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * ROOM
    # Widened to the model's aspect.
    side = np.array([max(side[0], side[1] * width / height), max(side[1], side[0] * height / width)])
    scale = width / side[0]
    matrix = np.array([[scale, 0, width / 2 - scale * centre[0]], [0, scale, height / 2 - scale * centre[1]]])
    crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    found = session.run(None, {entry.name: ((crop - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)})
    x, y = (scores[0] for scores in found)
    places = np.stack([x.argmax(-1), y.argmax(-1)], -1) / SPLIT
    sure = np.minimum(x.max(-1), y.max(-1)).clip(0, 1)
    return to_134((places - [width / 2, height / 2]) / scale + centre, sure)


def to_134(points: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO-WholeBody's 133 points [133,2] and confidence [133] as our 134: the body in OpenPose's order with a neck."""
    keypoints, sure = np.zeros((J, 2), np.float32), np.zeros(J, np.float32)
    order = np.array(FROM_COCO)
    keypoints[:18], sure[:18] = points[order], confidence[order]
    keypoints[1] = points[[5, 6]].mean(0)
    sure[1] = float((confidence[[5, 6]] > THRESHOLD).all())
    keypoints[18:], sure[18:] = points[17:], confidence[17:]
    keypoints[sure <= 0] = 0
    return keypoints, sure
