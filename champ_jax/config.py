"""Configurations: Python files that return a locked ConfigDict, overrides from the command line, and what was used.

A file in `configs/` defines `get_config()`, or `get_config(argument)` for variants named `file:argument`. Nothing here
touches a device or the network, so a configuration can be read and checked on any machine.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from champ_jax.errors import UserError, did_you_mean
from champ_jax.files import write_text

PREFIX = "--config."
REPOSITORY = Path(__file__).resolve().parent.parent
HARDWARE = REPOSITORY / "configs" / "hw" / "hardware.py"
RECORDED_PACKAGES = ("champ-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def load_config(name: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """Reads a configuration and applies overrides to it.

    Args:
      name: a file (`configs/stage_b.py`) or its bare name (`stage_b`), with `:argument` behind it for a variant.
      overrides: strings such as `--config.optim.learning_rate=1e-4`.

    Returns:
      A locked ConfigDict.

    Raises:
      UserError: no such file, a variant it does not know, an unknown key (the nearest known one is named), or a value of
        another type than the one it replaces.
    """
    path, argument = _find(name)
    config = ConfigDict(_call_get_config(path, argument))
    for override in overrides:
        apply_override(config, override)
    return config.lock()


def _find(name: str) -> tuple[Path, str | None]:
    """Path of the file that `name` means, and the argument behind the colon or None."""
    stem, colon, argument = name.partition(":")
    folders = (Path("configs"), REPOSITORY / "configs")
    for path in (Path(stem), *(folder / f"{stem}.py" for folder in folders)):
        if path.is_file():
            return path, argument if colon else None
    known = sorted({file.stem for folder in folders for file in folder.glob("*.py") if file.stem != "__init__"})
    raise UserError(f"no configuration {stem!r}{did_you_mean(stem, known) or '.'} Known: {', '.join(known) or 'none'}.")


def _call_get_config(path: Path, argument: str | None) -> ConfigDict:
    if path.suffix != ".py":
        raise UserError(f"{path} is not a configuration: expected a Python file as in configs/.")
    module = _load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is not a configuration: it has no function get_config().")
    if argument is None:
        return module.get_config()
    if not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path} has no variants: leave ':{argument}' away.")
    try:
        return module.get_config(argument)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} has no variant {argument!r}: {error}") from error


def _load_module(path: Path):
    spec = importlib.util.spec_from_file_location(f"champ_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hardware_table() -> dict[str, Any]:
    """The table in configs/hw/hardware.py by name. Raises UserError where there is no repository around this package."""
    if not HARDWARE.is_file():
        raise UserError(f"{HARDWARE} is missing: --hw needs the repository, or an editable installation of it")
    return _load_module(HARDWARE).HARDWARE


def load_hardware(name: str) -> ConfigDict:
    """A row of that table: topology, and overrides by stage. Raises UserError where there is none."""
    table = hardware_table()
    if name not in table:
        known = sorted(table)
        raise UserError(
            f"no hardware {name!r}{did_you_mean(name, known) or '.'} Known: {', '.join(known)}. {HARDWARE} is the place for more."
        )
    return ConfigDict(table[name]).lock()


def with_hardware(config: str, hardware: str | None, overrides: Iterable[str]) -> list[str]:
    """Overrides of a configuration: those that suit the hardware, if one is named, then the given ones, which win.

    Raises UserError for hardware that has no values for the configuration's stage, as where it does not fit.
    """
    if hardware is None:
        return list(overrides)
    stage, suited = load_config(config).get("stage", ""), load_hardware(hardware).overrides
    if stage not in suited:
        able = [name for name, row in hardware_table().items() if stage in row["overrides"]]
        others = f"Those that have: {', '.join(able)}." if able else "No hardware has: leave out --hw."
        raise UserError(f"{hardware} has no values for stage {stage}, which is not known to fit it. {others}")
    return [*(f"{PREFIX}{name}={value}" for name, value in leaves(suited[stage]).items()), *overrides]


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All values of a configuration by their dotted path, e.g. {"optim.learning_rate": 1e-4}."""
    flat = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        flat.update(leaves(value, f"{path}.") if isinstance(value, ConfigDict) else {path: value})
    return flat


def apply_override(config: ConfigDict, override: str) -> None:
    """Changes one leaf in place; `override` is `--config.a.b=value`. Raises UserError as `load_config` does."""
    path, equals, text = override.removeprefix(PREFIX).partition("=")
    if not override.startswith(PREFIX) or not equals:
        raise UserError(f"{override!r} is not an override: write {PREFIX}a.b=value, with no spaces around '='.")
    known = leaves(config)
    if path not in known:
        inside = [leaf for leaf in known if leaf.startswith(f"{path}.")]
        hint = f": it is a group, give one of {', '.join(inside)}" if inside else did_you_mean(path, known)
        raise UserError(f"the configuration has no value {path!r}{hint}.")
    *groups, leaf = path.split(".")
    node = config
    for group in groups:
        node = node[group]
    with node.unlocked(), node.ignore_type():
        node[leaf] = _parse(path, text, known[path])


def _parse(path: str, text: str, current: Any) -> Any:
    """`text` as a value of the type of `current`; a leaf that is None takes any Python literal, or else the text."""
    if isinstance(current, str):
        return text
    try:
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        value = ast.literal_eval(text) if value is text else value
    except (ValueError, SyntaxError):
        value = text
    if current is None:
        return value
    if isinstance(current, (tuple, list)) and isinstance(value, (tuple, list)):
        return type(current)(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(current, float) and number:
        return float(value)
    if isinstance(current, int) and not isinstance(current, bool) and number and value == int(value):
        return int(value)
    if type(value) is type(current):
        return value
    raise UserError(f"{PREFIX}{path}={text}: expected {type(current).__name__} like {current!r}.")


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain nested dicts and lists that JSON can hold and that compare equal after a round trip."""
    return json.loads(json.dumps(config.to_dict(), sort_keys=True))


def config_hash(config: ConfigDict) -> str:
    """16 hexadecimal digits that are equal if, and only if, all values are (to the odds of a hash collision)."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()[:16]


def write_record(config: ConfigDict, path: Path) -> None:
    """Writes the resolved configuration with its hash, package versions and git commit as JSON to `path`."""
    record = {
        "config": to_plain(config),
        "config_hash": config_hash(config),
        "python": platform.python_version(),
        "packages": {name: version for name in RECORDED_PACKAGES if (version := installed_version(name))},
        "git_commit": _git_commit(),
    }
    write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout this package runs from; None for an installed copy or without git."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
