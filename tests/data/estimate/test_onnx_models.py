"""ONNX models of a user's: small graphs with known answers go through the same crops, grids and decoding as the published ones."""

import numpy as np
import pytest

from champ_jax.data.estimate.faces_onnx import TEMPLATE
from champ_jax.data.estimate.maps import encode, open_map_model
from champ_jax.data.estimate.models import open_faces
from champ_jax.data.estimate.pose_onnx import FROM_COCO, open_onnx, to_134
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import J

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def save(path, inputs: dict, outputs: dict[str, np.ndarray], nodes=()) -> None:
    """A model that takes `inputs` {name: shape} and always gives `outputs` {name: array}, or what `nodes` compute."""
    from onnx import TensorProto, helper, numpy_helper

    made = {name for node in nodes for name in node.output}
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in outputs.items()
        if name not in made
    ]
    graph = helper.make_graph(
        [*constants, *nodes],
        "known",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in outputs.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def cell(x: float, y: float, width: float, height: float, score: float, kind: int = 0) -> tuple[int, np.ndarray]:
    """(row of YOLOX's output at 640 pixels, its values) of a box, on the grid of stride 32."""
    column, row = int(x / 32), int(y / 32)
    values = np.zeros(85, np.float32)
    values[:4] = x / 32 - column, y / 32 - row, np.log(width / 32), np.log(height / 32)
    values[4], values[5 + kind] = 1.0, score
    return 80 * 80 + 40 * 40 + row * 20 + column, values


def pose_folder(folder, boxes, places: np.ndarray, scores: np.ndarray):
    output = np.zeros((1, 8400, 85), np.float32)
    for number, values in boxes:
        output[0, number] = values
    save(folder / "yolox_l.onnx", {"images": [1, 3, 640, 640]}, {"output": output})
    x, y = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    x[0, np.arange(133), (places[:, 0] * 2).astype(int)] = scores
    y[0, np.arange(133), (places[:, 1] * 2).astype(int)] = scores
    save(folder / "dw.onnx", {"input": [1, 3, 384, 288]}, {"simcc_x": x, "simcc_y": y})
    return folder


def test_keypoints_come_back_through_crop_and_grid(tmp_path):
    """An image of 1280 x 720: the detector sees it at half its size."""
    rng = np.random.default_rng(0)
    places = rng.integers(10, 280, (133, 2)).astype(np.float32)
    scores = np.linspace(0.2, 1.0, 133, dtype=np.float32)
    boxes = [
        cell(300, 180, 60, 160, 0.9),
        cell(500, 200, 50, 150, 0.8),
        cell(300, 193, 60, 160, 0.7),
        cell(100, 100, 50, 99, 0.9, kind=2),
        cell(200, 90, 50, 90, 0.2),
    ]
    estimate = open_onnx(pose_folder(tmp_path / "models", boxes, places, scores))
    people = estimate(np.zeros((720, 1280, 3), np.uint8))
    assert people.keypoints.shape == (2, J, 2)  # one box twice, a bicycle, and one that is not sure
    for person, (x, y, width, height) in enumerate(((600, 360, 120, 320), (1000, 400, 100, 300))):
        tall = max(height * 1.25, width * 1.25 * 384 / 288)
        expected = (places - [144, 192]) / (384 / tall) + [x, y]
        ours, sure = to_134(expected, scores)
        np.testing.assert_allclose(people.keypoints[person], ours, atol=0.02)
        np.testing.assert_allclose(people.confidence[person], sure, atol=1e-6)


def test_the_order_of_the_133():
    points = np.arange(133)[:, None] * np.ones((1, 2))
    keypoints, confidence = to_134(points, np.ones(133))
    assert keypoints[1, 0] == 5.5 and keypoints[4, 0] == 10 and keypoints[10, 0] == 16 and keypoints[14, 0] == 2
    assert (
        keypoints[18:24, 0].tolist() == list(range(17, 23))
        and keypoints[24, 0] == 23
        and keypoints[92, 0] == 91
        and keypoints[133, 0] == 132
    )
    assert sorted(FROM_COCO) == [-1, *range(17)]


def test_nobody_is_found(tmp_path):
    estimate = open_onnx(pose_folder(tmp_path / "models", [], np.full((133, 2), 9.0), np.ones(133)))
    assert len(estimate(np.zeros((90, 90, 3), np.uint8)).boxes) == 0


def test_other_models_are_refused_by_what_they_give(tmp_path):
    folder = pose_folder(tmp_path / "models", [], np.full((133, 2), 9.0), np.ones(133))
    (folder / "yolox_l.onnx").unlink()
    with pytest.raises(UserError, match=r"expected one detector .*simcc_x \[1, 133, 576\]"):
        open_onnx(folder)
    (folder / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="broken.onnx: no ONNX model"):
        open_onnx(folder)
    with pytest.raises(UserError, match="no ONNX file"):
        open_onnx(tmp_path / "empty")


def test_depth_fills_its_range(tmp_path):
    inverse = np.tile(np.linspace(2, 8, 28, dtype=np.float32), (1, 28, 1))
    save(tmp_path / "depth.onnx", {"image": [1, 3, 28, 28]}, {"depth": inverse})
    depth = open_map_model("depth", tmp_path / "depth.onnx")(np.zeros((40, 60, 3), np.uint8))
    assert depth.shape == (40, 60) and depth.dtype == np.uint8
    assert depth[0, 0] == 1 and depth[0, -1] == 255 and (np.diff(depth[0].astype(int)) >= 0).all()


def test_normals_and_parts(tmp_path):
    normal = np.zeros((1, 3, 8, 6), np.float32)
    normal[0, 2] = 3.0
    save(tmp_path / "normal.onnx", {"image": [1, 3, 8, 6]}, {"normal": normal})
    image = open_map_model("normal", tmp_path / "normal.onnx")(np.zeros((16, 12, 3), np.uint8))
    assert image.shape == (16, 12, 3) and np.unique(image.reshape(-1, 3), axis=0).tolist() == [[128, 128, 255]]
    scores = np.zeros((28, 8, 6), np.float32)
    scores[0], scores[5, :, 3:] = 1, 2
    parts = encode("semantic_map", scores, (16, 12))
    assert (parts[:, :5] == 0).all() and (parts[:, 7:].max(-1) > 0).all()
    save(tmp_path / "other.onnx", {"image": [1, 3, 8, 6]}, {"normal": normal})
    with pytest.raises(UserError, match="28 channels"):
        open_map_model("semantic_map", tmp_path / "other.onnx")(np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(UserError, match="expected one of depth"):
        open_map_model("dwpose", tmp_path / "other.onnx")


def faces_folder(folder, found: bool):
    """A detector that sees one face whose points are the template's, and a recogniser that gives its chip's mean colours."""
    from onnx import helper

    outputs = {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            outputs[f"{kind}{stride}"] = np.zeros(((320 // stride) ** 2 * 2, width), np.float32)
    number = (2 * 20 + 3) * 2 + 1  # row 2, column 3 of stride 16, second anchor
    outputs["score16"][number] = 0.9 if found else 0.1
    points = TEMPLATE * 320 / 112  # the whole image is the chip
    outputs["points16"][number] = ((points - [48, 32]) / 16).ravel()
    save(folder / "det.onnx", {"input": [1, 3, 320, 320]}, outputs)
    mean = helper.make_node("ReduceMean", ["chip"], ["vector"], axes=[2, 3], keepdims=0)
    save(folder / "arc.onnx", {"chip": [1, 3, 112, 112]}, {"vector": np.zeros((1, 3), np.float32)}, [mean])
    return folder


def test_faces_are_aligned_before_they_are_embedded(tmp_path):
    model = open_faces(faces_folder(tmp_path / "models", True))
    image = np.zeros((224, 224, 3), np.uint8)
    image[:] = (255, 127, 0)
    vector, valid = model.embed(image)
    expected = np.array([255, 127, 0]) / 127.5 - 1
    assert valid and model.dim == 3 and model.name == "arc"
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=0.02)
    vector, valid = open_faces(faces_folder(tmp_path / "none", False)).embed(image)
    assert not valid and not vector.any()
    (tmp_path / "models" / "arc.onnx").unlink()
    with pytest.raises(UserError, match="expected one SCRFD"):
        open_faces(tmp_path / "models")


def test_mediapipe_landmarks_map_to_the_skeleton():
    from champ_jax.data.estimate.pose_mediapipe import BODY_POINTS, FACE_POINTS, to_keypoints

    rng = np.random.default_rng(0)
    found = {"pose": rng.uniform(0.1, 0.9, (33, 4)).astype(np.float32), "face": rng.uniform(0.1, 0.9, (468, 4)).astype(np.float32)}
    people = to_keypoints(found, (100, 200))
    keypoints, confidence = people.keypoints[0], people.confidence[0]
    assert len(BODY_POINTS) == 21 and len(set(FACE_POINTS)) == 68
    np.testing.assert_allclose(keypoints[4], found["pose"][16, :2] * [200, 100], rtol=1e-6)  # right wrist
    np.testing.assert_allclose(keypoints[1], keypoints[[2, 5]].mean(0), rtol=1e-6)
    assert confidence[19] == confidence[22] == 0 and (confidence[92:] == 0).all() and (confidence[24:92] == 1).all()
    assert len(to_keypoints({}, (100, 200)).boxes) == 0
