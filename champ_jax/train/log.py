"""Metrics on disk (JSONL, TensorBoard, Weights & Biases on request) and one line of progress on the screen."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from champ_jax.errors import UserError
from champ_jax.evaluate.run_log import LOG, read_lines
from champ_jax.files import write_text


class MetricLog:
    """Writes `metrics.jsonl` and TensorBoard files under `directory`; use as a context manager.

    A run that goes on after `first` updates keeps the lines up to there; later ones, and one that was cut off in the
    middle, are of work that will be repeated. `validation` holds the validation losses so far.
    Raises UserError when one before is broken, and when `wandb_project` is set and wandb is not installed.
    """

    def __init__(self, directory: Path, first: int = 0, wandb_project: str = ""):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / LOG
        kept = [line for line in read_lines(path) if line["step"] <= first] if first and path.is_file() else []
        self.validation = [line["loss"] for line in kept if line["group"] == "validation"]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)
        self._board = SummaryWriter(str(directory / "tensorboard"), flush_secs=30)
        self._wandb = None
        if wandb_project:
            try:
                import wandb
            except ImportError:
                raise UserError("log.wandb is set but wandb is not installed: pip install wandb, or set it to ''") from None
            self._wandb = wandb.init(project=wandb_project, dir=str(directory), resume="allow")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """One line of scalars; `group` is 'train', 'validation', or of the machine: 'seconds', 'memory', 'program'."""
        values = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "group": group, **values}) + "\n")
        if group == "validation":
            self.validation.append(values["loss"])
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """One uint8 picture [H,W,3]."""
        self._board.add_image(name, image, step, dataformats="HWC")


class SilentLog:
    """In place of a MetricLog in processes beside the first: nothing is written."""

    def __init__(self):
        self.validation: list[float] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Keeps validation losses."""
        if group == "validation":
            self.validation.append(float(values["loss"]))


class ProgressLine:
    """Step, loss, rate and time left: a live bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, title: str, first: int, total: int, shown: bool = True, seconds_between_lines: float = 20.0):
        self.shown = shown
        self.title, self.first, self.total = title, first, total
        self._start = self._last = time.monotonic()
        self._between = seconds_between_lines
        self._bar = None
        console = Console(stderr=True)
        if shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, completed=first, rate="")

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float | None) -> None:
        """`step` updates are done; `loss` is the newest one known."""
        now = time.monotonic()
        rate = (step - self.first) / max(now - self._start, 1e-9)
        shown = "" if loss is None else f"loss {loss:.4f}  "
        if self._bar:
            self._bar.update(self._task, completed=step, rate=f"{shown}{rate:.2f} steps/s")
        elif self.shown and (now - self._last >= self._between or step == self.total):
            self._last = now
            left = (self.total - step) / max(rate, 1e-9)
            print(f"{self.title} {step}/{self.total}  {shown}{rate:.2f} steps/s  {left:.0f} s left", file=sys.stderr, flush=True)
