"""Import, export and inspection of whole checkpoints: a file or folder of any kind to and from a folder of ours."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from champ_jax.checkpoint.run import is_model, open_model
from champ_jax.checkpoint.tensors import LazyArray, read_safetensors, write_safetensors
from champ_jax.checkpoint.weights import CONFIG, DTYPES, KEPT, check_replaceable, replace_folder, save_weights
from champ_jax.convert import kinds
from champ_jax.convert.formats import OWN_CONFIG, Lacking, Weights, hidden, merge_config, overlay, place, plain, read, write
from champ_jax.convert.hub import local_path
from champ_jax.convert.kinds import KINDS, OWN, Kind
from champ_jax.convert.lora import is_lora, merge_lora, peft_alpha
from champ_jax.convert.state import SUFFIXES, State, open_state, own_config
from champ_jax.convert.torch_write import write_torch
from champ_jax.errors import UserError, did_you_mean
from champ_jax.models.animator import AnimatorConfig
from champ_jax.models.clip import CLIPConfig
from champ_jax.models.face_id import FaceIDConfig
from champ_jax.models.guidance import GuidanceConfig
from champ_jax.models.lora import with_lora
from champ_jax.models.temporal import TemporalConfig
from champ_jax.models.unet import UNetConfig
from champ_jax.models.vae import VAEConfig
from champ_jax.nn.quantised import refuse_quantised
from champ_jax.trees import flatten

FORMATS = ("safetensors", "pt")
GEOMETRY = {"unet": UNetConfig, "guidance": GuidanceConfig, "vae": VAEConfig, "clip": CLIPConfig, "face_id": FaceIDConfig}
"""What the configuration of a network is of; names as in `AnimatorConfig`."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `inspect_checkpoint` found; plain values.

    kind: a name of KINDS, OWN, or None. title: the same for people. form: of the files. components: name to (number of
    arrays, number of parameters). config: geometry. dtypes: name to number of parameters. bytes: on disk. odd: what a user
    should know.
    """

    path: str
    kind: str | None
    title: str
    form: str
    components: dict[str, tuple[int, int]]
    config: dict[str, Any]
    dtypes: dict[str, int]
    bytes: int
    odd: list[str]


def recognise(path: str | Path) -> str | None:
    """The kind of the checkpoint at `path`, by its names and shapes; None for one that is unknown here.

    Raises UserError when there is nothing that can be read.
    """
    path = local_path(path)
    if is_model(path):
        return OWN
    if path.is_dir() and (kind := kinds.of_folder({file.stem for file in path.iterdir() if file.suffix in SUFFIXES})):
        return kind
    return kinds.of_shapes(_shapes(open_state(path)))


def import_checkpoint(path: str | Path, kind: str | None = None, loras: Sequence[tuple[str | Path, float]] = ()) -> Weights:
    """Reads a checkpoint of any kind, whole; tensors are LazyArrays that stay in their file.

    Args:
      path: a file or folder, or `"hf:owner/name[/file][@revision]"`.
      kind: a name of KINDS; recognised when None.
      loras: files of low-rank changes and how strongly each is merged into the weights; for kinds of one file.

    Returns:
      The components, their configuration, and what no component uses.

    Raises:
      UserError: unknown kind, or not exactly the names and shapes of that kind; it lists them and names what the file
        looks like.
    """
    path = local_path(path)
    kind = kind or recognise(path)
    if kind is None:
        raise UserError(
            f"{path}: its names are those of no checkpoint that is known here. {_guess(path)}Known: {', '.join([*KINDS, OWN])}."
        )
    if kind == OWN:
        params, config = open_model(path)
        return Weights(with_lora(params, str(path)), config, *_kept_beside(path, None))
    table = _kind(kind)
    if loras and not table.format:
        raise UserError(f"{kind} has several files: import the one that {loras[0][0]} changes by itself.")
    weights = Weights({}, {})
    for stem, state in _states(path, kind, table).items():
        format = table.files[stem]
        for lora, scale in loras:
            change = open_state(local_path(lora))
            merged = merge_lora(state.tensors, change.tensors, scale, peft_alpha(change), str(lora))
            state = dataclasses.replace(state, tensors=merged)
        try:
            part = read(state.tensors, state.config, format, str(state.file))
        except UserError as error:
            raise UserError(f"{error}\n{_looks_like(state, kind, stem)}".strip()) from error
        weights = _join(weights, part, stem, str(state.file))
    return dataclasses.replace(weights, config=overlay(plain(table.config), weights.config))


def export_checkpoint(
    checkpoint: str | Path, kind: str, out: str | Path, form: str = "safetensors", dtype: str | None = None
) -> list[Path]:
    """Writes components of a folder of ours, or of a run of training, in another format.

    Args:
      checkpoint: the folder.
      kind: a name of KINDS that can be written.
      out: the folder to write to, new, empty, or with an earlier export of the same kind, which is replaced.
      form: "safetensors" or "pt".
      dtype: "float32", "bfloat16" or "float16" for floating-point tensors; as they are by default.

    Returns:
      The files written.

    Raises:
      UserError: components that this kind needs and the checkpoint lacks, a kind that is only read, a place that cannot be
        written.
    """
    table = _kind(kind)
    if not table.writes:
        raise UserError(f"{kind} is only read. Written are {', '.join(name for name, known in KINDS.items() if known.writes)}.")
    if form not in FORMATS or dtype not in (None, *DTYPES):
        raise UserError(f"format {form!r}, dtype {dtype!r}: expected {' or '.join(FORMATS)}, and {', '.join(DTYPES)} or None.")
    path, out = local_path(checkpoint), Path(out).absolute()
    params, config = open_model(path)
    refuse_quantised(params, path)
    params, config = with_lora(params, str(path)), _complete(config)
    states = _states_to_write(path, kind, table, params, config)
    described = table.format.describe(config) if table.format and table.format.describe else {}
    try:
        unsaid = {stem: _unsaid(state, table, stem, config, described) for stem, state in states.items()}
    except UserError as error:
        raise UserError(f"{path} does not fit {kind}, which could not be read back: {error}") from error
    for stem, values in unsaid.items():
        if values and (form == "pt" or described):
            where = "its config.json" if described else "a .pt file"
            raise UserError(f"{path} as {kind}: {where} cannot say {json.dumps(values)}, and {stem} would be read as something else.")
    names = {stem: table.file_name(stem, form) for stem in states}
    check_replaceable(out, lambda entry: entry.name in names.values() or described and entry.name == CONFIG)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        for stem, state in states.items():
            if form == "pt":
                write_torch(partial / names[stem], state, DTYPES.get(dtype))
                continue
            metadata = {"format": "pt"} | ({OWN_CONFIG: json.dumps(unsaid[stem])} if unsaid[stem] else {})
            write_safetensors(partial / names[stem], state, metadata, DTYPES.get(dtype))
        if described:
            (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
        replace_folder(partial, out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [out / name for name in (*names.values(), *([CONFIG] if described else []))]


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model folder with what it leaves to our networks' defaults, and without the networks that it has not."""
    found = plain(dataclasses.asdict(AnimatorConfig())) | dict(config)
    for name, kind in GEOMETRY.items():
        if isinstance(found.get(name), Mapping):
            found[name] = plain(dataclasses.asdict(kind())) | dict(found[name])
    if temporal := found["unet"]["temporal"]:
        found["unet"]["temporal"] = dataclasses.asdict(TemporalConfig()) | dict(temporal)
    return {name: values for name, values in found.items() if values is not None}


