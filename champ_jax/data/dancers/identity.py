"""Who a dancer is: `Identity`, sampled from a seed. What becomes of it on the body is in clothes.py."""

import colorsys
from dataclasses import dataclass

import numpy as np

from champ_jax.data.dancers.body import AXES, FACE_AXES

PATTERNS = ("plain", "stripes", "columns", "checks", "dots", "halves", "logo", "bands")
HAIR_STYLES = ("buzz", "short", "quiff", "afro", "bob", "long", "bun", "ponytail", "cap")
TOPS = ("tank", "tshirt", "long_sleeve", "crop", "hoodie")
BOTTOMS = ("trousers", "wide_trousers", "shorts", "knee_skirt", "mini_skirt")


@dataclass(frozen=True)
class Garment:
    """Colours are RGB in [0,1]; `length` is in limb parameters (1 elbow or knee, 2 wrist or ankle), `scale` the pattern's metres."""

    kind: str
    colour: tuple
    second: tuple
    pattern: str
    scale: float
    length: float
    loose: float  # metres away from the body


@dataclass(frozen=True)
class Identity:
    """A person: body, face, colouring and clothes. Frozen, comparable, and a function of `seed` alone."""

    seed: int
    phenotype: tuple
    ancestry: tuple
    face: tuple
    skin: tuple
    hair_colour: tuple
    hair: str
    hairline: float
    eyes: tuple
    lips: tuple
    beard: float
    top: Garment
    bottom: Garment
    shoes: Garment


def sample_identity(seed: int) -> Identity:
    """The person of a seed: the same everywhere, and distinct in body, colouring and clothes from other seeds'."""
    rng = np.random.default_rng([seed, 0xDA2CE])
    gender = float(np.clip(rng.choice([0.0, 1.0]) + rng.normal(0, 0.06), 0, 1))
    phenotype = {
        "gender": gender,
        "age": rng.beta(1.2, 3.0),
        "muscle": rng.uniform(*((0.2, 0.85) if gender < 0.5 else (0.1, 0.55))),
        "weight": rng.beta(2.2, 2.6),
        "height": rng.uniform(0.2, 0.8),
        "proportions": rng.uniform(0, 0.6),
    }
    ancestry = rng.dirichlet([0.5, 0.5, 0.5])
    tone = np.clip(ancestry @ [0.12, 0.68, 0.85] + rng.normal(0, 0.09), 0.02, 1)  # 0 dark .. 1 pale
    ramp = np.array([[0.22, 0.13, 0.09], [0.43, 0.27, 0.18], [0.65, 0.44, 0.31], [0.84, 0.63, 0.50], [0.96, 0.80, 0.71]])
    skin = np.array([np.interp(tone, np.linspace(0, 1, 5), ramp[:, c]) for c in range(3)]) * rng.uniform(0.95, 1.05, 3)
    hair_colour = _hair_colour(rng)
    hair = str(rng.choice(HAIR_STYLES, p=_unit([1, 3, 2, 1, 1, 1, 0.6, 1, 1.2] if gender < 0.5 else [0.2, 0.8, 0.5, 1, 2.5, 3, 2, 2.5, 1])))
    eyes = np.array([(0.28, 0.16, 0.08), (0.20, 0.35, 0.55), (0.25, 0.40, 0.22), (0.15, 0.09, 0.06)])[rng.integers(4)]
    top, bottom, shoes = _outfit(rng, gender)
    smile = [0.4 * (axis[2] == "mouth-angles-up") for axis in FACE_AXES]
    return Identity(
        seed=seed,
        phenotype=tuple(float(phenotype[axis]) for axis in AXES),
        ancestry=tuple(ancestry.tolist()),
        face=tuple(np.clip(rng.normal(smile, 0.45), -1, 1).tolist()),
        skin=_rgb(skin),
        hair_colour=hair_colour,
        hair=hair,
        hairline=float(rng.normal(0, 0.006)),
        eyes=_rgb(eyes),
        lips=_rgb(0.62 * skin + 0.38 * np.array([0.70, 0.22, 0.25])),
        beard=float(rng.random() < 0.35 and gender < 0.5),
        top=top,
        bottom=bottom,
        shoes=shoes,
    )


