"""Imports go one way, heavy ones stay where they belong, and `import champ_jax` is quick."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.contract.source import REPOSITORY, imports, modules

# Which parts of champ_jax each part may import besides itself and these, which all may.
GROUND = {"errors", "files", "trees"}
LOWER = {"dims", "config", "nn", "diffusion", "pose", "audio", "metrics", "parallel", "checkpoint", "models", "data"}
ALLOWED = {
    "errors": set(),
    "files": set(),
    "trees": set(),
    "dims": set(),
    "config": set(),
    "nn": {"dims"},
    "diffusion": {"dims"},
    "pose": {"dims"},
    "audio": {"dims"},
    "metrics": {"dims", "pose", "audio", "diffusion"},
    "parallel": {"dims"},
    "checkpoint": {"dims", "parallel"},
    "models": {"dims", "nn", "diffusion", "pose", "audio", "checkpoint"},
    "data": {"dims", "pose", "audio"},
    "infer": LOWER | {"convert"},
    "evaluate": LOWER | {"convert", "infer"},
    "app": LOWER | {"convert", "infer"},
    "train": LOWER | {"convert", "infer", "evaluate"},
    "convert": {"dims", "nn", "diffusion", "pose", "checkpoint", "models"},
    "export": {"dims", "nn", "diffusion", "pose", "audio", "checkpoint", "models", "infer"},
}
WITHOUT_FLAX = ("data", "diffusion", "pose", "audio", "metrics", "parallel", "checkpoint")
ONE_HOME = {"orbax": "checkpoint/store.py", "tensorboardX": "train/log.py"}


def part_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def outside(tree) -> set[str]:
    return {name.split(".")[0] for name in imports(tree)}


@pytest.mark.parametrize("path", sorted(modules()))
def test_imports_point_down(path):
    part = part_of(path)
    if part in ("cli", "__init__", "__main__"):
        return
    inside = {name.split(".")[1] for name in imports(modules()[path]) if name.startswith("champ_jax.")}
    wrong = inside - ALLOWED[part] - {part} - GROUND
    assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("path", sorted(modules()))
def test_heavy_imports_stay_where_they_belong(path):
    found = outside(modules()[path])
    assert "torch" not in found
    if part_of(path) in WITHOUT_FLAX:
        assert "flax" not in found
    for name, home in ONE_HOME.items():
        assert name not in found or path == home, f"{name} belongs to {home}"


def imported_files() -> dict[str, set[str]]:
    """{module: the modules of the package that it imports, also inside functions}."""
    files = {f"champ_jax/{path}".removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in modules()}
    graph = {}
    for name, path in files.items():
        found = imports(modules()[path])
        below: dict[str, set[str]] = {}
        for one in found:
            below.setdefault(one.rpartition(".")[0], set()).add(one)
        # `from package import module` takes the module, and nothing of what the package's own file has.
        passed = {package for package, inner in below.items() if inner <= files.keys()}
        graph[name] = (found & files.keys()) - passed
    return graph


def test_neither_files_nor_folders_import_each_other_in_a_circle():
    graph = imported_files()
    graphlib.TopologicalSorter(graph).prepare()
    folders: dict[str, set[str]] = {}
    for name, others in graph.items():
        folder = name.rpartition(".")[0]
        folders.setdefault(folder, set()).update({other.rpartition(".")[0] for other in others} - {folder})
    # The top holds what all may import (errors, dims) beside what imports all (the public names).
    del folders["champ_jax"]
    graphlib.TopologicalSorter(folders).prepare()


def test_configs_import_ml_collections_only():
    for path in (REPOSITORY / "configs").glob("*.py"):
        assert outside(ast.parse(path.read_text())) <= {"ml_collections", "configs"}, path


def run_fresh(code: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_quick_and_brings_nothing_heavy():
    code = (
        "import sys, time; start = time.perf_counter(); import champ_jax; print(time.perf_counter() - start);"
        "print([name for name in ('jax', 'flax', 'numpy', 'grain', 'torch') if name in sys.modules])"
    )
    # The best of three: a busy machine must not fail this.
    seconds, loaded = min((run_fresh(code).splitlines() for _ in range(3)), key=lambda lines: float(lines[0]))
    assert float(seconds) < 0.3
    assert loaded == "[]"


def test_command_line_help_is_quick_and_brings_nothing_heavy():
    code = (
        "import sys\nfrom champ_jax.cli.main import build_parser\nbuild_parser()\n"
        "print([name for name in ('jax', 'flax', 'grain', 'cv2', 'librosa', 'av') if name in sys.modules])"
    )
    assert run_fresh(code).strip() == "[]"


def test_no_torch_is_loaded_by_the_public_api():
    code = "import sys, champ_jax\n[getattr(champ_jax, name) for name in champ_jax.__all__]\nprint('torch' in sys.modules)"
    assert run_fresh(code).strip() == "False"
