"""The face networks against PyTorch: ArcFace from its state dict and from ONNX, dlib's, StableAnimator's."""

import jax
import numpy as np
import pytest
from flax import nnx

from champ_jax.convert.arcface import ARCFACE
from champ_jax.convert.arcface_onnx import arcface_state
from champ_jax.convert.dlib_face import DLIB_FACE
from champ_jax.convert.formats import as_config, read
from champ_jax.convert.mapping import abstract
from champ_jax.convert.onnx_file import read_onnx
from champ_jax.convert.stable_animator import FACE_ID, ID_ADAPTER
from champ_jax.errors import UserError
from champ_jax.models.arcface import ArcFace, ArcFaceConfig, arcface_pixels
from champ_jax.models.dlib_face import DlibFace, DlibFaceConfig
from champ_jax.models.face_id import FaceID, FaceIDConfig, IDAdapter, IDAdapterConfig
from champ_jax.models.unet import UNet, UNetConfig
from champ_jax.nn.identity import FaceAttention, like_in_distribution
from champ_jax.nn.keys import ParamKeys
from champ_jax.nn.policy import Policy
from champ_jax.trees import flatten
from tests.parity.formats import check_accounting, check_round_trip, filled, materialise, run
from tests.recorded import DIRECTORY, recorded
from tests.seeded import seeded, seeded_state

ONNX = ("arcface_folded", "arcface_plain")


def embed(model, pixels):
    """What a network gives for pixels in PyTorch's order of axes."""
    return run(model, lambda model, x: model(x), np.moveaxis(pixels, 1, -1))


def arcface(state):
    """(the network that a state dict holds, its config)."""
    weights = read(state, {}, ARCFACE, "the file")
    config = as_config(ArcFaceConfig, weights.config["arcface"])
    return filled(ArcFace, config, weights.params["arcface"]), config


@pytest.mark.parametrize("name", ["arcface", "arcface_r50"])
def test_arcface(name, compare):
    shapes, outputs = recorded(name)
    model, config = arcface(seeded_state(shapes))
    faces = np.clip(seeded("faces", (2, 3, config.image_size, config.image_size)), -1, 1)
    compare(f"{name}/embedding", embed(model, faces), outputs["embedding"])


@pytest.mark.parametrize("name", ONNX)
def test_arcface_from_onnx(name, compare):
    model, config = arcface(arcface_state(read_onnx(DIRECTORY / f"{name}.onnx")))
    assert config == ArcFaceConfig((1, 3, 2, 1), (8, 8, 12, 12, 16), 24, 32, folded=name == "arcface_folded")
    faces = np.clip(seeded("faces", (2, 3, 32, 32)), -1, 1)
    compare(f"{name}/embedding", embed(model, faces), recorded("arcface")[1]["embedding"])


def test_onnx_gives_the_state_dict():
    """Where nothing is folded it is the very state dict that was exported."""
    state = seeded_state(recorded("arcface")[0])
    found = arcface_state(read_onnx(DIRECTORY / "arcface_plain.onnx"))
    assert found.keys() == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, array in found.items():
        np.testing.assert_array_equal(np.asarray(array), state[name], err_msg=name)


def test_arcface_files():
    state = seeded_state(recorded("arcface")[0])
    weights = check_round_trip(state, ARCFACE)
    assert weights.kept.keys() == {name for name in state if name.endswith("num_batches_tracked")}
    check_accounting(state, ARCFACE, "layer2.1.bn3.running_var")
    check_accounting(state, ARCFACE, "layer4.0.downsample.0.weight")
    folded = arcface_state(read_onnx(DIRECTORY / "arcface_folded.onnx"))
    check_accounting(folded, ARCFACE, "layer3.1.conv1.bias")
    with pytest.raises(UserError, match="fc.weight"):
        read({**state, "fc.weight": np.zeros((24, 63), np.float32)}, {}, ARCFACE, "the file")


def test_arcface_sizes():
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(abstract(ArcFace, ArcFaceConfig(layers)))) for layers in ((3, 4, 14, 3), (3, 13, 30, 3))
    ]
    assert sizes == [43_628_992, 65_225_792]
    with pytest.raises(UserError, match="16"):
        ArcFaceConfig(image_size=100)
    with pytest.raises(UserError, match="ArcFace pixels"):
        nnx.eval_shape(lambda: ArcFace(ArcFaceConfig(), ParamKeys(0))(np.zeros((1, 96, 96, 3), np.float32)))


def test_arcface_pixels():
    np.testing.assert_allclose(arcface_pixels(np.uint8([[[[0, 255, 51]]]])), [[[[-1, 1, -0.6]]]], atol=1e-6)


def test_dlib(compare):
    shapes, outputs = recorded("dlib_face")
    weights = read(seeded_state(shapes), {}, DLIB_FACE, "the file")
    config = as_config(DlibFaceConfig, weights.config["dlib_face"])
    model = filled(DlibFace, config, weights.params["dlib_face"])
    compare("dlib_face/embedding", embed(model, seeded("chips", (2, 3, 150, 150)) / 3), outputs["embedding"])
    assert sum(np.prod(shape) for shape in shapes.values()) == 5_614_592


