"""Writes `onnx_dance.py` and the modules that it needs beside exported graphs: copies that import each other and nothing of ours."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
PACKAGE = "dance_lib"
DRIVER, STAND_IN = "champ_jax.export.onnx_dance", "champ_jax.export.stand_in"
WITH_JAX = ("champ_jax.audio.features", "champ_jax.audio.spectra", "champ_jax.audio.cens")
"""What says JAX and is given NumPy."""


def write_driver(folder: Path) -> None:
    """Writes onnx_dance.py and its package of copied modules into a folder."""
    for name in sorted(needed(DRIVER) | {STAND_IN}):
        path = path_of(name)
        text = rewritten(name, path.read_text())
        if name == DRIVER:
            (folder / "onnx_dance.py").write_text(text)
            continue
        target = folder / PACKAGE / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        for parent in (target.parent, folder / PACKAGE):
            (parent / "__init__.py").touch()
        target.write_text(text)


def needed(start: str) -> set[str]:
    """Names of our modules that a module imports, directly or not, itself included."""
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in found or path_of(name) is None:
            continue
        found.add(name)
        waiting += [other for other in imported(path_of(name).read_text()) if other.startswith("champ_jax.")]
    return found


def imported(text: str) -> list[str]:
    """Names of modules that a source imports, anywhere in it; of `from a import b` also a.b, which may be one."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def path_of(name: str) -> Path | None:
    """The file of one of our modules, None where there is no such module."""
    place = SOURCE.joinpath(*name.split(".")[1:])
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def rewritten(name: str, text: str) -> str:
    """A module's source with its imports turned to the copies, and to NumPy where it says JAX."""
    if name in WITH_JAX:
        text = re.sub(r"^import jax\.numpy as jnp$", f"from {STAND_IN} import jnp", text, flags=re.M)
        text = re.sub(r"^import jax$", f"from {STAND_IN.rpartition('.')[0]} import stand_in as jax", text, flags=re.M)
        text = re.sub(r"^from jax import ", f"from {STAND_IN} import ", text, flags=re.M)
    return re.sub(r"^(\s*)(from|import) champ_jax\b", rf"\1\2 {PACKAGE}", text, flags=re.M)
