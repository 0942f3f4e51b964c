"""What devices tell each other in a step: read from the compiled program, and computed from the layout of its state."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from champ_jax.parallel.sharding import parameter_spec

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
PURPOSES = ("gathered", "summed", "other")
"""Parameters gathered, gradients and metrics summed; anything else means that activations travel."""
BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
NOTICED = 1 << 16
"""Bytes below which a collective is a scalar or a stray vector: listed, but no reason for alarm."""

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_NAME = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = ")
_OPERAND = re.compile(r"%([\w.-]+)")
_THROUGH = re.compile(r" (?:bitcast|copy|reshape)\(%([\w.-]+)\)")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")
_WHILE = re.compile(r" while\(.*body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.-]+)")


class Collective(NamedTuple):
    """One operation: its kind, its purpose, the bytes of the whole arrays it makes or sums, how often a step runs it, its text."""

    kind: str
    purpose: str
    bytes: int
    times: int
    text: str


def read(program: str) -> list[Collective]:
    """The collectives of a compiled program, in its text form.

    The whole array counts: what an all-gather makes, what a reduce-scatter or an all-reduce is given. A TPU spells a
    reduce-scatter as a fusion named all-reduce-scatter with an all-reduce inside, and a gather of parts that do not fill
    its tiles as an all-reduce of zeros with the part written into them.
    """
    bodies = _computations(program)
    times = _times(bodies)
    found, seen = [], set()
    for name, lines in bodies.items():
        for line in lines:
            match = _OPERATION.search(line)
            if not match:
                continue
            made, kind, started, rest = match.groups()
            # One that runs beside computing is spelled once for each piece of it, of the same channel and the same arrays.
            channel = _CHANNEL.search(rest)
            spelled = (kind, channel.group(1), made) if channel else line
            if spelled in seen:
                continue
            seen.add(spelled)
            size = _size(made)
            if started:  # made is (operands, results, and what the hardware needs for it)
                size = _largest(made)
            if kind == "reduce-scatter":
                size *= _group(rest)
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            written = 0
            if kind == "all-reduce" and not started:
                # The compiler joins small ones, sums of gradients and gathers alike.
                written = sum(size for size, wrote in zip(_shapes(made), _writes(rest, lines, bodies)) if wrote)
            shares = {"gathered": size if kind == "all-gather" else written, "summed": 0, "other": 0}
            shares["summed" if kind in KINDS[1:3] else "other"] += size - shares["gathered"]
            for purpose, share in shares.items():
                if share:
                    found.append(Collective(kind, purpose, share, times[name], line.strip()[:300]))
    return found


def totals(collectives: Iterable[Collective], by: str = "kind") -> dict[str, dict[str, int]]:
    """{kind, or purpose: {"count", "bytes"}} of a step."""
    table: dict[str, dict[str, int]] = {}
    for one in collectives:
        row = table.setdefault(getattr(one, by), {"count": 0, "bytes": 0})
        row["count"] += one.times
        row["bytes"] += one.times * one.bytes
    return table


def unplanned(collectives: Iterable[Collective]) -> list[Collective]:
    """Those that neither gather parameters nor sum gradients, and are of a size that matters."""
    return [one for one in collectives if one.purpose == "other" and one.bytes >= NOTICED]


def formula(trained: Any, mesh: Mesh, narrow: Any, accumulation: int = 1) -> dict[str, int]:
    """Bytes that a step must gather and sum when parameters alone travel.

    Matrices that masters hold in parts are gathered in the compute dtype. Gradients of matrices are summed in the same,
    those of vectors as float32. With fsdp parameters are gathered where they are used, which is not counted here.

    Args:
      trained: shapes of the trained parameters.
      narrow: the compute dtype.
      accumulation: times that gradients are summed in a step.
    """
    table = {"gathered": 0, "summed": 0}
    for leaf in jax.tree.leaves(trained):
        parts, computed = (_parts(leaf.shape, mesh, rule) for rule in ("masters", "compute"))
        size = leaf.size * (jax.numpy.dtype(narrow).itemsize if leaf.ndim > 1 else 4) // computed
        if parts > computed:
            table["gathered"] += size
        if mesh.size > 1:
            table["summed"] += accumulation * size
    return table


def _parts(shape: tuple[int, ...], mesh: Mesh, rule: str) -> int:
    axes = [axis for entry in parameter_spec(tuple(shape), mesh, rule) if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    return math.prod(mesh.shape[axis] for axis in axes)


def _computations(program: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies.setdefault(match.group(1), [])
        elif line.startswith(" "):
            lines.append(line)
    return bodies


def _writes(rest: str, lines: list[str], bodies: Mapping[str, list[str]]) -> list[bool]:
    """For each operand of `operation(%a, %b), ...`, whether it is something with a part written into it, by this computation's lines."""
    made = {match.group(1): line for line in lines if (match := _NAME.match(line))}
    found = []
    for name in _OPERAND.findall(rest.partition(")")[0]):
        line = made.get(name, "")
        while (through := _THROUGH.search(line)) and through.group(1) in made:
            line = made[through.group(1)]
        called = bodies.get(match.group(1), []) if (match := _CALLED.search(line)) else []
        found.append(" dynamic-update-slice(" in "".join([line, *(inner for inner in called if "ROOT" in inner)]))
    return found


def _times(bodies: Mapping[str, list[str]]) -> dict[str, int]:
    """How often a step runs each computation: once, or as often as the loops around it turn."""
    callers: dict[str, tuple[str, int]] = {}
    for name, lines in bodies.items():
        for line in lines:
            loop = _WHILE.search(line)
            trips = _TRIPS.search(line) if loop else None
            for called in _CALLED.findall(line):
                callers[called] = (name, int(trips.group(1)) if trips and called == loop.group(1) else 1)

    def times(name: str) -> int:
        caller, turns = callers.get(name, (None, 1))
        return turns * times(caller) if caller else turns

    return {name: times(name) for name in bodies}


def _shapes(text: str) -> list[int]:
    return [BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in _SHAPE.findall(text) if kind in BYTES]


def _size(text: str) -> int:
    return sum(_shapes(text))


def _largest(text: str) -> int:
    """Of `((operands), (results), ...)` the larger of the two groups."""
    sizes = _shapes(re.sub(r"u32\[\]\S*", "", text))
    half = len(sizes) // 2
    return max(sum(sizes[:half]), sum(sizes[half:]))


def _group(text: str) -> int:
    """Devices in each group of `replica_groups=`: {{0,1},{2,3}}, [2,4]<=[8] or mesh['a'=2,'b'=4] {'b'}."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(match.group(1).split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(match.group(1))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match.group(2)))
    return 1
