"""The networks that metrics look through, from a folder of their published files: found by what they are, checked, named by hash.

None comes with the package: a metric whose network is not in the folder says so in its row. Nothing is ever judged by random weights.
"""

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from champ_jax.convert.checkpoints import import_checkpoint
from champ_jax.convert.state import SUFFIXES
from champ_jax.errors import UserError
from champ_jax.models.animator import merge, split
from champ_jax.models.clip import CLIP, CLIPConfig, clip_resize
from champ_jax.models.dino import DINO, DINOConfig, dino_pixels
from champ_jax.models.i3d import I3D, I3DConfig, i3d_pixels
from champ_jax.models.inception import Inception, InceptionConfig, inception_pixels
from champ_jax.models.lpips import LPIPS, SCALE, SHIFT, Backbone, LPIPSConfig
from champ_jax.models.raft import CELL, RAFT, RAFTConfig, raft_pixels
from champ_jax.models.raft import SMALLEST as RAFT_SMALLEST
from champ_jax.models.resnet3d import ResNet3D, ResNet3DConfig, resnet3d_pixels
from champ_jax.nn.keys import ParamKeys

SUMS = "SHA256SUMS"
DIGITS = 12
"""Of a hash, as results name it."""
VGG_STYLE = (0, 5, 10, 17, 24)
"""relu1_1 to relu5_1, whose Gram matrices are a style."""
FILES = {
    "lpips_alex": "alexnet-owt-7be5be79.pth of torchvision and alex.pth of lpips 0.1",
    "lpips_vgg": "vgg16-397923af.pth of torchvision and vgg.pth of lpips 0.1",
    "style": "vgg16-397923af.pth of torchvision",
    "inception": "pt_inception-2015-12-05-6726825d.pth of pytorch-fid",
    "i3d": "i3d_pretrained_400.pt of DisCo",
    "resnet3d": "resnet-50-kinetics.pth of DisCo",
    "clip": "CLIP's vision tower, such as image_encoder/ of CHAMP",
    "dino": "dino_vitbase16_pretrain.pth of DINO, or dino-vitb16 of transformers",
    "raft": "raft-things.pth of RAFT",
}
"""What each network's published file is called, for whoever lacks it."""


@dataclass(frozen=True)
class Component:
    """Part of a network as it lies in a file: configuration, parameters, and the file's name and SHA-256."""

    config: dict[str, Any]
    params: Any
    file: str
    sha256: str


@dataclass(frozen=True)
class Network:
    """A network ready to look: `call` takes numpy arrays and gives one. files: {name: SHA-256} of what it was read from."""

    call: Callable[..., np.ndarray]
    files: dict[str, str]

    @property
    def label(self) -> str:
        """Files and beginnings of their hashes, as results name them."""
        return ", ".join(f"{name} {digest[:DIGITS]}" for name, digest in self.files.items())


class Networks:
    """Networks by name (those of FILES), each read when it is first asked for; None where the folder lacks it."""

    def __init__(self, folder: Path | None = None):
        """Raises UserError for a folder that is missing, holds what is no network of a metric, or a file that is not what it says."""
        self.folder = folder
        self.components = read_folder(folder) if folder else {}
        self._made: dict[str, Network | None] = {}

    def __getitem__(self, name: str) -> Network | None:
        if name not in self._made:
            parts, build = BUILDERS.get(name, ((name,), None))
            present = all(part in self.components for part in parts)
            self._made[name] = build({part: self.components[part] for part in parts}) if present else None
        return self._made[name]

    def replace(self, name: str, network: Network) -> None:
        """Has `network` look in place of the one of that name, as for one that is in no file."""
        self._made[name] = network

    def missing(self, name: str) -> str:
        """Why there is no such network."""
        return f"needs {FILES[name]}" + (f", which {self.folder} does not hold" if self.folder else "; give --weights")


def read_folder(folder: Path) -> dict[str, Component]:
    """{component: where it is} of every checkpoint in a folder.

    Raises:
      UserError: the folder is missing, a file is no checkpoint that is known, its hash is not the one that SHA256SUMS or its own
        name states, or two files are the same network.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of weights")
    sums = _read_sums(folder / SUMS)
    components: dict[str, Component] = {}
    for path in sorted(folder.iterdir()):
        if path.name == SUMS or path.name.startswith(".") or path.is_file() and path.suffix not in SUFFIXES:
            continue
        digest = _digest(path, sums)
        weights = import_checkpoint(path)
        for name, params in weights.params.items():
            if name in components:
                raise UserError(f"{folder}: {components[name].file} and {path.name} are both {name}; keep one of them there")
            components[name] = Component(weights.config.get(name, {}), params, path.name, digest)
    return components


def _read_sums(path: Path) -> dict[str, str]:
    """{name: SHA-256} of a file as sha256sum writes it."""
    if not path.is_file():
        return {}
    rows = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in path.read_text().splitlines() if line.strip()]
    if not all(rows):
        raise UserError(f"{path}: expected lines of a SHA-256, two spaces and a name, as sha256sum writes them")
    return {row[2]: row[1] for row in rows}


def _digest(path: Path, sums: dict[str, str]) -> str:
    """SHA-256 of a file, or of all files of a folder and their names; refused when it is not what is stated."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(path.parent).as_posix()
        stated = sums.get(name) or sums.get(f"./{name}")
        # torchvision and others end names with the first digits.
        end = re.search(r"-([0-9a-f]{8})\.pth$", name)
        if stated and stated != digest or end and not digest.startswith(end[1]):
            raise UserError(
                f"{file}: its SHA-256 is {digest}, and {SUMS if stated else 'its name'} says {stated or end[1]}; fetch it again"
            )
        whole.update(f"{name} {digest}\n".encode())
    return digest if path.is_file() else whole.hexdigest()


