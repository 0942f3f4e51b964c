"""Exact accounting of loaded weights: every key of a file and every parameter of a model is used or named."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Mapping

from champ_jax.errors import UserError

Shape = tuple[int, ...]
LISTED = 20
"""Keys listed in an error before the rest is only counted."""


def account(
    file_keys: Mapping[str, Shape],
    model_keys: Mapping[str, Shape],
    allow: Mapping[str, str] | None = None,
    source: str = "weights",
) -> dict[str, str]:
    """Compares the keys and shapes of a file with those a model needs; both under the same names.

    Args:
      file_keys: key to shape, all of the file.
      model_keys: key to shape, all the model needs.
      allow: pattern (`*` as in file names) of keys that may be in one and not in the other, to the reason why.
      source: the file, for the message.

    Returns:
      The keys that were excused, each with its reason.

    Raises:
      UserError: keys missing, unexpected or of another shape and not excused; it lists them.
    """
    allow = allow or {}
    excused, missing, unexpected = {}, [], []
    for key in sorted(set(file_keys) ^ set(model_keys)):
        reason = next((why for pattern, why in allow.items() if fnmatch.fnmatchcase(key, pattern)), None)
        if reason is not None:
            excused[key] = reason
        else:
            (unexpected if key in file_keys else missing).append(key)
    mismatched = [
        f"{key}: file {tuple(file_keys[key])}, model {tuple(model_keys[key])}"
        for key in sorted(set(file_keys) & set(model_keys))
        if tuple(file_keys[key]) != tuple(model_keys[key])
    ]
    problems = [
        _listing(f"{len(keys)} {what}", keys)
        for what, keys in (
            ("missing from the file", missing),
            ("in the file but not in the model", unexpected),
            ("of another shape", mismatched),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f"{source} does not fit the model ({len(file_keys)} keys in the file, {len(model_keys)} in the model). "
            "Is the model's configuration the one these weights were trained with?\n" + "\n".join(problems)
        )
    return excused


def _listing(title: str, keys: list[str]) -> str:
    """The title, how many keys each module has, and the first keys."""
    modules = Counter(re.split(r"[./]", key)[0] for key in keys)
    if 1 < len(modules) < len(keys):
        title += f" ({', '.join(f'{module} {count}' for module, count in modules.most_common(8))})"
    rest = [f"  ... and {len(keys) - LISTED} more"] if len(keys) > LISTED else []
    return "\n".join([f"{title}:"] + [f"  {key}" for key in keys[:LISTED]] + rest)
