"""Stage D: what is learned and by whom, what a run leaves, that it resumes bit for bit, and how it is planned."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.checkpoint.weights import load_weights, save_weights
from champ_jax.config import load_config
from champ_jax.data.records import open_records
from champ_jax.diffusion.consistency import boundary, consistency
from champ_jax.diffusion.schedule import make_schedule, signal_noise
from champ_jax.errors import UserError
from champ_jax.infer.pipeline import load_pipeline
from champ_jax.models.animator import AnimatorConfig, merge
from champ_jax.nn.quantised import to_eight_bits
from champ_jax.parallel.chips import CHIPS
from champ_jax.train import distil, loop
from champ_jax.train import plan as planning
from champ_jax.train.assemble import assemble, assemble_abstract
from champ_jax.train.conditions import Example, TrainingConditions
from champ_jax.train.feed import make_batches
from champ_jax.train.interrupt import Stopped
from champ_jax.train.stages import is_trained
from champ_jax.train.state import partition
from tests.infer.tiny import tiny_params
from tests.train import planned
from tests.train.conftest import UNET, VAE
from tests.train.test_loop import StopAfter, flat

TEMPORAL = {"heads": 2, "groups": 4, "max_frames": 8, "ff_mult": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a model for clips, as stage C leaves them; with M2P, which stage D does not need."""
    described = {
        "kinds": ("dwpose",), "vae": VAE, "clip": None, "unet": {**UNET, "in_channels": 4, "out_channels": 4, "temporal": TEMPORAL},
        "guidance": {"channels": (8,), "patch": 4, "attention": False, "out_channels": 16},
        "schedule": {"kind": "scaled_linear", "prediction": "v"},
    }  # fmt: skip
    return save_weights(tmp_path_factory.mktemp("teacher") / "c", tiny_params(AnimatorConfig.build(described)), described)


@pytest.fixture
def stage_d(small, teacher):
    """stage_d(variant, **changes): a tiny run of stage D from those weights."""

    def build(variant: str = "", **changes):
        name = f"demo_d:{variant}" if variant else "demo_d"
        config = small("D", name, **{"data__frames": 2, "data__first_frames": 2, **changes}).unlock()
        config.init_from, config.model = str(teacher), {}
        return config.lock()

    return build


def constant(schedule, value):
    """A denoiser of data that is always `value`: what it predicts follows from that, at any noise."""

    def denoiser(x, t, context, guidance, **seen):
        signal, sigma = signal_noise(schedule, t, x.ndim)
        clean = jnp.full_like(x, value)
        noise = (x - signal * clean) / sigma
        return {"v": signal * noise - sigma * clean, "epsilon": noise, "x0": clean}[schedule.prediction]

    return denoiser


@pytest.mark.parametrize(("prediction", "zero_snr"), [("v", True), ("x0", True), ("epsilon", False)])
def test_a_consistent_student_has_nothing_to_learn(prediction, zero_snr):
    schedule = make_schedule(prediction=prediction, zero_snr=zero_snr)
    given = TrainingConditions(None, None, None, None, None)
    noise = jax.random.normal(jax.random.key(0), (64, 2, 2, 2, 1))
    example = Example(0.5 * jnp.ones_like(noise), noise, given, 1.0, jax.random.key(1))
    config = load_config("demo_d").loss

    def loss(student, teacher):
        model = SimpleNamespace(denoiser=constant(schedule, student), teacher=constant(schedule, teacher))
        return distil.consistency_loss(model, example, schedule, config)

    assert loss(0.5, 0.5) < 1e-4
    # Of another teacher only the last step of the solver tells it: there the target is the teacher's clean data.
    assert 0.3 / config.solver_steps < loss(0.5, 1.5) < 5 / config.solver_steps


def test_boundary():
    """Numbers of diffusers' LCMScheduler."""
    c_skip, c_out = boundary(np.array([0, 1, 19, 999]))
    np.testing.assert_allclose(c_skip, [1.0, 2.4937656e-03, 6.9251e-06, 2.50501e-09], rtol=1e-4)
    np.testing.assert_allclose(c_out, [0.0, 0.9987523, 0.9999965, 1.0], rtol=1e-6)
    x, schedule = jnp.arange(8.0).reshape(2, 4), make_schedule()
    np.testing.assert_array_equal(consistency(schedule, x, jnp.full_like(x, 9.0), jnp.array([-1, 0])), x)


