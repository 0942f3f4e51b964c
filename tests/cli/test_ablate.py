"""The ablation's bookkeeping: each run once, a stop loses nothing, and a page that says what was found."""

import json

import numpy as np
import pytest

from champ_jax.cli import ablate
from champ_jax.cli.main import main
from champ_jax.config import REPOSITORY, load_config
from champ_jax.errors import UserError
from champ_jax.evaluate import ablation

CONFIG = '''"""The ablation, small."""
from configs import ablation


def get_config():
    """Two variants with two seeds, on the committed dancers."""
    config = ablation.get_config()
    config.directory = "DANCERS"
    config.seeds = (0, 1)
    config.variants = (("old", ()), ("new", ("encoders", "conv3d")))
    config.test.update({"clips": 2, "frames": 4})
    config.same.vae.update({"data": {"size": (32, 32)}})
    config.same.B.data.update({"size": 32, "batch_size": 2})
    config.same.B.model.unet.update({"channels": (8, 8, 8), "groups": 4, "heads": 2, "context_dim": 8})
    config.same.B.model.guidance.update({"channels": (8,), "patch": 4, "attention": False})
    config.same.B.optim.update({"steps": 3, "warmup": 1})
    config.same.B.log.update({"scalars": 1, "evaluate": 1, "save": 10, "validation_batches": 1})
    config.same.C.data.update({"size": 32, "frames": 4, "first_frames": 4})
    config.same.C.optim.update({"steps": 2, "warmup": 1})
    config.same.C.log.update({"scalars": 1, "evaluate": 1, "save": 10, "validation_batches": 1})
    config.choices.conv3d.C.model.unet.temporal.update({"groups": 4})
    return config
'''


@pytest.fixture
def small(tmp_path):
    """The path of a small ablation's configuration."""
    path = tmp_path / "small.py"
    path.write_text(CONFIG.replace("DANCERS", str(REPOSITORY / "assets" / "dancers")))
    return path


class Trained:
    """Stands in for training and scoring: says what a variant would have got, and what it was asked for."""

    def __init__(self, stop_after=99):
        self.asked, self.stop_after = [], stop_after

    def __call__(self, config, choices, seed, test, out):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((choices, seed))
        better = len(choices)
        # The new way gets to where the old one ends; a third seed never does.
        last = 1.0 - 0.1 * better if seed < 2 else 1.0 + 0.1 * better
        stage = {"losses": [[0, 3.0], [2, 2.0 - 0.2 * better], [4, last]], "step_seconds": 0.5}
        scores = {"psnr": 20.0 + 2 * better + seed, "psnr_person": 12.0, "ssim": 0.5, "ssim_person": 0.2, "style_colours": 9.0}
        scores |= {"warp_error": 0.03 - 0.01 * better, "flicker": 0.9, "identity_top1": 0.5, "real warp_error": 0.01, "real flicker": 1.0}
        evaluation = f"{ablate.name_of(choices)}/{seed}"
        (out / evaluation).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / evaluation / "frames.npz", frames=np.stack([clip.truth.frames for clip in test.clips]))
        return {"stages": {"B": stage}, "weights": "w", "evaluation": evaluation, "scores": scores}


