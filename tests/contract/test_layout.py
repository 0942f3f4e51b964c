"""Files and functions stay short enough to read, and say what they take and return."""

import ast

import pytest

from tests.contract.source import REPOSITORY, functions, modules

MAX_FILE, MAX_FUNCTION = 500, 80
# Parts whose functions take and return arrays: their docstrings give shapes in brackets, like [B,F,J,2].
ARRAY_PARTS = ("nn", "models", "diffusion", "pose", "audio", "metrics")
ARRAYS = ("jax.Array", "np.ndarray", "Array")
TEXT_FILES = ("*.py", "*.sh", "*.md", "*.cfg", "*.toml")


def files():
    folders = ("champ_jax", "configs", "launch", "tests", "benchmarks", "docs")
    return sorted(path for folder in folders for kind in TEXT_FILES for path in (REPOSITORY / folder).rglob(kind))


@pytest.mark.parametrize("path", [path.relative_to(REPOSITORY).as_posix() for path in files() if path.suffix == ".py"])
def test_file_length(path):
    count = len((REPOSITORY / path).read_text().splitlines())
    assert count <= MAX_FILE, f"{path} has {count} lines: split it by what it does"


@pytest.mark.parametrize("path", sorted(modules()))
def test_function_length(path):
    long = [
        f"{name}: {node.end_lineno - node.lineno + 1} lines"
        for name, node in functions(modules()[path])
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]
    assert not long, f"{path}: {long}"


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split(".")) or name.endswith(".__call__")


@pytest.mark.parametrize("path", sorted(modules()))
def test_public_names_have_docstrings(path):
    tree = modules()[path]
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    classes = [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
    for name, node in functions(tree) + classes:
        # A short property, whose name and type say it all, needs none.
        is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
        if is_public(name) and not is_property and not ast.get_docstring(node):
            missing.append(name)
    assert not missing, f"{path}: no docstring on {missing}"


@pytest.mark.parametrize("path", [path for path in sorted(modules()) if path.split("/")[0] in ARRAY_PARTS])
def test_docstrings_of_array_functions_give_shapes(path):
    without = []
    for name, node in functions(modules()[path]):
        annotations = [ast.unparse(arg.annotation) for arg in node.args.args if arg.annotation]
        annotations += [ast.unparse(node.returns)] if node.returns else []
        takes_arrays = any(word in ARRAYS for text in annotations for word in text.replace("[", " ").split())
        if is_public(name) and takes_arrays and not says_shape(ast.get_docstring(node) or ""):
            without.append(name)
    assert not without, f"{path}: no shapes in the docstrings of {without}"


def says_shape(docstring: str) -> bool:
    """Shapes are given as [B,F,C], as 'scalar', or as 'the shape of' another argument."""
    return "[" in docstring or any(word in docstring.lower() for word in ("scalar", "shape"))


def test_no_swallowed_errors():
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: bare except"
                only_pass = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not only_pass, f"{path}:{node.lineno}: an error is dropped without a word"


def test_no_notes_to_self():
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    found = [path for path in files() if any(word in path.read_text() for word in words)]
    assert not found