def test_the_solver_visits_the_steps_that_few_steps_sample():
    schedule = make_schedule()
    t, t_next = distil.draw_solver_steps(jax.random.key(0), 1000, schedule, 50, 0.5)
    assert set(np.asarray(t)) == set(range(19, 1000, 20)) and np.mean(t == 999) == pytest.approx(0.51, abs=0.05)
    np.testing.assert_array_equal(t_next, np.where(t == 19, -1, t - 20))


@pytest.mark.parametrize(("student", "loss"), [(3.0, 0.0), (1.0, 4.0)])
def test_the_student_alone_predicts_what_the_teacher_does_with_guidance(student, loss):
    """The teacher makes 1 of a photo and 0 of none, hence 3 at a scale of 3."""
    schedule = make_schedule(prediction="x0")
    given = TrainingConditions(None, None, {"block": ()}, None, None)
    x0 = jnp.zeros((4, 2, 2, 2, 1))

    def teacher(x, t, context, guidance, reference, **seen):
        return jnp.full_like(x, 0.0 if reference is None else 1.0)

    model = SimpleNamespace(denoiser=constant(schedule, student), teacher=teacher)
    config = load_config("demo_d:guidance", ["--config.loss.teacher_scale=3", "--config.loss.snr_gamma=0"]).loss
    found = distil.guidance_loss(model, Example(x0, x0, given, 1.0, jax.random.key(0)), schedule, config)
    assert found == pytest.approx(loss, abs=1e-6)


def test_the_student_alone_learns(stage_d):
    config = stage_d()
    records = open_records(config.data.directory, config.data.split)
    run = assemble(config, records)
    jax.tree.map(np.testing.assert_array_equal, run.params["teacher"], run.params["denoiser"])
    assert {"steps": 4, "guidance_scale": 1.0, "sampler": "lcm"}.items() <= run.described["pipeline"].items()
    batch = next(make_batches(config, run, records, 2, train=True, encoded=None))
    batch.pop("record")

    def loss(denoiser, teacher):
        model = merge(run.graphdef, {**run.params, "denoiser": denoiser, "teacher": teacher})
        return distil.loss_d(model, batch, jax.random.key(0), 0, config, run.schedule, True)[0]

    step, student, values = jax.jit(jax.value_and_grad(loss, (0, 1))), run.params["denoiser"], []
    for _ in range(10):
        value, (gradient, of_teacher) = step(student, run.params["teacher"])
        student = jax.tree.map(lambda x, g: x - 1e-4 * np.sign(g), student, gradient)
        values.append(value)
    assert all(not np.any(x) for x in jax.tree.leaves(of_teacher))
    moved = {path for path, x in flat(gradient).items() if np.any(x)}
    assert any("temporal" in path for path in moved) and any("resnet" in path for path in moved)
    assert values[-1] < values[0], values
    trained, _ = partition(run.params, lambda path: is_trained(path, config))
    assert set(trained) == {"denoiser"}


@pytest.mark.slow
def test_a_run_resumes_and_leaves_a_student(stage_d, teacher, tmp_path, monkeypatch):
    # Of the two lessons the one that compiles sooner.
    config = stage_d("guidance", steps=3, loss__teacher_scale=1.0)
    unbroken = loop.train(stage_d("guidance", steps=3, loss__teacher_scale=1.0, log__sample_steps=1), tmp_path / "unbroken")
    assert (tmp_path / "unbroken/samples/0000003.mp4").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter(2))
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "broken")
    assert "teacher" not in load_pipeline(tmp_path / "broken").params
    resumed = loop.train(config, tmp_path / "broken")
    assert resumed["last"] == unbroken["last"]
    sums = [json.loads((tmp_path / run / "checkpoints/00000003/manifest.json").read_text()) for run in ("unbroken", "broken")]
    assert sums[0]["arrays"] == sums[1]["arrays"] and any(path.startswith("frozen/teacher/") for path in sums[0]["arrays"])
    before, _ = load_weights(teacher)
    after, described = load_weights(resumed["weights"])
    assert set(after) == set(before)
    kept = {name for name in before if jax.tree.all(jax.tree.map(np.array_equal, before[name], after[name]))}
    assert set(before) - kept == {"denoiser"}
    settings = load_pipeline(resumed["weights"]).settings
    assert (settings.steps, settings.guidance_scale, settings.sampler, settings.window) == (20, 1.0, "ddim", 2)


