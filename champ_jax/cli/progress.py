"""How far a command is: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, every: float = 10.0) -> Iterator[Callable[[int, int], None]]:
    """Gives on_progress(done, total): a bar with rate and time left on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    start = last = time.monotonic()
    before = None

    def line(done: int, total: int) -> None:
        nonlocal last, before
        now = time.monotonic()
        before = done - 1 if before is None else before  # what an earlier run had done
        if now - last >= every or done == total:
            last = now
            left = (now - start) / max(done - before, 1) * (total - done)
            print(f"{title}: {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

    yield line
