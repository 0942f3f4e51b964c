"""Low-rank changes of a model's kernels: added, written for PyTorch, read back, and refused where they do not fit."""

import jax
import numpy as np
import optax
import pytest

from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.cli.sampling import read_lora_option
from champ_jax.convert import export_checkpoint, inspect_checkpoint
from champ_jax.convert.components import gather
from champ_jax.convert.lora import merge_lora
from champ_jax.convert.own_lora import export_lora, read_lora
from champ_jax.convert.state import open_state
from champ_jax.errors import UserError
from champ_jax.models.lora import LORA, add_lora, new_lora, with_lora
from champ_jax.train.state import describe_state
from champ_jax.trees import flatten, unflatten
from tests.infer.tiny import save_tiny, tiny_config

IMAGE, MOTION = "denoiser/(?!.*temporal)", "denoiser/.*temporal"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a tiny model."""
    return save_tiny(tmp_path_factory.mktemp("model"))


def made(folder, model, modules, rank=2, seed=0):
    """(folder of a LoRA of a model's kernels that changes them, its changes)."""
    params, described = load_weights(model)
    flat = new_lora(flatten(params), modules, rank, seed)
    rng = np.random.default_rng(seed)
    flat = {path: 0.1 * rng.standard_normal(array.shape).astype(np.float32) for path, array in flat.items()}
    nested = unflatten(flat)
    return save_weights(folder, nested, described), nested[LORA]


def test_a_new_one_changes_nothing(model):
    params, _ = load_weights(model)
    flat = flatten(params)
    fresh = new_lora(flat, "denoiser/.*attn1/to_q$", 3, 0)
    assert fresh and all(path.startswith("lora/denoiser/") for path in fresh)
    assert all(np.abs(array).max() > 0 for path, array in fresh.items() if path.endswith("down"))
    changed = with_lora({**params, **unflatten(fresh)})
    assert changed.keys() == params.keys()
    jax.tree.map(np.testing.assert_array_equal, changed, params)
    assert with_lora(params) is params


def test_scale_and_dtype(model, tmp_path):
    params, _ = load_weights(model)
    _, changes = made(tmp_path / "lora", model, "denoiser/conv_in")
    down, up = (changes["denoiser"]["conv_in"][part] for part in ("down", "up"))
    kernel = params["denoiser"]["conv_in"]["kernel"]
    added = add_lora(params, changes, 0.5)["denoiser"]["conv_in"]["kernel"]
    np.testing.assert_allclose(added, kernel + 0.5 * (down @ up).reshape(kernel.shape), atol=1e-6)
    back = add_lora({"denoiser": {"conv_in": {"kernel": added}}}, changes, -0.5)["denoiser"]["conv_in"]["kernel"]
    np.testing.assert_allclose(back, kernel, atol=1e-6)
    half = {"denoiser": {"conv_in": {"kernel": kernel.astype("float16")}}}
    assert add_lora(half, changes)["denoiser"]["conv_in"]["kernel"].dtype == np.float16


@pytest.mark.parametrize(("modules", "kind"), [(IMAGE, "sd-unet"), (MOTION, "motion-adapter")])
def test_written_for_pytorch_it_is_the_same_change(modules, kind, model, tmp_path):
    """Every kernel of the denoiser: what PyTorch's weights become with the file is what ours become with the LoRA."""
    folder, changes = made(tmp_path / "lora", model, modules)
    (file,) = export_lora(folder, tmp_path / "out")
    assert file.name == "pytorch_lora_weights.safetensors"
    params, described = load_weights(model)
    save_weights(tmp_path / "merged", add_lora(params, changes), described)
    for name in ("model", "merged"):
        export_checkpoint(model if name == "model" else tmp_path / name, kind, tmp_path / f"{name}_{kind}")
    theirs, expected = (open_state(tmp_path / f"{name}_{kind}").tensors for name in ("model", "merged"))
    merged = merge_lora(theirs, open_state(file).tensors)
    for name, array in expected.items():
        np.testing.assert_allclose(np.asarray(merged[name]), np.asarray(array), atol=1e-6, err_msg=name)
    assert any(not np.array_equal(np.asarray(merged[name]), np.asarray(theirs[name])) for name in theirs)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), read_lora(file, params), changes)


def test_a_folder_of_ours_and_alphas_of_others(model, tmp_path):
    params, _ = load_weights(model)
    folder, changes = made(tmp_path / "lora", model, "denoiser/mid/attention_0/attn1/to_")
    jax.tree.map(np.testing.assert_array_equal, read_lora(folder, params), changes)
    (file,) = export_lora(folder, tmp_path / "out")
    state = {name: np.asarray(array) for name, array in open_state(file).tensors.items()}
    assert "LoRA" in inspect_checkpoint(file).title
    layers = {name.removesuffix(".lora_A.weight") for name in state if "lora_A" in name}
    write_safetensors(tmp_path / "alpha.safetensors", {**state, **{f"{name}.alpha": np.float32(1.0) for name in layers}})
    halved = read_lora(tmp_path / "alpha.safetensors", params)  # alpha 1 of rank 2
    given, found = flatten(changes), flatten(halved)
    assert given.keys() == found.keys()
    for path in given:
        np.testing.assert_allclose(found[path], given[path] * (0.5 if path.endswith("up") else 1.0), rtol=1e-6)


