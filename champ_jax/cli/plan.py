"""`champ-jax plan`: whether a run fits hardware that is not here, what it exchanges, how long it takes and what it costs."""

import argparse
import json
from pathlib import Path

from champ_jax.errors import UserError

PLANNED = Path(__file__).resolve().parents[2] / "configs" / "hw" / "planned.json"
"""The plans of the shipped configurations on the shipped hardware."""
STAGES = {"stage_b": "B", "stage_c": "C", "stage_d": "D"}
"""The configurations that `--all` plans, on the hardware that has values for their stage."""
GB, TERA = 1e9, 1e12


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the command to the main parser."""
    parser = subparsers.add_parser(
        "plan",
        help="compile a run for hardware that is not here, and say whether it fits",
        description="Compiles the very step that training runs for a TPU topology, on a machine without one (it needs libtpu: "
        "pip install -e '.[tpu]'), and prints memory, collectives, FLOPs, step time, scaling and cost. GPUs are estimated, not "
        "compiled. A full-size step takes minutes the first time; the result is kept in ~/.cache/champ_jax/plan. "
        "Exit code 1 means that it does not fit.",
        epilog="example: champ-jax plan --config configs/stage_c.py --topology v5e:16x16 --config.data.batch_size=256 --price 1.2; "
        "or champ-jax plan --config stage_b --hw v5p-64",
    )
    parser.add_argument("--config", help="a file in configs/, its name, or name:variant; change single values with --config.a.b=value")
    parser.add_argument("--topology", help="chip and grid of a slice, such as v5e:16x16, v5p:8x8x4, v6e:4x8 or h100:8")
    parser.add_argument("--slices", type=int, default=1, help="slices joined by the slow network (default: 1)")
    parser.add_argument("--hw", help="a name in configs/hw/hardware.py, of a topology and the values that suit it")
    parser.add_argument("--price", type=float, default=0.0, help="money for each chip and hour")
    parser.add_argument("--steps", type=int, help="steps of the run (default: config.optim.steps)")
    parser.add_argument("--whole", action="store_true", help="compile the step as one program, however long it takes")
    parser.add_argument("--all", action="store_true", help=f"plan {', '.join(STAGES)} on the hardware of "
                        "configs/hw/hardware.py that has values for them, or on that of --hw")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="with --all: keep the figures in configs/hw/planned.json")
    parser.add_argument("--no-advice", action="store_true", help="do not look for values with which it would fit")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns 1 when it does not fit, else 0."""
    from champ_jax.config import load_config, load_hardware, with_hardware
    from champ_jax.train.plan import advise, plan

    if args.all:
        return plan_all(args)
    if not args.config or bool(args.topology) == bool(args.hw):
        raise UserError("plan needs --config, and either --topology or --hw; see champ-jax plan --help.")
    topology = load_hardware(args.hw).topology if args.hw else args.topology
    overrides = with_hardware(args.config, args.hw, args.overrides)
    if args.slices > 1:
        overrides.insert(0, f"--config.mesh.slice={args.slices}")
    if args.steps:
        overrides.append(f"--config.optim.steps={args.steps}")
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))

    def planned(*more: str) -> dict:
        config, whole = load_config(args.config, [*overrides, *more]), args.whole or None
        return plan(config, topology, args.slices, args.price, whole, say=say)

    result = planned()
    if not result["fits"] and not args.no_advice:
        result["advice"] = advise(load_config(args.config, overrides), result["chips"], planned)
    if args.json:
        print(json.dumps(result))
    else:
        print_plan(result)
        print("to train so: " + " ".join(["champ-jax train --config", args.config, *overrides]))
    return 0 if result["fits"] else 1


def plan_all(args: argparse.Namespace) -> int:
    """Plans every stage on every hardware, one line each; with --write keeps the figures.

    Raises UserError for options that are of one plan.
    """
    from champ_jax.config import hardware_table, load_config, load_hardware, with_hardware
    from champ_jax.files import write_text
    from champ_jax.train.plan import plan

    single = ("config", "topology", "steps", "whole")
    if given := [f"--{name}" for name in single if getattr(args, name)] + ["--slices"] * (args.slices > 1):
        raise UserError(f"--all plans every shipped configuration on its hardware: leave out {', '.join(given)}, or --all")
    if args.write and args.overrides:
        raise UserError(f"--write keeps the plans of the configurations as they are shipped: leave out {', '.join(args.overrides)}")
    table = json.loads(PLANNED.read_text()) if PLANNED.is_file() else {}
    for name in [args.hw] if args.hw else hardware_table():
        hardware = load_hardware(name)
        for stage in (stage for stage, letter in STAGES.items() if letter in hardware.overrides):
            config = load_config(stage, with_hardware(stage, name, args.overrides))
            result = plan(config, hardware.topology, price=args.price)
            row = summary(result)
            print(f"{name:8} {stage} " + (json.dumps(row) if args.json else one_line(row)), flush=True)
            table.setdefault(name, {})[stage] = row
            if args.write:
                write_text(PLANNED, json.dumps(table, indent=1) + "\n")
    return 0


