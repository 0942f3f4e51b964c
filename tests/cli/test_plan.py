"""`champ-jax plan`: its arguments, its exit codes, and the table of hardware."""

import importlib.util
import json

import pytest

from champ_jax.cli import plan as command
from champ_jax.cli.main import main
from champ_jax.config import hardware_table, load_config, load_hardware, with_hardware
from champ_jax.parallel.chips import count, parse_topology


def a_plan(**changes) -> dict:
    result = {
        "stage": "C", "topology": "v5e:16x16", "slices": 1, "chips": 256, "batch": 256, "compiled": True, "fits": True, "unplanned": [],
        "whole": False,
        "memory": {"parameters": 3e9, "total": 1.2e10, "usable": 1.69e10, "share": 0.71},
        "collectives": {"gathered": {"bytes": 9e8, "formula": 9e8, "kinds": {"all-gather": {"count": 3, "bytes": 9e8}}},
                        "summed": {"bytes": 9e8, "formula": 9e8, "kinds": {}}},
        "flops": {"model": 9e13, "hardware": 1.2e14, "padded": 1.6e14, "compiler": 1e14, "ceiling": 0.72, "bytes": 7e11},
        "time": {"compute": 0.8, "memory": 0.9, "exchange": 0.01, "floor": 0.9, "expected": 1.6, "mfu": 0.28, "best_mfu": 0.5},
        "scaling": [{"chips": 1, "efficiency": 1.0}, {"chips": 256, "efficiency": 0.97}], "assumptions": "as assumed",
        "cost": {"hours": 6.7, "chip_hours": 1700.0, "price": 1.2, "cost": 2040.0},
    }  # fmt: skip
    return {**result, **changes}


@pytest.fixture
def planner(monkeypatch):
    """Stands in for planning; remembers what it was asked."""
    import champ_jax.train.plan as planning

    calls = []

    def plan(config, topology, slices=1, price=0.0, whole=None, **_):
        calls.append((config, topology, slices, price, whole))
        return a_plan(**planner_result)

    planner_result = {}
    monkeypatch.setattr(planning, "plan", plan)
    monkeypatch.setattr(planning, "advise", lambda config, chips, planned: [(("--config.data.batch_size=128",), 0.8)])
    return calls, planner_result


def test_prints_everything_that_is_asked_of_a_plan(planner, capsys):
    assert main(["plan", "--config", "stage_c", "--topology", "v5e:16x16", "--price", "1.2", "--config.data.batch_size=256"]) == 0
    out = capsys.readouterr().out
    for words in ("of 16.90 (71%)", "gathered", "formula 900.0 MB", "TFLOP", "MFU", "weak scaling", "assumed", "cost 2040", "two parts"):
        assert words in out, words
    assert "champ-jax train --config stage_c --config.data.batch_size=256" in out
    ((config, topology, slices, price, whole),) = planner[0]
    assert (config.data.batch_size, topology, slices, price, whole) == (256, "v5e:16x16", 1, 1.2, None)


def test_what_does_not_fit_exits_with_1_and_says_what_would(planner, capsys):
    planner[1].update(fits=False)
    words = ["plan", "--config", "stage_c", "--topology", "v5e:16x16"]
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["advice"] == [[["--config.data.batch_size=128"], 0.8]]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out and "--config.data.batch_size=128  (80% of the memory)" in out


def test_hardware_is_topology_and_overrides(planner):
    assert main(["plan", "--config", "stage_b", "--hw", "v5e-256", "--json", "--steps", "7"]) == 0
    config, topology, *_ = planner[0][0]
    assert topology == "v5e:16x16" and config.data.batch_size % 256 == 0 and config.optim.steps == 7
    assert with_hardware("stage_b", "v5e-256", ["--config.seed=1"])[-1] == "--config.seed=1"
    assert with_hardware("stage_a", "v5e-256", []) == ["--config.data.batch_size=256"]


def test_wrong_arguments_exit_with_2(capsys):
    assert main(["plan", "--config", "stage_c"]) == 2
    assert main(["plan", "--config", "stage_c", "--hw", "v5e-255"]) == 2
    assert "did you mean 'v5e-256'" in capsys.readouterr().err
    assert main(["plan", "--config", "stage_c", "--topology", "v7:4x4"]) == 2
    assert "such as v5e:16x16" in capsys.readouterr().err
    assert main(["plan", "--config", "stage_d", "--hw", "v5e-16"]) == 2
    assert "v5e-16 has no values for stage D" in capsys.readouterr().err
    assert main(["plan", "--all", "--slices", "2", "--steps", "7"]) == 2
    assert "leave out --steps, --slices" in capsys.readouterr().err


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", "--config", "stage_c", "--topology", "v5e:16x16"]) == 2
    assert "pip install -e '.[tpu]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", hardware_table())
def test_hardware_suits_the_shipped_configurations(name):
    hardware = load_hardware(name)
    chip, _ = parse_topology(hardware.topology)
    kind, _, chips = name.partition("-")
    assert chip.name == kind and count(hardware.topology) == int(chips)
    assert set(hardware.overrides) <= {"A", *command.STAGES.values()}
    for stage, letter in {"stage_a": "A", **command.STAGES}.items():
        if letter in hardware.overrides:
            assert load_config(stage, with_hardware(stage, name, ())).data.batch_size % int(chips) == 0


def test_planned_figures_are_of_shipped_hardware_and_fit():
    table = json.loads(command.PLANNED.read_text())
    assert set(table) == set(hardware_table())
    for name, stages in table.items():
        assert {"A", *(command.STAGES[stage] for stage in stages)} == set(load_hardware(name).overrides), name
        for stage, row in stages.items():
            config = load_config(stage, with_hardware(stage, name, ()))
            assert row["batch"] == config.data.batch_size, f"{name} {stage}: run champ-jax plan --all --hw {name} --write"
            assert row["fits"] and row["memory_share"] <= 0.9, (name, stage)
            assert row["gathered_mb"] <= 1.05 * row["gathered_formula_mb"] and row["summed_mb"] <= 1.05 * row["summed_formula_mb"]


def test_all_of_one_hardware_is_written(planner, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "PLANNED", tmp_path / "planned.json")
    assert main(["plan", "--all", "--hw", "h200-1", "--write"]) == 0
    assert set(json.loads((tmp_path / "planned.json").read_text())["h200-1"]) == set(command.STAGES)
    assert "MFU 28% of at most 72%" in capsys.readouterr().out