def _outfit(rng: np.random.Generator, gender: float) -> tuple[Garment, Garment, Garment]:
    """Top, bottom and shoes; mostly plain, as on the street, and patterns coarse enough for frames of 96 pixels."""
    kind = str(rng.choice(TOPS, p=_unit([1, 3, 2.5, 0.3, 1.2] if gender < 0.5 else [1.5, 2.5, 2, 1.2, 1])))
    sleeve = {"tank": 0.03, "tshirt": rng.uniform(0.45, 0.8), "long_sleeve": 1.93, "crop": rng.uniform(0.2, 0.6), "hoodie": 1.95}[kind]
    first, second = _colour(rng), _colour(rng)
    while _distance(first, second) < 0.6:
        second = _colour(rng)
    pattern = str(rng.choice(PATTERNS, p=_unit([8, 0.8, 0.5, 0.4, 0.4, 1.2, 1.2, 1])))
    top = Garment(kind, first, second, pattern, rng.uniform(0.14, 0.26), sleeve, rng.uniform(0.008, 0.014) + 0.01 * (kind == "hoodie"))
    below = _colour(rng)
    while _distance(first, below) < 0.6:
        below = _colour(rng)
    kind = str(rng.choice(BOTTOMS, p=_unit([3, 1.2, 2, 0, 0] if gender < 0.5 else [2, 1, 1.2, 1, 1])))
    length = {"trousers": 1.9, "wide_trousers": 1.92, "shorts": rng.uniform(0.4, 0.95), "knee_skirt": -0.32, "mini_skirt": -0.08}[kind]
    pattern = str(rng.choice(PATTERNS, p=_unit([10, 0.3, 0.5, 0.3, 0.2, 0, 0, 0.4])))
    bottom = Garment(
        kind,
        below,
        _colour(rng),
        pattern,
        rng.uniform(0.14, 0.26),
        float(length),
        {"trousers": 0.008, "wide_trousers": 0.022, "shorts": 0.02}.get(kind, 0.004),
    )
    shoes = Garment("shoes", _colour(rng), (0.93, 0.93, 0.93), "plain", 0.1, float(rng.choice([-0.735, -0.70, -0.60])), 0.012)
    return top, bottom, shoes


def _colour(rng: np.random.Generator) -> tuple:
    """Mostly saturated hues over the whole circle, sometimes white, grey, black or denim."""
    if rng.random() < 0.22:
        return _rgb(np.array([(0.95, 0.95, 0.93), (0.10, 0.10, 0.12), (0.45, 0.46, 0.48), (0.17, 0.26, 0.46)])[rng.integers(4)])
    return _rgb(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.55, 1), rng.uniform(0.4, 1)))


def _hair_colour(rng: np.random.Generator) -> tuple:
    natural = np.array(
        [(0.06, 0.05, 0.05), (0.20, 0.12, 0.07), (0.38, 0.24, 0.12), (0.80, 0.64, 0.36), (0.52, 0.20, 0.09), (0.66, 0.66, 0.67)]
    )
    if rng.random() < 0.1:
        return _rgb(colorsys.hsv_to_rgb(rng.random(), 0.7, 0.8))
    return _rgb(natural[rng.choice(6, p=[0.3, 0.2, 0.15, 0.17, 0.1, 0.08])] * rng.uniform(0.85, 1.15))


def _distance(a: tuple, b: tuple) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _rgb(values) -> tuple:
    return tuple(float(np.clip(v, 0, 1)) for v in values)


def _unit(shares: list) -> np.ndarray:
    return np.array(shares, float) / np.sum(shares)
