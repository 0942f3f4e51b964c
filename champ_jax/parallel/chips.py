"""The accelerators that runs are planned for: what each chip can do, and its compiler without the chip.

Peak, memory, bandwidth and links of the TPUs are those of docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e; of the GPUs
NVIDIA's data sheets of H100 SXM and H200 SXM (dense bfloat16). `usable` of a TPU is the limit that its compiler names when a
program does not fit. The speed of links is that of all links of a chip together, in one direction. `dcn` is a chip's share of
its host's network, 100 Gbit/s a host of 4 (v5p) or 8 chips, or one 400 Gbit/s card for each GPU.
"""

import dataclasses
import importlib.util
import math
import os
import re

from champ_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      peak: bfloat16 FLOP/s of matrix products.
      hbm, usable: bytes of memory, and those that a program may take.
      bandwidth: bytes/s of that memory.
      ici, dcn: bytes/s to chips of the same slice (or NVLink group), and beyond it.
      unit: rows and columns of a matrix unit: dimensions of products are padded to a multiple of it.
      slice: chips in the largest slice.
      smallest: a topology for programs of one chip; "" where there is no compiler.
    """

    name: str
    peak: float
    hbm: float
    usable: float
    bandwidth: float
    ici: float
    dcn: float
    unit: int
    slice: int
    smallest: str = ""

    @property
    def compiles(self) -> bool:
        """Whether its compiler runs on machines without the chip."""
        return bool(self.smallest)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 16 * GIB, 15.75 * GIB, 819e9, 200e9, 1.6e9, 128, 256, "v5e:2x2"),
        Chip("v5p", 459e12, 95 * GIB, 95.74 * GIB, 2765e9, 600e9, 3.1e9, 128, 8960, "v5p:2x2x1"),
        Chip("v6e", 918e12, 32 * GIB, 31.25 * GIB, 1638e9, 400e9, 1.6e9, 256, 256, "v6e:2x2"),
        Chip("h100", 989e12, 80e9, 76e9, 3350e9, 450e9, 50e9, 64, 8),
        Chip("h200", 989e12, 141e9, 134e9, 4800e9, 450e9, 50e9, 64, 8),
    )
}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""What libtpu wants to be told on a machine without a TPU, before it loads."""


def parse_topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """("v5e:16x16") -> chip and grid of one slice; UserError for what is none."""
    name, _, grid = text.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", grid):
        raise UserError(f"topology {text!r}: expected a chip ({', '.join(CHIPS)}) and its grid, such as v5e:16x16 or h100:8.")
    return CHIPS[name], tuple(int(side) for side in grid.split("x"))


def count(topology: str, slices: int = 1) -> int:
    """Chips of so many slices of a topology."""
    return slices * math.prod(parse_topology(topology)[1])


def has_libtpu() -> bool:
    """Whether the TPU's compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def describe_devices(topology: str, slices: int = 1) -> list:
    """Devices that are not there, in slices one after another; programs can be compiled for them.

    Raises:
      UserError: no compiler for this chip on this machine, or a topology that it does not know.
    """
    chip, _ = parse_topology(topology)
    if not chip.compiles:
        raise UserError(f"programs for {chip.name} are not compiled ahead of time: its compiler needs the GPU.")
    if not has_libtpu():
        raise UserError("planning for a TPU needs its compiler, libtpu, though no TPU: pip install -e '.[tpu]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    more = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more)
    except Exception as error:
        raise UserError(f"topology {topology}, {slices} slices: {str(error).splitlines()[0]}") from error
    return list(found.devices)
