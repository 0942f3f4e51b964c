"""The denoiser: with and without motion modules, guidance, reference and classifier-free guidance; block by block."""

import dataclasses

import jax
import numpy as np
import pytest

from champ_jax.convert.formats import read, write
from champ_jax.convert.motion import ANIMATEDIFF
from champ_jax.convert.unet import DENOISER
from champ_jax.models.reference import reference_features, round_like_champ
from tests.parity.networks import channels_last, jitted


@pytest.fixture(scope="module")
def case(load):
    """Inputs of the recorded cases, in our layout."""
    recorded = load("io_denoise")
    return {
        "latents": channels_last(recorded["latents"]),
        "t": recorded["timestep"],
        "context": recorded["encoder_hidden_states"],
        "guidance": channels_last(recorded["guidance_fea"]),
    }


@pytest.fixture(scope="module")
def features(networks, load):
    """The reference's features, as recorded in io_reference but computed here."""
    recorded = load("io_reference")
    run = jitted(networks.reference(), reference_features)
    return run(channels_last(recorded["ref_latents"])[:, None], recorded["encoder_hidden_states"][:, None])


@pytest.fixture(scope="module", params=["mm", "nomm"])
def denoiser(request, networks):
    """("mm" or "nomm", the denoiser with or without motion modules as a compiled function)."""
    unet = networks.denoiser(temporal=request.param == "mm")
    return request.param, jitted(unet, lambda unet, *args: unet(*args))


def test_without_reference(denoiser, case, load, compare):
    name, run = denoiser
    recorded = load("io_denoise")
    output = run(case["latents"], case["t"], case["context"])
    compare(f"denoise/{name}.noref.noguid", output, channels_last(recorded[f"out.{name}.noref.noguid"]))
    output = run(case["latents"], case["t"], case["context"], case["guidance"])
    compare(f"denoise/{name}.noref.guid", output, channels_last(recorded[f"out.{name}.noref.guid"]))


@pytest.mark.parametrize("bank", ["bankf32", "bankf16"])
def test_with_reference(bank, denoiser, case, features, load, compare):
    name, run = denoiser
    reference = round_like_champ(features) if bank == "bankf16" else features
    output = run(case["latents"], case["t"], case["context"], case["guidance"], reference)
    expected = load("io_denoise")[f"out.{name}.ref.guid.nocfg.{bank}"]
    compare(f"denoise/{name}.ref.guid.nocfg.{bank}", output, channels_last(expected))


@pytest.mark.parametrize("bank", ["bankf32", "bankf16"])
def test_classifier_free(bank, denoiser, case, features, load, compare):
    """Both halves in one batch: the first has no context and is masked from the reference."""
    name, run = denoiser
    reference = round_like_champ(features) if bank == "bankf16" else features
    twice = {key: np.concatenate([value, value]) for key, value in case.items()}
    context = np.concatenate([np.zeros_like(case["context"]), case["context"]])
    reference = jax.tree.map(lambda tokens: np.concatenate([tokens, tokens]), reference)
    mask = np.array([[0.0], [1.0]], np.float32)
    output = run(twice["latents"], case["t"][0], context, twice["guidance"], reference, mask)
    expected = channels_last(load("io_denoise")[f"out.{name}.ref.guid.cfg.{bank}"])
    for half, which in enumerate(("uncond", "cond")):
        compare(f"denoise/{name}.ref.guid.cfg.{bank}.{which}", output[half], expected[half])


def test_odd_size(networks, case, load, compare):
    recorded = load("io_denoise")
    run = jitted(networks.denoiser(), lambda unet, *args: unet(*args))
    output = run(channels_last(recorded["odd.latents"]), case["t"], case["context"])
    compare("denoise/odd", output, channels_last(recorded["odd.out.mm.noref.noguid"]))


def test_block_by_block(networks, case, load, compare):
    try:
        recorded = load("io_denoise_intermediates")
    except FileNotFoundError:
        pytest.skip("this set has no intermediates")

    found = jitted(networks.denoiser(), intermediates)(*case.values())
    assert found.keys() == recorded.keys()
    for name, expected in recorded.items():
        if expected.ndim > 2:
            expected = channels_last(expected)
        compare(f"denoise/block/{name}", found[name].reshape(expected.shape), expected)


def intermediates(unet, latents, t, context, guidance):
    """What the recorded intermediates hold, by their names: a forward pass that stops after every block."""
    levels = range(len(unet.config.channels))
    side = unet.side_inputs(latents, t, context)
    found = {"time_embedding": unet.time_embedding(t)}
    x = found["conv_in"] = unet.conv_in(latents.reshape(-1, *latents.shape[2:]))
    x = x + guidance.reshape(x.shape)
    skips = [x]

    first = "down_blocks.0"
    step = found[f"{first}.resnets.0.out"] = unet.down_0.resnet_0(x, side.time)
    step, _ = unet.down_0.attention_0(step, side.read("down_0/attention_0", step.shape[1:3]), batch=side.batch)
    found[f"{first}.attentions.0.out"] = step
    found[f"{first}.motion_modules.0.out"] = unet.down_0.temporal_0(step, side.batch)

    for i in levels:
        x, new, _ = getattr(unet, f"down_{i}")(x, side)
        found[f"down_blocks.{i}"] = x
        skips += new
    x, _ = unet.mid(x, side)
    found["mid_block"] = x
    for i in levels:
        count = unet.config.layers + 1
        skips, taken = skips[:-count], skips[-count:]
        x, _ = getattr(unet, f"up_{i}")(x, taken, (skips or [x])[-1].shape[1:3], side)
        found[f"up_blocks.{i}"] = x
    return found


def test_weights_survive_the_way_back(load):
    for name, format in (("denoising_unet", DENOISER), ("motion_module", ANIMATEDIFF)):
        state = load(name)
        back = write(read(state, {}, format, name), format, "ours")
        assert back.keys() == state.keys()
        assert all(np.asarray(back[key]).tobytes() == state[key].tobytes() for key in state)


def test_positions_are_what_the_recorded_file_holds(load):
    """Written without a file to take them from, they are AnimateDiff's own."""
    state = load("motion_module")
    weights = read(state, {}, ANIMATEDIFF, "motion_module")
    back = write(dataclasses.replace(weights, kept={}), ANIMATEDIFF, "ours")
    assert back.keys() == state.keys()
    assert max(np.abs(np.asarray(back[key], np.float32) - state[key]).max() for key in state) < 1e-3
