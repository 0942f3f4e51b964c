"""Step time, scaling and cost by arithmetic."""

import pytest

from champ_jax.parallel import roofline
from champ_jax.parallel.chips import CHIPS

V5E = CHIPS["v5e"]


def test_the_larger_of_computing_and_memory_is_the_floor():
    time = roofline.step_time(V5E, 197e12, 81.9e9, 0.01)
    assert (time.compute, time.memory, time.floor) == pytest.approx((1.0, 0.1, 1.0))
    assert time.alone == pytest.approx(1.0 / roofline.REACHED) and time.expected == pytest.approx(time.alone + 0.01)
    assert roofline.step_time(V5E, 1e12, 819e9, 0.0).alone == pytest.approx(1.0 / roofline.STREAMED)
    assert roofline.step_time(V5E, 1e12, 819e9, 0.0).floor == pytest.approx(1.0)


def test_exchange():
    assert roofline.exchange_time(V5E, 1, 1e9, 1e9, 0) == 0
    ring = roofline.exchange_time(V5E, 256, 1e9, 1e9, 0)
    assert ring == pytest.approx(2e9 * 255 / 256 / V5E.ici, rel=0.02)
    assert roofline.exchange_time(V5E, 256, 0, 0, 1e9) == pytest.approx(ring, rel=0.02)  # a sum is a scatter and a gather
    assert roofline.exchange_time(V5E, 512, 1e9, 1e9, 0) > ring  # the slow network


def test_weak_scaling_falls_slowly_and_starts_at_one():
    rows = roofline.weak_scaling(V5E, 0.8, 0.9e9, 0.9e9, 0)
    assert [row["chips"] for row in rows] == list(roofline.SIZES) and rows[0]["efficiency"] == 1.0
    efficiency = [row["efficiency"] for row in rows]
    assert efficiency == sorted(efficiency, reverse=True) and efficiency[-1] > 0.8


def test_cost():
    assert roofline.cost(0.9, 4000, 256, 1.5) == {"hours": 1.0, "chip_hours": 256.0, "price": 1.5, "cost": 384.0}
