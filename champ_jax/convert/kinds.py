"""The checkpoints that can be read and written: one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from champ_jax.convert import (
    arcface,
    clip,
    dino,
    dlib_face,
    flow,
    guidance,
    modelscope,
    motion,
    perceptual,
    pose_guider,
    single_file,
    stable_animator,
    svd_vae,
    unet,
    vae,
)
from champ_jax.convert.formats import Format, Shapes
from champ_jax.dims import GUIDANCE_KINDS

OWN = "champ-jax"
"""Our own folders, and runs of training."""

SCHEDULE = {"kind": "linear", "steps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "zero_snr": True, "prediction": "v"}
"""What CHAMP and AnimateAnyone sample with."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of checkpoint.

    title: for people. files: name without ending to format; a kind of one file is read from a file of any name. writes:
    whether it can be exported. config: what is known of every checkpoint of this kind besides its geometry. optional: files
    that may be missing. ending: of the files that loaders of this kind want where they are not safetensors.
    """

    title: str
    files: Mapping[str, Format]
    writes: bool = True
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    ending: str = ".pth"

    def file_name(self, stem: str, form: str) -> str:
        """What a file is called when it is written as "safetensors" or "pt"."""
        if form == "safetensors":
            return f"{stem}.safetensors"
        # transformers looks for another name.
        return f"{'pytorch_model' if self.ending == '.bin' and stem == 'model' else stem}{self.ending}"

    @property
    def format(self) -> Format | None:
        """The format of a kind of one file."""
        return next(iter(self.files.values())) if len(self.files) == 1 else None


def _single(format: Format, stem: str = "model", **more: Any) -> Kind:
    return Kind(format.title, {stem: format}, **more)


_NETWORKS = {
    "reference_unet": unet.REFERENCE,
    "denoising_unet": unet.DENOISER,
    "motion_module": motion.animatediff("denoiser"),
}
_ENCODERS = {f"guidance_encoder_{kind}": guidance.champ_encoder(kind) for kind in GUIDANCE_KINDS}

KINDS: dict[str, Kind] = {
    "sd-unet": _single(unet.DENOISER, "diffusion_pytorch_model", ending=".bin"),
    "sd-single": _single(single_file.STABLE_DIFFUSION, ending=".ckpt"),
    "sd-vae": _single(vae.SD_VAE, "diffusion_pytorch_model", ending=".bin"),
    "sd-vae-old": _single(vae.OLD_SD_VAE, "diffusion_pytorch_model", ending=".bin"),
    "sd-vae-oldest": _single(vae.FIRST_SD_VAE, "diffusion_pytorch_model", ending=".bin"),
    "sd-vae-original": _single(vae.ORIGINAL_SD_VAE),
    "svd-vae": _single(svd_vae.SVD_VAE, "diffusion_pytorch_model", ending=".bin"),
    "clip-vision": _single(clip.VISION, ending=".bin"),
    "clip": _single(clip.WHOLE, ending=".bin"),
    "animate-anyone": Kind(
        "AnimateAnyone, Moore's (a folder of four files)",
        _NETWORKS | {"pose_guider": pose_guider.POSE_GUIDER},
        config={"schedule": SCHEDULE},
        optional=("motion_module",),
    ),
    "champ": Kind(
        "CHAMP (a folder of seven files)",
        _NETWORKS | _ENCODERS,
        config={"schedule": SCHEDULE},
        optional=("motion_module", *_ENCODERS),
    ),
    "champ-single": _single(single_file.CHAMP, "champ", config={"schedule": SCHEDULE}),
    "animatediff": _single(motion.ANIMATEDIFF, "motion_module", ending=".ckpt"),
    "motion-adapter": _single(motion.MOTION_ADAPTER, "diffusion_pytorch_model", ending=".bin"),
    "modelscope": _single(modelscope.MODELSCOPE, writes=False),
    "pose-guider": _single(pose_guider.POSE_GUIDER, "pose_guider"),
    "face-id": _single(stable_animator.FACE_ID, "face_encoder"),
    "id-adapter": _single(stable_animator.ID_ADAPTER, "id_adapter"),
    "arcface": _single(arcface.ARCFACE, writes=False),
    "dlib-face": _single(dlib_face.DLIB_FACE, writes=False),
    "vgg16": _single(perceptual.VGG16, writes=False),
    "alexnet": _single(perceptual.ALEXNET, writes=False),
    "lpips": _single(perceptual.LPIPS_HEADS, writes=False),
    "inception": _single(perceptual.INCEPTION, writes=False),
    "i3d": _single(perceptual.I3D, writes=False),
    "resnet3d": _single(perceptual.RESNET3D, writes=False),
    "dino": _single(dino.DINO, writes=False),
    "dino-vit": _single(dino.VIT, writes=False),
    "raft": _single(flow.RAFT, writes=False),
}


def of_folder(stems: set[str]) -> str | None:
    """The kind of several files that a folder with these file names, without their endings, is; None if it is none."""
    for name, kind in KINDS.items():
        if len(kind.files) > 1 and kind.files.keys() - set(kind.optional) <= stems and kind.files.keys() & stems:
            return name
    return None


def of_shapes(shapes: Shapes) -> str | None:
    """The kind of one file that a state dict with these names and shapes is; None if it is none."""
    return next((name for name, kind in KINDS.items() if kind.format and kind.format.matches(shapes)), None)


def part_of_shapes(shapes: Shapes) -> str | None:
    """As `of_shapes`, but of the files of kinds with several: 'a file of champ'."""
    for name, kind in KINDS.items():
        if not kind.format:
            for stem, format in kind.files.items():
                if format.matches(shapes):
                    return f"{name} ({stem})"
    return None


def find_file(folder: Path, stem: str) -> Path | None:
    """The file of that name in a folder, whatever its ending; safetensors first."""
    endings = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
    return next((path for path in (folder / f"{stem}{ending}" for ending in endings) if path.is_file()), None)


def nearest(shapes: Shapes) -> tuple[str, float]:
    """The kind of which the most patterns of its signature are there, and their share."""
    shares = {name: kind.format.share(shapes) for name, kind in KINDS.items() if kind.format}
    best = max(shares, key=lambda name: shares[name])
    return best, shares[best]