def _network(parts: dict[str, Component], model: Callable[[], nnx.Module], params: Any, look: Callable[..., jax.Array]) -> Network:
    """A network whose `look(model, *arrays)` is compiled once a shape."""
    graphdef, _ = split(nnx.eval_shape(model))
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float32), params)
    compiled = jax.jit(lambda params, *arrays: look(merge(graphdef, params), *arrays))

    def call(*arrays: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("float32"):
            return jax.tree.map(np.asarray, compiled(params, *(jnp.asarray(array) for array in arrays)))

    return Network(call, {part.file: part.sha256 for part in parts.values()})


def _lpips(net: str, backbone: str, parts: dict[str, Component]) -> Network:
    """(f32 [B,H,W,3], f32 [B,H,W,3]), which should be in [-1,1], -> distances [B]."""
    params = {"backbone": parts[backbone].params, "heads": parts[f"lpips_{net}"].params}
    return _network(parts, lambda: LPIPS(LPIPSConfig(net), ParamKeys(0)), params, lambda model, x, y: model(x, y))


def _style(parts: dict[str, Component]) -> Network:
    """u8 [B,H,W,3] -> five features [B,h,w,C] of VGG-16."""

    def look(model, images):
        pixels = (images.astype(jnp.float32) / 127.5 - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        return model(pixels, VGG_STYLE)

    return _network(parts, lambda: Backbone(LPIPSConfig("vgg"), ParamKeys(0)), parts["vgg16"].params, look)


def _inception(parts: dict[str, Component]) -> Network:
    """u8 [B,H,W,3] -> [B,2048], resized as pytorch-fid does."""
    part = parts["inception"]
    config = InceptionConfig(**part.config)
    return _network(
        parts, lambda: Inception(config, ParamKeys(0)), part.params, lambda model, images: model(inception_pixels(images, "pytorch_fid"))
    )


def _i3d(parts: dict[str, Component]) -> Network:
    """u8 [B,16,224,224,3] -> logits [B,400]."""
    part = parts["i3d"]
    config = I3DConfig(**part.config)
    return _network(parts, lambda: I3D(config, ParamKeys(0)), part.params, lambda model, video: model(i3d_pixels(video)))


def _resnet3d(parts: dict[str, Component]) -> Network:
    """u8 [B,16,112,112,3] -> features [B,2048]."""
    part = parts["resnet3d"]
    config = ResNet3DConfig(**{**part.config, "layers": tuple(part.config["layers"])})
    return _network(parts, lambda: ResNet3D(config, ParamKeys(0)), part.params, lambda model, video: model(resnet3d_pixels(video)))


def _clip(parts: dict[str, Component]) -> Network:
    """u8 [B,H,W,3] -> embeddings [B,D]."""
    part = parts["clip"]
    config = CLIPConfig(**part.config)

    def look(model, images):
        return model(clip_resize(images, config.image_size))

    return _network(parts, lambda: CLIP(config, ParamKeys(0)), part.params, look)


def _dino(parts: dict[str, Component]) -> Network:
    """u8 [B,H,W,3] -> embeddings [B,D]; whole frames squeezed to a square, whatever their shape."""
    part = parts["dino"]
    config = DINOConfig(**part.config)
    network = _network(parts, lambda: DINO(config, ParamKeys(0)), part.params, lambda model, images: model(dino_pixels(images)))
    return Network(lambda images: network.call(resize_frames(images, config.image_size)), network.files)


def _raft(parts: dict[str, Component]) -> Network:
    """(u8 [B,H,W,3], u8 [B,H,W,3]) -> flow f32 [B,H,W,2]; frames whose sides 8 does not divide, or below 128, are padded at their edge."""
    part = parts["raft"]

    def look(model, first, second):
        height, width = first.shape[1:3]
        rows, columns = (max(RAFT_SMALLEST, -(-side // CELL) * CELL) - side for side in (height, width))
        pad = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        flow = model(*(jnp.pad(raft_pixels(images), pad, "edge") for images in (first, second)))
        return flow[:, rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width]

    return _network(parts, lambda: RAFT(RAFTConfig(**part.config), ParamKeys(0)), part.params, look)


BUILDERS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Component]], Network]]] = {
    "lpips_alex": (("alexnet", "lpips_alex"), functools.partial(_lpips, "alex", "alexnet")),
    "lpips_vgg": (("vgg16", "lpips_vgg"), functools.partial(_lpips, "vgg", "vgg16")),
    "style": (("vgg16",), _style),
    "inception": (("inception",), _inception),
    "i3d": (("i3d",), _i3d),
    "resnet3d": (("resnet3d",), _resnet3d),
    "clip": (("clip",), _clip),
    "dino": (("dino",), _dino),
    "raft": (("raft",), _raft),
}
"""Name: (components it is made of, how)."""


def resize_frames(frames: np.ndarray, side: int) -> np.ndarray:
    """u8 [F,H,W,3] as squares of `side` pixels, bicubic with smoothing by PIL, as DisCo resizes."""
    if frames.shape[1:3] == (side, side):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)) for frame in frames])
