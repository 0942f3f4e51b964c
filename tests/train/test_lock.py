"""Row 33 of docs/reliability.md: one run to a folder."""

import json
import os
import subprocess
import sys

import pytest

from champ_jax.errors import WorkdirError
from champ_jax.train import lock
from champ_jax.train.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from champ_jax.train.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def write(path, **changes):
    mine = {"host": "elsewhere", "process": 7, "started": "1", "beat": 3}
    path.write_text(json.dumps({**mine, **changes}))


def test_the_second_run_is_refused_and_a_killed_one_leaves_the_folder_free(holder, tmp_path):
    """Row 33."""
    with pytest.raises(WorkdirError, match=f"is in use by process {holder.pid}") as error:
        Lock(tmp_path).__enter__()
    assert error.value.exit_code == 78
    holder.kill()
    holder.wait()
    with Lock(tmp_path):
        assert lock.read(tmp_path / lock.NAME)["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_now_belongs_to_another_process_does_not_hold(tmp_path):
    """After a restart, of a container for one, the same number may be alive again."""
    me = Lock(tmp_path)._me
    write(tmp_path / lock.NAME, host=me["host"], process=os.getppid(), started="long ago")
    with Lock(tmp_path):
        assert lock.read(tmp_path / lock.NAME)["process"] == os.getpid()


def test_another_host_is_dead_when_its_count_stands_still(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock.alive, "__defaults__", (1.5,))
    write(tmp_path / lock.NAME)
    with Lock(tmp_path):
        assert "last used from elsewhere" in capsys.readouterr().out


def test_another_host_is_alive_when_its_count_grows(tmp_path, monkeypatch):
    """Row 32: no clock and no file time is looked at."""
    write(tmp_path / lock.NAME)
    os.utime(tmp_path / lock.NAME, (0, 0))
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: write(tmp_path / lock.NAME, beat=4))
    with pytest.raises(WorkdirError, match="process 7 on elsewhere"):
        Lock(tmp_path).__enter__()


def test_a_file_that_says_nothing_is_taken_over(tmp_path):
    (tmp_path / lock.NAME).write_text("{")
    with Lock(tmp_path):
        assert lock.read(tmp_path / lock.NAME)["process"] == os.getpid()


def test_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with Lock(tmp_path):
        for _ in range(500):
            if (lock.read(tmp_path / lock.NAME) or {}).get("beat", 0) > 2:
                return
            lock.time.sleep(0.01)
    raise AssertionError("the count stands still")
