"""Time by kind, and the end of a run that hangs."""

import subprocess
import sys

import jax
import pytest

from champ_jax.train import timing
from champ_jax.train.timing import KINDS, Profile, Timing

HANGS = """
import sys, time
from champ_jax.train import timing
timing.SHORTEST_SECONDS["training"] = 0.5
clock = timing.Timing()
with timing.Watchdog(clock, every_seconds=0.1):
    for _ in range(5):
        with clock("training"):
            time.sleep(0.01)
    with clock("compile"):
        time.sleep(1.5)  # never timed before: may take long
    def waits_for_ever():
        with clock("training"):
            time.sleep(600)
    waits_for_ever()
"""


def test_a_hang_ends_with_stacks_and_75():
    """Row 26: a process that stands still ends by itself and says where it stood."""
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 75
    assert "error: training has taken more than 0 s" in done.stderr or "more than 1 s" in done.stderr
    assert "in waits_for_ever" in done.stderr


def test_seconds_add_up_and_are_taken_once():
    clock = Timing()
    with clock("input"):
        pass
    with clock("input"):
        pass
    first = clock.take()
    assert list(first) == list(KINDS) and first["input"] > 0 and first["training"] == 0
    assert clock.take() == dict.fromkeys(KINDS, 0.0)


def test_the_limit_follows_what_was_seen():
    clock = Timing()
    assert clock.limit("training") == timing.FIRST_SECONDS
    clock._lasted["training"] += [0.1] * 50
    assert clock.limit("training") == timing.SHORTEST_SECONDS["training"]
    clock._lasted["training"] += [20.0] * 100
    assert clock.limit("training") == 200.0
    clock._lasted["checkpoint"] += [0.1] * 50
    assert clock.limit("checkpoint") > 600, "the last save waits for the disk"


def test_nothing_is_watched_between():
    clock = Timing()
    try:
        with clock("training"):
            assert clock.current[0] == "training"
            raise ValueError
    except ValueError:
        pass
    assert clock.current is None


@pytest.mark.parametrize(
    ("steps", "begins", "ends"),
    [
        (range(1, 10), [4], [6]),
        (range(5, 10), [5], [6]),  # a resumed run
        (range(6, 10), [], []),
        (range(1, 6), [4], ["end"]),  # the run ends within
    ],
)
def test_a_trace_has_a_beginning_and_an_end(steps, begins, ends, tmp_path, monkeypatch):
    found, now = {"begins": [], "ends": []}, None
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: found["begins"].append(now))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found["ends"].append(now))
    with Profile(tmp_path, 4, 2) as profile:
        for now in steps:
            profile.at(now)
        now = "end"
    assert found == {"begins": begins, "ends": ends}
