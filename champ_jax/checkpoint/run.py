"""The model in a folder: weights that were saved, or a training run's newest valid checkpoint."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from champ_jax.checkpoint import store
from champ_jax.checkpoint.integrity import read_manifest
from champ_jax.checkpoint.weights import CONFIG, TEACHER, open_weights
from champ_jax.errors import UserError
from champ_jax.trees import unflatten


def is_model(path: Path) -> bool:
    """Whether a folder is one of ours: weights, or a training run."""
    if not path.is_dir():
        return False
    return (path / "checkpoints").is_dir() or (path / "weights" / CONFIG).is_file() or _has_components(path / CONFIG)


def open_model(path: str | Path, shapes_only: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters (nested, LazyArrays where they come from weights) and configuration of a folder of weights or a run.

    Of a run that has not finished the newest valid checkpoint is taken, with its averaged parameters; with `shapes_only`
    these are not read.
    Raises UserError when it is neither, or when a component is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give a folder of weights or of a training run")
    if (path / "weights").is_dir():
        path = path / "weights"
    if (path / CONFIG).is_file() and not (path / "checkpoints").is_dir():
        return open_weights(path)
    return _from_run(path, shapes_only)


def _has_components(config: Path) -> bool:
    return config.is_file() and config.stat().st_size < 1 << 20 and '"components"' in config.read_text(errors="replace")


def _from_run(path: Path, shapes_only: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Averaged parameters and model configuration of the newest valid checkpoint of a run."""
    step = store.latest(path / "checkpoints")
    if step is None:
        raise UserError(f"{path} holds neither weights (config.json and a folder for each component) nor checkpoints of a training run")
    manifest = read_manifest(path / "checkpoints" / f"{step:08d}", step)
    abstract = {key: jax.ShapeDtypeStruct(tuple(array["shape"]), jnp.dtype(array["dtype"])) for key, array in manifest["arrays"].items()}
    arrays, meta = (abstract, manifest["meta"]) if shapes_only else store.restore(path / "checkpoints", step, abstract)
    if "model" not in meta:
        raise UserError(f"{path}: the checkpoint of step {step} does not say which model it is of; give a folder of weights")
    # The average stands in for what was trained; the rest was frozen.
    parts = {key.removeprefix(group): x for group in ("ema/", "frozen/") for key, x in arrays.items() if key.startswith(group)}
    parts = {key: x for key, x in parts.items() if not key.startswith(f"{TEACHER}/")}
    return unflatten(parts), dict(meta["model"])
