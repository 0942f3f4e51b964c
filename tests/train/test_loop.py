"""Whole runs of all stages: what they leave, that they resume bit for bit, and how they refuse."""

import json

import jax
import numpy as np
import pytest

from champ_jax.checkpoint import store
from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.cli.main import main
from champ_jax.convert.own_lora import read_lora
from champ_jax.errors import RESUMABLE, UserError
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.train import loop
from champ_jax.train.interrupt import Stopped
from tests.train.conftest import VAE


def flat(params):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


class StopAfter:
    """Stands in for a Ctrl-C that arrives during update number `steps`."""

    def __init__(self, steps):
        self.steps, self.done = steps, 0

    def __call__(self):
        return self

    __enter__ = __call__

    def __exit__(self, *_):
        pass

    def asked(self):
        self.done += 1
        return RESUMABLE if self.done > self.steps - 1 else 0


@pytest.fixture(scope="module")
def after_b(small, tmp_path_factory):
    """Weights of a stage B of one step."""
    return loop.train(small("B", steps=1), tmp_path_factory.mktemp("after_b"))["weights"]


@pytest.fixture
def stage_c(small, after_b):
    """A stage C run in which clips grow from 2 frames to 4 after half of its steps."""
    config = small("C").unlock()
    config.init_from = str(after_b)
    config.model = {"unet": {"temporal": {"heads": 2, "groups": 4, "max_frames": 8, "ff_mult": 1}}}
    config.data.update({"frames": 4, "first_frames": 2})
    return config.lock()


@pytest.mark.parametrize(("stage", "stop"), [("A", 2), ("B", 2), ("C", 2)])  # C: where clips grow
def test_interrupted_and_resumed_equals_unbroken(stage, stop, small, stage_c, tmp_path, monkeypatch):
    config = stage_c if stage == "C" else small(stage)
    unbroken = loop.train(config, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter(stop))
        with pytest.raises(Stopped) as stopped:
            loop.train(config, tmp_path / "broken")
    assert stopped.value.code == RESUMABLE and store.latest(tmp_path / "broken/checkpoints") == stop
    with open(tmp_path / "broken/metrics.jsonl", "a") as file:
        file.write('{"step": 3, "group": "validation", "lo')  # what a kill leaves
    resumed = loop.train(config, tmp_path / "broken")
    assert (resumed["first"], resumed["last"]) == (unbroken["first"], unbroken["last"])
    for folder in ("checkpoints/00000004",):
        sums = [json.loads((tmp_path / run / folder / "manifest.json").read_text()) for run in ("unbroken", "broken")]
        assert sums[0]["arrays"] == sums[1]["arrays"] and sums[0]["meta"]["data"] == sums[1]["meta"]["data"]


def test_one_stage_after_another_reaches_a_whole_model(small, stage_c, tmp_path):
    a = loop.train(small("A"), tmp_path / "a")
    b = loop.train(small("B"), tmp_path / "b")
    config = stage_c.copy_and_resolve_references().unlock()
    config.init_from, config.log.sample_steps = b["weights"], 1
    c = loop.train(config.lock(), tmp_path / "c")
    assert (tmp_path / "c/samples/0000004.mp4").is_file() and (tmp_path / "c/samples/0000004.png").is_file()
    before, _ = load_weights(b["weights"])
    after, described = load_weights(c["weights"])
    assert set(after) == {"denoiser", "reference", "guidance", "vae"}
    before, after = flat(before), flat(after)
    assert all(np.array_equal(before[path], after[path]) for path in before), "stage C changed what it must not"
    new = {path: x for path, x in after.items() if path not in before}
    assert all("temporal" in path for path in new) and any(np.abs(x).max() > 0 for p, x in new.items() if "proj_out" in p)
    assert described["pipeline"]["fps"] == 12.0 and described["pipeline"]["window"] == 4
    _, music = load_weights(a["weights"])
    assert music["pipeline"] == {"motion_fps": 24.0, "music_spec": "custom", "motion_window": 8}


