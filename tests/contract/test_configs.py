"""Configurations are small, are read in full, and need no device and no network."""

import ast
import subprocess
import sys

import pytest

from champ_jax.config import leaves, load_config
from tests.contract.source import REPOSITORY, modules

MAX_LEAVES = 60
CONFIGS = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").glob("[!_]*.py"))
CONFIGS = [path for path in CONFIGS if "def get_config" in (REPOSITORY / path).read_text()]


def names_read() -> set[str]:
    """Every name by which code of the package can read a value.

    Attributes and strings read it directly; fields of dataclasses and parameters receive it through `**config.group`.
    """
    names = set()
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.FunctionDef):
                names |= {arg.arg for arg in node.args.args + node.args.kwonlyargs}
    return names


@pytest.mark.parametrize("path", CONFIGS)
def test_every_value_is_read(path):
    known = names_read()
    unread = [leaf for leaf in leaves(load_config(str(REPOSITORY / path))) if leaf.split(".")[-1] not in known]
    assert not unread, f"{path}: nobody reads {unread}"


@pytest.mark.parametrize("path", CONFIGS)
def test_number_of_values(path):
    count = len(leaves(load_config(str(REPOSITORY / path))))
    assert 0 < count <= MAX_LEAVES


@pytest.mark.parametrize("path", CONFIGS)
def test_docstring_states_the_command(path):
    docstring = ast.get_docstring(ast.parse((REPOSITORY / path).read_text())) or ""
    assert "champ-jax" in docstring, f"{path}: its docstring gives the command, hardware, time, memory and expected metric"


def test_there_are_configurations():
    assert CONFIGS


def test_reading_all_configurations_touches_no_device():
    code = (
        "import sys\nfrom champ_jax.config import load_config\n"
        f"for path in {CONFIGS!r}: load_config(path)\n"
        "print([name for name in ('jax', 'requests', 'urllib3') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