def test_a_stop_and_a_page(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(ablate, "train_vae", lambda config, out: {"weights": "vae"})
    monkeypatch.setattr("champ_jax.cli.bad_inputs.try_bad_inputs", lambda *_: {"cases": [{"name": "x", "refused": True, "answer": "no x"}]})
    first, second = Trained(stop_after=3), Trained()
    command = ["ablate", "--config", str(small), "--out", str(out)]
    monkeypatch.setattr(ablate, "run_variant", first)
    assert main(command) == 75 and "goes on" in capsys.readouterr().err
    assert first.asked == [((), 0), (("encoders", "conv3d"), 0), ((), 1)]
    monkeypatch.setattr(ablate, "run_variant", second)
    assert main(command) == 0 and second.asked == [(("encoders", "conv3d"), 1)]
    page = (out / "ablation.md").read_text()
    assert "| old | 20.50 ± 0.71 |" in page and "| new | 24.50 ± 0.71 |" in page
    assert "| x | no x |" in page and "1 of 1 are refused" in page and "| old | 20.50" in page
    assert "| 1.00 ± 0.00 | 0.500 |" in page
    # Old: 0.03 where the truth has 0.01; new: 0.01, all of the distance gone.
    assert "-100.0% | yes |" in page and "+19.5% | yes |" in page
    for name in ("frames.png", "losses.svg"):
        assert (out / name).stat().st_size > 500
    assert main([*command, "--config.seeds=(0,1,2)"]) == 0 and second.asked[1:] == [((), 2), (("encoders", "conv3d"), 2)]
    page = (out / "ablation.md").read_text()
    assert "| never | 0.500 |" in page and "| -15 % | never | no |" in page
    # Other settings of training are other runs, and another test takes another folder.
    assert main([*command, "--config.same.B.optim.steps=7"]) == 0 and len(second.asked) == 7
    assert main([*command, "--config.test.frames=5"]) == 2 and "another --out" in capsys.readouterr().err


def test_steps_to_a_loss():
    losses = [[0, 4.0], [10, 2.0], [20, 1.0]]
    assert ablation.steps_to(3.0, losses) == 5 and ablation.steps_to(1.0, losses) == 20
    assert ablation.steps_to(1.5, losses) == 15 and ablation.steps_to(5.0, losses) == 0
    assert ablation.steps_to(0.5, losses) == float("inf")


def test_frames_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    monkeypatch.setattr(ablation, "load_pipeline", lambda weights: None)
    monkeypatch.setattr(ablation.held_out, "animate_clips", lambda pipe, clips, photos: [frames])
    monkeypatch.setattr(ablation.held_out, "score_outputs", lambda *_: {"model": {"metrics": []}})
    monkeypatch.setattr(ablation, "write_results", lambda *_: None)
    test = ablation.Test([], None)
    ablation.score("weights", test, 1, tmp_path)
    assert np.load(tmp_path / "frames.npz")["frames"].shape == (1, *frames.shape)
    (tmp_path / "frames.npz").unlink()

    def stopped(file, **arrays):
        file.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", stopped)
    with pytest.raises(KeyboardInterrupt):
        ablation.score("weights", test, 1, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("variants", (("old", ()), ("new", ("encoder",))), "did you mean 'encoders'"),
        ("variants", (("old", ()),), "expected two and more"),
        ("same.B.optim.stepz", 5, "changes B's optim.stepz"),
        ("same.B.model.unet.stile", (1,), "stile"),
        ("choices.encoders.B.data", {"references": 3}, "has 3 photos, and config.test.references is 2"),
        ("same.B.model.guidance.patch", 8, "both must reach the same latent grid"),
    ],
)
def test_what_is_not_there_is_refused_before_training(path, value, words, small):
    config = load_config(str(small)).unlock()
    place = config
    *above, name = path.split(".")
    for step in above:
        place = place[step]
    place[name] = value
    with pytest.raises(UserError, match=words):
        ablate.check(config)


def test_data_that_is_not_there_is_refused_before_training(small, tmp_path, capsys):
    command = ["ablate", "--config", str(small), "--out", str(tmp_path / "out")]
    assert main([*command, f"--config.directory={tmp_path}"]) == 2 and str(tmp_path) in capsys.readouterr().err
    assert main([*command, "--config.test.clips=99"]) == 2 and "config.test.clips asks for 99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_inputs_that_crash_and_a_stop(tmp_path, monkeypatch):
    from champ_jax.cli import bad_inputs
    from champ_jax.cli import main as commands

    monkeypatch.setattr(bad_inputs, "bad_inputs", lambda *_: iter([("one", ["x"], "name"), ("two", ["y"], "name")]))

    def crash(_):
        raise ValueError("a name")

    monkeypatch.setattr(commands, "main", crash)
    cases = bad_inputs.try_bad_inputs("w", "d")["cases"]
    assert [(case["refused"], case["answer"]) for case in cases] == [(False, "ValueError: a name")] * 2
    monkeypatch.setattr(commands, "main", lambda _: 130)
    with pytest.raises(KeyboardInterrupt):
        bad_inputs.try_bad_inputs("w", "d")


@pytest.mark.parametrize("preset", ["", "long", "gpu"])
def test_every_variant_is_a_model(preset, monkeypatch):
    config = load_config("ablation" + (f":{preset}" if preset else "")).unlock()
    config.directory = str(REPOSITORY / "assets" / "dancers")
    ablate.check(config)
    assert [name for name, _ in config.variants][:2] == ["old", "new"]


@pytest.mark.slow
def test_the_real_thing(small, tmp_path, capsys):
    """Trains, animates, scores, tries all bad inputs, and writes the page; the second time trains nothing."""
    command = ["ablate", "--config", str(small), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    done = json.loads((tmp_path / "out" / "parts.json").read_text())["parts"]
    assert [name.partition(" (")[0] for name in done] == ["vae", "old, seed 0", "new, seed 0", "old, seed 1", "new, seed 1", "bad inputs"]
    assert all(case["refused"] for case in done["bad inputs"]["cases"]), done["bad inputs"]
    assert set(next(found for name, found in done.items() if name.startswith("new, seed 1"))["stages"]) == {"B", "C"}
    before = (tmp_path / "out" / "ablation.md").read_bytes()
    assert main(command) == 0 and (tmp_path / "out" / "ablation.md").read_bytes() == before