def test_music_drives_a_share_of_stage_b(small, tmp_path):
    a = loop.train(small("A"), tmp_path / "a")
    b = loop.train(small("B"), tmp_path / "b")
    params, config = load_weights(b["weights"])
    m2p, own = load_weights(a["weights"])
    both = save_weights(tmp_path / "both", {**params, **m2p}, {**config, "m2p": own["m2p"]})
    run = small("B", data__motion_frames=16, steps=2).unlock()
    run.init_from = str(both)
    run.optim.m2p_learning_rate = 1e-3
    run.loss.update({"m2p": "regress", "m2p_weight": 0.5, "music_start": 0.0, "music_share": 1.0})
    result = loop.train(run.lock(), tmp_path / "joint")
    trained, _ = load_weights(result["weights"])
    assert not np.array_equal(trained["m2p"]["music_1"]["kernel"], m2p["m2p"]["music_1"]["kernel"])
    lines = [json.loads(line) for line in (tmp_path / "joint/metrics.jsonl").read_text().splitlines()]
    assert {"diffusion", "m2p_pos", "music_share"} <= set(lines[-1])


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("A", {"steps": 0}, "steps"),
        ("A", {"accumulation": 3}, "accumulation"),
        ("A", {"data__split": "absent"}, "absent"),
        ("A", {"data__frames": 4000}, "4000"),
        ("A", {"learning_rate": 0.0}, "learning_rate"),
        ("A", {"clip": 0.0}, "clip"),
        ("B", {"loss__snr_form": "wrong"}, "wrong"),
        ("B", {"data__size": 30}, "multiple of 4"),
    ],
)
def test_bad_values_are_refused_in_words(stage, changes, words, small, tmp_path):
    with pytest.raises(UserError, match=words):
        loop.train(small(stage, **changes), tmp_path / "run")


def test_frozen_networks_must_come_from_weights(small, tmp_path):
    config = small("B").unlock()
    config.init_from = ""
    config.model.vae = dict(VAE)
    with pytest.raises(UserError, match="vae.*init_from"):
        loop.train(config.lock(), tmp_path / "run")


