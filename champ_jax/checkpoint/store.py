"""Checkpoints of a training run: `directory/00000100/{arrays/, manifest.json}`. The only module that imports orbax.

Orbax moves the arrays, sharded and from every process; what counts as a checkpoint is decided by our manifest
(checkpoint/integrity.py), which is written last. A step without manifest is unfinished and does not exist; a step that is
not what its manifest says is set aside as `00000100.bad`, and the one before is taken.
"""

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from champ_jax.checkpoint.integrity import MANIFEST, Corrupt, array_bytes, check_files, describe, read_manifest, verify, write_manifest
from champ_jax.errors import UserError, WorkdirError
from champ_jax.trees import flatten

ARRAYS, BAD, FAILED = "arrays", ".bad", "failed"
LOOK_SECONDS = 1.0
"""Between looks for a process whose part of a save failed."""
LEAVING_SECONDS = 15.0
log = logging.getLogger(__name__)


class Saver:
    """Writes the steps of a run into `directory`, one at a time, while training goes on; keeps the newest `keep` of them.

    A context manager: leaving it waits for the save under way, and only warns when that failed; `wait` raises. All methods
    are called by all processes, in the same order.
    """

    def __init__(self, directory: str | Path, keep: int):
        self.directory, self.keep = Path(directory).absolute(), keep
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._size = 0
        self._error: Exception | None = None
        self._failed = 0  # saves in a row

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # No collective here: an exception may have brought this process alone to leave. Nor may a save wait for ever for
        # the process whose death was the exception.
        if self._thread is not None:
            self._thread.join(LEAVING_SECONDS if kind is not None and jax.process_count() > 1 else None)
        if self._error is not None:
            log.warning("%s", self._message(self._error))

    def check_room(self, state_tree: Any) -> None:
        """Raises WorkdirError when the folder cannot be made and written, or has no room for the checkpoints of a run.

        state_tree: arrays or `jax.ShapeDtypeStruct`, as they will be saved.
        """
        size = array_bytes(flatten(state_tree))
        # One more than are kept, because an old one goes after the new one is whole.
        missing = self.keep + 1 - min(len(_whole(self.directory)), self.keep)
        _agree(_room(self.directory, missing * size) if jax.process_index() == 0 else None, WorkdirError)

    def save(self, step: int, state_tree: Any, meta: dict) -> None:
        """Copies a step off the devices and returns; a thread brings it to the disk. It is valid once `wait` returns.

        Args:
          step: number of updates done.
          state_tree: pytree of arrays (parameters, optimiser, average), dtypes of at most 32 bits; may be donated afterwards.
          meta: what JSON can hold: configuration, position in the data.

        Raises:
          UserError: not enough free space; or the save before failed, and the one before that.
        """
        if (error := self._join()) is not None:
            self._failed += 1
            if self._failed > 1:
                raise UserError(self._message(error)) from error
            log.warning("%s; trying again with step %d", self._message(error), step)
        else:
            self._failed = 0
        folder, arrays = _folder(self.directory, step), flatten(state_tree)
        _agree(_prepare(folder, array_bytes(arrays)) if jax.process_index() == 0 else None, UserError)
        described = describe(arrays)
        self._step, self._size = step, array_bytes(arrays)
        try:
            written = ocp.save_async(folder / ARRAYS, arrays)
        except Exception as error:  # Orbax and tensorstore raise whatever fits them
            self._discard(folder, error)
            return
        self._thread = threading.Thread(target=self._finish, args=(written, folder, step, described, meta), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the newest save is valid on the disk, in every process. Raises UserError when it failed."""
        if (error := self._join()) is not None:
            raise UserError(self._message(error)) from error

    def _message(self, error: Exception) -> str:
        takes = f"which takes {self._size / 1e6:.0f} MB"
        return f"cannot save step {self._step} in {self.directory}, {takes}: {error}. The newest valid checkpoint is kept"

    def _join(self) -> Exception | None:
        """Waits for the save under way; what went wrong with it, in any process."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if _any(error is not None) and error is None:
            error = OSError("another process could not write its part; its log says why")
        return error

    def _finish(self, written, folder: Path, step: int, described: dict, meta: dict) -> None:
        """Runs beside training: no collective of the devices may be used here."""
        try:
            _all_written(written, folder)
            if jax.process_index() == 0:
                write_manifest(folder, step, described, meta)
        except Exception as error:
            self._discard(folder, error)
            return
        if jax.process_index() == 0:
            try:
                _prune(self.directory, self.keep)
            except OSError as error:  # the new step is valid all the same
                log.warning("old checkpoints in %s cannot be removed: %s", self.directory, error)

    def _discard(self, folder: Path, error: Exception) -> None:
        self._error = error
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            _mark_failed(folder)


def _all_written(written, folder: Path) -> None:
    """Returns when all processes have written all: Orbax has them wait for each other. Raises as soon as one has failed.

    Orbax alone would let the others wait for 20 minutes. They share the folder: one that fails leaves a file there, and
    process 0 removes the folder.
    """
    while True:
        began = time.monotonic()
        try:
            return written.result(timeout=LOOK_SECONDS)
        except TimeoutError:
            if time.monotonic() - began < LOOK_SECONDS:  # it is not ours
                raise
            if not folder.exists() or (folder / FAILED).exists():
                raise OSError("another process could not write its part; its log says why") from None


def _mark_failed(folder: Path) -> None:
    """Tells the other processes that this one cannot write its part."""
    try:
        (folder / FAILED).touch()
    except OSError as error:
        log.warning("%s cannot be marked as failed, the other processes will notice late: %s", folder, error)


def restore_newest(directory: str | Path, abstract_tree: Any) -> tuple[Any, dict, int] | None:
    """The newest step whose every bit is right, on the devices; (tree, meta as saved, step), or None when there is none at all.

    Unfinished steps are passed over. Damaged ones are renamed to `00000100.bad`, with a warning that says why, and the
    one before is tried; nothing is deleted.

    Args:
      directory: as given to `Saver`.
      abstract_tree: the tree to fill, of `jax.ShapeDtypeStruct` (or arrays). Their shardings may differ from those at
        saving; without one, an array goes to the first device.

    Raises:
      WorkdirError: there are steps, but none is valid. Starting anew without a word would throw the run away.
      UserError: the step holds other arrays than the tree (lists the keys), or was written by another version.
    """
    found = _of_first(steps(directory))
    wanted = flatten(abstract_tree)
    for step in reversed(found):
        folder = _folder(directory, step)
        if not _of_first([int((folder / MANIFEST).exists())])[0]:
            log.warning("checkpoint %s is passed over: saving it was never finished", folder)
            continue
        try:
            arrays, meta = _restore(folder, step, wanted)
        except Corrupt as error:
            log.warning("checkpoint %s is damaged and set aside: %s", folder, error)
            _set_aside(folder)
            continue
        return jax.tree.unflatten(jax.tree.structure(abstract_tree), list(arrays.values())), meta, step
    if bad := _of_first(_set_aside_steps(directory)):
        raise WorkdirError(
            f"all {len(bad)} checkpoints in {directory} are damaged (see the warnings above, and the folders named .bad). "
            "Copy a good one there, or begin again in another workdir."
        )
    return None


def steps(directory: str | Path) -> list[int]:
    """All step numbers that have a folder, valid or not, in rising order."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())


def _whole(directory: Path) -> list[int]:
    """The steps that were saved to the end, in rising order; nothing of them is checked."""
    return [step for step in steps(directory) if (_folder(directory, step) / MANIFEST).exists()]


def describe_steps(directory: str | Path) -> list[tuple[int, str]]:
    """(step, "valid", "unfinished" or what is wrong) of all steps in rising order, from manifests and file sizes alone."""
    found = []
    for step in steps(directory):
        folder = _folder(directory, step)
        try:
            read_manifest(folder, step)
            found.append((step, "valid"))
        except (Corrupt, UserError) as error:
            found.append((step, str(error) if (folder / MANIFEST).exists() else "unfinished"))
    return found


def latest(directory: str | Path) -> int | None:
    """The newest step that is valid by its manifest and file sizes; reads nothing else and changes nothing."""
    return max((step for step, state in describe_steps(directory) if state == "valid"), default=None)


def restore(directory: str | Path, step: int, abstract_tree: Any) -> tuple[Any, dict]:
    """Reads one step as `restore_newest` does, but changes nothing on the disk: for looking into a run of somebody else.

    Returns (tree, meta as saved). Raises UserError when the step is damaged, or holds other arrays than the tree.
    """
    folder = _folder(directory, step)
    try:
        arrays, meta = _restore(folder, step, flatten(abstract_tree))
    except Corrupt as error:
        raise UserError(f"checkpoint {folder} is damaged: {error}. Training on sets it aside and takes the one before") from error
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), list(arrays.values())), meta


def _folder(directory: str | Path, step: int) -> Path:
    return Path(directory).absolute() / f"{step:08d}"


def _restore(folder: Path, step: int, wanted: dict[str, Any]) -> tuple[dict[str, jax.Array], dict]:
    """Arrays in the order of `wanted`, and meta; raises Corrupt, in every process when in one."""
    error = content = arrays = None
    try:
        content = read_manifest(folder, step)
        # Every file is read once more than Orbax does, by one of the processes.
        largest_first = sorted(content["files"].items(), key=lambda item: -item[1][0])
        check_files(folder, dict(largest_first[jax.process_index() :: jax.process_count()]))
    except Corrupt as found:
        error = found
    _together(error)
    _compare(folder, wanted, content["arrays"])
    try:
        arrays = _load(folder, wanted)
    except Corrupt as found:
        error = found
    _together(error)
    verify(arrays, content["arrays"])  # sums over all devices: the same everywhere
    return arrays, content["meta"]


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


def _set_aside(folder: Path) -> None:
    """Renames a damaged step, so that it is never looked at again and nothing of it is lost."""
    if jax.process_index() == 0:
        names = (folder.with_name(f"{folder.name}{BAD}{number or ''}") for number in range(1000))
        try:
            folder.rename(next(name for name in names if not name.exists()))
        except OSError as error:
            log.warning("%s cannot be renamed: %s", folder, error)
    _of_first([0])  # the others wait: they must not look at a folder that is on its way


def _set_aside_steps(directory: str | Path) -> list[int]:
    """The numbers of all steps that were set aside, and of those that have a manifest and yet cannot be used."""
    directory = Path(directory)
    names = [path.name for path in directory.glob(f"[0-9]*{BAD}*")] if directory.is_dir() else []
    return [int(name.partition(".")[0]) for name in names] + _whole(directory)


def _room(folder: Path, size: int) -> str | None:
    """What is wrong with writing so many bytes to a folder, or None; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"cannot write checkpoints to {folder}: {error}"
    if free < size:
        return f"no room for checkpoints in {folder}: {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
    return None


def _prepare(folder: Path, size: int) -> str | None:
    """Clears what an unfinished save of this step left and checks for room; returns what is wrong, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    wrong = _room(folder, size)
    if wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


def _prune(directory: Path, keep: int) -> None:
    """Removes all but the newest `keep` steps that have a manifest, and what unfinished saves before them left."""
    oldest = _whole(directory)[-keep:][0]
    for step in steps(directory):
        if step < oldest:
            # The manifest goes first: a removal that is cut off must not look like damage.
            (_folder(directory, step) / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(_folder(directory, step), ignore_errors=True)


def _agree(failure: str | None, kind: type[UserError]) -> None:
    """Raises on every process when process 0 found a failure: one that went on alone would wait for ever."""
    if _of_first([int(failure is not None)])[0]:
        raise kind(failure or "process 0 cannot write the checkpoint; its log says why")


def _together(error: Corrupt | None) -> None:
    """Raises Corrupt in every process when one has it: all must try the same steps."""
    if _any(error is not None):
        raise error or Corrupt("another process could not read its part; its log says why")


def _any(flag: bool) -> bool:
    """Whether it holds in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(flag)))) if jax.process_count() > 1 else flag


def _of_first(values: list[int]) -> list[int]:
    """The list of process 0, in every process; at most 1000 numbers."""
    if jax.process_count() == 1:
        return values
    padded = np.full(1000, -1, np.int32)
    padded[: len(values)] = values[-1000:]
    return [int(value) for value in multihost_utils.broadcast_one_to_all(padded) if value >= 0]