def summary(result: dict) -> dict:
    """The figures of a plan that are kept."""
    memory, time = result["memory"], result["time"]
    return {
        "chips": result["chips"],
        "batch": result["batch"],
        "compiled": result["compiled"],
        "fits": result["fits"],
        "memory_gb": round(memory["total"] / GB, 2),
        "memory_share": round(memory["share"], 3),
        "gathered_mb": round(result["collectives"]["gathered"]["bytes"] / 1e6, 1),
        "gathered_formula_mb": round(result["collectives"]["gathered"]["formula"] / 1e6, 1),
        "summed_mb": round(result["collectives"]["summed"]["bytes"] / 1e6, 1),
        "summed_formula_mb": round(result["collectives"]["summed"]["formula"] / 1e6, 1),
        "model_tflop": round(result["flops"]["model"] / TERA, 2),
        "floor_seconds": round(time["floor"], 3),
        "expected_seconds": round(time["expected"], 3),
        "mfu": round(time["mfu"], 3),
        "ceiling": round(result["flops"]["ceiling"], 3),
        "hours": round(result["cost"]["hours"], 1),
    }


def one_line(row: dict) -> str:
    """A row of `summary` for people."""
    fits, how = "" if row["fits"] else " DOES NOT FIT", "" if row["compiled"] else " (estimated, not compiled)"
    return (
        f"{row['chips']} chips, batch {row['batch']}: {row['memory_gb']} GB ({row['memory_share']:.0%}){fits}, "
        f"{row['expected_seconds']} s a step (floor {row['floor_seconds']}), MFU {row['mfu']:.0%} of at most {row['ceiling']:.0%}, "
        f"{row['hours']} h{how}"
    )


def print_plan(result: dict) -> None:
    """The plan as a table for people."""
    memory, time, flops = result["memory"], result["time"], result["flops"]
    how = "compiled" if result["compiled"] else "estimated, not compiled: its compiler needs the GPU"
    if result["compiled"] and not result.get("whole", True):
        how = "compiled in two parts: one device's loss and gradient; exchange and update"
    print(f"stage {result['stage']} on {result['topology']}, {result['slices']} slice(s), {result['chips']} chips, batch {result['batch']}")
    print(f"{how}\nmemory of each chip:")
    for name, size in memory.items():
        if name not in ("share", "usable", "total"):
            print(f"  {name:18} {size / GB:8.2f} GB")
    print(f"  {'total':18} {memory['total'] / GB:8.2f} GB of {memory['usable'] / GB:.2f} ({memory['share']:.0%})")
    if not result["fits"]:
        print("  DOES NOT FIT in nine tenths of it")
    print("collectives of a step, bytes of whole arrays:")
    for purpose, row in result["collectives"].items():
        kinds = ", ".join(f"{found['count']} {kind} {found['bytes'] / 1e6:.1f} MB" for kind, found in row["kinds"].items())
        print(f"  {purpose:18} {row['bytes'] / 1e6:9.1f} MB, formula {row['formula'] / 1e6:.1f} MB  {kinds}")
    for line in result["unplanned"]:
        print(f"  NOT PLANNED: {line}")
    counted = f"; the compiler counts {flops['compiler'] / TERA:.2f} (loops once)" if flops["compiler"] else ""
    print(f"TFLOP of each chip and step: model {flops['model'] / TERA:.2f}, with recomputation {flops['hardware'] / TERA:.2f}, "
          f"padded to the matrix unit {flops['padded'] / TERA:.2f}{counted}; memory traffic {flops['bytes'] / GB:.1f} GB")  # fmt: skip
    print(f"step: matrix units {time['compute']:.3f} s, memory {time['memory']:.3f} s, exchange {time['exchange']:.4f} s; "
          f"floor {time['floor']:.3f} s, expected {time['expected']:.3f} s")  # fmt: skip
    print(f"MFU: {time['mfu']:.0%} expected, {time['best_mfu']:.0%} at the floor; padding alone allows {flops['ceiling']:.0%}")
    print("weak scaling: " + ", ".join(f"{row['chips']} chips {row['efficiency']:.1%}" for row in result["scaling"]))
    print(f"  assumed: {result['assumptions']}")
    cost = result["cost"]
    print(f"the run: {cost['hours']:.1f} h, {cost['chip_hours']:.0f} chip-hours" + (f", cost {cost['cost']:.0f}" if cost["price"] else ""))
    if "advice" in result:
        print("it would fit with:" if result["advice"] else "no single value and no pair was found with which it fits")
    for words, share in result.get("advice", []):
        print(f"  {' '.join(words)}  ({share:.0%} of the memory)")
