"""Time and memory of converting checkpoints of every kind, at full size.

python -m benchmarks.convert --workdir DIR [--kind KIND ...]

For each kind: writes a synthetic checkpoint with its names and shapes to DIR (float32; up to 27 GB with what is made of
it, removed afterwards), then inspects it, imports it, exports it where the kind is written, and compares the result byte for
byte. Prints a row a kind: tensors, parameters, size, seconds of each step, the highest resident memory of any of the
steps, each of which is a process of its own, and beside them the seconds of a plain copy.
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.common import in_its_own_process, make_parser, peak_mb, print_header, print_row
from champ_jax.checkpoint.tensors import LazyArray, write_safetensors
from champ_jax.convert import KINDS, export_checkpoint, import_checkpoint, inspect_checkpoint, save_import
from champ_jax.convert.mapping import their_shapes
from champ_jax.convert.state import open_state
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.models.arcface import ArcFaceConfig
from champ_jax.models.clip import CLIPConfig
from champ_jax.models.dlib_face import DlibFaceConfig
from champ_jax.models.face_id import FaceIDConfig
from champ_jax.models.guidance import GuidanceConfig
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.temporal_vae import TemporalVAEConfig
from champ_jax.models.unet import UNetConfig
from champ_jax.models.vae import VAEConfig

UNET = dataclasses.asdict(UNetConfig()) | {"temporal": None, "remat": False}
MOVING = UNET | {"temporal": dataclasses.asdict(TemporalConfig())}
VAE = dataclasses.asdict(VAEConfig())
GUIDED = {"guidance": dataclasses.asdict(GuidanceConfig()), "kinds": GUIDANCE_KINDS}
POSE_GUIDED = {"guidance": dataclasses.asdict(GuidanceConfig(channels=(16, 32, 64, 128), attention=False)), "kinds": ("dwpose",)}
ATTENTIONS = [
    *((f"down_{i}", j, width) for i, width in enumerate((320, 640, 1280)) for j in range(2)),
    ("mid", 0, 1280),
    *((f"up_{i + 1}", j, width) for i, width in enumerate((1280, 640, 320)) for j in range(3)),
]
MODELSCOPE = {"channels": [320, 640, 1280, 1280], "attention_levels": [True, True, True, False], "layers": 2, "head_dim": 64, "groups": 32}
CONFIGS = {
    "sd-unet": {"unet": UNET},
    "sd-single": {"unet": UNET, "vae": VAE},
    "sd-vae": {"vae": VAE},
    "sd-vae-old": {"vae": VAE},
    "sd-vae-original": {"vae": VAE},
    "svd-vae": {"temporal_vae": dataclasses.asdict(TemporalVAEConfig())},
    "clip-vision": {"clip": dataclasses.asdict(CLIPConfig())},
    "champ": {"unet": MOVING, **GUIDED},
    "champ-single": {"unet": MOVING, **GUIDED},
    "animate-anyone": {"unet": MOVING, **POSE_GUIDED},
    "animatediff": {"unet": MOVING},
    "motion-adapter": {"unet": MOVING},
    "modelscope": {
        "unet": {**MODELSCOPE, "in_channels": 4, "out_channels": 4, "context_dim": 1024},
        "temporal_modelscope": MODELSCOPE,
    },
    "pose-guider": POSE_GUIDED,
    "face-id": {"face_id": dataclasses.asdict(FaceIDConfig())},
    "id-adapter": {"id_adapter": {"blocks": {f"{level}/attention_{j}": width for level, j, width in ATTENTIONS}, "context": 768}},
    "arcface": {"arcface": dataclasses.asdict(ArcFaceConfig(layers=(3, 13, 30, 3)))},
    "dlib-face": {"dlib_face": dataclasses.asdict(DlibFaceConfig())},
    "vgg16": {"vgg16": {"net": "vgg"}},
    "alexnet": {"alexnet": {"net": "alex"}},
    "lpips": {"lpips_vgg": {"net": "vgg"}},
    "inception": {"inception": {"classes": 1008}},
    "i3d": {"i3d": {"classes": 400}},
    "resnet3d": {"resnet3d": {"layers": [3, 4, 6, 3], "width": 64, "classes": 400}},
}


def make(kind: str, folder: Path) -> tuple[int, int]:
    """Writes random numbers under the names of a kind; returns how many tensors and how many numbers."""
    folder.mkdir(parents=True)
    draw, tensors, numbers = np.random.default_rng(0), 0, 0
    for stem, format in KINDS[kind].files.items():
        shapes: dict[str, tuple[int, ...]] = {}
        for component in format.components(CONFIGS[kind]).values():
            shapes |= their_shapes(component.shapes, component.layout)
        shapes |= {name: array.shape for name, array in format.absent(CONFIGS[kind]).items()}
        state = {
            name: LazyArray(shape, np.dtype(np.float32), lambda shape=shape: draw.standard_normal(shape, np.float32))
            for name, shape in shapes.items()
        }
        write_safetensors(folder / f"{stem}.safetensors", state)
        tensors, numbers = tensors + len(shapes), numbers + sum(int(np.prod(shape)) for shape in shapes.values())
    return tensors, numbers


def compare(first: Path, second: Path) -> None:
    """Fails unless both folders hold the same names and bytes."""
    for path in sorted(first.glob("*.safetensors")):
        ours, theirs = open_state(path).tensors, open_state(second / path.name).tensors
        assert ours.keys() == theirs.keys(), path
        for name in ours:
            assert np.array_equal(np.asarray(ours[name]).view(np.uint8), np.asarray(theirs[name]).view(np.uint8)), name


def run(action: str, kind: str, folder: Path) -> None:
    """One action; prints its seconds and the peak of this process' resident memory in MB."""
    started = time.perf_counter()
    if action == "inspect":
        assert inspect_checkpoint(folder / "source").kind == kind
    elif action == "import":
        save_import(import_checkpoint(folder / "source"), folder / "ours", kind)
    elif action == "export":
        export_checkpoint(folder / "ours", kind, folder / "back")
    elif action == "compare":
        compare(folder / "source", folder / "back")
    elif action == "copy":
        shutil.copytree(folder / "source", folder / "copy")
    print(json.dumps([time.perf_counter() - started, peak_mb()]))


def measure(kind: str, folder: Path) -> None:
    """Prints the row of a kind."""
    tensors, numbers = make(kind, folder / "source")
    seconds, peaks = {}, []
    for action in ("copy", "inspect", "import", *(("export", "compare") if KINDS[kind].writes else ())):
        printed = in_its_own_process("convert", "--workdir", folder, "--kind", kind, "--action", action)
        seconds[action], peak = json.loads(printed)
        peaks += [peak] if action != "compare" else []
        shutil.rmtree(folder / "copy", ignore_errors=True)
    steps = [f"{seconds[action]:.1f}" if action in seconds else "-" for action in ("copy", "inspect", "import", "export")]
    print_row(f"`{kind}`", f"{tensors:,}", f"{numbers:,}", f"{4 * numbers / 1e9:.2f}", *steps, f"{max(peaks):.0f}")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--workdir", required=True, type=Path, help="a folder with room for the largest kind, three times over")
    parser.add_argument("--kind", nargs="+", default=list(CONFIGS), choices=list(CONFIGS), metavar="KIND", help="which to convert")
    parser.add_argument("--action", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action:
        run(args.action, args.kind[0], args.workdir)
        return
    print_header(("kind", "tensors", "numbers", "GB", "copy, s", "inspect, s", "import, s", "export, s", "peak memory, MB"))
    for kind in args.kind:
        folder = args.workdir / kind
        measure(kind, folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
