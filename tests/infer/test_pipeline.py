"""Pipelines of a tiny random model: clips of any length, determinism, what the photo changes, and clear refusals."""

import json
import shutil

import jax
import numpy as np
import pytest

from champ_jax.errors import UserError
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.infer.video import read_video
from tests.infer.tiny import SIZE, WINDOW, save_tiny, tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture(scope="module")
def pipe(weights):
    return load_pipeline(weights)


def _photo(value=90):
    picture = np.full((*SIZE, 3), value, np.uint8)
    picture[8:24, 12:20] = 255 - value
    return picture


def _maps(frames, kinds=("depth", "dwpose"), seed=0):
    rng = np.random.default_rng(seed)
    return {kind: rng.integers(0, 256, (frames, *SIZE, 3), np.uint8) for kind in kinds}


@pytest.mark.parametrize("frames", [1, WINDOW, 2 * WINDOW + 1])
def test_any_length(pipe, frames):
    video = pipe.animate(_photo(), _maps(frames))
    assert video.frames.shape == (frames, *SIZE, 3) and video.frames.dtype == np.uint8
    assert video.fps == 12 and video.skeleton.shape == video.frames.shape


def test_same_seed_same_video_other_seed_other_video(pipe):
    maps = _maps(5)
    first, again = (pipe.animate(_photo(), maps, seed=3).frames for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (pipe.animate(_photo(), maps, seed=4).frames != first).any()


def test_photo_guidance_and_scale_all_matter(pipe):
    maps = _maps(5)
    first = pipe.animate(_photo(), maps).frames
    assert (pipe.animate(_photo(30), maps).frames != first).any()
    assert (pipe.animate(_photo(), _maps(5, seed=1)).frames != first).any()
    assert (pipe.animate(_photo(), maps, guidance_scale=4.0).frames != first).any()
    assert (pipe.animate(_photo(), _maps(5, ("depth",))).frames != first).any()


def test_a_model_without_reference_does_not_see_the_photo(tmp_path):
    blind = load_pipeline(save_tiny(tmp_path / "model", tiny_config(reference=False)))
    maps = _maps(4)
    np.testing.assert_array_equal(blind.animate(_photo(), maps).frames, blind.animate(_photo(30), maps).frames)


def test_another_size(pipe):
    maps = {"dwpose": np.zeros((2, 48, 32, 3), np.uint8)}
    assert pipe.animate(_photo(), maps, size=(48, 32)).frames.shape == (2, 48, 32, 3)


def test_a_folder_of_maps(pipe, tmp_path):
    from PIL import Image

    (tmp_path / "depth").mkdir()
    for i, image in enumerate(_maps(3)["depth"]):
        Image.fromarray(image).save(tmp_path / "depth" / f"{i:04d}.png")
    expected = pipe.animate(_photo(), _maps(3, ("depth",))).frames
    np.testing.assert_array_equal(pipe.animate(_photo(), tmp_path).frames, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance": {}}, "guided by depth, dwpose"),
        ({"guidance": _maps(3, ("normal",))}, "normal.*guided by depth, dwpose"),
        ({"guidance": _maps(0)}, "at least one frame"),
        ({"guidance": {**_maps(3, ("depth",)), **_maps(4, ("dwpose",))}}, "equally many"),
        ({"size": (33, 32)}, "multiples of 4"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance_scale": 0.0}, "guidance scale is 0"),
    ],
)
def test_wrong_arguments_get_one_line(pipe, arguments, message):
    with pytest.raises(UserError, match=message):
        pipe.animate(_photo(), **{"guidance": _maps(3), **arguments})


def test_a_model_without_music_cannot_dance(pipe, tmp_path):
    with pytest.raises(UserError, match="cannot dance"):
        pipe.dance(_photo(), tmp_path / "song.wav")


def test_a_training_run_is_its_weights(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "weights")
    assert load_pipeline(tmp_path).kinds == ("depth", "dwpose")


def test_folders_that_are_no_model(weights, tmp_path):
    with pytest.raises(UserError, match="no such"):
        load_pipeline(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither weights"):
        load_pipeline(tmp_path)
    shutil.copytree(weights, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "vae")
    with pytest.raises(UserError, match="vae"):
        load_pipeline(tmp_path / "broken")


def test_weights_of_another_geometry_are_refused(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    values["config"]["unet"]["channels"] = [32, 64]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="does not fit"):
        load_pipeline(tmp_path / "model")
    values["config"]["unet"]["channels"] = [32, 32]
    values["config"]["pipeline"]["windows"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="no settings .'windows'."):
        load_pipeline(tmp_path / "model")


def test_nothing_is_compiled_anew_for_another_length_number_of_photos_or_choice_of_maps(pipe):
    pipe.animate(_photo(), _maps(5))
    pipe.animate([_photo(value) for value in (30, 60, 90, 120)], _maps(5))
    compiled, watching = [], True
    # Never cleared: that would drop the listeners of other tests too.
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if watching and "compile" in name else None
    )
    for frames, photos, kinds in ((1, 1, ("depth",)), (3, 3, ("dwpose",)), (23, 1, ("depth", "dwpose")), (11, 4, ("dwpose",))):
        pipe.animate([_photo(30 * i) for i in range(1, photos + 1)], _maps(frames, kinds))
    assert not compiled
    jax.jit(lambda x: x + len(compiled))(1)
    assert compiled, "this test sees what is compiled"
    watching = False


def test_a_rendering_is_the_video_as_it_is_done(pipe, tmp_path):
    rendering = pipe.render_animation(_photo(), _maps(19))
    assert rendering.count == 19 and "seconds" not in rendering.metadata
    chunks = list(rendering)
    assert len(chunks) > 1 and rendering.done == 19 and rendering.metadata["first_frame_seconds"] <= rendering.metadata["seconds"]
    np.testing.assert_array_equal(np.concatenate(chunks), pipe.animate(_photo(), _maps(19)).frames)
    pipe.render_animation(_photo(), _maps(5)).save(tmp_path / "a.mp4", min_side=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.made.json", "a.mp4", "a.skeleton.mp4"]
    assert len(read_video(tmp_path / "a.skeleton.mp4")[0]) == 5


def test_a_stopped_rendering_leaves_what_can_be_played(pipe, tmp_path):
    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe.render_animation(_photo(), _maps(60), on_progress=stop).save(tmp_path / "a.mp4", min_side=1)
    counts = {path.name: len(read_video(path)[0]) for path in tmp_path.iterdir()}
    assert set(counts) == {"a.partial.mp4", "a.skeleton.partial.mp4"} and 8 <= counts["a.partial.mp4"] < 60
    pipe.render_animation(_photo(), _maps(5)).save(tmp_path / "a.mp4", min_side=1)
    assert not list(tmp_path.glob("*.partial.mp4"))


def test_deeper_levels_may_rest(pipe):
    """Kept features change the video a little, and save nothing of it."""
    settings = {"steps": 3, "guidance_scale": 1.0}
    full, kept = (pipe.animate(_photo(), _maps(9), deep_every=every, **settings).frames.astype(int) for every in (1, 3))
    assert 0 < np.abs(full - kept).mean() < np.abs(full - full.mean()).mean() / 2
