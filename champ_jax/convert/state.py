"""One file of weights, whatever its format, as a state dict whose tensors stay in the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from champ_jax.checkpoint.tensors import LazyArray, read_safetensors
from champ_jax.convert.arcface_onnx import arcface_state
from champ_jax.convert.dlib_face import face_api_state, read_tfjs
from champ_jax.convert.formats import OWN_CONFIG
from champ_jax.convert.onnx_file import read_onnx
from champ_jax.convert.torch_file import MAGIC_PICKLE, MAGIC_ZIP, read_torch
from champ_jax.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".onnx")
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "params_ema", "params", "net", "weights", "backbone",
    "ema", "ema_model", "model_ema", "state_dict_ema",
)  # fmt: skip
"""Names under which training scripts put a state dict beside other things."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data parallelism, compilation and wrapping classes put before every name."""


@dataclasses.dataclass(frozen=True)
class State:
    """tensors: name to array. config: the config.json beside the file, or {}. file: where it came from. form: what kind of
    file that is. notes: what was unwrapped or left aside on the way, for the user. metadata: of a safetensors header."""

    tensors: dict[str, LazyArray]
    config: dict[str, Any]
    file: Path
    form: str
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_state(path: str | Path) -> State:
    """Opens a file of weights, or a folder with one (a component of diffusers or transformers, in one file or in shards).

    Raises UserError when there is none, when there are several, and for files that are damaged or hold more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        files = weight_files(path)
        index = sorted(path.glob("*.index.json"))
        if index and len(files) > 1:
            return _open_shards(index[0])
        if not files:
            raise UserError(
                f"{path} holds neither weights (config.json and a folder for each component), nor checkpoints of a training run, "
                "nor a file of weights."
            )
        if len(files) != 1:
            names = ", ".join(file.name for file in files[:8])
            raise UserError(f"{path} should hold one file of weights and holds {names}: name the file.")
        path = files[0]
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    if path.suffix == ".json" and path.name.endswith(".index.json"):
        return _open_shards(path)
    state = _open_file(path)
    tensors, notes = _strip_prefix(state.tensors)
    return dataclasses.replace(state, tensors=tensors, notes=(*state.notes, *notes))


def _open_file(path: Path) -> State:
    """One file, with the names that stand in it."""
    if path.suffix == ".onnx":
        return State(arcface_state(read_onnx(path), str(path)), {}, path, "ONNX")
    if path.name.endswith("weights_manifest.json"):
        return State(face_api_state(read_tfjs(path)), {}, path, "TensorFlow.js")
    config = _config_beside(path)
    with path.open("rb") as file:
        start = file.read(16)
    is_safetensors = start[8:9] == b"{" or path.suffix == ".safetensors"
    if start.startswith((MAGIC_ZIP, MAGIC_PICKLE)) or path.suffix in (".pth", ".pt", ".bin", ".ckpt") and not is_safetensors:
        form = "PyTorch, zip" if start.startswith(MAGIC_ZIP) else "PyTorch before 1.6"
        tensors, notes = _unwrap(read_torch(path), str(path))
        return State(tensors, config, path, form, notes)
    if is_safetensors:
        tensors, metadata = read_safetensors(path)
        if OWN_CONFIG in metadata:
            config = config | {OWN_CONFIG: _parsed(metadata[OWN_CONFIG], path)}
        return State(tensors, config, path, "safetensors", metadata=metadata)
    raise UserError(f"{path} is no file of weights that is known here: expected {', '.join(SUFFIXES)}; it begins with {start[:8]!r}.")


def own_config(state: State) -> dict[str, Any]:
    """The part of a state's configuration that stands in the file itself."""
    return {OWN_CONFIG: state.config[OWN_CONFIG]} if OWN_CONFIG in state.config else {}


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: what its header says of {OWN_CONFIG} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder; where one is there both as safetensors and in another form, the safetensors."""
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    safe = {path.stem for path in found if path.suffix == ".safetensors"}
    # diffusers writes both `diffusion_pytorch_model.bin` and `.safetensors`, transformers `pytorch_model.bin` and `model.safetensors`.
    safe |= {"pytorch_model"} if "model" in safe else set()
    found = [path for path in found if path.suffix == ".safetensors" or path.stem not in safe]
    # diffusers keeps variants such as `diffusion_pytorch_model.fp16.safetensors` beside the plain file.
    plain = {path.stem for path in found if "." not in path.stem}
    return [path for path in found if "." not in path.stem or path.stem.split(".")[0] not in plain]


def _config_beside(path: Path) -> dict[str, Any]:
    """What a config.json in the file's folder says; {} without one."""
    config = path.parent / "config.json"
    if not config.is_file() or config.stat().st_size > 1 << 20:
        return {}
    try:
        found = json.loads(config.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{config} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _open_shards(index: Path) -> State:
    """A state dict in several files, as `*.index.json` lists them."""
    try:
        table = json.loads(index.read_text())["weight_map"]
        files = sorted({str(name) for name in table.values()})
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not the index of a model in several files: {error}") from error
    if any("/" in name or "\\" in name or not (index.parent / name).is_file() for name in files):
        raise UserError(f"{index} names files that are not beside it: {', '.join(files)}")
    states = [_open_file(index.parent / name) for name in files]
    tensors = {name: array for state in states for name, array in state.tensors.items()}
    if tensors.keys() != table.keys():
        odd = sorted(tensors.keys() ^ table.keys())
        raise UserError(f"{index} and its files do not agree on {len(odd)} names, such as {odd[0]}: copy all of them again.")
    tensors, notes = _strip_prefix(tensors)
    return State(tensors, states[0].config, index, f"{states[0].form}, {len(files)} files", notes)


def _unwrap(tree: Any, source: str) -> tuple[dict[str, LazyArray], tuple[str, ...]]:
    """The state dict in what `torch.save` saved, and notes on what was around it."""
    notes: list[str] = []
    while isinstance(tree, dict):
        inner = next((name for name in WRAPPERS if isinstance(tree.get(name), dict) and tree[name]), None)
        if inner is None:
            break
        aside = sorted(str(name) for name in tree if name != inner)
        notes.append(f"inside {inner!r}" + (f"; left aside: {', '.join(aside[:6])}" if aside else ""))
        tree = tree[inner]
    if isinstance(tree, LazyArray) or not isinstance(tree, dict):
        raise UserError(f"{source} holds no state dict but a {'tensor' if isinstance(tree, LazyArray) else type(tree).__name__}.")
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, LazyArray)}
    aside = [str(name) for name, value in tree.items() if not isinstance(value, LazyArray)]
    if not tensors:
        raise UserError(f"{source} holds no state dict: among {', '.join(aside[:6]) or 'nothing'} there is no tensor.")
    if aside:
        notes.append(f"no tensors, left aside: {', '.join(aside[:6])}")
    return tensors, tuple(notes)


def _strip_prefix(tensors: Mapping[str, LazyArray]) -> tuple[dict[str, LazyArray], tuple[str, ...]]:
    """Names without what stands before every one of them."""
    names, notes = dict(tensors), []
    while prefix := next((prefix for prefix in PREFIXES if _begin_all(names, prefix)), None):
        names = {name.removeprefix(prefix): array for name, array in names.items()}
        notes.append(f"every name began with {prefix!r}")
    return names, tuple(notes)


def _begin_all(names: Mapping[str, Any], prefix: str) -> bool:
    # Stable Diffusion's single file, which may hold the UNet alone.
    return bool(names) and all(name.startswith(prefix) and not name.startswith("model.diffusion_model.") for name in names)