def test_a_lora_changes_nothing_that_the_teacher_reads(stage_d):
    config = stage_d().unlock()
    config.lora = {"rank": 2, "modules": "to_q|conv"}
    run = assemble(config.lock(), open_records(config.data.directory, config.data.split))
    assert set(run.params["lora"]) == {"denoiser"} and "teacher" in run.params
    trained, _ = partition(run.params, lambda path: is_trained(path, config))
    assert set(trained) == {"lora"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss__distil": "progressive"}, "expected one of consistency, guidance"),
        ({"loss__solver_steps": 0}, "solver_steps is 0"),
        ({"loss__solver_steps": 1001}, "has 1000 steps"),
        ({"loss__solver_steps": 40}, "solver_steps is 40: the sampler lcm visits 50 timesteps"),
        ({"loss__distil": "guidance"}, "'guidance', but config.loss has no snr_gamma: take the configuration stage_d:guidance"),
        ({"loss__teacher_scale": 0.5}, "teacher_scale is 0.5"),
        ({"loss__huber": 0.0}, "huber is 0.0"),
    ],
)
def test_bad_values_are_refused_in_words(changes, words, stage_d, tmp_path):
    with pytest.raises(UserError, match=words):
        loop.train(stage_d(**changes), tmp_path)


def test_the_settings_of_the_other_lesson_and_of_none_are_refused(stage_d, tmp_path):
    with pytest.raises(UserError, match="config.loss has no solver_steps and no huber: take the configuration stage_d or"):
        loop.train(stage_d("guidance", loss__distil="consistency"), tmp_path)
    config = stage_d().unlock()
    del config.loss["distil"]
    with pytest.raises(UserError, match="config.loss.distil is None: expected one of consistency, guidance"):
        loop.train(config.lock(), tmp_path)


def test_stage_c_does_not_sample_in_few_steps_what_it_trains_for_many(small, teacher, tmp_path):
    params, described = load_weights(teacher)
    of_stage_d = {"sampler": "lcm", "steps": 4, "guidance_scale": 1.0, "motion_fps": 30.0}
    config = small("C", data__frames=2, data__first_frames=2).unlock()
    config.init_from, config.model, config.sampling = "", {}, {}
    records = open_records(config.data.directory, config.data.split)
    for stored, kept in ((of_stage_d, {"motion_fps"}), ({**of_stage_d, "sampler": "ddim"}, set(of_stage_d))):
        config.init_from = str(save_weights(tmp_path / stored["sampler"], params, {**described, "pipeline": stored}))
        settings = assemble(config, records).described["pipeline"]
        assert kept == set(of_stage_d) & set(settings)


def test_quantised_weights_are_not_trained(stage_d, teacher, tmp_path):
    params, described = load_weights(teacher)
    kernel = params["denoiser"]["conv_in"]["kernel"]
    params["denoiser"]["conv_in"]["kernel"] = dict(zip(("values", "scale"), to_eight_bits(kernel)))
    config = stage_d().unlock()
    config.init_from = str(save_weights(tmp_path / "quantised", params, described))
    with pytest.raises(UserError, match="quantised: these weights are quantised"):
        loop.train(config.lock(), tmp_path / "run")


def test_a_teacher_must_have_been_trained(stage_d, weights, tmp_path):
    """Networks that stage D may train all the same, but has nobody to learn from."""
    config = stage_d().unlock()
    config.init_from, config.model = str(weights), {"kinds": ("dwpose",), "unet": UNET}
    config.model.update({"guidance": {"channels": (8,), "patch": 4, "attention": False}})
    with pytest.raises(UserError, match="needs trained weights of .*teacher"):
        loop.train(config.lock(), tmp_path)


def test_a_plan_counts_the_teacher():
    state = planning.trace(planned.small("D", batch=1, size=64, frames=4), CHIPS["v5e"], jax.devices()[:1]).state
    teacher, trained = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.frozen["teacher"], state.trained))
    assert teacher == trained
    config = load_config("stage_d")
    params, _ = partition(assemble_abstract(config).params, lambda path: is_trained(path, config))
    assert 1.2e9 < sum(x.size for x in jax.tree.leaves(params)) < 1.4e9
