"""Models put together from checkpoints of different kinds, and the single networks of a run's configuration."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from champ_jax.checkpoint.tensors import write_safetensors
from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.convert import export_checkpoint, import_checkpoint, recognise
from champ_jax.convert.components import gather
from champ_jax.convert.formats import plain
from champ_jax.convert.mapping import abstract, to_torch
from champ_jax.convert.stable_animator import ADAPTER_LAYOUT, FACE_LAYOUT
from champ_jax.convert.state import open_state
from champ_jax.convert.torch_write import write_torch
from champ_jax.errors import UserError
from champ_jax.infer.pipeline import build_pipeline, load_pipeline
from champ_jax.models.animator import AnimatorConfig
from champ_jax.models.face_id import FaceID
from champ_jax.trees import flatten
from tests.infer.tiny import save_tiny, tiny_config, tiny_params

KINDS = ("champ", "sd-unet", "sd-vae", "animatediff", "motion-adapter")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny model and its parts in the formats of other programs."""
    root = tmp_path_factory.mktemp("exported")
    save_tiny(root / "ours")
    for kind in KINDS:
        export_checkpoint(root / "ours", kind, root / kind)
    return root


def test_a_model_of_checkpoints_of_other_programs(exported):
    """CHAMP's folder and a VAE of diffusers are the model that they were made from, in numbers and in geometry."""
    params, config = gather(exported / "champ", {"vae": exported / "sd-vae"})
    given, described = load_weights(exported / "ours")
    jax.tree.map(np.testing.assert_array_equal, params, given)
    ours = tiny_config()
    built = type(ours).build(config)
    assert (built.unet, built.guidance, built.kinds) == (ours.unet, ours.guidance, ours.kinds)
    assert built.vae == ours.vae
    pipeline = load_pipeline(exported / "champ", vae=exported / "sd-vae")
    assert pipeline.config.unet == ours.unet


def test_geometry_that_no_shape_shows_travels_in_the_header(exported):
    """Heads and norm groups of a tiny model; a .pt file, which cannot say them, is refused."""
    assert import_checkpoint(exported / "champ").config["unet"]["heads"] == 4
    assert json.loads((exported / "sd-unet" / "config.json").read_text())["attention_head_dim"] == 4
    with pytest.raises(UserError, match='a .pt file cannot say .*"heads": 4'):
        export_checkpoint(exported / "ours", "champ", exported / "pt", "pt")
    export_checkpoint(exported / "ours", "sd-unet", exported / "pt-unet", "pt")  # its config.json says it


def test_single_networks_take_the_place_of_the_models_own(exported, tmp_path):
    """A denoiser for images leaves the temporal modules; motion modules leave the rest."""
    other = tiny_params(tiny_config(), seed=1)
    save_weights(tmp_path / "other", other, load_weights(exported / "ours")[1])
    own = load_weights(exported / "ours")[0]
    params, _ = gather(tmp_path / "other", {"denoiser": exported / "sd-unet"})
    np.testing.assert_array_equal(params["denoiser"]["conv_in"]["kernel"], own["denoiser"]["conv_in"]["kernel"])
    module = params["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"]
    np.testing.assert_array_equal(module, other["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"])
    params, _ = gather(tmp_path / "other", {"motion": exported / "motion-adapter", "reference": exported / "sd-unet"})
    module = params["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"]
    np.testing.assert_array_equal(module, own["denoiser"]["down_0"]["temporal_0"]["proj_in"]["kernel"])
    np.testing.assert_array_equal(params["denoiser"]["conv_in"]["kernel"], other["denoiser"]["conv_in"]["kernel"])
    np.testing.assert_array_equal(params["reference"]["conv_in"]["kernel"], own["denoiser"]["conv_in"]["kernel"])
    assert "conv_out" not in params["reference"]
    jax.tree.map(np.testing.assert_array_equal, params["vae"], other["vae"])


def test_what_cannot_be_put_together(exported):
    with pytest.raises(UserError, match="has no clip"):
        gather(exported / "ours", {"clip": exported / "sd-unet"})
    with pytest.raises(UserError, match="did you mean 'denoiser'"):
        gather(None, {"denoisr": exported / "sd-unet"})
    with pytest.raises(UserError, match="no such file"):
        gather(None, {"vae": "nowhere/vae.pth"})


