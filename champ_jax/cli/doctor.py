"""`champ-jax doctor`: looks at everything an installation needs, one line each, with the fix of what fails."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MIN_FREE_GB, MIN_MEMORY_GB = 3.0, 4.0


@dataclass(frozen=True)
class Check:
    """One line of the report. fix: what to do when it is not ok."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation",
        description="Checks versions, devices, memory, disk, codecs and a tiny step. Exits with 1 if something fails.",
        epilog="example: champ-jax doctor --workdir runs",
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs"), help="where training will write (default: runs)")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints every check; returns 1 if one failed, else 0."""
    checks = list(all_checks(args.workdir))
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
            if not check.ok:
                print(f"      fix: {check.fix}")
    return 0 if all(check.ok for check in checks) else 1


def all_checks(workdir: Path) -> Iterator[Check]:
    """All checks in the order of the report. A check that breaks is a failed line, not the end of the report."""
    groups: tuple[Callable[[], Iterator[Check]], ...] = (
        versions, devices, memory, lambda: disk(workdir), audio_codecs, video_codecs, tiny_step,
    )  # fmt: skip
    for group in groups:
        try:
            yield from group()
        except Exception as error:
            name = getattr(group, "__name__", "disk").replace("_", " ")
            yield Check(name, False, f"{type(error).__name__}: {error}", "reinstall: pip install --force-reinstall -e .")


def versions() -> Iterator[Check]:
    """Python, and every required package against the ranges that setup.cfg states."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        distribution = importlib.metadata.distribution("champ-jax")
    except importlib.metadata.PackageNotFoundError:
        yield Check("champ-jax", False, "not installed", "pip install -e . in the repository")
        return
    wanted = distribution.metadata["Requires-Python"]
    python = platform.python_version()
    yield Check("python", SpecifierSet(wanted).contains(python, prereleases=True), f"{python} ({wanted})",
                "make the environment with Python 3.11, 3.12 or 3.13")  # fmt: skip
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield _version(requirement)


def _version(requirement) -> Check:
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    ok = found != "not installed" and requirement.specifier.contains(found, prereleases=True)
    return Check(requirement.name, ok, f"{found} ({requirement.specifier})", f"pip install '{requirement}'")


def devices() -> Iterator[Check]:
    """The devices JAX computes on, and whether a GPU that is there is used."""
    import jax

    found = jax.devices()
    idle_gpu = found[0].platform == "cpu" and shutil.which("nvidia-smi") is not None
    yield Check("devices", not idle_gpu, f"{len(found)} x {found[0].device_kind}",
                "this machine has an NVIDIA GPU that JAX does not see: pip install -e '.[cuda]', and see that "
                "JAX_PLATFORMS is not set to cpu")  # fmt: skip
    stats = found[0].memory_stats()
    if stats and "bytes_limit" in stats:
        yield Check("device memory", True, f"{stats['bytes_limit'] / 1e9:.1f} GB a device")


def memory() -> Iterator[Check]:
    """Main memory."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Check("memory", size >= MIN_MEMORY_GB, f"{size:.1f} GB, {os.cpu_count()} cores",
                f"at least {MIN_MEMORY_GB:.0f} GB are needed: use another machine")  # fmt: skip


def disk(workdir: Path) -> Iterator[Check]:
    """Write access to the workdir, or to the nearest folder above it that exists, and free space there."""
    folder = workdir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        written = Check("write access", True, str(folder))
    except OSError as error:
        written = Check("write access", False, f"{folder}: {error.strerror}", "give a folder of yours with --workdir")
    yield written
    free = shutil.disk_usage(folder).free / 1e9
    yield Check("disk", free >= MIN_FREE_GB, f"{free:.1f} GB free in {folder}",
                f"free at least {MIN_FREE_GB:.0f} GB, or give another --workdir")  # fmt: skip


def audio_codecs() -> Iterator[Check]:
    """Song formats that libsndfile reads here."""
    import soundfile

    missing = {"WAV", "FLAC", "OGG", "MP3"} - set(soundfile.available_formats())
    yield Check("song formats", not missing, "wav, flac, ogg, mp3" if not missing else f"without {sorted(missing)}",
                "pip install --upgrade --force-reinstall soundfile")  # fmt: skip


def video_codecs() -> Iterator[Check]:
    """The encoders that dance.mp4 needs."""
    import av

    missing = []
    for codec in ("libx264", "aac"):
        try:
            av.Codec(codec, "w")
        except ValueError:
            missing.append(codec)
    yield Check("video encoders", not missing, f"without {missing}" if missing else "H.264, AAC",
                "pip install --upgrade --force-reinstall av")  # fmt: skip


def tiny_step() -> Iterator[Check]:
    """One compiled gradient through a convolution, the heaviest thing that training does."""
    import jax
    import jax.numpy as jnp

    def loss(kernel, image):
        out = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(out**2)

    gradient = jax.jit(jax.grad(loss))(jnp.ones((3, 3, 4, 4)), jnp.ones((1, 8, 8, 4)))
    norm = float(jnp.linalg.norm(gradient))
    yield Check("a step", norm > 0 and norm < float("inf"), f"gradient norm {norm:.1f}",
                "the device computes wrong numbers: update its driver, or try JAX_PLATFORMS=cpu")  # fmt: skip
