"""What benchmarks share: options, the demo's files, timing, memory, compilations, tables."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO, DANCERS = "assets/weights/demo", "assets/dancers"
PHOTO, SONG = "assets/photo.png", "assets/songs/disco_2.ogg"
"""From the repository's root, in which `python -m benchmarks.NAME` runs."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, and says each option's default behind what it is."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if not action.help or default in (None, "", argparse.SUPPRESS) or isinstance(default, bool):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{action.help} (default: {shown})".replace("%", "%%")


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose --help is a benchmark's docstring and its options with their defaults."""
    return argparse.ArgumentParser(description=description, formatter_class=_Help)


def in_its_own_process(name: str, *arguments: object) -> str:
    """The last line that `python -m benchmarks.NAME ARGUMENTS` prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def seconds(call: Callable, *arguments: object) -> float:
    """Wall seconds of a call, until its arrays are there."""
    import jax

    began = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - began


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """{name: f64 [rounds] seconds} of calls, one of each after the other, so that what else the machine does meets all alike."""
    for call in calls.values():
        seconds(call)  # compiles
    times = [[seconds(call) for call in calls.values()] for _ in range(rounds)]
    return dict(zip(calls, np.array(times).T, strict=True))


def peak_mb() -> float:
    """The most memory that this process has ever had, in MB."""
    # getrusage's begins with that of the process that started this one.
    return _status("VmHWM")


def resident_mb() -> float:
    """The memory that this process has now, in MB."""
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024 / 1e6


def compilations() -> list[str]:
    """A list that grows by one with every compilation from now on."""
    import jax

    found: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: found.append(name) if "backend_compile" in name else None)
    return found


def size_mb(folder: Path) -> float:
    """MB of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray | None = None) -> float:
    """Decibels between u8 pictures [...,H,W,3], over all their pixels or those where [...,H,W] is not 0."""
    error = np.square(one.astype(np.float64) - other).mean(-1)
    return float(10 * np.log10(255**2 / (error.mean() if where is None else error[where > 0].mean())))


def print_row(*cells: object) -> None:
    """A row of a Markdown table, seen at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_header(columns: Sequence[str]) -> None:
    """The head of a Markdown table."""
    print_row(*columns)
    print("|---" * len(columns) + "|", flush=True)