def _states_to_write(path: Path, kind: str, table: Kind, params, config) -> dict[str, Mapping[str, LazyArray]]:
    """The state dict of each file; an optional one is left out where the model has nothing of what it holds."""
    kept, reasons = _kept_beside(path, kind)
    states: dict[str, Mapping[str, LazyArray]] = {}
    for stem, format in table.files.items():
        own = {name.removeprefix(f"{stem}:"): array for name, array in kept.items() if name.startswith(f"{stem}:")}
        weights = Weights(_with_motion(params), config, own, reasons)
        try:
            states[stem] = write(weights, format, str(path))
        except Lacking:
            if stem not in table.optional:
                raise
    return states


def _unsaid(state: Mapping[str, LazyArray], table: Kind, stem: str, config, described) -> dict[str, Any]:
    """What neither the shapes nor the config.json nor the kind say of the geometry."""
    seen = table.files[stem].geometry({name: array.shape for name, array in state.items()}, described)
    return hidden(config, {**plain(table.config), **plain(seen)})


def save_import(weights: Weights, out: str | Path, kind: str, dtype: str | None = None) -> Path:
    """Writes imported weights as a folder of ours, with what was kept for writing them back."""
    origin = {"kind": kind, "reasons": json.dumps(weights.reasons)}
    return save_weights(out, weights.params, weights.config, dtype, weights.kept, origin)


def inspect_checkpoint(path: str | Path) -> Report:
    """Says what a file or folder is, from names, shapes and dtypes alone. Raises UserError when it cannot be read."""
    path = local_path(path)
    if is_model(path):
        params, config = open_model(path, shapes_only=True)
        arrays = {f"{name}/{at}": array for name, part in params.items() for at, array in flatten(part).items()}
        return _report(path, OWN, "a model of champ_jax", "safetensors", params, config, arrays, [])
    kind = recognise(path)
    table = KINDS.get(kind) if kind else None
    states = _states(path, kind, table) if table else {"": open_state(path)}
    odd = [note for state in states.values() for note in state.notes]
    arrays = {f"{stem}:{name}": array for stem, state in states.items() for name, array in state.tensors.items()}
    form = next(iter(states.values())).form
    if table is None:
        return _report(path, None, f"unknown. {_guess(path)}".strip(), form, {}, {}, arrays, odd)
    try:
        weights = import_checkpoint(path, kind)
    except UserError as error:
        return _report(path, kind, table.title, form, {}, {}, arrays, [*odd, str(error)])
    odd += _kept_notes(weights)
    missing = table.files.keys() - states.keys()
    odd += [f"without {', '.join(sorted(missing))}"] if missing else []
    return _report(path, kind, table.title, form, weights.params, weights.config, arrays, odd)


