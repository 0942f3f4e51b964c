"""Quantised models: what becomes 8 bits, what is left out to keep a budget, and folders that load like any other."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.cli.main import main
from champ_jax.errors import UserError
from champ_jax.export.calibrate import input_ranges
from champ_jax.export.quantise import array_bytes, blocks, parameter_count, psnr, quantise, search
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.infer.sample import initial_noise
from champ_jax.models.lora import new_lora
from champ_jax.nn.quantised import dequantise
from champ_jax.trees import flatten, unflatten
from tests.infer.tiny import SIZE, WINDOW, save_tiny, tiny_config, tiny_params

# Small, because compiling is what takes the time here.
CONFIG = tiny_config(reference=False, channels=(32,), attention_levels=(True,), temporal=None)
FRAMES = 2


@pytest.fixture(scope="module")
def params():
    return tiny_params(CONFIG)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights") / "model", CONFIG, steps=1, guidance_scale=1.0)


def frames(pipe):
    rng = np.random.default_rng(0)
    maps = {"depth": rng.integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)}
    return pipe.animate(rng.integers(0, 256, (*SIZE, 3), np.uint8), maps).frames


@pytest.fixture(scope="module")
def plain(weights):
    """(pipeline, its frames)."""
    pipe = load_pipeline(weights)
    return pipe, frames(pipe)


@pytest.mark.parametrize(("precision", "dtype"), [("int8", "int8"), ("w8a8", "int8"), ("fp8", "float8_e4m3fn")])
def test_kernels_become_8_bits_and_nothing_else_does(params, precision, dtype):
    before, after = flatten(params), flatten(quantise(params, precision))
    for path, array in before.items():
        if path.endswith("/kernel"):
            assert after[f"{path}/values"].dtype == dtype and after[f"{path}/values"].shape == array.shape
            inputs_too = path.startswith("denoiser/") and (precision == "w8a8" or precision == "fp8" and array.ndim == 2)
            assert (f"{path}/range" in after) == inputs_too
        else:
            assert after[path] is array


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_16_bits_are_for_all(params, precision, dtype):
    made = quantise(params, precision)
    assert {array.dtype for array in flatten(made).values()} == {np.dtype(dtype)}
    assert 2 * array_bytes(made) == array_bytes(params) == 4 * parameter_count(params)


def test_excluded_blocks_stay_as_they_are_and_ranges_are_of_their_layer(params):
    block = "denoiser/down_0/attention_0"
    made = quantise(params, "w8a8", {block}, {"denoiser/conv_in": 3.0})
    left, own = made["denoiser"]["down_0"]["attention_0"], params["denoiser"]["down_0"]["attention_0"]
    assert all(a is b for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(own), strict=True))
    np.testing.assert_array_equal(made["denoiser"]["conv_in"]["kernel"]["range"], [3.0])
    assert made["denoiser"]["conv_out"]["kernel"]["range"].shape == (0,)
    assert parameter_count(made) == parameter_count(params)


def test_what_cannot_be_quantised_is_refused(params):
    with pytest.raises(UserError, match="expected one of int8"):
        quantise(params, "int4")
    with pytest.raises(UserError, match="no block 'denoiser/none'"):
        quantise(params, "int8", {"denoiser/none"})
    with pytest.raises(UserError, match="quantised already"):
        quantise(quantise(params, "int8"), "bf16")


def toy():
    """(pipeline, parameters, videos, truth) of two blocks, of which rounding harms one far more; nothing is compiled."""
    rng = np.random.default_rng(0)
    harmless, harmed = np.ones((8, 4), np.float32), rng.uniform(0, 1, (8, 4)).astype(np.float32)
    harmed[0] = 40
    params = {"net": {"a": {"harmless": {"kernel": harmless}, "harmed": {"kernel": harmed}}}}

    def videos(pipe):
        kernels = dequantise(pipe.params)["net"]["a"]
        picture = 100 * np.asarray(kernels["harmless"]["kernel"]) + 100 * np.minimum(kernels["harmed"]["kernel"], 1)
        return [np.round(picture).astype(np.uint8).reshape(1, 8, 4, 1)]

    pipe = SimpleNamespace(params=params)
    return pipe, params, videos, [video ^ 1 for video in videos(pipe)]


def test_the_worst_block_is_left_out_until_the_budget_holds():
    pipe, params, videos, truth = toy()
    assert blocks(params) == ["net/a/harmed", "net/a/harmless"]
    free = search(pipe, params, "int8", videos, truth, budget=100.0)
    assert free.exclude == [] and free.errors == {} and free.lost == free.all_lost > 1
    tight = search(pipe, params, "int8", videos, truth, budget=0.1)
    assert tight.exclude == ["net/a/harmed"] and list(tight.errors) == ["net/a/harmed", "net/a/harmless"]
    assert tight.lost == 0 and tight.all_lost == free.lost and tight.to_whole == float("inf")
    assert pipe.params is params
    impossible = search(pipe, params, "int8", lambda pipe: videos(pipe) if pipe.params is params else truth[::-1], videos(pipe), 0.0)
    assert len(impossible.exclude) == 1 and not impossible.lost <= 0, "never all blocks are left out"
    with pytest.raises(UserError, match="give 0 or more"):
        search(pipe, params, "int8", videos, truth, budget=-1.0)


def test_psnr_is_over_all_pixels():
    black, grey = np.zeros((1, 2, 2, 3), np.uint8), np.full((3, 2, 2, 3), 255, np.uint8)
    assert psnr([black], [black]) == float("inf")
    assert psnr([black, grey], [black, 0 * grey]) == pytest.approx(10 * np.log10(4 / 3))


def test_a_quantised_folder_loads_like_any_other_and_stays_in_8_bits(weights, plain, tmp_path, capsys):
    assert main(["quantise", "--checkpoint", str(weights), "--precision", "int8", "--out", str(tmp_path / "q"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    pipe = load_pipeline(tmp_path / "q")
    kept = pipe.params["denoiser"]["conv_in"]["kernel"]
    assert kept["values"].dtype == np.int8 and isinstance(kept["values"], jax.Array)
    assert said["ratio"] > 3 and said["bytes"] == array_bytes(load_weights(tmp_path / "q")[0]) and said["exclude"] == []
    assert json.loads((tmp_path / "q" / "config.json").read_text())["quantised"]["precision"] == "int8"
    assert 30 < psnr([frames(pipe)], [plain[1]]) < float("inf")


def test_a_lora_can_be_added_to_a_quantised_model(weights, tmp_path):
    params, config = load_weights(weights)
    save_weights(tmp_path / "q", quantise(params, "int8"), config, None)
    lora = {path.removeprefix("lora/"): array + 1 for path, array in new_lora(flatten(params), "denoiser/conv_in", 1, 0).items()}
    save_weights(tmp_path / "lora", {"lora": unflatten(lora)}, {})
    pipe = load_pipeline(tmp_path / "q", loras=[(tmp_path / "lora", 1.0)])
    changed = np.asarray(pipe.params["denoiser"]["conv_in"]["kernel"]) - params["denoiser"]["conv_in"]["kernel"]
    assert np.abs(changed).mean() > 0.5


def test_inputs_in_8_bits_with_ranges_seen_in_clips(weights, plain, tmp_path):
    pytest.importorskip("qwix")
    pipe, expected = plain
    own = pipe.functions
    ranges = input_ranges(pipe, frames)
    assert pipe.functions is own
    layers = {path.removesuffix("/kernel") for path in flatten(pipe.params) if path.startswith("denoiser/") and path.endswith("/kernel")}
    unused = layers - ranges.keys()
    assert ranges.keys() <= layers and all("attn2" in path for path in unused)
    noise = initial_noise(0, max(FRAMES, WINDOW), (SIZE[0] // 4, SIZE[1] // 4, 4))
    assert ranges["denoiser/conv_in"] == pytest.approx(np.abs(noise).max())
    params, config = load_weights(weights)
    save_weights(tmp_path / "q", quantise(params, "w8a8", (), ranges), config, None)
    found = frames(load_pipeline(tmp_path / "q"))
    assert 20 < psnr([found], [expected]) < float("inf")


def test_the_command_keeps_a_budget_of_nothing_on_clips_of_people(weights, tmp_path, capsys):
    options = ["--calibrate", "assets/dancers", "--budget", "0", "--json"]
    assert main(["quantise", "--checkpoint", str(weights), "--precision", "int8", "--out", str(tmp_path / "q"), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    json.loads((tmp_path / "q" / "config.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert said["lost_db"] <= 0 and bool(said["exclude"]) == (said["lost_db_without_exclusions"] > 0)
    flat = flatten(load_weights(tmp_path / "q")[0])
    assert all(not path.startswith(f"{block}/") or not path.endswith("/values") for path in flat for block in said["exclude"])
    assert any(path.endswith("/values") for path in flat)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "fp88"], "--precision is 'fp88', did you mean 'fp8'?: give int8, w8a8, fp8, bf16, fp16"),
        (["--precision", "int8", "--budget", "1"], "--budget needs clips"),
        (["--precision", "w8a8", "--static"], "--static needs clips"),
        (["--precision", "int8", "--static", "--calibrate", "x"], "leaves them"),
        (["--precision", "int8", "--budget", "-1", "--calibrate", "x"], "0 or more"),
        (["--precision", "int8", "--calibrate", "/nowhere"], "/nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(weights, tmp_path, capsys, options, words):
    assert main(["quantise", "--checkpoint", str(weights), "--out", str(tmp_path / "q"), *options]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not (tmp_path / "q").exists()


def test_a_folder_of_other_files_is_not_written_over(weights, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["quantise", "--checkpoint", str(weights), "--precision", "int8", "--out", str(tmp_path)]) == 2
    assert "notes.txt" in capsys.readouterr().err
