"""What one file of a checkpoint holds: how it is recognised, which components it has, and reading and writing it whole."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from champ_jax.checkpoint.partial import account
from champ_jax.checkpoint.tensors import LazyArray, lazy
from champ_jax.convert.mapping import Layout, their_shapes, to_ours, to_torch
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError

OWN_CONFIG = "champ_jax"
"""Where files that were written here say what of the geometry their shapes do not."""
Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Component:
    """Parameters of one component that a file holds: their shapes as a nested dict, and how the file names them."""

    shapes: Mapping[str, Any]
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of state dict.

    title: for people. signature: patterns (`*` as in file names); a state dict in which each of them matches some name,
    in which none of `foreign` does, and of whose shapes `when` is true, is taken for this one. geometry: from the shapes
    by name and the file's own config.json ({} if there is none) to our configuration of the components, nested plain
    values; raises UserError for what we have no model of. components: from that configuration to the components by name;
    "guidance/depth" is the part "depth" of the component "guidance", "denoiser/" another part of "denoiser". absent: from
    the configuration to values for kept names that a writer needs when no file gave them. describe: the config.json that
    loaders of this format want beside the file.
    """

    title: str
    signature: tuple[str, ...]
    geometry: Callable[[Shapes, Config], dict[str, Any]]
    components: Callable[[Config], dict[str, Component]]
    absent: Callable[[Config], dict[str, LazyArray]] = lambda config: {}
    foreign: tuple[str, ...] = ()
    when: Callable[[Shapes], bool] = lambda shapes: True
    describe: Callable[[Config], dict[str, Any]] | None = None

    def matches(self, shapes: Shapes) -> bool:
        """Whether a state dict with these names and shapes is taken for this format."""
        names = list(shapes)
        known = all(_some(names, pattern) for pattern in self.signature) and not any(_some(names, p) for p in self.foreign)
        return known and self.when(shapes)

    def share(self, shapes: Shapes) -> float:
        """The share of the signature that a state dict has, 0 to 1."""
        names = list(shapes)
        return sum(_some(names, pattern) for pattern in self.signature) / len(self.signature)


def _some(names: list[str], pattern: str) -> bool:
    """Whether the pattern matches any of the names; without `*` it is one of them."""
    if "*" not in pattern:
        return pattern in names
    return bool(fnmatch.filter(names, pattern))


@dataclasses.dataclass(frozen=True)
class Weights:
    """Components read from a file, or to be written to one.

    params: component to nested dict of arrays, mostly LazyArrays. config: their geometry, as in a model folder. kept:
    names of the file that no component uses, to array, and reasons to why.
    """

    params: dict[str, Any]
    config: dict[str, Any]
    kept: dict[str, LazyArray] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)


def read(state: Mapping[str, Any], file_config: Config, format: Format, source: str) -> Weights:
    """All of a state dict {name: array}, none of its tensors read yet; file_config: the config.json beside it, or {}.

    Raises UserError when a name is missing, unexpected or of another shape, listing them.
    """
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    config = overlay(format.geometry(shapes, file_config), file_config.get(OWN_CONFIG, {}))
    components = format.components(config)
    expected: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    for component in components.values():
        expected |= their_shapes(component.shapes, component.layout)
        reasons |= component.layout.kept
    excused = account(shapes, expected, reasons, source)
    params: dict[str, Any] = {}
    for name, component in components.items():
        place(params, name, to_ours(state, component.shapes, component.layout))
    kept = {name: lazy(state[name]) for name in excused if name in state}
    return Weights(params, config, kept, {name: excused[name] for name in kept})


def write(weights: Weights, format: Format, source: str) -> dict[str, LazyArray]:
    """The state dict {name: array} of a file of this format.

    Raises UserError when the weights lack a component or have another geometry than their configuration says.
    """
    state: dict[str, LazyArray] = {}
    patterns: dict[str, str] = {}
    try:
        components = format.components(weights.config)
    except KeyError as error:
        has = ", ".join(sorted(weights.params)) or "nothing"
        raise UserError(f"{source} has no {error.args[0]}, which {format.title} needs; it has {has}.") from error
    for name, component in components.items():
        given = find(weights.params, name)
        if given is None:
            raise UserError(f"{source} has no {name}, which {format.title} needs; it has {', '.join(sorted(weights.params)) or 'nothing'}.")
        state |= to_torch(given, component.shapes, component.layout, f"{source}, {name},")
        patterns |= component.layout.kept
    kept = {name: array for name, array in weights.kept.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    dtype = next(iter(state.values())).dtype
    filled = {name: array.astype(dtype) for name, array in format.absent(weights.config).items() if name not in kept}
    return state | filled | kept


def merge_config(known: Config, new: Config, source: str) -> dict[str, Any]:
    """Nested configurations of two files of one model as one. Raises UserError, naming `source`, where they contradict."""
    merged = dict(known)
    for name, value in new.items():
        if name == "kinds":
            merged[name] = tuple(kind for kind in GUIDANCE_KINDS if kind in (*known.get(name, ()), *value))
        elif isinstance(value, Mapping) and isinstance(known.get(name), Mapping):
            merged[name] = merge_config(known[name], value, source)
        elif known.get(name, value) != value:
            raise UserError(f"{source} has {name} {value!r} and the files before it {known[name]!r}: they are not of one model.")
        else:
            merged[name] = value
    return merged


def hidden(config: Config, seen: Config) -> dict[str, Any]:
    """What `config` says otherwise than `seen`, of the values that are in both: nested, as in `config`."""
    found = {}
    for name, value in seen.items():
        own = config.get(name, value)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            if inner := hidden(own, value):
                found[name] = inner
        elif name != "kinds" and (list(own) if isinstance(own, tuple) else own) != (list(value) if isinstance(value, tuple) else value):
            found[name] = own
    return found


def overlay(config: Config, changes: Config) -> dict[str, Any]:
    """`config` with nested `changes`."""
    nested = {name: overlay(config[name], value) for name, value in changes.items() if isinstance(value, Mapping) and name in config}
    return {**config, **changes, **nested}


def find(params: Mapping[str, Any], name: str) -> Any:
    """The part "a/b" of nested components, or None."""
    node: Any = params
    for part in filter(None, name.split("/")):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def place(params: dict[str, Any], name: str, value: Any) -> None:
    """Puts a nested dict at "a/b" of nested components, beside what is there."""
    node = params
    for part in filter(None, name.split("/")):
        node = node.setdefault(part, {})
    _merge(node, value)


def _merge(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    for key, part in value.items():
        if isinstance(part, Mapping):
            _merge(into.setdefault(key, {}), part)
        else:
            into[key] = part
