"""LoRAs of every form merged into weights, against diffusers' and PEFT's fused weights."""

import ml_dtypes
import numpy as np
import pytest

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert.lora import left_out, merge_lora
from champ_jax.errors import UserError
from tests.recorded import recorded, with_alphas
from tests.seeded import seeded, seeded_state

SCALE = 0.7
FORMS = ("old", "new", "peft", "kohya", "motion")
ORIGINAL = (
    (".transformer_blocks.", ".temporal_transformer.transformer_blocks."),
    ("attn1", "attention_blocks.0"),
    ("attn2", "attention_blocks.1"),
)
"""From diffusers' names of a motion module to AnimateDiff's."""


def load(form):
    """(weights, LoRA, fused weights)."""
    shapes, fused = recorded(f"lora_{form}")
    base, lora = ({key[5:]: shape for key, shape in shapes.items() if key.startswith(start)} for start in ("base/", "lora/"))
    return seeded_state(base), with_alphas(seeded_state(lora)), fused


def original(state):
    """A state dict with AnimateDiff's names for its motion modules."""
    renamed = {}
    for key, array in state.items():
        for pair in ORIGINAL if "motion_modules" in key else ():
            key = key.replace(*pair)
        renamed[key] = array
    return renamed


def check(compare, name, merged, base, fused):
    """Fused weights are as recorded, all others as they were."""
    assert merged.keys() == base.keys()
    for key, array in merged.items():
        if key in fused:
            assert np.abs(fused[key] - base[key]).max() > 0.01
            compare(f"lora/{name}/{key}", array, fused[key], tolerance=1e-5)
        else:
            np.testing.assert_array_equal(np.asarray(array), base[key])


@pytest.mark.parametrize("form", FORMS)
def test_fused(form, compare):
    base, lora, fused = load(form)
    check(compare, form, merge_lora(base, lora, SCALE), base, fused)


def test_alpha_of_the_configuration(compare):
    base, lora, fused = load("configured")
    check(compare, "configured", merge_lora(base, lora, SCALE, alpha=6), base, fused)
    named = {f"base_model.model.{key.removeprefix('unet.').replace('.weight', '.default.weight')}": lora[key] for key in lora}
    check(compare, "configured/named", merge_lora(base, named, SCALE, alpha=6), base, fused)


@pytest.mark.parametrize("names", ["original", "diffusers", "module", "kohya"])
def test_motion_lora_in_animatediff_names(names, compare):
    base, lora, fused = load("motion")
    if names != "diffusers":
        lora = original({key.removeprefix("unet."): array for key, array in lora.items()})
    if names == "module":
        lora = {"global_step": 7, "state_dict": {f"module.{key}": array for key, array in lora.items()}}
    if names == "kohya":
        flat = {key.replace(".processor", "").replace("to_out_lora", "to_out.0_lora"): array for key, array in lora.items()}
        lora = {kohya_name(key): array for key, array in flat.items()}
    check(compare, f"motion/{names}", merge_lora(original(base), lora, SCALE), original(base), original(fused))


def kohya_name(key):
    """lora_unet_..._to_q.lora_down.weight of ...to_q_lora.down.weight."""
    layer, part, _ = key.rsplit(".", 2)
    return f"lora_unet_{layer.removesuffix('_lora').replace('.', '_')}.lora_{part}.weight"


def test_every_alpha_counts():
    """alpha / rank times up @ down, each layer by its own alpha."""
    base = {f"layer_{i}.weight": seeded(f"w{i}", (6, 5)) for i in range(3)}
    down, up = seeded("down", (2, 5)), seeded("up", (6, 2))
    lora = {f"lora_unet_layer_{i}.lora_{part}.weight": array for i in range(3) for part, array in (("down", down), ("up", up))}
    lora |= {"lora_unet_layer_0.alpha": np.float16(1), "lora_unet_layer_1.alpha": np.full(1, 8, np.float32)}
    merged = merge_lora(base, lora, 0.5)
    for i, factor in enumerate((0.25, 2.0, 0.5)):
        np.testing.assert_allclose(np.asarray(merged[f"layer_{i}.weight"]), base[f"layer_{i}.weight"] + factor * up @ down, atol=1e-6)


def test_dtype_and_laziness():
    """The sum is of float32 and rounded once; nothing is read before it is asked for."""

    def forbidden():
        raise AssertionError("read too early")

    base = seeded("w", (6, 5)).astype(ml_dtypes.bfloat16)
    lora = {"layer.lora_A.weight": seeded("a", (2, 5)).astype(np.float16), "layer.lora_B.weight": seeded("b", (6, 2)).astype(np.float16)}
    merged = merge_lora({"layer.weight": base}, lora)["layer.weight"]
    change = np.float32(lora["layer.lora_B.weight"]) @ np.float32(lora["layer.lora_A.weight"])
    assert merged.dtype == np.asarray(merged).dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.asarray(merged), (base.astype(np.float32) + change).astype(ml_dtypes.bfloat16))
    closed = {key: LazyArray(array.shape, array.dtype, forbidden) for key, array in lora.items()}
    assert merge_lora({"layer.weight": LazyArray(base.shape, base.dtype, forbidden)}, closed).keys() == {"layer.weight"}


def test_every_name_is_accounted_for():
    base, lora, _ = load("kohya")
    assert len(left_out(lora)) == 3
    with pytest.raises(UserError, match="lora_unet_up_blocks_9_conv.lora_down.weight"):
        merge_lora(base, lora | {f"lora_unet_up_blocks_9_conv.lora_{part}.weight": np.zeros((1, 1)) for part in ("up", "down")})
    some = next(key for key in lora if key.endswith("lora_up.weight") and not key.startswith("lora_te"))
    with pytest.raises(UserError, match=some.replace("lora_up", "lora_down")):
        merge_lora(base, {key: array for key, array in lora.items() if key != some})
    for extra in ("dora_scale", "lora_mid.weight", "hada_w1_a"):
        key = some.replace("lora_up.weight", extra)
        with pytest.raises(UserError, match=key):
            merge_lora(base, lora | {key: np.zeros(1)})
    with pytest.raises(UserError, match="fit"):
        merge_lora(base, lora | {some: np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match="text encoder"):
        merge_lora(base, {key: lora[key] for key in left_out(lora)})
    with pytest.raises(UserError, match="motion_modules"):
        merge_lora(base, load("motion")[1])


def test_processors_of_later_motion_loras():
    """AnimateDiff's training scripts may put the processor before the last part of a layer's name."""
    base = {"a.ff.net.0.proj.weight": seeded("w", (6, 5)), "a.attn1.to_out.0.weight": seeded("v", (6, 5))}
    lora = {}
    for layer in ("a.ff.net.0.processor.proj_lora", "a.attn1.to_out.processor.0_lora"):
        lora |= {f"{layer}.down.weight": seeded("down", (2, 5)), f"{layer}.up.weight": seeded("up", (6, 2))}
    for key, array in merge_lora(base, lora).items():
        np.testing.assert_allclose(np.asarray(array), base[key] + seeded("up", (6, 2)) @ seeded("down", (2, 5)), atol=1e-6)