def test_a_part_that_is_broken_is_not_left_out(exported, tmp_path):
    """A motion module may be missing from CHAMP's folder; one that lacks a tensor is an error."""
    params, config = load_weights(exported / "ours")
    del params["denoiser"]["down_0"]["temporal_0"]["proj_in"]["bias"]
    save_weights(tmp_path / "broken", params, config)
    with pytest.raises(UserError, match="temporal_0/proj_in/bias"):
        export_checkpoint(tmp_path / "broken", "champ", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_other_programs_would_compute_otherwise_is_not_written(exported, tmp_path):
    """diffusers knows no positions and no heads of one width; CHAMP's kind has its own schedule, ours goes in the header."""
    params, config = load_weights(exported / "ours")
    for name, value in (("positions", True), ("head_dim", 16)):
        save_weights(tmp_path / name, params, {**config, "unet": {**config["unet"], name: value}})
        with pytest.raises(UserError, match=f"cannot say .*{name}"):
            export_checkpoint(tmp_path / name, "sd-unet", tmp_path / "out")
    schedule = {"kind": "scaled_linear", "prediction": "epsilon", "zero_snr": False}
    save_weights(tmp_path / "epsilon", params, {**config, "schedule": schedule})
    export_checkpoint(tmp_path / "epsilon", "champ", tmp_path / "champ")
    found = import_checkpoint(tmp_path / "champ").config["schedule"]
    assert {name: found[name] for name in schedule} == schedule


def test_a_folder_may_leave_the_defaults_out(exported, tmp_path):
    """As a run of training writes it: what its configuration does not say is what our networks have by default."""
    params, config = load_weights(exported / "ours")
    save_weights(tmp_path / "ours", params, _differing(config, dataclasses.asdict(AnimatorConfig())))
    assert "blocks" not in load_weights(tmp_path / "ours")[1]["unet"]["temporal"]
    for kind in (*KINDS, "champ-single"):
        files = [export_checkpoint(folder / "ours", kind, tmp_path / f"{kind}_{i}") for i, folder in enumerate((exported, tmp_path))]
        for one, other in zip(*files):
            assert one.read_bytes() == other.read_bytes()


def test_a_model_of_another_build_is_not_exported(exported, tmp_path):
    with pytest.raises(UserError, match="has no clip, which a CLIP vision tower"):
        export_checkpoint(exported / "ours", "clip-vision", tmp_path / "out")
    save_tiny(tmp_path / "folded", tiny_config(guidance={"channels": (8,), "patch": 4, "attention": False}))
    with pytest.raises(
        UserError, match="folded does not fit champ, which could not be read back: a guidance encoder .* has blocks.1.weight"
    ):
        export_checkpoint(tmp_path / "folded", "champ", tmp_path / "out")


def _differing(config, defaults):
    """What nested `config` says otherwise than the defaults."""
    found = {}
    for name, value in config.items():
        if isinstance(value, dict) and isinstance(defaults.get(name), dict):
            found[name] = _differing(value, defaults[name])
        elif name not in defaults or plain(value) != plain(defaults[name]):
            found[name] = value
    return found


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"attention_head_dim": [4, 8]}, "attention_head_dim"),
        ({"norm_num_groups": 0}, "norm_num_groups"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos"),
    ],
)
def test_a_config_that_asks_for_another_network_is_refused(change, part, exported, tmp_path):
    for path in (exported / "sd-unet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, **change}))
    with pytest.raises(UserError, match=part):
        import_checkpoint(tmp_path)


def test_quantised_weights_are_refused(exported, tmp_path):
    state = {name: np.zeros(array.shape, np.int8) for name, array in open_state(exported / "sd-vae").tensors.items()}
    write_safetensors(tmp_path / "model.safetensors", state)
    (tmp_path / "config.json").write_bytes((exported / "sd-vae" / "config.json").read_bytes())
    with pytest.raises(UserError, match="whole numbers"):
        import_checkpoint(tmp_path)


def test_names_are_found_whatever_stands_before_them(exported, tmp_path):
    state = {f"_orig_mod.module.{name}": array for name, array in open_state(exported / "animatediff").tensors.items()}
    write_torch(tmp_path / "motion.pth", state)
    opened = open_state(tmp_path / "motion.pth")
    assert recognise(tmp_path / "motion.pth") == "animatediff"
    assert len(opened.notes) == 2


def test_stable_animators_parts_join_a_model(exported, tmp_path):
    """Its face encoder and the projections of its adapter, at full strength; a second one takes the first's place."""
    clip = {"projection": 16, "hidden": 16, "intermediate": 16, "layers": 1, "heads": 2, "patch": 16, "image_size": 32}
    face_id = {"width": 16, "clip_width": 16, "embedding": 6, "layers": 1, "heads": 1}
    save_tiny(tmp_path / "plain", tiny_config(clip=clip))
    model = tiny_config(clip=clip, identity="aligned", face_id=face_id)
    given = tiny_params(model, seed=3)
    write_safetensors(tmp_path / "face.safetensors", to_torch(given["face_id"], abstract(FaceID, model.face_id), FACE_LAYOUT))
    for seed, name in enumerate(("first", "second")):
        unet = flatten(tiny_params(model, seed)["denoiser"])
        own = {path: array for path, array in unet.items() if "/id_to_" in path}
        state = {ADAPTER_LAYOUT.name(path): np.ascontiguousarray(array.T) for path, array in own.items()}
        write_safetensors(tmp_path / f"{name}.safetensors", state)
    parts = {"face_id": tmp_path / "face.safetensors", "id_adapter": tmp_path / "first.safetensors"}
    params, config = gather(tmp_path / "plain", parts)
    assert (config["unet"]["identity"], config["face_id"]["layers"]) == ("aligned", 1)
    jax.tree.map(np.testing.assert_array_equal, params["face_id"], given["face_id"])
    block = params["denoiser"]["down_0"]["attention_0"]["attn2"]
    assert block["id_strength"]["value"] == np.ones(1)
    np.testing.assert_array_equal(
        block["id_to_k"]["kernel"], tiny_params(model, 0)["denoiser"]["down_0"]["attention_0"]["attn2"]["id_to_k"]["kernel"]
    )
    assert build_pipeline(params, config, "both").config.unet.identity == "aligned"
    save_weights(tmp_path / "both", params, config)
    params, config = gather(tmp_path / "both", {"id_adapter": tmp_path / "second.safetensors"})
    second = tiny_params(model, 1)["denoiser"]["mid"]["attention_0"]["attn2"]["id_to_v"]["kernel"]
    np.testing.assert_array_equal(params["denoiser"]["mid"]["attention_0"]["attn2"]["id_to_v"]["kernel"], second)
    with pytest.raises(UserError, match="has no id_adapter"):
        gather(exported / "ours", {"id_adapter": exported / "ours"})
