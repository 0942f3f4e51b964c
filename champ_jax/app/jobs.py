"""What the page does, without the page: one dance after another, within limits, each of which can be cancelled."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from champ_jax.errors import UserError
from champ_jax.infer.music import check_dances
from champ_jax.infer.video import skeleton_path

MAX_STEPS = 100
# Whatever length is danced, the beats are found in the whole song, and nothing can stop that: a quarter of an hour of stereo.
MAX_SAMPLES = 15 * 60 * 48000 * 2
POLL = 0.1  # seconds between looks at whether a job that waits was cancelled

# say(text, done, total): what a job does now and how much of it is done; 0 of 0 while that is not known.
Say = Callable[[str, int, int], None]


class Cancelled(Exception):
    """Somebody pressed Cancel, closed the page or stopped the server."""


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for: seconds of video, jobs that wait while one runs, and megabytes of a file."""

    seconds: float = 60.0
    queue: int = 8
    upload_mb: float = 20.0

    def __post_init__(self):
        if not 0 < self.seconds < float("inf"):
            raise UserError(f"--max-seconds is {self.seconds:g}: give more than 0")
        if self.queue < 1:
            raise UserError(f"--queue is {self.queue}: give 1 or more, how many may wait while one dance is made")
        if not 0 < self.upload_mb < float("inf"):
            raise UserError(f"--max-upload-mb is {self.upload_mb:g}: give more than 0")


@dataclass(frozen=True)
class Order:
    """What a visitor asked for; any of it may be None, as fields can be left empty. Paths are of uploaded files."""

    photo: str | None
    song: str | None
    pose: str | None
    seconds: float | None
    seed: float | None
    steps: float | None
    guidance_scale: float | None


@dataclass(frozen=True)
class Made:
    """A finished dance: its video, the skeleton's, the keypoints, and what made it, in paragraphs of text."""

    video: Path
    skeleton: Path
    motion: Path
    text: str


class Jobs:
    """Makes dances with a pipeline, one at a time. Safe to call from any thread.

    The files of a dance lie in `folder` until the next one begins: copy them before.
    """

    def __init__(self, pipe: Any, folder: Path, limits: Limits):
        """pipe: a Pipeline, of which only `config.m2p`, `kinds` and `render_dance` are used. Raises UserError when it cannot dance."""
        check_dances(pipe)
        self.pipe, self.folder, self.limits = pipe, folder, limits
        self._one_at_a_time = threading.Lock()
        self._running: set[tuple[str, threading.Event]] = set()
        self._stopped = False

    def dance(self, session: str, order: Order, say: Say) -> Made:
        """Makes what `session` ordered. Raises UserError, which names files as the visitor does, and Cancelled."""
        with self._cancellable(session) as cancelled:
            try:
                length = self._check(order)
                self._wait_for_turn(cancelled, say)
                try:
                    return self._make(order, length, cancelled, say)
                finally:
                    self._one_at_a_time.release()
            except UserError as error:
                text = str(error)
                for path in filter(None, (order.photo, order.song, order.pose)):
                    text = text.replace(path, Path(path).name)
                raise UserError(text) from error

    def cancel(self, session: str) -> None:
        """Stops the jobs of `session`; each ends after the few windows that the device is at."""
        for owner, cancelled in self._running.copy():
            if owner == session:
                cancelled.set()

    def stop(self) -> None:
        """Stops all jobs, those too that begin from now on."""
        self._stopped = True
        for _, cancelled in self._running.copy():
            cancelled.set()

    @contextmanager
    def _cancellable(self, session: str) -> Iterator[threading.Event]:
        job = session, threading.Event()
        self._running.add(job)
        if self._stopped:
            job[1].set()
        try:
            yield job[1]
        finally:
            self._running.remove(job)

    def _wait_for_turn(self, cancelled: threading.Event, say: Say) -> None:
        """The page starts the next job as soon as one is cancelled, which may take a moment to end."""
        while not self._one_at_a_time.acquire(timeout=POLL):
            say("waiting for the dance before to stop", 0, 0)
            if cancelled.is_set():
                raise Cancelled

    def _check(self, order: Order) -> float:
        """Seconds of the song; UserError for an order that is not complete or over the limits."""
        if order.photo is None:
            raise UserError("there is no photo: upload one")
        if order.song is None:
            raise UserError("there is no song: upload one")
        for path in filter(None, (order.photo, order.song, order.pose)):
            if not Path(path).is_file():
                raise UserError(f"{path} is not here any more, as nothing is kept for long: upload it again")
        for name in ("seconds", "seed", "steps", "guidance_scale"):
            if getattr(order, name) is None:
                raise UserError(f"{name.replace('_', ' ')} is empty: give a number")
        if not 1 <= order.steps <= MAX_STEPS:
            raise UserError(f"steps is {order.steps:g}: give 1 to {MAX_STEPS}")
        try:
            info = soundfile.info(order.song)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise UserError(f"'{order.song}' is not audio that can be read; expected wav, flac, ogg or mp3") from error
        if info.frames * info.channels > MAX_SAMPLES:
            raise UserError(f"'{order.song}' is {info.duration / 60:.0f} minutes of {info.channels} channels: give one song, of 15 at most")
        return info.duration

    def _make(self, order: Order, length: float, cancelled: threading.Event, say: Say) -> Made:
        began = time.monotonic()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        first: list[tuple[float, int]] = []  # when the first windows were done, and how many

        def check() -> None:
            if cancelled.is_set():
                raise Cancelled

        def on_progress(done: int, total: int) -> None:
            check()
            now = time.monotonic()
            # Before the first step the model may have been compiled: only what comes after it tells the pace.
            if not first:
                first.append((now, done))
            since, counted = first[0]
            left = f", {(now - since) / (done - counted) * (total - done):.0f} s left" if done > counted else ""
            say(f"dancing{left}; {rendering.done} of {rendering.count} frames are in the video", done, total)

        say("listening to the song, looking at the photo; the first dance takes longer", 0, 0)
        check()
        rendering = self.pipe.render_dance(
            order.photo, order.song, seconds=min(order.seconds, self.limits.seconds), pose=order.pose, seed=int(order.seed),
            steps=int(order.steps), guidance_scale=float(order.guidance_scale), on_progress=on_progress,
        )  # fmt: skip
        check()
        say("beginning to dance; the first dance takes longer", 0, 0)  # here the denoiser is compiled
        out = self.folder / "dance.mp4"
        rendering.save(out, audio=order.song)
        text = self._describe(order, rendering, length, time.monotonic() - began)
        return Made(out, skeleton_path(out), out.with_suffix(".motion.npz"), text)

    def _describe(self, order: Order, made: Any, length: float, took: float) -> str:
        """What made a rendering's video, and what was done otherwise than the visitor may think."""
        known, seconds = made.metadata, made.count / made.fps
        lines = [
            f"Seed {known['seed']}, {known['steps']} step{'s' * (known['steps'] != 1)}, guidance scale {known['guidance_scale']:g}: "
            f"{seconds:.1f} s of video ({made.count} frames) in {took:.1f} s."
        ]
        if length > seconds + 1 / made.fps:
            most = f", the most this page makes: {self.limits.seconds:g} s" if order.seconds >= self.limits.seconds else ""
            lines.append(f"The song goes on to {length:.1f} s: its beginning is danced to{most}.")
        if known["pose_source"] == "standing":
            lines.append("No pose was given: the person is assumed to stand upright in the middle of the photo.")
        return "\n\n".join(lines)
