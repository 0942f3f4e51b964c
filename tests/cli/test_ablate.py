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
    config.same.vae.update({"data": {"size": (32, 32)}, "optim": {"steps": 4}})
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

    def __init__(self, out, stop_after=99):
        self.asked, self.out, self.stop_after = [], out, stop_after

    def __call__(self, config, choices, seed, vae, test, out):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((choices, seed))
        better = len(choices)
        stage = {"losses": [[0, 3.0], [2, 2.0 - 0.5 * better], [4, 1.0 - 0.1 * better]], "step_seconds": 0.5, "weights": "w"}
        scores = {"psnr": 20.0 + 2 * better + seed, "psnr_person": 12.0, "ssim": 0.5, "ssim_person": 0.2, "style_colours": 9.0}
        scores |= {"warp_error": 0.03 - 0.01 * better, "flicker": 0.9, "identity_top1": 0.5, "real warp_error": 0.01, "real flicker": 1.0}
        evaluation = self.out / ablate.name_of(choices) / str(seed)
        evaluation.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(evaluation / "frames.npz", frames=np.stack([clip.truth.frames for clip in test.clips]))
        return {"stages": {"B": stage}, "weights": "w", "evaluation": str(evaluation), "scores": scores}


def test_a_stop_and_a_page(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(ablate, "train_vae", lambda config, out: {"weights": "vae"})
    monkeypatch.setattr("champ_jax.cli.bad_inputs.try_bad_inputs", lambda *_: {"cases": [{"name": "x", "refused": True, "answer": "no x"}]})
    first, second = Trained(tmp_path, stop_after=3), Trained(tmp_path)
    command = ["ablate", "--config", str(small), "--out", str(out)]
    monkeypatch.setattr(ablate, "run_variant", first)
    assert main(command) == 75 and "goes on" in capsys.readouterr().err
    assert first.asked == [((), 0), (("encoders", "conv3d"), 0), ((), 1)]
    monkeypatch.setattr(ablate, "run_variant", second)
    assert main(command) == 0 and second.asked == [(("encoders", "conv3d"), 1)]
    page = (out / "ablation.md").read_text()
    assert "| old | 20.50 ± 0.71 |" in page and "| new | 24.50 ± 0.71 |" in page
    assert "| x | no x |" in page and "1 of 1" in page
    # Old: 0.03 where the truth has 0.01; new: 0.01, all of the distance gone.
    assert "-100.0% | yes |" in page and "+19.5% | yes |" in page
    for name in ("frames.png", "losses.svg"):
        assert (out / name).stat().st_size > 500
    assert main([*command, "--config.seeds=(0,1,2)"]) == 0 and second.asked[1:] == [((), 2), (("encoders", "conv3d"), 2)]
    assert main([*command, "--config.same.B.optim.steps=7"]) == 2 and "another --out" in capsys.readouterr().err


def test_steps_to_a_loss():
    losses = [[0, 4.0], [10, 2.0], [20, 1.0]]
    assert ablation.steps_to(3.0, losses) == 5 and ablation.steps_to(1.0, losses) == 20
    assert ablation.steps_to(1.5, losses) == 15 and ablation.steps_to(5.0, losses) == 0
    assert ablation.steps_to(0.5, losses) == float("inf")


def test_what_is_not_there_is_refused_before_training(small, tmp_path, capsys):
    config = load_config(str(small)).unlock()
    config.variants = (("new", ("encoder",)),)
    with pytest.raises(UserError, match="did you mean 'encoders'"):
        ablate.check(config)
    command = ["ablate", "--config", str(small), "--out", str(tmp_path / "out")]
    assert main([*command, f"--config.directory={tmp_path}"]) == 2 and str(tmp_path) in capsys.readouterr().err
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(ablate, "train_vae", lambda config, out: {"weights": "vae"})
        assert main([*command, "--config.test.clips=99"]) == 2 and "config.test.clips asks for 99" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["", "gpu"])
def test_every_variant_is_a_configuration(preset):
    """All choices exist and change settings that the stages have, but for the networks' own."""
    config = load_config("ablation" + (f":{preset}" if preset else ""))
    for _, choices in config.variants:
        for stage in ("B", "C"):
            made = ablate.stage_config(config, stage, choices)
            assert made.stage == stage and made.data.directory == config.directory
            assert set(made) - {"sampling"} <= set(load_config(config.base[stage]))
    assert [name for name, _ in config.variants][:2] == ["old", "new"]


@pytest.mark.slow
def test_the_real_thing(small, tmp_path, capsys):
    """Trains, animates, scores, tries all bad inputs, and writes the page; the second time trains nothing."""
    command = ["ablate", "--config", str(small), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    done = json.loads((tmp_path / "out" / "parts.json").read_text())["parts"]
    assert {"old, seed 0", "new, seed 0", "old, seed 1", "new, seed 1", "bad inputs"} <= set(done)
    assert all(case["refused"] for case in done["bad inputs"]["cases"]), done["bad inputs"]
    assert set(done["new, seed 1"]["stages"]) == {"B", "C"}
    before = (tmp_path / "out" / "ablation.md").read_bytes()
    assert main(command) == 0 and (tmp_path / "out" / "ablation.md").read_bytes() == before
