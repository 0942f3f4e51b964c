"""Exact accounting of keys and shapes."""

import pytest

from champ_jax.checkpoint.partial import account
from champ_jax.errors import UserError

MODEL = {"conv.weight": (4, 3), "conv.bias": (4,)}


def test_all_accounted_for():
    assert account(MODEL, MODEL) == {}


def test_excused_keys_come_back_with_their_reason():
    allow = {"*.pe": "computed", "old.*": "never called"}
    assert account({**MODEL, "a.b.pe": (1, 32)}, MODEL, allow) == {"a.b.pe": "computed"}
    assert account(MODEL, {**MODEL, "old.bias": (1,)}, allow) == {"old.bias": "never called"}


def test_every_problem_is_in_one_message():
    file = {"conv.weight": (4, 4), "extra.weight": (1,)}
    with pytest.raises(UserError) as error:
        account(file, MODEL, source="some.pth")
    message = str(error.value)
    assert message.startswith("some.pth does not fit the model (2 keys in the file, 2 in the model)")
    assert "1 missing from the file:\n  conv.bias" in message
    assert "1 in the file but not in the model:\n  extra.weight" in message
    assert "conv.weight: file (4, 4), model (4, 3)" in message


def test_a_wrong_shape_is_never_excused():
    with pytest.raises(UserError, match="another shape"):
        account({**MODEL, "conv.bias": (5,)}, MODEL, {"*": "anything"})


def test_long_lists_are_cut():
    with pytest.raises(UserError, match="and 80 more"):
        account({}, {f"layer.{i:03d}": (1,) for i in range(100)})
