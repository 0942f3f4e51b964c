"""Trained weights as folders of safetensors, one a component, so that components can be copied and swapped by name.

model/config.json                      what is not one component's own, and the list of components
model/denoiser/model.safetensors       arrays by their path inside the component, 'down_0/resnet_0/conv_1/kernel'
model/denoiser/config.json             the component's part of the configuration
Of a quantised kernel there are 'kernel/values', 'kernel/scale' and maybe 'kernel/range', as nn/quantised.py says.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from champ_jax.checkpoint.tensors import LazyArray, is_floating, lazy, read_safetensors, write_safetensors
from champ_jax.errors import UserError
from champ_jax.trees import flatten, unflatten

CONFIG, ARRAYS, KEPT = "config.json", "model.safetensors", "kept.safetensors"
TEACHER = "teacher"
"""The component of a run's frozen parameters that no model has: it stays in the run's checkpoints."""
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def save_weights(
    directory: str | Path,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    dtype: str | None = "float32",
    kept: Mapping[str, LazyArray] | None = None,
    origin: Mapping[str, str] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model; the folder appears under its name only when all of it is written, in place of an older one.

    Args:
      directory: the model's folder.
      params: {component: nested dict of arrays}; LazyArrays are read one at a time.
      config: plain values that JSON can hold; `config[component]` goes into that component's folder.
      dtype: "float32", "bfloat16" or "float16": what floating-point arrays are stored as, but for quantised kernels, which stay
        as they are; None leaves all of them.
      kept: arrays of a converted checkpoint that no component uses, by name; `origin` is the text stored with them.
      recipe: how the weights were quantised, kept in config.json for those who want to know; nothing reads it.

    Returns:
      `directory` as a Path.

    Raises:
      UserError: the place cannot be written or holds something else than a model.
    """
    directory = Path(directory).absolute()
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"numbers cannot be stored as {dtype!r}: expected one of {', '.join(DTYPES)}.")
    check_model_place(directory)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        for name, component in params.items():
            (partial / name).mkdir(parents=True)
            write_safetensors(partial / name / ARRAYS, _stored(flatten(component), dtype), {"component": name})
            _write_json(partial / name / CONFIG, config.get(name) or {})
        counts = {name: len(flatten(component)) for name, component in params.items()}
        # An empty part stays here too, or loading could not tell None from {}.
        shared = {key: value for key, value in config.items() if key not in params or not value}
        if kept or origin:
            write_safetensors(partial / KEPT, kept or {}, origin)
        _write_json(partial / CONFIG, {"components": counts, "config": shared, **({"quantised": recipe} if recipe else {})})
        replace_folder(partial, directory)
    except OSError as error:
        raise UserError(f"cannot write weights to {directory}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _stored(arrays: Mapping[str, Any], dtype: str | None) -> dict[str, LazyArray]:
    """Arrays by path with the floating-point ones in another dtype, but for values, scales and ranges of quantised kernels."""
    entries = {path: lazy(array) for path, array in arrays.items()}
    eight_bits = {path.removesuffix("/values") for path, x in entries.items() if path.endswith("/values") and x.dtype.itemsize == 1}
    cast = lambda path, x: dtype and is_floating(x.dtype) and path.rpartition("/")[0] not in eight_bits  # noqa: E731
    return {path: x.astype(DTYPES[dtype]) if cast(path, x) else x for path, x in entries.items()}


def load_weights(directory: str | Path) -> tuple[dict[str, Any], dict]:
    """Reads what `save_weights` wrote.

    Returns:
      (params: nested dict of numpy arrays in the dtype they are stored in, config as it was saved).

    Raises:
      UserError: no such model, a component missing or too many, an unreadable file, a wrong number of arrays.
    """
    params, config = open_weights(directory)
    return {name: unflatten({path: np.array(array) for path, array in flatten(part).items()}) for name, part in params.items()}, config


def open_weights(directory: str | Path) -> tuple[dict[str, Any], dict]:
    """As `load_weights`, but with LazyArrays: nothing but headers is read."""
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} is not a model: it has no {CONFIG}. Give the folder that training wrote.")
    top = _read_json(directory / CONFIG)
    if not isinstance(top, dict) or not isinstance(top.get("components"), dict) or not isinstance(top.get("config"), dict):
        raise UserError(f"{directory / CONFIG} is not of a champ_jax model: 'components' and 'config' are expected.")
    found = {path.parent.name for path in directory.glob(f"*/{ARRAYS}")}
    if found != set(top["components"]):
        raise UserError(
            f"{directory} should hold the components {sorted(top['components'])} and holds {sorted(found)}. "
            "Copy the folder again, or list what you added or removed in its config.json."
        )
    params, config = {}, dict(top["config"])
    for name, count in top["components"].items():
        arrays, _ = read_safetensors(directory / name / ARRAYS)
        if len(arrays) != count:
            raise UserError(f"{directory / name / ARRAYS} holds {len(arrays)} arrays, {count} are expected.")
        params[name] = unflatten(arrays)
        own = _read_json(directory / name / CONFIG)
        if own:
            config[name] = own
    return params, config


def check_replaceable(directory: Path, ours: Callable[[Path], bool]) -> None:
    """Raises UserError when a folder holds anything but what `ours` is true for: writing to it would lose that."""
    if directory.is_dir():
        others = sorted(path.name for path in directory.iterdir() if not ours(path))
        if others or not directory.name:
            raise UserError(f"{directory} holds other files, such as {(others or ['/'])[0]}: give an empty or new folder.")
    elif directory.exists():
        raise UserError(f"{directory} is a file: give an empty or new folder.")


def check_model_place(directory: Path) -> None:
    """Raises UserError when a folder holds anything but a model."""
    check_replaceable(directory, _is_ours)


def _is_ours(path: Path) -> bool:
    """Whether a part of a folder is what a model consists of."""
    if path.is_dir():
        return {part.name for part in path.iterdir()} <= {ARRAYS, CONFIG}
    return path.name == KEPT or path.name == CONFIG and '"components"' in path.read_text(errors="replace")


def replace_folder(source: Path, target: Path) -> None:
    """Renames `source` to `target`; a folder of that name is moved aside first and then removed."""
    old = source.with_suffix(".old")
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
