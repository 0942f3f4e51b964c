"""dlib's face recognition network as the npm package @vladmandic/face-api ships it: a manifest and a file of bytes.

The pair is TensorFlow.js's format of weights. Most weights are bytes there, each with the step and the least value that
its tensor has.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, in_file
from champ_jax.convert.formats import Config, Format, Shapes, one_component
from champ_jax.convert.mapping import Layout
from champ_jax.errors import UserError
from champ_jax.models.dlib_face import DlibFace, DlibFaceConfig

MAX_MANIFEST = 1 << 20
STORED = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def read_tfjs(manifest: str | Path) -> dict[str, LazyArray]:
    """Name to float32 array of a "-weights_manifest.json" of TensorFlow.js and the file of bytes beside it.

    Kernels are as TensorFlow has them, with the window first. No tensor is read before it is needed.

    Raises:
      UserError: a file is missing or damaged, or they do not fit each other.
    """
    manifest = Path(manifest)
    try:
        if manifest.stat().st_size > MAX_MANIFEST:
            raise ValueError(f"it is longer than {MAX_MANIFEST} bytes, which no manifest is")
        groups = json.loads(manifest.read_bytes())
        if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
            raise ValueError("a list of one group of weights is expected")
        names, entries = groups[0].get("paths"), groups[0].get("weights")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) or Path(names[0]).name != names[0]:
            raise ValueError("its weights must lie in one file beside it")
        if not isinstance(entries, list):
            raise ValueError("it lists no weights")
        path = manifest.parent / names[0]
        size = path.stat().st_size
        arrays, at = {}, 0
        for entry in entries:
            name, array = _tensor(entry, path, at, size)
            if name in arrays:
                raise ValueError(f"weight {name[:80]!r} is there twice")
            arrays[name] = array[0]
            at = array[1]
        if at != size:
            raise ValueError(f"its weights end at byte {at}, and {path.name} at {size}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{manifest} cannot be read as weights of TensorFlow.js: {error}. Copy it and its .bin file from the package again."
        ) from error
    return arrays


def _tensor(entry: Any, path: Path, at: int, size: int) -> tuple[str, tuple[LazyArray, int]]:
    """(name, (array, byte where it ends)) of a manifest's entry whose bytes begin at `at`; ValueError when it makes no sense."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError("a weight without a name")
    name, shape, packing = entry["name"], entry.get("shape"), entry.get("quantization")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(x) is int and 0 <= x < 1 << 40 for x in shape):
        raise ValueError(f"weight {name[:80]!r} has no proper shape")
    if entry.get("dtype") != "float32":
        raise ValueError(f"weight {name[:80]!r} is of dtype {str(entry.get('dtype'))[:20]!r}; only float32 is expected")
    packing = {"dtype": "float32"} if packing is None else packing
    stored = packing.get("dtype") if isinstance(packing, dict) else None
    if not isinstance(stored, str) or stored not in STORED:
        raise ValueError(f"weight {name[:80]!r} is stored in an unknown way, {str(packing)[:60]}")
    step, least = packing.get("scale", 1.0), packing.get("min", 0.0)
    if not all(type(x) in (int, float) and abs(x) < 1e30 for x in (step, least)):
        raise ValueError(f"weight {name[:80]!r} has the step {str(step)[:20]} and the least value {str(least)[:20]}")
    end = at + math.prod(shape) * np.dtype(STORED[stored]).itemsize
    if end > size:
        raise ValueError(f"weight {name[:80]!r} ends at byte {end}, and {path.name} at {size}")
    raw = in_file(path, at, tuple(shape), STORED[stored])
    # In double precision and rounded once, as JavaScript does it.
    make = lambda: (raw.make() * np.float64(step) + least).astype(np.float32)  # noqa: E731
    return name, (LazyArray(tuple(shape), np.dtype(np.float32), make), end)


def face_api_state(arrays: dict[str, LazyArray]) -> dict[str, LazyArray]:
    """Arrays of `read_tfjs` with points in their names and kernels as PyTorch has them, for `DLIB_FACE`."""
    state = {}
    for name, array in arrays.items():
        if len(array.shape) >= 2:
            *window, width_in, width_out = array.shape
            array = array.map(lambda x: np.moveaxis(x, (-1, -2), (0, 1)), (width_out, width_in, *window))
        state[name.replace("/", ".")] = array
    return state


def _layout(config: DlibFaceConfig) -> Layout:
    """The names, which contain the widths."""
    stages = tuple(
        rule
        for i, width in enumerate(config.widths)
        for rule in ((rf"^stage_{i}/down/", f"conv{width}_down/"), (rf"^stage_{i}/block_(\d+)/", rf"conv{width}_\1/"))
    )
    return Layout(
        rules=(
            (r"^conv_in/", f"conv{config.widths[0]}_down/conv/"),
            (r"^affine_in/", f"conv{config.widths[0]}_down/scale/"),
            *stages,
            (r"^down_out/", f"conv{config.widths[-1]}_down_out/"),
            (r"/conv([12])/", r"/conv\1/conv/"),
            (r"/affine([12])/", r"/conv\1/scale/"),
            (r"^fc/kernel$", "fc"),
            (r"/kernel$", "/filters"),
            (r"/scale/scale$", "/scale/weights"),
            (r"/scale/bias$", "/scale/biases"),
        )
    )


def geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"dlib_face": ...}; the size of the image changes no shape and is dlib's."""
    found = [re.fullmatch(r"conv(\d{1,5})_\d+\.conv1\.conv\.filters", name) for name in shapes]
    blocks = [int(match[1]) for match in found if match]
    widths = sorted(set(blocks))
    if not widths or len(shapes.get("fc", ())) != 2:
        raise UserError("dlib's face network has fc and blocks named like conv32_1, and this file has not.")
    layers = [blocks.count(width) for width in widths]
    return {"dlib_face": {"widths": widths, "layers": layers, "embedding": shapes["fc"][0], "image_size": 150}}


DLIB_FACE = Format(
    title="dlib's face recognition network",
    signature=("conv*_down.conv.filters", "conv*_down_out.conv1.conv.filters", "fc"),
    geometry=geometry,
    components=one_component("dlib_face", DlibFace, DlibFaceConfig, _layout),
)
