"""What one file of a checkpoint holds: how it is recognised, which components it has, and reading and writing it whole."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from champ_jax.checkpoint.partial import account
from champ_jax.checkpoint.tensors import LazyArray, is_floating, lazy
from champ_jax.convert.mapping import Layout, abstract, their_shapes, to_ours, to_torch
from champ_jax.dims import GUIDANCE_KINDS
from champ_jax.errors import UserError

COUNTS = ("layers", "blocks", "attentions", "tokens")
OWN_CONFIG = "champ_jax"
"""Where files that were written here say what of the geometry their shapes do not."""
Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Component:
    """Parameters of one component that a file holds: their shapes as a nested dict, and how the file names them."""

    shapes: Mapping[str, Any]
    layout: Layout


def as_config(kind: Callable[..., Any], values: Config) -> Any:
    """A model's configuration, of class `kind`, from plain values with lists for tuples."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def one_component(
    name: str, model: Callable, kind: Callable[..., Any], layout: Layout | Callable[[Any], Layout]
) -> Callable[[Config], dict[str, Component]]:
    """`Format.components` of a file that holds one network, `model`, whose configuration of class `kind` stands under the component's
    name; layout: of its names, or from that configuration to it."""

    def components(config: Config) -> dict[str, Component]:
        own = as_config(kind, config[name])
        return {name: Component(abstract(model, own), layout(own) if callable(layout) else layout)}

    return components


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of state dict.

    title: for people. signature: patterns (`*` as in file names); a state dict in which each of them matches some name,
    in which none of `foreign` does, and of whose shapes `when` is true, is taken for this one. geometry: from the shapes
    by name and the file's own config.json ({} if there is none) to our configuration of the components, nested plain
    values; raises UserError for what we have no model of. components: from that configuration to the components by name;
    "guidance/depth" is the part "depth" of the component "guidance", "denoiser/" another part of "denoiser". absent: from
    the configuration to values for kept names that a writer needs when no file gave them. describe: the config.json that
    loaders of this format want beside the file; these read nothing else. fixed: names in a file's config.json to the one
    value that our model has. classes: what a config.json says it is of, where it does.
    """

    title: str
    signature: tuple[str, ...]
    geometry: Callable[[Shapes, Config], dict[str, Any]]
    components: Callable[[Config], dict[str, Component]]
    absent: Callable[[Config], dict[str, LazyArray]] = lambda config: {}
    foreign: tuple[str, ...] = ()
    when: Callable[[Shapes], bool] = lambda shapes: True
    describe: Callable[[Config], dict[str, Any]] | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()

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


class Lacking(UserError):
    """A component that a file is to hold is not there at all."""


def positive(config: Config, name: str, default: int) -> int:
    """A whole number of at least 1 from a config.json, or the default; a list of equal ones counts as that one."""
    value = config.get(name, default)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]
    if type(value) is not int or value < 1:
        raise UserError(f"config.json says {name} {value!r}: expected one whole number of at least 1.")
    return value


def check_file_config(config: Config, format: Format, source: str) -> None:
    """Raises UserError for a config.json that is of another class, or asks for what our model does not do."""
    own = config.get("vision_config") or config
    kind = own.get("_class_name") or own.get("model_type") if isinstance(own, Mapping) else None
    if kind and format.classes and kind not in format.classes:
        raise UserError(f"the config.json beside {source} is of {kind}, not of {' or '.join(format.classes)}: is it another file's?")
    for name, value in format.fixed.items():
        if own.get(name, value) != value:
            raise UserError(f"the config.json of {source} says {name} {own[name]!r}, and the model here has {value!r}.")


def plain(config: Any) -> Any:
    """Nested values with lists for tuples, as JSON gives them back."""
    if isinstance(config, Mapping):
        return {name: plain(value) for name, value in config.items()}
    return [plain(value) for value in config] if isinstance(config, (list, tuple)) else config


def _check_counts(config: Config, names: int, source: str) -> None:
    """Raises UserError for more layers than the file has names: describing them would take for ever."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            _check_counts(value, names, source)
        elif name in COUNTS and not all(0 <= number <= names for number in (value if isinstance(value, list) else [value])):
            raise UserError(f"{source} has {names} names, too few for {name} {value}.")


def read(state: Mapping[str, Any], file_config: Config, format: Format, source: str) -> Weights:
    """All of a state dict {name: array}, none of its tensors read yet; file_config: the config.json beside it, or {}.

    Raises UserError when a name is missing, unexpected or of another shape, listing them.
    """
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    check_file_config(file_config, format, source)
    try:
        config = overlay(plain(format.geometry(shapes, file_config)), file_config.get(OWN_CONFIG, {}))
        _check_counts(config, len(shapes), source)
        components = format.components(config)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{source} is not {format.title}, or its config.json is of another: {type(error).__name__}, {error}.") from error
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
    whole = [name for name in expected if not is_floating(np.dtype(state[name].dtype))]
    if whole:
        first = f"{whole[0]} ({state[whole[0]].dtype})"
        raise UserError(f"{source}: {len(whole)} weights are whole numbers, such as {first}: is it a quantised file?")
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
        raise Lacking(f"{source} has no {error.args[0]}, which {format.title} needs; it has {has}.") from error
    for name, component in components.items():
        given = find(weights.params, name)
        if given is None:
            raise Lacking(f"{source} has no {name}, which {format.title} needs; it has {', '.join(sorted(weights.params)) or 'nothing'}.")
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
            merged[name] = [kind for kind in GUIDANCE_KINDS if kind in (*known.get(name, ()), *value)]
        elif isinstance(value, Mapping) and isinstance(known.get(name), Mapping):
            merged[name] = merge_config(known[name], value, source)
        elif plain(known.get(name, value)) != plain(value):
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
        elif name != "kinds" and plain(own) != plain(value):
            found[name] = plain(own)
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