def _report(path, kind, title, form, params, config, arrays, odd) -> Report:
    components = {}
    for name, part in params.items():
        leaves = flatten(part).values()
        components[name] = (len(leaves), sum(int(leaf.size) for leaf in leaves))
    dtypes: Counter[str] = Counter()
    for array in arrays.values():
        dtypes[str(array.dtype)] += int(array.size)
    floating = [name for name in dtypes if "float" in name]
    odd = odd + ([f"floating-point tensors of several dtypes: {', '.join(floating)}"] if len(floating) > 1 else [])
    size = sum(int(array.size) * array.dtype.itemsize for array in arrays.values())
    return Report(str(path), kind, title, form, components, dict(config), dict(dtypes), size, odd)


def _kept_notes(weights: Weights) -> list[str]:
    """One note for each reason that tensors are not used."""
    counts = Counter(weights.reasons.values())
    return [f"{count} tensors not used: {reason}" for reason, count in counts.items()]


def _states(path: Path, kind: str, table: Kind) -> dict[str, State]:
    """The state dict of every file of a checkpoint, by the file's name in the table."""
    if table.format:
        return {next(iter(table.files)): open_state(path)}
    if not path.is_dir():
        raise UserError(f"{path}: {kind} is a folder with {', '.join(table.files)}, and this is a file.")
    found = {stem: file for stem in table.files if (file := kinds.find_file(path, stem))}
    missing = table.files.keys() - found.keys() - set(table.optional)
    if missing:
        raise UserError(f"{path} has no {' and no '.join(sorted(missing))} (.safetensors, .pth or .bin), which {kind} needs.")
    states = {stem: open_state(file) for stem, file in found.items()}
    # A config.json in such a folder is of no one file.
    return {stem: dataclasses.replace(state, config=own_config(state)) for stem, state in states.items()}


def _join(weights: Weights, part: Weights, stem: str, source: str) -> Weights:
    """Weights with those of another file."""
    for name, component in part.params.items():
        place(weights.params, name, component)
    kept = weights.kept | {f"{stem}:{name}": array for name, array in part.kept.items()}
    reasons = weights.reasons | {f"{stem}:{name}": why for name, why in part.reasons.items()}
    return Weights(weights.params, merge_config(weights.config, part.config, source), kept, reasons)


def _with_motion(params: Mapping[str, Any]) -> dict[str, Any]:
    """Temporal modules are part of the denoiser after training, and alone after importing them alone."""
    motion = params.get("motion") or params.get("denoiser")
    return dict(params) | ({"motion": motion} if motion else {})


def _kept_beside(path: Path, kind: str | None) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """What was kept when a folder was imported, and why; nothing when it was of another kind than `kind`."""
    if not (path / KEPT).is_file():
        return {}, {}
    arrays, origin = read_safetensors(path / KEPT)
    if kind not in (None, origin.get("kind")):
        return {}, {}
    return arrays, json.loads(origin.get("reasons", "{}"))


def _kind(name: str) -> Kind:
    if name == OWN:
        raise UserError("a folder of ours needs no export: copy it, or join components with champ-jax merge.")
    if name not in KINDS:
        raise UserError(f"no kind of checkpoint {name!r}{did_you_mean(name, KINDS)}. Known: {', '.join([*KINDS, OWN])}.")
    return KINDS[name]


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.tensors.items()}


def _looks_like(state: State, kind: str, stem: str) -> str:
    """'It looks like ...' when a file's names are those of another kind than it was taken for."""
    shapes = _shapes(state)
    likely = kinds.of_shapes(shapes) or kinds.part_of_shapes(shapes)
    return f"It looks like {likely}." if likely and likely not in (kind, f"{kind} ({stem})") else ""


def _guess(path: Path) -> str:
    """'It begins with ...' and the nearest kind for names that belong to none."""
    shapes = _shapes(open_state(path))
    if likely := kinds.part_of_shapes(shapes):
        return f"It looks like a file of {likely}. "
    if is_lora(shapes):
        return f"It looks like a LoRA, of {len(shapes)} tensors: give it with --lora. "
    nearest, share = kinds.nearest(shapes)
    near = f"Nearest is {nearest} ({share:.0%} of what it is known by). " if share else ""
    return f"{len(shapes)} tensors, the first {next(iter(sorted(shapes)))}. {near}"
