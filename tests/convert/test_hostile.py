"""Files that are damaged or made to do harm are refused in one line: nothing runs, and memory stays small."""

import subprocess
import sys
import time

import numpy as np
import pytest

from champ_jax.convert import import_checkpoint, inspect_checkpoint
from champ_jax.convert.state import open_state
from champ_jax.errors import UserError
from tests.convert.hostile import GOOD, geometries, old_form, safetensors_files, torch_files

CASES = [(f"{name}.safetensors", content, message) for name, content, message in safetensors_files()]
CASES += [(f"{name}.pth", content, message) for name, content, message in torch_files()]


@pytest.mark.parametrize("name, content, message", CASES, ids=[name for name, _, _ in CASES])
def test_refused(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name.replace(" ", "_").replace("/", "_").replace(":", "")
    file.write_bytes(content)
    started = time.monotonic()
    for action in (open_state, inspect_checkpoint):
        with pytest.raises(UserError) as error:
            action(file)
        assert message in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 600
    assert time.monotonic() - started < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name], "nothing was run"


@pytest.mark.parametrize("name, content, message", list(geometries()), ids=[name for name, _, _ in geometries()])
def test_geometry_that_cannot_be(name, content, message, tmp_path):
    """The file itself is whole, so that it can be inspected; a network of it is refused."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    started = time.monotonic()
    assert inspect_checkpoint(file).odd
    with pytest.raises(UserError) as error:
        import_checkpoint(file)
    assert message in str(error.value)
    assert time.monotonic() - started < 5


def test_there_are_enough():
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 60


def test_what_is_whole_is_read(tmp_path):
    (tmp_path / "new.pth").write_bytes(GOOD)
    (tmp_path / "old.pth").write_bytes(old_form())
    assert np.asarray(open_state(tmp_path / "new.pth").tensors["a"]).tolist() == [0, 0]
    assert np.asarray(open_state(tmp_path / "old.pth").tensors["a"]).tolist() == [0, 1]


PROBE = """
import resource, sys
from pathlib import Path
from champ_jax.convert.state import open_state
from champ_jax.errors import UserError
folder, good = Path(sys.argv[1]), sys.argv[2]
open_state(folder / good)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
for path in sorted(folder.iterdir()):
    try:
        open_state(path)
    except UserError:
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, path.stat().st_size, path.name, flush=True)
"""
FLOOR_KB = 24 << 10
"""What reading any file may take, however small: objects of a hundred thousand operations, buffers, imports."""


def test_memory(tmp_path):
    """One process opens all of them; its peak never grows by more than twice the size of the largest so far."""
    names = {}
    for i, (name, content, _) in enumerate(sorted(CASES, key=lambda case: len(case[1]))):
        path = tmp_path / f"{i:03}{name[name.rindex('.') :]}"
        path.write_bytes(content)
        names[path.name] = name
    (tmp_path / "0.pth").write_bytes(GOOD)
    command = [sys.executable, "-c", PROBE, str(tmp_path), "0.pth"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    start = int(lines[0])
    for line in lines[1:]:
        peak, size, name = line.split()
        assert int(peak) - start <= FLOOR_KB + 2 * int(size) / 1024, names.get(name)
