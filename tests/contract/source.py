"""The package's source as syntax trees, for tests about its shape."""

import ast
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "champ_jax"


@cache
def modules() -> dict[str, ast.Module]:
    """{'nn/layers.py': its syntax tree} for every module of the package."""
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(), str(path)) for path in PACKAGE.rglob("*.py")}


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported anywhere in it, with its full dotted name; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside champ_jax are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def functions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    """('Class.method' or 'function', node) of all functions at the top of a module and in its classes."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{child.name}", child) for child in node.body if isinstance(child, ast.FunctionDef)]
    return found
