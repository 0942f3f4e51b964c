"""Networks that metrics look through: VGG-16, AlexNet, the heads of LPIPS, FID's Inception, I3D and the 3D ResNet."""

from __future__ import annotations

from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes, one_component
from champ_jax.convert.mapping import COUNTERS, STATISTICS, Layout, abstract
from champ_jax.errors import UserError
from champ_jax.models.i3d import I3D as I3DModel
from champ_jax.models.i3d import I3DConfig
from champ_jax.models.inception import Inception, InceptionConfig
from champ_jax.models.lpips import NETS, Backbone, Heads, LPIPSConfig
from champ_jax.models.resnet3d import ResNet3D, ResNet3DConfig

CLASSIFIER = {"classifier.*": "names ImageNet's classes; perceptual distances end at the features before it"}

BACKBONE = Layout(rules=((r"^conv_(\d+)/", r"features.\1/"),), kept=CLASSIFIER)
HEADS = Layout(rules=((r"^head_(\d)/", r"lin\1.model.1/"),), pointwise=r"^head_")
INCEPTION_LAYOUT = Layout(
    rules=(
        (r"^conv_(1a|2a|2b|4a)/", r"Conv2d_\1_3x3/"),
        (r"^conv_3b/", "Conv2d_3b_1x1/"),
        (r"^mixed_", "Mixed_"),
        (r"/norm/", "/bn/"),
        *STATISTICS,
    ),
    kept=COUNTERS,
)
I3D_LAYOUT = Layout(
    rules=(
        (r"^conv_1a/", "Conv3d_1a_7x7/"),
        (r"^conv_2b/", "Conv3d_2b_1x1/"),
        (r"^conv_2c/", "Conv3d_2c_3x3/"),
        (r"^mixed_", "Mixed_"),
        (r"^logits/", "logits/conv/"),
        (r"/conv/", "/conv3d/"),
        (r"/norm/", "/bn/"),
        *STATISTICS,
    ),
    kept=COUNTERS,
)
RESNET3D_LAYOUT = Layout(
    rules=(
        (r"^layer_(\d)/block_(\d+)/", r"layer\1/\2/"),
        (r"\bunit_(\d)/conv/", r"conv\1/"),
        (r"\bunit_(\d)/norm/", r"bn\1/"),
        (r"/shortcut/conv/", "/downsample.0/"),
        (r"/shortcut/norm/", "/downsample.1/"),
        *STATISTICS,
    ),
    kept=COUNTERS,
)


def _backbone(name: str, net: str, title: str, signature: tuple[str, ...], foreign: tuple[str, ...]) -> Format:
    return Format(
        title=title,
        signature=signature,
        foreign=foreign,
        geometry=lambda shapes, config: {name: {"net": net}},
        components=one_component(name, Backbone, LPIPSConfig, BACKBONE),
    )


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that a format cannot be without."""
    if len(shapes.get(name, ())) != rank:
        raise UserError(f"{name} should have {rank} dimensions, found {tuple(shapes.get(name, ())) or 'nothing'}.")
    return tuple(shapes[name])


VGG16 = _backbone(
    "vgg16",
    "vgg",
    "torchvision's VGG-16",
    ("features.0.weight", "features.14.weight", "features.28.weight"),
    # VGG-16 with batch normalisation and VGG-19.
    foreign=("features.1.weight", "features.16.weight"),
)
ALEXNET = _backbone(
    "alexnet",
    "alex",
    "torchvision's AlexNet",
    ("features.0.weight", "features.3.weight", "features.6.weight", "features.8.weight", "features.10.weight"),
    foreign=("features.1.weight", "features.12.weight"),
)


def lpips_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"lpips_alex": ...} or {"lpips_vgg": ...}: the width of the second head tells the network it belongs to."""
    name = "lin1.model.1.weight"
    width = _shape(shapes, name, 4)[1]
    for net, layout in NETS.items():
        if width == next(layer.width for layer in layout.layers if layer.index == layout.taps[1]):
            return {f"lpips_{net}": {"net": net}}
    raise UserError(f"{name} weighs {width} channels: expected heads for {' or '.join(NETS)}, version 0.1.")


def lpips_components(config: Config) -> dict[str, Component]:
    """The heads that the configuration names."""
    names = [name for name in (f"lpips_{net}" for net in NETS) if name in config]
    return {name: Component(abstract(Heads, LPIPSConfig(**config[name])), HEADS) for name in names}


LPIPS_HEADS = Format(
    title="the heads of LPIPS",
    signature=("lin0.model.1.weight", "lin4.model.1.weight"),
    geometry=lpips_geometry,
    components=lpips_components,
)


def inception_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"inception": ...}. Only TensorFlow's network has 1008 classes; torchvision's has the same names but other pools."""
    classes, _ = _shape(shapes, "fc.weight", 2)
    if classes != 1008:
        raise UserError(f"an Inception of {classes} classes: FID is defined by TensorFlow's of 1008, pt_inception-2015-12-05-6726825d.pth.")
    return {"inception": {"classes": classes}}


INCEPTION = Format(
    title="FID's Inception",
    signature=("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.weight"),
    foreign=("AuxLogits.*",),
    geometry=inception_geometry,
    components=one_component("inception", Inception, InceptionConfig, INCEPTION_LAYOUT),
)


def i3d_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"i3d": ...}."""
    first, last = (_shape(shapes, name, 5) for name in ("Conv3d_1a_7x7.conv3d.weight", "logits.conv3d.weight"))
    return {"i3d": {"classes": last[0], "channels": first[1]}}


I3D = Format(
    title="I3D of Kinetics",
    signature=("Conv3d_1a_7x7.conv3d.weight", "logits.conv3d.weight"),
    geometry=i3d_geometry,
    components=one_component("i3d", I3DModel, I3DConfig, I3D_LAYOUT),
)


def resnet3d_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"resnet3d": ...} of a network of bottlenecks with convolutions as shortcuts."""
    if len(shapes["conv1.weight"]) == 4:
        raise UserError("a ResNet for pictures: FID-VID looks through a 3D ResNet, resnet-50-kinetics.pth.")
    width = _shape(shapes, "conv1.weight", 5)[0]
    if "layer1.0.downsample.0.weight" not in shapes:
        raise UserError("a 3D ResNet of shortcut type A, without downsample.0: only type B, as resnet-50-kinetics.pth, is supported.")
    stages = [name for name in (f"layer{i}" for i in range(1, 10)) if f"{name}.0.conv1.weight" in shapes]
    layers = [sum(name.startswith(f"{stage}.") and name.endswith(".conv1.weight") for name in shapes) for stage in stages]
    return {"resnet3d": {"layers": layers, "width": width, "classes": _shape(shapes, "fc.weight", 2)[0]}}


RESNET3D = Format(
    title="a 3D ResNet of Kinetics",
    signature=("conv1.weight", "layer1.0.conv3.weight", "layer4.0.conv3.weight", "fc.weight"),
    geometry=resnet3d_geometry,
    components=one_component("resnet3d", ResNet3D, ResNet3DConfig, RESNET3D_LAYOUT),
)
