"""Every kind of checkpoint: recognised by its names, read whole, and written back with the same names and bytes."""

import json

import numpy as np
import pytest

from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.convert import KINDS, export_checkpoint, import_checkpoint, inspect_checkpoint, recognise, save_import, unet
from champ_jax.convert.formats import read, write
from champ_jax.convert.kinds import of_shapes
from champ_jax.convert.state import open_state
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError
from tests.convert.keys import FILE, config_of, empty_state, filled_state, recorded, shapes_of

FULL = {
    "sd-unet": 859_520_964,
    "sd-vae": 83_653_863,
    "clip-vision": 303_966_208,
    "clip-vision H": 632_076_800,
    "motion-adapter": 453_209_280,
    "motion-adapter v1": 417_137_600,
}
ODD = ("sd-unet odd", "sd-vae odd", "clip-vision odd", "clip odd", "motion-adapter odd")


@pytest.mark.parametrize("name", FULL)
def test_full_size(name):
    """Names, shapes and number of parameters of the released geometry, without a config.json; no tensor is read."""
    kind, shapes = name.split()[0], shapes_of(name)
    assert of_shapes(shapes) == kind
    format = KINDS[kind].format
    weights = read(empty_state(shapes), {}, format, "file")
    back = write(weights, format, "ours")
    assert {key: array.shape for key, array in back.items()} == shapes
    assert sum(np.prod(shape, dtype=int) for key, shape in shapes.items() if key not in weights.kept) == FULL[name]


# A .pt file of a whole CLIP could not say how many heads it has.
FORMS = [(name, form) for name in ODD for form in ("safetensors", "pt") if (name, form) != ("clip odd", "pt")]


@pytest.mark.parametrize("name, form", FORMS)
def test_there_and_back(name, form, tmp_path):
    """File to folder of ours to file: the same names, dtypes and bytes."""
    kind, state = name.split()[0], filled_state(shapes_of(name))
    source = tmp_path / "source"
    source.mkdir()
    write_safetensors(source / "model.safetensors", state)
    (source / "config.json").write_text(json.dumps(config_of(name)))
    assert recognise(source) == kind
    save_import(import_checkpoint(source), tmp_path / "ours", kind)
    file = export_checkpoint(tmp_path / "ours", kind, tmp_path / "back", form)[0]
    assert_same(open_state(file).tensors, state)


@pytest.mark.parametrize("name", ["sd-unet odd", "sd-vae odd", "clip-vision odd", "motion-adapter odd"])
def test_config_beside_an_exported_file_says_the_geometry(name, tmp_path):
    """What diffusers and transformers are told agrees with what they were made with."""
    kind, given = name.split()[0], config_of(name)
    weights = read(empty_state(shapes_of(name)), given, KINDS[kind].format, "file")
    described = KINDS[kind].format.describe(weights.config)
    assert {key: described.get(key, value) for key, value in given.items()} == given


def test_original_names_are_those_of_diffusers_own_converter():
    """The original single file's names, paired by diffusers' converter with its own."""
    unet_pairs, vae_pairs = recorded()["original unet"], recorded()["original vae"]
    config = {
        "unet": unet.geometry(shapes_of("sd-unet"), {})["unet"],
        "vae": KINDS["sd-vae"].format.geometry(shapes_of("sd-vae"), {})["vae"],
    }
    original = KINDS["sd-single"].format.components(config)
    for component, pairs, kind in (("denoiser", unet_pairs, "sd-unet"), ("vae", vae_pairs, "sd-vae")):
        layout = KINDS[kind].format.components(config)[component].layout
        flat = paths(original[component].shapes)
        assert len(flat) == len(shapes_of(kind))
        for path in flat:
            assert pairs[original[component].layout.name(path)] == layout.name(path), path


def paths(tree, prefix=""):
    if not isinstance(tree, dict):
        return [prefix[:-1]]
    return [path for key, value in tree.items() for path in paths(value, f"{prefix}{key}/")]


def test_single_file_there_and_back(tmp_path):
    """UNet, VAE, text encoder, averages and schedule of Stable Diffusion's single file."""
    unet_shapes, vae_shapes = shapes_of("sd-unet"), shapes_of("sd-vae")
    shapes = {name: small(unet_shapes[other]) for name, other in recorded()["original unet"].items() if other in unet_shapes}
    shapes |= {name: small(vae_shapes[other]) for name, other in recorded()["original vae"].items() if other in vae_shapes}
    for name in shapes:  # the original VAE's attention has 1x1 convolutions
        if ".attn_1." in name and len(shapes[name]) == 2:
            shapes[name] += (1, 1)
    shapes |= {"cond_stage_model.transformer.text_model.final_layer_norm.weight": (6,), "betas": (10,), "model_ema.decay": ()}
    state = filled_state(shapes)
    write_safetensors(tmp_path / "v1-5.safetensors", state)
    assert recognise(tmp_path / "v1-5.safetensors") == "sd-single"
    save_import(import_checkpoint(tmp_path / "v1-5.safetensors"), tmp_path / "ours", "sd-single")
    assert_same(open_state(export_checkpoint(tmp_path / "ours", "sd-single", tmp_path / "back")[0]).tensors, state)
    # Its parts can leave in diffusers' layout.
    export_checkpoint(tmp_path / "ours", "sd-unet", tmp_path / "unet")
    assert recognise(tmp_path / "unet") == "sd-unet"


