"""How long a step takes and what a run costs, by arithmetic on what was counted; nothing here is a measurement."""

import math
from typing import NamedTuple

from champ_jax.parallel.chips import Chip

REACHED = 0.55
"""Share of the peak that padded products are taken to reach. Published runs of diffusion models that are all convolutions and
attention reach 28-30 % of the peak (MosaicML Stable Diffusion 2 on A100, MaxDiffusion Wan 2.1 on v5p), about 0.55 of what padding
and recomputation leave them."""
STREAMED = 0.8
"""Share of the memory's bandwidth that a program is taken to reach."""
LATENCY = 1e-6
"""Seconds for a message to the next chip of the same slice."""
DCN_LATENCY = 1e-4
"""Seconds for a message to another slice."""
JITTER = 0.01
"""Standard deviation of a chip's step time, as a share of it; all wait for the slowest."""
OVERLAPPED = 0.0
"""Share of the exchange that is taken to be hidden behind computing: none, which is the pessimistic end."""
SIZES = (1, 4, 16, 64, 256, 512, 1024)

ASSUMPTIONS = (
    f"{REACHED:.0%} of the matrix units' peak and {STREAMED:.0%} of the memory's bandwidth are reached; "
    f"{OVERLAPPED:.0%} of the exchange hides behind computing; {LATENCY * 1e6:.0f} us a hop within a slice, "
    f"{DCN_LATENCY * 1e6:.0f} us between slices; step times of chips vary by {JITTER:.0%} and all wait for the slowest; "
    "the loader keeps up; the batch grows with the chips."
)


class Time(NamedTuple):
    """Seconds of one step: of matrix units, of memory, of links; the floor; what is expected of one chip alone, and of all."""

    compute: float
    memory: float
    exchange: float
    floor: float
    alone: float
    expected: float


def step_time(chip: Chip, padded: float, moved: float, exchange: float) -> Time:
    """The roofline of a step.

    Args:
      padded: FLOPs a chip, dimensions rounded up to its matrix unit.
      moved: bytes a chip reads from and writes to its memory.
      exchange: seconds of collectives, from `exchange_time`.
    """
    compute, memory = padded / chip.peak, moved / chip.bandwidth
    alone = max(compute / REACHED, memory / STREAMED)
    return Time(compute, memory, exchange, max(compute, memory), alone, alone + (1 - OVERLAPPED) * exchange)


def exchange_time(chip: Chip, chips: int, gathered: float, scattered: float, summed: float) -> float:
    """Seconds in which so many chips gather, scatter and sum arrays of these sizes (bytes, whole arrays).

    Rings within a slice: each chip passes on (n-1)/n of what is gathered or scattered, and twice that of what is summed.
    Over slices each chip's part of the sum crosses the slow network, twice.
    """
    if chips <= 1:
        return 0.0
    inside = min(chips, chip.slice)
    slices = math.ceil(chips / inside)
    share = (inside - 1) / inside
    hops = 2 * math.ceil(math.sqrt(inside))
    seconds = share * (gathered + scattered + 2 * summed) / chip.ici + 3 * hops * LATENCY
    if slices > 1:
        between = 2 * (slices - 1) / slices
        seconds += between * (scattered / inside + summed / inside) / chip.dcn + 2 * (slices - 1) * DCN_LATENCY
    return seconds


def slowest(chips: int) -> float:
    """How much longer the slowest of so many chips takes, as a factor: the expected largest of as many normal draws."""
    return 1.0 + JITTER * math.sqrt(2.0 * math.log(chips)) if chips > 1 else 1.0


def weak_scaling(chip: Chip, alone: float, gathered: float, scattered: float, summed: float) -> list[dict[str, float]]:
    """Step time and efficiency on 1 to 1024 chips with the same work for each, which takes `alone` seconds on one."""
    rows = []
    for chips in SIZES:
        exchange = (1 - OVERLAPPED) * exchange_time(chip, chips, gathered, scattered, summed)
        seconds = alone * slowest(chips) + exchange
        rows.append({"chips": chips, "seconds": seconds, "exchange": exchange, "efficiency": alone / seconds})
    return rows


def cost(seconds: float, steps: int, chips: int, price: float) -> dict[str, float]:
    """Hours, chip-hours and money of a run of so many steps at `price` for each chip and hour."""
    hours = seconds * steps / 3600
    return {"hours": hours, "chip_hours": hours * chips, "price": price, "cost": hours * chips * price}
