"""Recorded outputs of CHAMP's modules, the networks built from their weights, and a table of the errors found."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parity.networks import TOLERANCE, Networks

DEFAULT = Path(__file__).resolve().parents[1] / "fixtures" / "champ_a"
ERRORS = pytest.StashKey[dict[str, tuple[float, float]]]()


def pytest_configure(config):
    config.stash[ERRORS] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[ERRORS].update(getattr(node, "workeroutput", {}).get("parity_errors", {}))


@pytest.fixture(scope="session")
def load(request):
    """load("io_vae") -> {name: array}; load("train.json") -> its content."""
    directory = Path(request.config.getoption("--fixtures") or DEFAULT)
    if not (directory / "manifest.json").is_file():
        pytest.exit(f"--fixtures {directory}: no manifest.json there", returncode=2)

    @functools.cache
    def read(name: str):
        if name.endswith(".json"):
            return json.loads((directory / name).read_text())
        return load_file(directory / f"{name}.safetensors")

    return read


@pytest.fixture(scope="session")
def manifest(load):
    """The manifest: every geometry comes from here."""
    return load("manifest.json")


@pytest.fixture(scope="session")
def networks(load):
    """Models with the recorded weights, each made when first asked for."""
    return Networks(load)


@pytest.fixture(scope="session")
def compare(request):
    """compare(name, ours, recorded) asserts that the largest error is within `tolerance`, 1e-4, of the output's scale.

    The scale is the recorded output's root mean square, or `scale` where that says nothing (a zero gradient). Both
    arrays are in our layout. The error goes into the table of --parity-table.
    """
    errors = request.config.stash[ERRORS]

    def check(name: str, ours, recorded, scale: float | None = None, tolerance: float = TOLERANCE) -> None:
        ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
        assert ours.shape == recorded.shape, f"{name}: shape {ours.shape}, recorded {recorded.shape}"
        scale = scale or float(np.sqrt(np.mean(recorded**2)))
        error = float(np.abs(ours - recorded).max())
        errors[name] = (error, scale)
        assert error <= tolerance * scale, f"{name}: error {error:.3g}, {error / scale:.3g} of its scale {scale:.3g}"

    return check


def pytest_sessionfinish(session):
    path, errors = session.config.getoption("--parity-table"), session.config.stash[ERRORS]
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist, whose main process writes the table
        session.config.workeroutput["parity_errors"] = errors
    elif path:
        rows = [f"| {name} | {e:.1e} | {s:.3g} | {e / s:.1e} |" for name, (e, s) in sorted(errors.items())]
        head = ["| output | largest error | scale (RMS) | relative |", "|---|---|---|---|"]
        Path(path).write_text("\n".join(head + rows) + "\n")