def test_dlib_files():
    state = seeded_state(recorded("dlib_face")[0])
    check_round_trip(state, DLIB_FACE)
    check_accounting(state, DLIB_FACE, "conv128_down.conv2.scale.biases")


def face_encoder(load):
    """The state dict of the recorded face encoder."""
    return {name.removeprefix("face_encoder."): array for name, array in load("face_id").items() if name.startswith("face_encoder.")}


@pytest.mark.parametrize("shortcut", [None, 0.5])
def test_face_tokens(shortcut, load, compare):
    weights = read(face_encoder(load), {}, FACE_ID, "the file")
    model = filled(FaceID, FaceIDConfig(**weights.config["face_id"]), weights.params["face_id"])
    io = load("io_face_id")
    tokens = run(model, lambda model, *inputs: model(*inputs, shortcut=shortcut), io["id_embeds"], io["clip_embeds"])
    name = "face_tokens_shortcut" if shortcut else "face_tokens"  # recorded with 0.5
    compare(f"face_id/{name}", tokens, io[name])


def test_id_attention(load, compare):
    own, io = load("face_id"), load("io_face_id")
    path = "down_0/attention_0/attn2"
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.id_to_{}.weight"
    weights = read({name.format(x): own[f"attn2.processor.id_to_{x}.weight"] for x in "kv"}, {}, ID_ADAPTER, "the file")
    assert weights.config == {"id_adapter": {"blocks": {path.removesuffix("/attn2"): 64}, "context": 64}}
    adapter = materialise(weights.params["id_adapter"])["down_0"]["attention_0"]["attn2"]
    attention = FaceAttention(64, 4, ParamKeys(0), Policy(), 64, aligned=True)
    for x in ("q", "k", "v"):
        getattr(attention, f"to_{x}").kernel[...] = np.float32(own[f"attn2.to_{x}.weight"]).T
    for x in ("k", "v"):
        getattr(attention, f"id_to_{x}").kernel[...] = adapter[f"id_to_{x}"]["kernel"]
    attention.to_out.kernel[...] = np.float32(own["attn2.to_out.0.weight"]).T
    attention.to_out.bias[...] = np.float32(own["attn2.to_out.0.bias"])
    x, context, face = io["hidden_states"][:, None], io["encoder_hidden_states"], io["face_tokens"][:, None]
    without = attention.with_face(x, context, face, np.ones(len(x)))[:, 0]
    np.testing.assert_allclose(without, np.broadcast_to(attention.single_token(context), without.shape), atol=1e-6)
    attention.id_strength.value[...] = np.ones(1, np.float32)
    compare("face_id/attn2_out", attention.with_face(x, context, face, np.ones(len(x)))[:, 0], io["attn2_out"])
    np.testing.assert_array_equal(attention.with_face(x, context, face, np.zeros(len(x)))[:, 0], without)


def test_like_in_distribution():
    x, other = 5 + 3 * seeded("x", (2, 7, 6)), seeded("other", (2, 7, 6)) - 2
    moved = np.asarray(like_in_distribution(x, other))
    np.testing.assert_allclose(moved.mean((1, 2)), other.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(moved.std((1, 2)), other.std((1, 2)), rtol=1e-4)


def test_stable_animator_files(load):
    state = face_encoder(load)
    check_round_trip(state, FACE_ID)
    check_accounting(state, FACE_ID, "fusion_model.layers.3.1.3.weight")
    shapes = {
        f"{place}.transformer_blocks.0.attn2.processor.id_to_{x}.weight": (width, 6)
        for place, width in (("down_blocks.1.attentions.0", 8), ("mid_block.attentions.0", 12), ("up_blocks.2.attentions.1", 8))
        for x in "kv"
    }
    state = seeded_state(shapes)
    weights = check_round_trip(state, ID_ADAPTER)
    assert weights.config["id_adapter"]["blocks"] == {"down_1/attention_0": 8, "mid/attention_0": 12, "up_2/attention_1": 8}
    check_accounting(state, ID_ADAPTER, "mid_block.attentions.0.transformer_blocks.0.attn2.processor.id_to_v.weight")


def test_adapter_size():
    """Of Stable Diffusion 1.5, in whose UNet's parameters every place has an attention."""
    widths = {"down_0": (320, 2), "down_1": (640, 2), "down_2": (1280, 2), "mid": (1280, 1)}
    widths |= {"up_1": (1280, 3), "up_2": (640, 3), "up_3": (320, 3)}
    blocks = tuple((f"{level}/attention_{i}", width) for level, (width, count) in widths.items() for i in range(count))
    params = abstract(IDAdapter, IDAdapterConfig(blocks, 768))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 19_169_280
    unet = flatten(abstract(UNet, UNetConfig()))
    places = {path.rsplit("/", 2)[0] for path in unet if path.endswith("attn2/to_k/kernel")}
    assert places == {path.rsplit("/", 2)[0] for path in flatten(params)}


def test_face_tokens_sizes():
    for width, clip_width, size in ((1024, 1024, 57_183_232), (768, 768, 33_188_352), (768, 1024, 33_384_960)):
        leaves = jax.tree.leaves(abstract(FaceID, FaceIDConfig(width, clip_width=clip_width, heads=width // 64)))
        assert (len(leaves), sum(leaf.size for leaf in leaves)) == (56, size)