def test_a_changed_configuration_is_refused_with_what_changed(small, tmp_path, capsys):
    """Row 11: a run that goes on with other values is another run."""
    loop.train(small("A", steps=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"optim.learning_rate 0.\d+ -> 0.5; seed 0 -> 1. Put the values back"):
        changed = small("A", steps=2, learning_rate=0.5).unlock()
        changed.seed = 1
        loop.train(changed.lock(), tmp_path / "run")
    loop.train(small("A", steps=2, learning_rate=0.5), tmp_path / "run", resume="changed")
    assert "going on from step 1" in (said := capsys.readouterr().out) and "optim.learning_rate" in said
    loop.train(small("A", steps=3, learning_rate=0.5, log__evaluate=2), tmp_path / "run")


def test_never_resume_refuses_a_used_folder(small, tmp_path):
    loop.train(small("A", steps=1), tmp_path / "run")
    record = (tmp_path / "run/config.json").read_text()
    assert json.loads(record)["config"]["optim"]["steps"] == 1 and json.loads(record)["packages"]["jax"]
    with pytest.raises(UserError, match="already holds checkpoints"):
        loop.train(small("A", steps=2), tmp_path / "run", resume="never")
    assert (tmp_path / "run/config.json").read_text() == record


def test_a_latent_cache_and_augmentation_exclude_each_other(small, tmp_path):
    config = small("B", data__latent_cache=True, data__augment="mild")
    with pytest.raises(UserError, match="latent_cache"):
        loop.train(config, tmp_path)


def test_a_resumed_run_finds_its_frozen_weights_and_geometry_unchanged(stage_c, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter(1))
        with pytest.raises(Stopped):
            loop.train(stage_c, tmp_path / "run")
    params, described = load_weights(stage_c.init_from)
    params["vae"]["post_quant_conv"]["bias"] = params["vae"]["post_quant_conv"]["bias"] + 1
    changed = stage_c.copy_and_resolve_references().unlock()
    changed.init_from = str(save_weights(tmp_path / "changed", params, described))
    with pytest.raises(UserError, match="other frozen weights"):
        loop.train(changed.lock(), tmp_path / "run")


def test_joint_training_needs_its_settings(small, tmp_path):
    a = loop.train(small("A", steps=1), tmp_path / "a")
    b = loop.train(small("B", steps=1), tmp_path / "b")
    params, config = load_weights(b["weights"])
    m2p, own = load_weights(a["weights"])
    run = small("B").unlock()
    run.init_from = str(save_weights(tmp_path / "both", {**params, **m2p}, {**config, "m2p": own["m2p"]}))
    with pytest.raises(UserError, match="data.motion_frames"):
        loop.train(run.lock(), tmp_path / "joint")


def test_a_lora_leaves_the_model_and_is_saved_alone(small, after_b, tmp_path, capsys):
    """Trained, resumed, added to the model it was trained on, written for PyTorch, and refused where it is not the model."""
    config = small("B", learning_rate=0.01).unlock()
    config.init_from = str(after_b)
    config.lora = {"rank": 2, "modules": "denoiser/.*attn1/to_"}
    config.lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter(2))
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "run")
    state = next((tmp_path / "run/checkpoints").glob("0000*/manifest.json"))
    trained = [path for path in json.loads(state.read_text())["arrays"] if path.startswith("ema/")]
    assert trained and all(path.startswith("ema/lora/") for path in trained)
    base, _ = load_weights(after_b)
    stopped = read_lora(tmp_path / "run", base)["denoiser"]["mid"]["attention_0"]["attn1"]["to_q"]["up"]
    assert np.abs(stopped).max() > 0
    with_some = load_pipeline(tmp_path / "run").params["denoiser"]["down_0"]["attention_0"]["attn1"]["to_q"]["kernel"]
    assert not np.array_equal(with_some, base["denoiser"]["down_0"]["attention_0"]["attn1"]["to_q"]["kernel"])
    result = loop.train(config, tmp_path / "run")
    found, _ = load_weights(result["weights"])
    assert set(found) == {"lora"} and np.abs(found["lora"]["denoiser"]["mid"]["attention_0"]["attn1"]["to_q"]["up"]).max() > 0
    with pytest.raises(UserError, match="is a LoRA: give the model"):
        load_pipeline(result["weights"])
    kernel = lambda **options: np.asarray(  # noqa: E731
        load_pipeline(after_b, **options).params["denoiser"]["mid"]["attention_0"]["attn1"]["to_q"]["kernel"]
    )
    ours = kernel(loras=[(tmp_path / "run", 1.0)])
    assert main(["convert", "export", "--checkpoint", str(tmp_path / "run"), "--to", "lora", "--out", str(tmp_path / "out")]) == 0
    file = tmp_path / "out/pytorch_lora_weights.safetensors"
    np.testing.assert_allclose(kernel(loras=[(file, 0.5), (result["weights"], 0.5)]), ours, atol=1e-6)
    assert not np.allclose(kernel(), ours, atol=1e-6)
    assert main(["merge", str(after_b), "--lora", str(file), "--out", str(tmp_path / "merged")]) == 0
    merged, _ = load_weights(tmp_path / "merged")
    np.testing.assert_allclose(merged["denoiser"]["mid"]["attention_0"]["attn1"]["to_q"]["kernel"], ours, atol=1e-6)
    assert main(["merge", str(after_b), "--lora", f"{file}=much", "--out", str(tmp_path / "no")]) == 2
    assert "expected a number behind '='" in capsys.readouterr().err and not (tmp_path / "no").exists()
