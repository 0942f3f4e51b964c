"""What the page does, without the page: limits, refusals, cancelling, one at a time."""

import dataclasses
import threading

import av
import numpy as np
import pytest
import soundfile

from champ_jax.app.jobs import Cancelled, Jobs, Limits, Order
from champ_jax.errors import UserError
from champ_jax.infer.pipeline import load_pipeline
from tests.app.fake import ENDLESS, FakePipe, save_files, wait_until
from tests.infer.tiny import TINY_M2P, save_tiny, tiny_config


@pytest.fixture
def pipe():
    return FakePipe()


@pytest.fixture
def jobs(pipe, tmp_path):
    return Jobs(pipe, tmp_path / "made", Limits(seconds=1.5))


@pytest.fixture
def order(tmp_path):
    photo, song = save_files(tmp_path)
    return Order(photo, song, None, 1.0, 3, 2, 2.5)


def ignore(text, done, total):
    """Says nothing."""


def test_a_real_model_dances(tmp_path, order):
    # Without a reference there is no guidance either: less to compile.
    pipe = load_pipeline(save_tiny(tmp_path / "model", tiny_config(TINY_M2P, reference=False)))
    said = []
    made = Jobs(pipe, tmp_path / "made", Limits()).dance("me", order, lambda *words: said.append(words))
    for path in (made.video, made.skeleton):
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 12 and container.streams.audio
    assert made.motion.is_file()
    assert made.text.startswith("Seed 3, 2 steps, guidance scale 1: 1.0 s of video (12 frames) in ")
    assert "The song goes on to 2.0 s" in made.text and "most this page" not in made.text and "stand upright" in made.text
    assert said[-1][0].endswith(" s left; 12 of 12 frames are in the video") and said[-1][1] == said[-1][2] > 0


def test_what_was_asked_for_reaches_the_model_and_long_songs_are_cut(jobs, pipe, order):
    made = jobs.dance("me", dataclasses.replace(order, seconds=60), ignore)
    assert pipe.asked == [{"seconds": 1.5, "seed": 3, "steps": 2, "guidance_scale": 2.5}]
    assert "2.0 s: its beginning is danced to, the most this page makes: 1.5 s." in made.text


def test_what_is_said_is_what_is_done(jobs, pipe, order):
    said, render_dance = [], pipe.render_dance

    def watched(*given, **options):
        said.append("render_dance begins")
        rendering = render_dance(*given, **options)
        said.append("render_dance ends")
        return rendering

    pipe.render_dance = watched
    jobs.dance("me", order, lambda text, done, total: said.append(text))
    assert [text.partition(";")[0] for text in said[:4]] == [
        "listening to the song, looking at the photo", "render_dance begins", "render_dance ends", "beginning to dance",
    ]  # fmt: skip
    assert said[4:] and all(text.startswith("dancing") for text in said[4:])


def test_only_the_last_dance_is_kept(jobs, order):
    jobs.dance("me", order, ignore)
    (jobs.folder / "old").touch()
    jobs.dance("me", order, ignore)
    assert not (jobs.folder / "old").exists() and (jobs.folder / "dance.mp4").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": None}, "there is no photo"),
        ({"song": None}, "there is no song"),
        ({"seed": None}, "seed is empty"),
        ({"seconds": None}, "seconds is empty"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10**9}, "give 1 to 100"),
        ({"song": "broken.png"}, "'broken.png' is not audio"),
        ({"photo": "broken.png"}, "broken.png: cannot read the image"),
        ({"pose": "broken.png"}, "broken.png: cannot read the pose"),
        ({"photo": "nowhere.png"}, "nowhere.png is not here any more"),
    ],
)
def test_wrong_orders_are_refused_by_the_names_that_files_have(jobs, order, tmp_path, change, message):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    change = {name: str(tmp_path / value) if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(UserError, match=message) as error:
        jobs.dance("me", dataclasses.replace(order, **change), ignore)
    assert str(tmp_path) not in str(error.value)
    assert jobs.dance("me", order, ignore).video.is_file()


def test_hours_of_sound_are_refused_before_they_are_read(jobs, pipe, order, tmp_path, monkeypatch):
    monkeypatch.setattr("champ_jax.app.jobs.MAX_SAMPLES", 10**5)
    song = tmp_path / "hours.flac"
    soundfile.write(song, np.zeros((10**5, 2), np.int16), 20)
    with pytest.raises(UserError, match="'hours.flac' is 83 minutes of 2 channels: give one song"):
        jobs.dance("me", dataclasses.replace(order, song=str(song)), ignore)
    assert not pipe.asked


def in_thread(function, *arguments):
    """(thread, list that will hold what function gave or raised)."""
    ended = []

    def run():
        try:
            ended.append(function(*arguments))
        except (Cancelled, UserError) as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def test_cancel_stops_the_own_job_and_frees_the_next(jobs, pipe, order):
    pipe.windows = ENDLESS
    thread, ended = in_thread(jobs.dance, "me", order, ignore)
    wait_until(lambda: pipe.dancing)
    jobs.cancel("somebody else")
    other, waited = in_thread(jobs.dance, "other", order, ignore)
    thread.join(0.3)
    assert pipe.dancing == 1 and not ended
    jobs.cancel("me")
    thread.join(20)
    pipe.windows = 3
    other.join(20)
    assert isinstance(ended[0], Cancelled) and waited[0].video.is_file()
    assert pipe.most == 1


def test_cancel_of_a_job_that_waits_and_stop(jobs, pipe, order):
    pipe.windows = ENDLESS
    first, ended = in_thread(jobs.dance, "me", order, ignore)
    wait_until(lambda: pipe.dancing)
    second, waited = in_thread(jobs.dance, "other", order, ignore)
    wait_until(lambda: len(jobs._running) == 2)
    jobs.cancel("other")
    second.join(20)
    assert isinstance(waited[0], Cancelled) and not ended
    jobs.stop()
    first.join(20)
    assert isinstance(ended[0], Cancelled)
    with pytest.raises(Cancelled):
        jobs.dance("late", order, ignore)
    assert len(pipe.asked) == 1


@pytest.mark.parametrize("pipe", [FakePipe(m2p=False), FakePipe(kinds=("depth",))])
def test_a_model_that_cannot_dance_is_refused(pipe, tmp_path):
    with pytest.raises(UserError, match="cannot dance"):
        Jobs(pipe, tmp_path, Limits())


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("seconds", float("nan")), ("queue", 0), ("upload_mb", -1)])
def test_limits_that_make_no_sense(name, value):
    with pytest.raises(UserError, match="^--"):
        Limits(**{name: value})
