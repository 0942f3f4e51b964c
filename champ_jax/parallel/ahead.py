"""Compiling for devices that are not there: what the compiler says of a program, kept on disk."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from champ_jax.errors import UserError
from champ_jax.files import write_text
from champ_jax.parallel.collectives import Collective, read

OPTIONS = {"exec_time_optimization_effort": -1.0, "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1000000}
"""How hard the compiler tries, -1 to 1: at -1 a block of the UNet takes 3 s instead of 22 s; products, collectives and
arguments are the same, temporaries come out somewhat larger, so that what fits here fits there. And what launch/xla_flags.txt says too:
sums of gradients are not woven into products as rings of permutes."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "champ_jax" / "plan"
NEEDED = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)\)? (?:of [\d.]+[KMGT]? hbm|exceeds available HBM)")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass
class Program:
    """What the compiler says of one program; bytes and FLOPs are of one device.

    needed: bytes of memory at the worst moment; arguments, outputs, aliased (outputs that take an argument's place), temporaries and
    code are its parts. bytes: read and written, with loops turning once. seconds: what compiling took. fits: False if it was
    refused for its memory; then only `needed` is known.
    """

    fits: bool
    needed: float
    arguments: int = 0
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    collectives: tuple[Collective, ...] = ()


def compile_lowered(lowered, target: str, cache: Path | None = CACHE, say=lambda text: None) -> Program:
    """Compiles, or finds in `cache` what it gave before.

    Args:
      lowered: of `jax.jit(...).lower(...)`, for described devices.
      target: names topology and slices.
      cache: a folder, or None for none.
      say: is told what is going on.
    """
    digest = hashlib.sha256(f"{target} {OPTIONS} {_compiler()} {lowered.as_text()}".encode()).hexdigest()[:32]
    path = None if cache is None else cache / f"{digest}.json"
    if path is not None and path.is_file():
        return _load(json.loads(path.read_text()))
    say(f"compiling for {target} ...")
    program = _compile(lowered)
    say(f"compiled in {program.seconds:.0f} s")
    if path is not None:
        try:
            write_text(path, json.dumps(dataclasses.asdict(program)))
        except UserError as error:  # then it is compiled again the next time
            say(str(error))
    return program


def _compile(lowered) -> Program:
    started = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=OPTIONS)
    except Exception as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise UserError(f"the compiler refuses this program: {text.splitlines()[0][:300]}") from error
        return Program(False, out_of_memory(text), seconds=time.monotonic() - started)
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    return Program(
        fits=True,
        needed=sum(parts.values()) - 2 * parts["aliased"],
        **parts,
        flops=cost.get("flops", 0.0),
        bytes=cost.get("bytes accessed", 0.0),
        seconds=time.monotonic() - started,
        collectives=tuple(read(text)),
    )


def out_of_memory(message: str) -> float:
    """Bytes that a refused program would need, as the compiler's message says; 0 where it does not."""
    match = NEEDED.search(message)
    return float(match.group(1)) * UNITS[match.group(2)] if match else 0.0


def _load(kept: dict[str, Any]) -> Program:
    return Program(**{**kept, "collectives": tuple(Collective(*one) for one in kept["collectives"])})


def _compiler() -> str:
    names = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name)]
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