def test_what_does_not_fit_is_named(model, tmp_path):
    params, described = load_weights(model)
    flat = flatten(params)
    with pytest.raises(UserError, match="no kernel's path has that; one of them is"):
        new_lora(flat, "denoisr/", 2, 0)
    with pytest.raises(UserError, match="no regular expression"):
        new_lora(flat, "(", 2, 0)
    folder, changes = made(tmp_path / "lora", model, "(denoiser|guidance)/.*conv_in")
    with pytest.raises(UserError, match="2 of its changes are of layers that diffusers does not have: guidance/"):
        export_lora(folder, tmp_path / "out")
    with pytest.raises(UserError, match="rank is 0"):
        new_lora(flat, "denoiser/", 0, 0)
    with pytest.raises(UserError, match="there is none among vae"):
        (file,) = export_lora(made(tmp_path / "right", model, "denoiser/conv_in")[0], tmp_path / "out")
        read_lora(file, {"vae": {}})
    with pytest.raises(UserError, match="is no LoRA"):
        export_lora(model, tmp_path / "out")
    with pytest.raises(UserError, match="is no LoRA, but a model of denoiser.*give it as the checkpoint"):
        read_lora(model, params)
    short = {"denoiser": {"conv_in": {"down": np.ones((4, 2), np.float32), "up": np.ones((2, 32), np.float32)}}}
    with pytest.raises(UserError, match="mine: denoiser/conv_in changes a kernel of 4x32"):
        add_lora(params, short, 1.0, "mine")
    with pytest.raises(UserError, match="mine changes denoiser/elsewhere, which this model has not"):
        add_lora(params, {"denoiser": {"elsewhere": short["denoiser"]["conv_in"]}}, 1.0, "mine")
    write_safetensors(
        tmp_path / "other.safetensors",
        {f"unet.down_blocks.7.attentions.0.proj_in.lora_{x}.weight": np.ones((2, 2), np.float32) for x in "AB"},
    )
    with pytest.raises(UserError, match="2 of its 2 tensors change no kernel"):
        read_lora(tmp_path / "other.safetensors", params)


@pytest.mark.parametrize("kind", ["modelscope", "conv3d", "transformer", "hybrid"])
def test_only_what_diffusers_has_is_written(kind, tmp_path):
    model = save_tiny(tmp_path / "model", tiny_config(temporal={"kind": kind, "heads": 4, "groups": 8}))
    folder, _ = made(tmp_path / "lora", model, MOTION)
    with pytest.raises(UserError, match="diffusers does not have: denoiser/down_0/temporal"):
        export_lora(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_with_a_lora_beside_it_is_the_sum(model, tmp_path):
    """As an unfinished run leaves it: it is sampled and exported with what it learnt; a LoRA alone is no model."""
    params, described = load_weights(model)
    folder, changes = made(tmp_path / "lora", model, "denoiser/conv_in")
    save_weights(tmp_path / "beside", {**params, LORA: changes}, described)
    expected = add_lora(params, changes)["denoiser"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(gather(tmp_path / "beside", {})[0]["denoiser"]["conv_in"]["kernel"], expected)
    export_checkpoint(tmp_path / "beside", "sd-unet", tmp_path / "out")
    written = np.asarray(open_state(tmp_path / "out").tensors["conv_in.weight"])
    np.testing.assert_array_equal(written, np.moveaxis(expected, (0, 1), (-2, -1)).swapaxes(0, 1))
    for read in (lambda: gather(folder, {}), lambda: export_checkpoint(folder, "sd-unet", tmp_path / "no")):
        with pytest.raises(UserError, match="is a LoRA: give the model"):
            read()


def test_a_path_with_an_equals_sign(tmp_path):
    (tmp_path / "rank=2").mkdir()
    assert read_lora_option(f"{tmp_path}/rank=2") == (f"{tmp_path}/rank=2", 1.0)
    assert read_lora_option(f"{tmp_path}/rank=2=0.5") == (f"{tmp_path}/rank=2", 0.5)


def test_kernels_that_are_changed_keep_their_precision(model):
    """In bfloat16 a kernel swallows most of a change of a thousandth; summed in float32 and rounded once it does not."""
    params, _ = load_weights(model)
    flat = flatten(params)
    lora = unflatten(new_lora(flat, "denoiser/mid/attention_0/attn1/to_q", 2, 0))
    described = describe_state({**params, **lora}, lambda path: path.startswith(LORA), optax.sgd(1.0), np.dtype("bfloat16"))
    kernels = described.frozen["denoiser"]["mid"]["attention_0"]["attn1"]
    assert (kernels["to_q"]["kernel"].dtype, kernels["to_k"]["kernel"].dtype) == (np.float32, np.dtype("bfloat16"))
