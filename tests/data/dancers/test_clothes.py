"""Identities and the figures they are dressed as."""

import dataclasses

import numpy as np
import pytest

from champ_jax.data.dancers.clothes import BOTTOM, HAIR, PARTS, SHOES, SKIN, TOP, dress
from champ_jax.data.dancers.identity import BOTTOMS, HAIR_STYLES, TOPS, sample_identity


@pytest.fixture(scope="module")
def people():
    return [sample_identity(seed) for seed in range(40)]


def test_a_seed_is_a_person(people):
    assert sample_identity(3) == people[3]
    assert len(set(people)) == 40


def test_people_differ_in_what_one_tells_them_by(people):
    hair = [p.top.second if p.hair == "cap" else p.hair_colour for p in people]
    looks = np.array([[*p.top.colour, *p.bottom.colour, *p.skin, *colour] for p, colour in zip(people, hair)])
    gap = np.linalg.norm(looks[:, None] - looks[None], axis=-1) + 9 * np.eye(40)
    assert gap.min() > 0.15
    assert len({p.top.pattern for p in people}) >= 5 and len({p.hair for p in people}) >= 5 and len({p.bottom.kind for p in people}) >= 3


def test_top_and_bottom_can_be_told_apart(people):
    for person in people:
        assert np.linalg.norm(np.subtract(person.top.colour, person.bottom.colour)) >= 0.6


def test_a_figure_is_consistent_and_whole(people):
    figure = dress(people[0])
    count = len(figure.rest)
    assert figure.faces.max() == count - 1 and figure.faces.min() == 0
    for name in ("keep", "attributes", "weight_bones", "weights"):
        assert len(getattr(figure, name)) == count
    for name in ("layer", "part", "two_sided"):
        assert len(getattr(figure, name)) == len(figure.faces)
    assert set(np.unique(figure.part)) == set(range(len(PARTS)))
    assert {SKIN, TOP, BOTTOM, SHOES} <= set(np.unique(figure.layer))


@pytest.mark.parametrize("hair", HAIR_STYLES)
def test_every_hair_style_can_be_worn(people, hair):
    figure = dress(dataclasses.replace(people[1], hair=hair))
    assert (figure.layer == HAIR).any() == (hair != "buzz")


@pytest.mark.parametrize("top", TOPS)
def test_every_top_covers_the_chest_and_not_the_head(people, top):
    person = people[2]
    figure = dress(dataclasses.replace(person, top=dataclasses.replace(person.top, kind=top)))
    rows = np.unique(figure.faces[figure.layer == TOP])
    rows = rows[figure.keep[rows] > 0]
    height = figure.attributes[rows, 1]
    assert height.min() < 0.45 and 0.6 < height.max() < 0.83


@pytest.mark.parametrize("bottom", BOTTOMS)
def test_longer_bottoms_reach_lower(people, bottom):
    person = people[2]
    short, long = (0.5, 1.9) if "skirt" not in bottom else (-0.1, -0.5)
    low = []
    for length in (short, long):
        figure = dress(dataclasses.replace(person, bottom=dataclasses.replace(person.bottom, kind=bottom, length=length)))
        rows = np.unique(figure.faces[figure.layer == BOTTOM])
        low.append(figure.attributes[rows[figure.keep[rows] > 0], 1].min())
    assert low[1] < low[0] - 0.2
