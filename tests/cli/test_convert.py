"""The convert command: what it prints, writes and refuses."""

import json

import numpy as np

from champ_jax.checkpoint.tensors import read_safetensors, write_safetensors
from champ_jax.cli.main import main
from tests.convert.keys import config_of, filled_state, shapes_of


def source(tmp_path):
    """A folder of a MotionAdapter as diffusers saves it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", filled_state(shapes_of("motion-adapter odd"), np.float32))
    (folder / "config.json").write_text(json.dumps(config_of("motion-adapter odd")))
    return folder


def test_inspect(tmp_path, capsys):
    folder = source(tmp_path)
    assert main(["convert", "inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "motion-adapter: motion modules" in text and "max_frames 20" in text and "heads 4" in text
    assert main(["convert", "inspect", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "motion-adapter" and report["components"]["motion"][1] > 0


def test_import_and_export(tmp_path, capsys):
    ours, out = tmp_path / "ours", tmp_path / "out"
    assert main(["convert", "import", "--src", str(source(tmp_path)), "--out", str(ours), "--dtype", "bf16"]) == 0
    assert "motion of motion-adapter" in capsys.readouterr().out
    words = ["convert", "export", "--checkpoint", str(ours), "--to", "animatediff", "--out", str(out), "--dtype", "f16"]
    assert main(words) == 0
    arrays, _ = read_safetensors(out / "motion_module.safetensors")
    assert {str(array.dtype) for array in arrays.values()} == {"float16"}
    assert str(out / "motion_module.safetensors") in capsys.readouterr().out


def test_a_lora_is_merged(tmp_path):
    folder = source(tmp_path)
    layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1"
    lora = {f"{layer}.processor.to_q_lora.down.weight": np.ones((2, 16), np.float32)}
    lora[f"{layer}.processor.to_q_lora.up.weight"] = np.ones((16, 2), np.float32)
    write_safetensors(tmp_path / "lora.safetensors", lora)
    for name, extra in (("plain", []), ("half", ["--lora", f"{tmp_path / 'lora.safetensors'}=0.5"])):
        assert main(["convert", "import", "--src", str(folder), "--out", str(tmp_path / name), *extra]) == 0
    plain, half = (read_safetensors(tmp_path / name / "motion" / "model.safetensors")[0] for name in ("plain", "half"))
    path = "down_0/temporal_0/block_0/attn_0/to_q/kernel"
    np.testing.assert_allclose(np.asarray(half[path]) - np.asarray(plain[path]), 1.0, rtol=1e-5)


def test_a_loras_own_strength(tmp_path):
    """PEFT says alpha beside the file, once for all layers."""
    folder = source(tmp_path)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{layer}.lora_A.weight": np.ones((4, 16), np.float32), f"{layer}.lora_B.weight": np.ones((16, 4), np.float32)}
    write_safetensors(adapter / "adapter_model.safetensors", lora)

    def change(**settings):
        (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, **settings}))
        words = ["--src", str(folder), "--out", str(tmp_path / "with"), "--lora", str(adapter / "adapter_model.safetensors")]
        assert main(["convert", "import", *words]) == (2 if settings.get("use_dora") else 0)
        path = "down_0/temporal_0/block_0/attn_0/to_q/kernel"
        found = read_safetensors(tmp_path / "with" / "motion" / "model.safetensors")[0][path]
        name = f"{layer}.weight"
        return float(np.mean(np.asarray(found) - filled_state({name: shapes_of("motion-adapter odd")[name]}, np.float32)[name].T))

    assert abs(change(lora_alpha=16) - 16) < 1e-4
    assert abs(change(lora_alpha=16, use_rslora=True) - 32) < 1e-4
    assert abs(change(lora_alpha=4) - 4) < 1e-4
    change(lora_alpha=4, use_dora=True)


def test_nothing_of_the_users_is_lost(tmp_path, capsys):
    """Neither a source that is also the target, nor other files, nor a model that an export would write into."""
    folder = source(tmp_path)
    ours = tmp_path / "ours"
    assert main(["convert", "import", "--src", str(folder), "--out", str(ours)]) == 0
    for words in (
        ["import", "--src", str(folder), "--out", str(folder)],
        ["export", "--checkpoint", str(ours), "--to", "motion-adapter", "--out", str(ours)],
        ["export", "--checkpoint", str(ours), "--to", "animatediff", "--out", str(folder)],
        ["import", "--src", str(folder), "--out", str(tmp_path)],
        ["import", "--src", str(folder), "--out", "."],
    ):
        assert main(["convert", *words]) == 2, words
        assert "holds other files" in capsys.readouterr().err
    assert main(["convert", "inspect", str(ours)]) == main(["convert", "inspect", str(folder)]) == 0
    for _ in range(2):  # what an earlier export left is replaced
        assert main(["convert", "export", "--checkpoint", str(ours), "--to", "motion-adapter", "--out", str(tmp_path / "out")]) == 0


def test_refusals_are_one_code_and_change_nothing(tmp_path, capsys):
    folder, out = source(tmp_path), tmp_path / "out"
    for words, part in (
        (["import", "--from", "sd-vae", "--src", str(folder), "--out", str(out)], "looks like motion-adapter"),
        (["import", "--from", "sd-vea", "--src", str(folder), "--out", str(out)], "did you mean 'sd-vae'"),
        (["import", "--src", "nowhere.pth", "--out", str(out)], "no such file"),
        (["import", "--src", str(folder), "--out", str(out), "--lora", "x=much"], "expected a number"),
        (["export", "--checkpoint", str(folder), "--to", "sd-vae", "--out", str(out)], "not of a champ_jax model"),
        (["export", "--checkpoint", str(folder), "--to", "arcface", "--out", str(out)], "only read"),
        (["inspect", "hf:nobody"], "expected hf:owner/name"),
    ):
        assert main(["convert", *words]) == 2, words
        assert part in capsys.readouterr().err, words
    assert not out.exists()