SMALL = {
    320: 32, 640: 64, 960: 96, 1280: 128, 1920: 192, 2560: 256, 5120: 512, 10240: 1024, 768: 24, 128: 32, 256: 64, 512: 96,
}  # fmt: skip


def small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Stable Diffusion's shapes at a fifth or less of the width; channels of latents and windows stay."""
    return tuple(SMALL.get(size, size) for size in shape)


@pytest.fixture(scope="module")
def champ(tmp_path_factory):
    """CHAMP's seven files at a small size, with the original's names."""
    folder = tmp_path_factory.mktemp("champ")
    for stem in ("reference_unet", "denoising_unet", "motion_module", *(f"guidance_encoder_{kind}" for kind in GUIDANCE_KINDS)):
        state = open_state(FILE.parents[1] / "champ_a" / f"{stem}.safetensors").tensors
        write_safetensors(folder / f"{stem}.safetensors", state)
    return folder


def test_champ_there_and_back(champ, tmp_path):
    assert recognise(champ) == "champ"
    save_import(import_checkpoint(champ), tmp_path / "ours", "champ")
    for file in export_checkpoint(tmp_path / "ours", "champ", tmp_path / "back", "pt"):
        assert_same(open_state(file).tensors, open_state(champ / f"{file.stem}.safetensors").tensors)
    single = export_checkpoint(tmp_path / "ours", "champ-single", tmp_path / "single")[0]
    assert recognise(single) == "champ-single"
    save_import(import_checkpoint(single), tmp_path / "again", "champ-single")
    back = export_checkpoint(tmp_path / "again", "champ-single", tmp_path / "single_again")[0]
    assert_same(open_state(back).tensors, open_state(single).tensors)


def test_champ_without_a_file(champ, tmp_path):
    """Motion module and encoders may be missing, the two networks not."""
    for stem in ("reference_unet", "denoising_unet", "guidance_encoder_dwpose"):
        (tmp_path / f"{stem}.safetensors").symlink_to(champ / f"{stem}.safetensors")
    weights = import_checkpoint(tmp_path)
    assert weights.config["kinds"] == ["dwpose"] and "temporal" not in weights.config["unet"]
    assert any("motion_module" in note for note in inspect_checkpoint(tmp_path).odd)
    (tmp_path / "reference_unet.safetensors").unlink()
    with pytest.raises(UserError, match="reference_unet"):
        import_checkpoint(tmp_path, "champ")


def test_files_of_two_models_are_refused(champ, tmp_path):
    for path in champ.iterdir():
        (tmp_path / path.name).symlink_to(path)
    state = {name: np.asarray(array) for name, array in open_state(champ / "guidance_encoder_depth.safetensors").tensors.items()}
    (tmp_path / "guidance_encoder_depth.safetensors").unlink()
    state["conv_out.weight"], state["conv_out.bias"] = state["conv_out.weight"][:16], state["conv_out.bias"][:16]
    write_safetensors(tmp_path / "guidance_encoder_depth.safetensors", state)
    with pytest.raises(UserError, match="out_channels.*not of one model"):
        import_checkpoint(tmp_path)


def test_motion_modules_leave_a_denoiser_alone(champ, tmp_path):
    """AnimateDiff's format and MotionAdapter from a whole model's denoiser, and from one format to the other."""
    save_import(import_checkpoint(champ), tmp_path / "ours", "champ")
    original = export_checkpoint(tmp_path / "ours", "animatediff", tmp_path / "original")[0]
    shapes = {name: array.shape for name, array in open_state(champ / "motion_module.safetensors").tensors.items()}
    assert {name: array.shape for name, array in open_state(original).tensors.items()} == shapes
    save_import(import_checkpoint(original), tmp_path / "motion", "animatediff")
    adapter = export_checkpoint(tmp_path / "motion", "motion-adapter", tmp_path / "adapter")[0]
    assert recognise(adapter.parent) == "motion-adapter"


@pytest.mark.parametrize("taken_for", ["animatediff", "sd-vae", "clip-vision", "champ-single"])
def test_the_wrong_kind_is_named(champ, taken_for):
    with pytest.raises(UserError, match="looks like sd-unet"):
        import_checkpoint(champ / "denoising_unet.safetensors", taken_for)


def test_unknown_names(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a.weight": np.zeros(3)})
    with pytest.raises(UserError, match="1 tensors, the first a.weight"):
        import_checkpoint(tmp_path / "x.safetensors")
    assert inspect_checkpoint(tmp_path / "x.safetensors").kind is None
    with pytest.raises(UserError, match="did you mean 'champ'"):
        import_checkpoint(tmp_path / "x.safetensors", "chanp")


def test_what_a_model_lacks_cannot_be_exported(tmp_path):
    state = filled_state(shapes_of("clip-vision odd"))
    write_safetensors(tmp_path / "model.safetensors", state)
    save_import(import_checkpoint(tmp_path / "model.safetensors", "clip-vision"), tmp_path / "ours", "clip-vision")
    for kind in ("sd-unet", "champ", "animatediff"):
        with pytest.raises(UserError, match="has no|no temporal"):
            export_checkpoint(tmp_path / "ours", kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        ours, theirs = np.asarray(found[name]), np.asarray(expected[name])
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes(), name
