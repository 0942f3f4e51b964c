"""The letters of array dimensions, used in every docstring, and a check of shapes written in them.

B batch, F frames, H W pixels, h w latent grid, C channels, N tokens, D width, K heads, d head dim, R references,
L context tokens, J joints, S audio samples, M mel bins (in attention: keys), G guidance kinds. Channels come last.
"""

from __future__ import annotations

from collections.abc import Mapping

from champ_jax.errors import UserError

GUIDANCE_KINDS = ("depth", "normal", "semantic_map", "dwpose")
"""The kinds of guidance map, in the order in which CHAMP lists and concatenates them."""


def check_shape(name: str, array, letters: str, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Checks that `array` has the dimensions `letters` names, e.g. "B F h w C", and returns their sizes.

    Args:
      name: what the array is, for the message.
      array: anything with a `shape`.
      letters: one letter (or a literal number) a dimension, separated by spaces.
      sizes: sizes already known; a letter found there must agree with it.

    Returns:
      `sizes` with the letters of this array added.

    Raises:
      UserError: the rank differs, a number differs, or a letter already has another size.
    """
    known = dict(sizes or {})
    names = letters.split()
    shape = tuple(array.shape)
    if len(shape) != len(names):
        raise UserError(f"{name}: expected the {len(names)} dimensions [{letters}], got shape {shape}.")
    for letter, size in zip(names, shape):
        expected = int(letter) if letter.isdigit() else known.setdefault(letter, size)
        if expected != size:
            raise UserError(f"{name}: expected [{letters}] with {letter} = {expected}, got shape {shape}.")
    return known
