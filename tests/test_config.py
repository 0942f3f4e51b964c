"""Configurations: names and variants, overrides with type checks, the record of what was used."""

import json

import pytest
from ml_collections import ConfigDict

from champ_jax.config import apply_override, config_hash, leaves, load_config, write_record
from champ_jax.errors import UserError

FILE = """
from ml_collections import ConfigDict
def get_config(size="small"):
    widths = {"small": 8, "large": 64}
    return ConfigDict({
        "width": widths[size], "rate": 1e-4, "name": "run", "on": True, "kinds": ("depth", "dwpose"), "init": None,
        "optim": {"warmup": 10, "adam": {"b1": 0.9}},
    })
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "demo.py"
    file.write_text(FILE)
    return str(file)


def test_loaded_locked_with_variant(path):
    assert load_config(path).width == 8
    config = load_config(f"{path}:large")
    assert config.width == 64
    with pytest.raises(AttributeError):
        config.new = 1


def test_found_by_bare_name_in_the_configs_folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny").width == 8
    assert load_config("tiny:large").width == 64
    with pytest.raises(UserError, match="no configuration 'tinny', did you mean 'tiny'"):
        load_config("tinny")


def test_wrong_variants_and_files(path, tmp_path):
    with pytest.raises(UserError, match="has no variant 'huge'"):
        load_config(f"{path}:huge")
    plain = tmp_path / "plain.py"
    plain.write_text("x = 1")
    with pytest.raises(UserError, match="no function get_config"):
        load_config(str(plain))
    plain.write_text("def get_config(): return {}")
    with pytest.raises(UserError, match="has no variants"):
        load_config(f"{plain}:x")


@pytest.mark.parametrize(
    ("override", "leaf", "value"),
    [
        ("width=16", "width", 16),
        ("width=1e3", "width", 1000),
        ("rate=2", "rate", 2.0),
        ("rate=3e-5", "rate", 3e-5),
        ("name=12", "name", "12"),
        ("on=false", "on", False),
        ("kinds=('depth',)", "kinds", ("depth",)),
        ("kinds=['depth']", "kinds", ("depth",)),
        ("init=runs/b/model", "init", "runs/b/model"),
        ("init=none", "init", None),
        ("optim.adam.b1=0.5", "optim.adam.b1", 0.5),
    ],
)
def test_overrides_keep_the_type(path, override, leaf, value):
    found = leaves(load_config(path, [f"--config.{override}"]))[leaf]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.wdith=3", "no value 'wdith', did you mean 'width'"),
        ("--config.optim.wramup=3", "did you mean 'optim.warmup'"),
        ("--config.optim=3", "it is a group, give one of optim.adam.b1, optim.warmup"),
        ("--config.width=1.5", "expected int like 8"),
        ("--config.width=true", "expected int"),
        ("--config.rate=fast", "expected float"),
        ("--config.on=1", "expected bool"),
        ("--config.kinds=depth", "expected tuple"),
        ("--config.width", "is not an override"),
    ],
)
def test_wrong_overrides_are_named(path, override, message):
    with pytest.raises(UserError, match=message):
        load_config(path, [override])


def test_hash_changes_with_any_value_and_with_nothing_else(path):
    config = load_config(path)
    assert config_hash(config) == config_hash(load_config(path))
    assert config_hash(config) == config_hash(ConfigDict(dict(reversed(list(config.items())))))
    other = load_config(path)
    apply_override(other, "--config.optim.adam.b1=0.91")
    assert config_hash(other) != config_hash(config)


def test_record(path, tmp_path):
    config = load_config(path)
    write_record(config, tmp_path / "run" / "config.json")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["kinds"] == ["depth", "dwpose"]
    assert record["config_hash"] == config_hash(config)
    assert record["packages"]["jax"]
