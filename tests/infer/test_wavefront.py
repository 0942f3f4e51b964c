"""The order in which windows are denoised: every frame takes every step once, in order, within a bounded ring."""

import numpy as np
import pytest

from champ_jax.infer.wavefront import capacity, make_plan, rounds


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize(("window", "overlap"), [(12, 3), (4, 3), (4, 0), (24, 4)])
@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("frames", [1, 12, 13, 40, 300])
def test_every_frame_takes_every_step_in_order(frames, steps, window, overlap, rows):
    plan, room = make_plan(frames, steps, window, overlap), capacity(steps, window, overlap, rows)
    level, passes, begun = np.zeros(plan.count, int), 0, 0
    for each in rounds(plan, rows, room):
        first = int(np.argmax(level < steps))
        for frame, weight, step in zip(each.frames, each.weights, each.step):
            if weight.any():
                assert (level[frame] == step).all(), "a window waits until all its frames are there"
                passes, begun = passes + 1, max(begun, frame.max() + 1)
        assert begun - first <= room
        for start, end, step in each.advance:
            assert (level[start:end] == step).all()
            level[start:end] += 1
    assert (level == steps).all() and passes == plan.passes


def test_the_first_frames_are_done_long_before_the_last():
    plan = make_plan(300, 4, 12, 3)
    advances = [advance for each in rounds(plan, 1, capacity(4, 12, 3, 1)) for advance in each.advance]
    done = next(i for i, (_, _, step) in enumerate(advances) if step == 3)
    begun = next(i for i, (_, end, step) in enumerate(advances) if step == 0 and end == 300)
    assert done < begun / 3


def test_weights_of_a_step_sum_to_one_and_one_window_is_the_main_one():
    plan = make_plan(40, 3, 8, 2)
    total, main = np.zeros((3, 40)), np.zeros((3, 40), int)
    for each in rounds(plan, 2, capacity(3, 8, 2, 2)):
        for frame, weight, most, step in zip(each.frames, each.weights, each.main, each.step):
            total[step, frame] += weight
            main[step, frame] += most & (weight > 0)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (main == 1).all()


def test_only_windows_at_steps_that_are_alike_go_together():
    alike = [0, 1, 1, 0]
    plan = make_plan(80, 4, 8, 2)
    taken = list(rounds(plan, 4, capacity(4, 8, 2, 4), alike))
    assert all(len({alike[step] for step in each.step}) == 1 for each in taken)
    assert sum(int(each.weights.any(1).sum()) for each in taken) == plan.passes


def test_champs_windows_go_step_by_step():
    """The last window holds the first frames, which so cannot run ahead."""
    steps = [int(each.step[0]) for each in rounds(make_plan(30, 3, 8, 2, champ=True), 1, 30)]
    assert steps == sorted(steps)
