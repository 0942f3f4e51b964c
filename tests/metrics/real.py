"""Three real frames u8 [3,192,192,3], worse ones, and what other implementations say of them (tests/fixtures/make_metrics.py)."""

import functools
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "torch" / "metrics.npz"


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED) as file:
        return dict(file)
