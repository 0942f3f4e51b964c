"""Checkpoints of a training run: `directory/00000100/{arrays/, manifest.json}`. The only module that imports orbax.

Orbax moves the arrays, sharded and from every process; what counts as a checkpoint is decided by our manifest
(checkpoint/integrity.py), which is written last.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from champ_jax.checkpoint.integrity import (
    Corrupt,
    array_bytes,
    describe,
    flatten,
    read_manifest,
    verify,
    write_manifest,
)
from champ_jax.errors import UserError

ARRAYS = "arrays"
log = logging.getLogger(__name__)


def save(
    directory: str | Path,
    step: int,
    state_tree: Any,
    meta: dict,
    keep_last: int | None = None,
    keep_every: int | None = None,
) -> Path:
    """Writes one step; when it returns, the step is on disk and valid. Interrupted at any point, it does not exist.

    Args:
      directory: of all steps of a run.
      step: number of updates done.
      state_tree: pytree of arrays (parameters, optimiser, average, RNG key data); dtypes of at most 32 bits.
      meta: what JSON can hold: config hash, position in the data, seed.
      keep_last: remove all but this many newest steps afterwards ...
      keep_every: ... except multiples of this. None keeps all.

    Returns:
      The step's folder.

    Raises:
      UserError: not enough free space, or the place cannot be written.
    """
    folder = _folder(directory, step)
    arrays = flatten(state_tree)
    described = describe(arrays)
    failure = None
    if jax.process_index() == 0:
        failure = _prepare(folder, array_bytes(arrays))
    _agree(failure)
    try:
        ocp.save(folder / ARRAYS, arrays)
    except BaseException as error:
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot save step {step} in {directory}: {error}") from error
        raise
    if jax.process_index() == 0:
        write_manifest(folder, step, described, meta)
        _prune(Path(directory), keep_last, keep_every)
    _barrier(f"saved {step}")
    return folder


def latest(directory: str | Path) -> int | None:
    """The newest valid step, or None when the folder holds no step at all.

    Steps that are unfinished or damaged are passed over with a warning.

    Raises:
      UserError: there are steps, but none is valid. (Starting anew without a word would throw the run away.)
    """
    found = steps(directory)
    for step in reversed(found):
        try:
            read_manifest(_folder(directory, step))
            return step
        except Corrupt as error:
            log.warning("checkpoint %s is passed over: %s", _folder(directory, step), error)
    if any((_folder(directory, step) / "manifest.json").exists() for step in found):
        raise UserError(
            f"all {len(found)} checkpoints in {directory} are damaged (see the warnings above). Copy a good one there, or "
            "begin again in another workdir."
        )
    return None


def steps(directory: str | Path) -> list[int]:
    """All step numbers that have a folder, valid or not, in rising order."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())


def restore(directory: str | Path, step: int, abstract_tree: Any) -> tuple[Any, dict]:
    """Reads one step onto the devices and checks every bit of it.

    Args:
      directory, step: as given to `save`.
      abstract_tree: the tree to fill, of `jax.ShapeDtypeStruct` (or arrays). Their shardings may differ from those at
        saving; without one, an array goes to the first device.

    Returns:
      (tree, meta as saved).

    Raises:
      UserError: the step is damaged (names the arrays or files), or holds other arrays than the tree (lists the keys).
    """
    folder = _folder(directory, step)
    wanted = flatten(abstract_tree)
    try:
        manifest = read_manifest(folder)
        _compare(folder, wanted, manifest["arrays"])
        arrays = _load(folder, wanted)
        verify(arrays, manifest["arrays"])
    except Corrupt as error:
        raise UserError(f"checkpoint {folder} is damaged: {error}. Remove it to go on from the one before.") from error
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), list(arrays.values())), manifest["meta"]


def _folder(directory: str | Path, step: int) -> Path:
    return Path(directory).absolute() / f"{step:08d}"


def _load(folder: Path, wanted: dict[str, Any]) -> dict[str, jax.Array]:
    """Arrays as orbax reads them, in the order of `wanted`; raises Corrupt when it cannot read them."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)
        for path, leaf in wanted.items()
    }
    try:
        arrays = ocp.load(folder / ARRAYS, abstract)
    except (ValueError, OSError, KeyError) as error:
        raise Corrupt(f"its arrays cannot be read: {str(error).splitlines()[0]}") from error
    return {path: arrays[path] for path in wanted}


def _compare(folder: Path, wanted: dict[str, Any], stored: dict[str, dict]) -> None:
    """Raises UserError with all keys that are on one side only or differ in shape or dtype."""
    lines = [f"missing: {path}" for path in wanted if path not in stored]
    lines += [f"not in the model: {path}" for path in stored if path not in wanted]
    for path in wanted.keys() & stored.keys():
        have = f"{stored[path]['dtype']}{stored[path]['shape']}"
        want = f"{np.dtype(wanted[path].dtype)}{list(wanted[path].shape)}"
        if have != want:
            lines.append(f"{path}: stored {have}, expected {want}")
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise UserError(
            f"checkpoint {folder} does not fit this configuration, {len(lines)} differences:\n  {shown}\n"
            "Train with the configuration that wrote it, or in another workdir."
        )


def _prepare(folder: Path, size: int) -> str | None:
    """Clears what an unfinished save of this step left and checks for room; returns what is wrong, or None."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"cannot write checkpoints to {folder.parent}: {error}"
    if free < size:
        folder.rmdir()
        return f"no room for a checkpoint in {folder.parent}: it takes {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
    return None


def _prune(directory: Path, keep_last: int | None, keep_every: int | None) -> None:
    if keep_last is None:
        return
    for step in steps(directory)[:-keep_last]:
        if not keep_every or step % keep_every:
            shutil.rmtree(_folder(directory, step))


def _agree(failure: str | None) -> None:
    """Raises on every process when process 0 found a failure: one that went on alone would wait for ever."""
    failed = failure is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.array(failed)))
    if failed:
        raise UserError(failure or "process 0 cannot write the checkpoint; its log says why")


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
