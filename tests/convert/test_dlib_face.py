"""face-api's weights: a manifest and a file of bytes, right ones and wrong ones."""

import json

import numpy as np
import pytest

from champ_jax.convert.dlib_face import face_api_state, read_tfjs
from champ_jax.errors import UserError

KERNEL = np.arange(3 * 3 * 2 * 4, dtype=np.uint8).reshape(3, 3, 2, 4)
BIAS = np.float32([1, 2, 3, 4])
DATA = KERNEL.tobytes() + BIAS.tobytes()
ENTRIES = [
    {"name": "a/conv/filters", "shape": [3, 3, 2, 4], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.1, "min": -2.3}},
    {"name": "a/conv/bias", "shape": [4], "dtype": "float32"},
]


@pytest.fixture
def files(tmp_path):
    """files(entries, bytes) -> the path of their manifest."""

    def write(entries=ENTRIES, data=DATA, paths=("net.bin",), text=None):
        (tmp_path / "net.bin").write_bytes(data)
        manifest = tmp_path / "net-weights_manifest.json"
        manifest.write_text(json.dumps([{"weights": entries, "paths": paths}]) if text is None else text)
        return manifest

    return write


def test_weights(files):
    arrays = read_tfjs(files())
    np.testing.assert_array_equal(np.asarray(arrays["a/conv/filters"]), (KERNEL * 0.1 - 2.3).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(arrays["a/conv/bias"]), BIAS)
    state = face_api_state(arrays)
    assert {name: array.shape for name, array in state.items()} == {"a.conv.filters": (4, 2, 3, 3), "a.conv.bias": (4,)}
    assert np.asarray(state["a.conv.filters"])[3, 1, 2, 0] == np.float32(KERNEL[2, 0, 1, 3] * 0.1 - 2.3)


def entry(**changes):
    return [{**ENTRIES[0], **changes}, ENTRIES[1]]


def quantised(**changes):
    return entry(quantization={"dtype": "uint8", "scale": 0.1, "min": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text": "{"}, "cannot be read"),
        ({"text": "[" * 100_000}, "cannot be read"),
        ({"text": "[]"}, "one group"),
        ({"text": " " * (2 << 20)}, "longer than"),
        ({"paths": ("a.bin", "b.bin")}, "one file"),
        ({"paths": ("../net.bin",)}, "one file"),
        ({"paths": ("other.bin",)}, "No such file"),
        ({"entries": "all"}, "no weights"),
        ({"entries": [7]}, "without a name"),
        ({"entries": ENTRIES + ENTRIES[1:], "data": DATA + BIAS.tobytes()}, "twice"),
        ({"data": KERNEL.tobytes()}, "ends at byte 88"),
        ({"data": DATA + b"x"}, "at 89"),
        ({"entries": entry(shape=[-3, 3, 2, 4])}, "proper shape"),
        ({"entries": entry(shape=[1 << 39] * 8)}, "ends at byte"),
        ({"entries": entry(dtype="int32")}, "only float32"),
        ({"entries": quantised(dtype="int4")}, "unknown way"),
        ({"entries": entry(quantization="uint8")}, "unknown way"),
        ({"entries": quantised(scale="0.1")}, "step"),
        ({"entries": quantised(min=float("nan"))}, "least value"),
        ({"entries": quantised(min=10**400)}, "least value"),
    ],
)
def test_wrong_files(files, changes, match):
    with pytest.raises(UserError, match=match) as caught:
        read_tfjs(files(**changes))
    assert "\n" not in str(caught.value)


def test_missing_manifest(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_tfjs(tmp_path / "none.json")
