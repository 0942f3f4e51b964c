"""The networks of metrics against PyTorch's, with seeded weights; what they read, and what they refuse.

The recorded outputs are made by tests/fixtures/make_perceptual.py.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert import perceptual
from champ_jax.convert.formats import read, write
from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.i3d import I3D, I3DConfig, i3d_pixels
from champ_jax.models.inception import Inception, InceptionConfig, inception_pixels
from champ_jax.models.lpips import LPIPS, Backbone, LPIPSConfig, unit_length
from champ_jax.models.resnet3d import ResNet3D, ResNet3DConfig, resnet3d_pixels
from champ_jax.nn.keys import ParamKeys
from tests.parity.formats import materialise
from tests.seeded import seeded, seeded_state

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "torch"
BACKBONES = {"alex": (perceptual.ALEXNET, "alexnet"), "vgg": (perceptual.VGG16, "vgg16")}


@functools.cache
def recorded(name):
    with np.load(RECORDED / f"{name}.npz") as file:
        return dict(file)


def state_of(shapes, positive=False):
    """A seeded state dict; no tensor is made before it is asked for."""

    def tensor(name, shape):
        dtype = np.dtype(np.int64 if name.endswith("num_batches_tracked") else np.float32)
        return LazyArray(tuple(shape), dtype, lambda: (np.abs if positive else np.asarray)(seeded_state({name: tuple(shape)})[name]))

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def shapes_in(file, *keys):
    found = json.loads(str(recorded(file)["shapes"]))
    for key in keys:
        found = found[key]
    return found


STATES = {
    "alexnet": (perceptual.ALEXNET, lambda: state_of(shapes_in("lpips", "alex"))),
    "vgg16": (perceptual.VGG16, lambda: state_of(shapes_in("lpips", "vgg"))),
    "lpips_alex": (perceptual.LPIPS_HEADS, lambda: state_of(shapes_in("lpips", "alex/heads"), positive=True)),
    "lpips_vgg": (perceptual.LPIPS_HEADS, lambda: state_of(shapes_in("lpips", "vgg/heads"), positive=True)),
    "inception": (perceptual.INCEPTION, lambda: state_of(shapes_in("inception"))),
    "i3d": (perceptual.I3D, lambda: state_of(shapes_in("i3d"))),
    "resnet3d": (perceptual.RESNET3D, lambda: state_of(shapes_in("resnet3d", "whole"))),
}
CONFIGS = {
    "alexnet": {"net": "alex"},
    "vgg16": {"net": "vgg"},
    "lpips_alex": {"net": "alex"},
    "lpips_vgg": {"net": "vgg"},
    "inception": {"classes": 1008},
    "i3d": {"classes": 400, "channels": 3},
    "resnet3d": {"layers": [3, 4, 6, 3], "width": 64, "classes": 400},
}


def loaded(component):
    format, state = STATES[component]
    weights = read(state(), {}, format, component)
    return weights.config[component], materialise(weights.params[component])


def run(model, config, params, function, *inputs):
    """`function(model, *inputs)` compiled, with these parameters."""
    graphdef, _ = split(nnx.eval_shape(lambda: model(config, ParamKeys(0))))
    return jax.jit(lambda params, *inputs: function(merge(graphdef, params), *inputs))(params, *inputs)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips(compare, net):
    config, backbone = loaded(BACKBONES[net][1])
    _, heads = loaded(f"lpips_{net}")
    params, config = {"backbone": backbone, "heads": heads}, LPIPSConfig(**config)
    x = 0.5 * seeded("lpips/x", (2, 69, 75, 3))
    y = x + 0.2 * seeded("lpips/y", (2, 69, 75, 3))
    layers = run(LPIPS, config, params, LPIPS.by_layer, x, y)
    compare(f"lpips/{net}, layers", layers, recorded("lpips")[f"{net}/layers"])
    compare(f"lpips/{net}, distance", layers.sum(-1), recorded("lpips")[f"{net}/distance"])


def test_lpips_of_equal_images_and_taps():
    config = LPIPSConfig("alex")
    model = LPIPS(config, ParamKeys(0))
    images = seeded("lpips/equal", (1, 31, 40, 3))
    assert model(images, images) == 0
    # Where a network is silent, a loss has a moderate gradient: neither nan nor 1e10.
    gradient = jax.grad(lambda x: unit_length(x).sum())(jnp.zeros((1, 2, 2, 3)).at[0, 0].set(1.0))
    assert np.abs(gradient).max() <= 1
    first, last = model.backbone(images, (0, 8))
    assert first.shape == (1, 7, 9, 64) and last.shape == (1, 1, 1, 256)
    with pytest.raises(UserError, match="31 pixels"):
        model(images[:, :30], images[:, :30])
    with pytest.raises(UserError, match="no layers"):
        model.backbone(images, (1,))
    with pytest.raises(UserError, match="expected one of"):
        LPIPSConfig("squeeze")


def test_vgg_numbers_its_layers_as_torchvision():
    """The taps of a Gram matrix, relu1_1 to relu5_1."""
    shapes = jax.eval_shape(lambda: Backbone(LPIPSConfig("vgg"), ParamKeys(0))(jnp.zeros((1, 64, 64, 3)), (0, 5, 10, 17, 24)))
    assert [(x.shape[1], x.shape[-1]) for x in shapes] == [(64, 64), (32, 128), (16, 256), (8, 512), (4, 512)]


def test_inception(compare):
    config, params = loaded("inception")
    image = np.clip(128 + 50 * seeded("inception/image", (1, 80, 61, 3)), 0, 255).astype(np.uint8)
    for resize in ("tensorflow", "pytorch_fid"):
        pixels = inception_pixels(image, resize)[:, ::23, ::23]
        compare(f"inception/pixels, {resize}", pixels, np.moveaxis(recorded("inception")[resize], 1, -1))

    def outputs(model, image):
        features = model(inception_pixels(image))
        return {"pool3": features, "logits": model.logits(features), "unbiased": model.logits(features, bias=False)}

    for name, ours in run(Inception, InceptionConfig(**config), params, outputs, image).items():
        compare(f"inception/{name}", ours, recorded("inception")[name])


def test_inception_refuses_other_sizes():
    with pytest.raises(UserError, match="299"):
        jax.eval_shape(lambda: Inception(InceptionConfig(), ParamKeys(0))(jnp.zeros((1, 298, 299, 3))))
    with pytest.raises(UserError, match="clean"):
        inception_pixels(np.zeros((1, 8, 8, 3), np.uint8), "clean")


def test_i3d(compare):
    config, params = loaded("i3d")
    config = I3DConfig(**config)
    small, whole = (0.5 * seeded(f"i3d/{name}", (1, *size, 3)) for name, size in (("small", (16, 64, 57)), ("whole", (17, 193, 198))))
    features = run(I3D, config, params, I3D.features, small)
    compare("i3d/features", features, np.moveaxis(recorded("i3d")["features"], 1, -1))
    compare("i3d/logits", run(I3D, config, params, I3D.__call__, whole), recorded("i3d")["logits"])
    with pytest.raises(UserError, match="193"):
        run(I3D, config, params, I3D.__call__, small)


@pytest.mark.parametrize("name", ["small", "whole"])
def test_resnet3d(compare, name):
    state = state_of(shapes_in("resnet3d", name))
    weights = read(state, {}, perceptual.RESNET3D, name)
    own = weights.config["resnet3d"]
    config = ResNet3DConfig(**{**own, "layers": tuple(own["layers"])})
    video = seeded(f"resnet3d/{name}", (1, 16, 112, 112, 3))

    def outputs(model, video):
        features = model(video)
        return features, model.logits(features)

    features, logits = run(ResNet3D, config, materialise(weights.params["resnet3d"]), outputs, video)
    compare(f"resnet3d/features, {name}", features, recorded("resnet3d")[name])
    compare(f"resnet3d/logits, {name}", logits, recorded("resnet3d")[f"{name}/logits"])


def test_video_pixels():
    frames = np.array([0, 255], np.uint8).reshape(1, 1, 1, 2, 1).repeat(3, -1)
    np.testing.assert_allclose(i3d_pixels(frames)[0, 0, 0, :, 0], [-1, 1])
    np.testing.assert_allclose(resnet3d_pixels(frames)[0, 0, 0, 1], [255 - 114.7748, 255 - 107.7354, 255 - 99.4750], rtol=1e-6)


@pytest.mark.parametrize("component", STATES)
def test_every_name_is_accounted_for(component):
    format, state = STATES[component]
    state = state()
    weights = read(state, {}, format, component)
    assert weights.config == {component: CONFIGS[component]}
    again = write(weights, format, component)
    assert {name: tuple(x.shape) for name, x in again.items()} == {name: tuple(x.shape) for name, x in state.items()}
    # Older files have no counters, and features may come without their classifier.
    bare = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked") and not name.startswith("classifier")}
    assert not read(bare, {}, format, component).kept
    # Some tensors of each shape are enough; all of VGG-16 is half a gigabyte.
    for name in [name for name, x in state.items() if x.size < 200_000][::7]:
        np.testing.assert_array_equal(np.asarray(again[name]), np.asarray(state[name]))


@pytest.mark.parametrize("component", STATES)
def test_wrong_files_are_refused_with_the_name(component):
    format, state = STATES[component]
    state = state()
    name = [name for name in state if name not in format.signature and name.endswith(("weight", "bias")) and "classifier" not in name][-2]
    renamed = {key.replace(name, f"{name}_other"): x for key, x in state.items()}
    reshaped = state | {name: LazyArray((*state[name].shape[:-1], 99), np.dtype(np.float32), lambda: np.zeros(1))}
    without = {key: x for key, x in state.items() if key != name}
    for wrong in (without, renamed, reshaped):
        with pytest.raises(UserError) as refused:
            read(wrong, {}, format, component)
        assert name in str(refused.value)


def test_each_state_dict_is_recognised_as_one_format():
    formats = {id(format): format for format, _ in STATES.values()}.values()
    for format, state in STATES.values():
        names = list(state())
        assert format.matches(names)
        assert [other.title for other in formats if other.matches(names)] == [format.title]


@pytest.mark.parametrize(
    ("component", "name", "shape", "message"),
    [
        ("inception", "fc.weight", (1000, 2048), "1008"),
        ("inception", "fc.weight", (1008,), "dimensions"),
        ("lpips_vgg", "lin1.model.1.weight", (1, 64, 1, 1), "64 channels"),
        ("i3d", "logits.conv3d.weight", (400, 1024), "5 dimensions"),
        ("resnet3d", "conv1.weight", (64, 3, 7, 7), "for pictures"),
        ("resnet3d", "layer1.0.downsample.0.weight", None, "type A"),
    ],
)
def test_relatives_are_refused(component, name, shape, message):
    format, state = STATES[component]
    state = state()
    del state[name]
    with pytest.raises(UserError, match=message):
        read(state | ({name: LazyArray(shape, np.dtype(np.float32), lambda: np.zeros(shape))} if shape else {}), {}, format, component)
