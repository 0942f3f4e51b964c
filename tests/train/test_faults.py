"""What goes wrong with a run, injected: rows of docs/reliability.md that need the whole loop.

Runs have 4 or 6 steps wherever that will do: equal programs are compiled once.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.monitoring
import numpy as np
import pytest

from champ_jax.checkpoint import store
from champ_jax.cli.main import main
from champ_jax.errors import UserError, WorkdirError
from champ_jax.train import loop, skips
from champ_jax.train.lock import Lock
from champ_jax.train.status import read_status

REPOSITORY = Path(__file__).resolve().parents[2]


def poisoned(monkeypatch, bad):
    """Makes the batches of steps for which bad(step) holds not finite."""
    clean = loop.Feed.next

    def next_batch(self, step):
        batch = clean(self, step)
        if bad(step + 1):
            batch["music"] = np.full_like(batch["music"], np.nan)
        return batch

    monkeypatch.setattr(loop.Feed, "next", next_batch)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_poisoned_batch_is_skipped_and_named(small, tmp_path, monkeypatch, capsys):
    """Row 16, in a whole run: the update is left out, the clips of its batch are written down, the run goes on."""
    poisoned(monkeypatch, lambda step: step == 2)
    loop.train(small("A", steps=6), tmp_path)
    (line,) = lines(tmp_path / "skipped.jsonl")
    assert line["step"] == 2 and len(line["clips"]) == 2 and all(clip.startswith("train") for clip in line["clips"])
    assert "step 2 is skipped" in capsys.readouterr().out
    losses = [line["loss"] for line in lines(tmp_path / "metrics.jsonl") if line["group"] == "train"]
    assert np.isfinite(losses).tolist() == [True, False, True, True, True, True]
    assert read_status(tmp_path)["skipped_steps"] == {"count": 1, "latest": [2]}


def test_batches_that_stay_poisoned_end_the_run(small, tmp_path, monkeypatch):
    """Row 18: the weights from before are kept, the clips are written down."""
    monkeypatch.setattr(skips, "MOST_IN_ROW", 3)
    poisoned(monkeypatch, lambda step: step > 2)
    with pytest.raises(UserError, match="3 updates in a row.*skipped.jsonl"):
        loop.train(small("A", steps=6, log__save=2), tmp_path)
    assert [line["step"] for line in lines(tmp_path / "skipped.jsonl")] == [3, 4, 5]
    assert store.latest(tmp_path / "checkpoints") >= 2


def test_too_many_skips_among_the_last_steps(small, tmp_path, monkeypatch):
    """Row 18: also when good steps lie between."""
    monkeypatch.setattr(skips, "MOST_IN_WINDOW", 2)
    poisoned(monkeypatch, lambda step: step % 2 == 0)
    with pytest.raises(UserError, match="3 of the last 1000"):
        loop.train(small("A", steps=6), tmp_path)


def test_nothing_is_started_anew_when_all_checkpoints_are_damaged(small, tmp_path):
    """Row 12."""
    loop.train(small("A", steps=4, log__save=2), tmp_path)
    for manifest in tmp_path.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(WorkdirError, match="damaged") as error:
        loop.train(small("A", steps=6), tmp_path)
    assert error.value.exit_code == 78


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(small, tmp_path, monkeypatch):
    """Rows 8 and 9, in a whole run."""
    loop.train(small("A", steps=6, log__save=2), tmp_path / "unbroken")
    loop.train(small("A", steps=4, log__save=2), tmp_path / "broken")
    data = max((tmp_path / "broken/checkpoints/00000004").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    loop.train(small("A", steps=6, log__save=2), tmp_path / "broken")
    assert (tmp_path / "broken/checkpoints/00000004.bad").is_dir()
    ends = [json.loads((tmp_path / run / "checkpoints/00000006/manifest.json").read_text()) for run in ("unbroken", "broken")]
    assert ends[0]["arrays"] == ends[1]["arrays"]


def test_a_folder_that_cannot_hold_a_run(small, tmp_path, monkeypatch):
    """Rows 6 and 7: known before anything is compiled."""
    monkeypatch.setattr(loop, "compile_step", lambda *_: pytest.fail("compiled"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot write to"):
        loop.train(small("A"), tmp_path / "file" / "run")


LOCKS = "import sys; from pathlib import Path; from champ_jax.train.loop import held; held(Path(sys.argv[1])).__enter__()"


def test_a_folder_in_use(small, tmp_path):
    """Row 33, in a whole run."""
    with Lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", LOCKS, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY)
    assert "is in use by process" in other.stderr


def test_out_of_memory_says_what_to_change(small, tmp_path, monkeypatch):
    """Row 30, at run time."""

    def step(state, batch, seed):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    compiled = loop.compile_step
    monkeypatch.setattr(loop, "compile_step", lambda *parts: (step, *compiled(*parts)[1:]))
    with pytest.raises(UserError, match="out of memory.*data.batch_size.*remat"):
        loop.train(small("A"), tmp_path)


CACHED = """
import json, os, sys
from champ_jax.cli.main import main
sys.exit(main(["train", "--config", sys.argv[1], "--workdir", sys.argv[2]]))
"""
CONFIG = """
import json
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(json.loads({text!r}))
"""


def test_a_damaged_compile_cache_costs_time_only(small, tmp_path):
    """Row 31."""
    (tmp_path / "config.py").write_text(CONFIG.format(text=json.dumps(small("A", steps=1).to_dict())))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                   "JAX_PLATFORMS": "cpu"}  # fmt: skip

    def run(name):
        command = [sys.executable, "-c", CACHED, str(tmp_path / "config.py"), str(tmp_path / name)]
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)

    first = run("first")
    assert first.returncode == 0, first.stderr[-3000:]
    entries = [path for path in (tmp_path / "cache").iterdir() if path.is_file() and "-atime" not in path.name]
    assert entries
    for path in entries:
        path.write_bytes(path.read_bytes()[:100])
    second = run("second")
    assert second.returncode == 0, second.stderr[-3000:]
    losses = [[line["loss"] for line in lines(tmp_path / name / "metrics.jsonl") if "loss" in line] for name in ("first", "second")]
    assert losses[0] == losses[1]


def test_the_status_of_a_run(small, tmp_path, capsys):
    loop.train(small("A", steps=4, log__save=2), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["status", str(tmp_path), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["step"], status["steps"], status["stage"]) == ("finished", 4, 4, "A")
    assert status["checkpoints"] == {"2": "valid", "4": "valid"} and 0 < status["goodput"] < 1
    assert status["train"]["loss"] > 0 and status["validation"]["loss"] > 0
    assert main(["status", str(tmp_path)]) == 0 and "goodput" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert main(["status", str(tmp_path.parent)]) == 2


def test_a_trace_of_some_steps(small, tmp_path, capsys):
    loop.train(small("A", steps=4), tmp_path, profile=(2, 2))
    assert list((tmp_path / "profile").rglob("*.xplane.pb")) and "steps 2 to 3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_long_run_neither_grows_nor_compiles_again(small, tmp_path):
    """Row 43: less than 1 MB in 1000 steps, once caches are full, which takes 3000 of these tiny steps."""
    compiled, sizes = [], []
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)  # what is freed and not given back is no leak
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    config = small("A", steps=5061, log__scalars=50, log__save=100)
    clean = loop.Feed.next

    def counting(self, step):
        if step % 1000 == 60:  # no save is under way
            gc.collect()
            trim(0)
            rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            sizes.append((rss, len(compiled)))
        return clean(self, step)

    loop.Feed.next = counting
    try:
        loop.train(config, tmp_path)
    finally:
        loop.Feed.next = clean
    assert sizes[-1][1] == sizes[1][1], "something is compiled again after the warm-up"
    assert sizes[5][0] - sizes[3][0] < 2.0, f"RSS in MB and programs compiled, every 1000 steps: {sizes}"
