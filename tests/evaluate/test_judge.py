"""Judging clips: equal videos are perfect in every metric, worse ones worse; parts of hosts merge to the whole."""

import dataclasses

import numpy as np
import pytest

from champ_jax.data.estimate.faces import FaceModel
from champ_jax.data.estimate.people import Estimator, People, boxes_of
from champ_jax.errors import UserError
from champ_jax.evaluate.catalogue import HIGHER, LOWER, METRICS
from champ_jax.evaluate.clips import Clip, Flow, frames_of
from champ_jax.evaluate.files import join_parts, part_path, read_part, write_part
from champ_jax.evaluate.judge import Judge, judge_clips
from champ_jax.evaluate.summary import summarise
from tests.evaluate import nets
from tests.evaluate.films import clips, film, noisy, swaying

BEATS = np.arange(1, 8) * 0.5


def values(opened, judge=None):
    judge = judge or Judge()
    return {row["name"]: row for row in summarise(judge_clips(opened, judge), judge)["metrics"]}


@pytest.fixture(scope="module")
def looking():
    """A judge with networks, a face model that knows everybody by their mean colour, and an estimator that sees one pose."""

    def embed(image):
        colour = image.reshape(-1, 3).mean(0)
        return (colour / np.linalg.norm(colour)).astype(np.float32), True

    motion = swaying()

    def estimate(_):
        keypoints, confidence = motion.keypoints[:1], motion.confidence[:1]
        return People(keypoints, confidence, boxes_of(keypoints, confidence, 0.3))

    networks = nets.networks("alexnet", "lpips_alex", "vgg16", "lpips_vgg")
    for name in ("inception", "i3d", "resnet3d", "clip", "dino"):
        networks.replace(name, nets.quick(name))
    return Judge(networks=networks, faces=FaceModel(embed, 3, "mean colour"), estimator=Estimator(estimate), estimator_name="one pose")


def test_equal_videos_are_perfect_in_every_metric(looking):
    found = values(clips(3), looking)
    perfect = {"psnr": np.inf, "ssim": 1, "l1": 0, "lpips_alex": 0, "lpips_vgg": 0, "fid": 0, "dtssd": 0, "style_gram": None}
    perfect |= {"pck_05": 1, "pck_10": 1, "mpjpe": 0, "oks": 1, "oks_ap": 1, "csim": None, "face_detected": 1, "frozen": None}
    for name, expected in perfect.items():
        if expected is not None:
            assert found[name]["value"] == pytest.approx(expected, abs=2e-5), name
    for name, row in found.items():
        if row["n"] and row["real"] is not None and name not in ("energy_ratio", "frozen"):
            assert row["value"] == pytest.approx(row["real"], abs=1e-9), name
    assert found["csim"]["value"] > 0.99 and found["csim"]["through"] == "mean colour"
    assert found["pck_05"]["through"] == "poses: one pose"


def test_stronger_noise_is_worse_in_every_metric(looking):
    found = [values(clips(2, strength), looking) for strength in (0.0, 4.0, 12.0, 30.0)]
    checked = 0
    for name, metric in METRICS.items():
        rows = [found[i][name] for i in range(4) if name in found[i] and found[i][name]["n"]]
        # The stand-in for CLIP does not know noise from style: it is asked about colours, below.
        if metric.group in ("Quality", "Distribution", "Steadiness", "Consistency", "Style") and len(rows) == 4 and name != "style_clip":
            series = [row["value"] for row in rows]
            if metric.better not in (HIGHER, LOWER):
                series = [abs(row["value"] - row["real"]) for row in rows]
            assert series == sorted(series, reverse=metric.better == HIGHER), (name, series)
            checked += 1
    assert checked >= 18


def test_a_stranger_face_is_worse_the_stranger_it_is(looking):
    found = []
    for share in (0.0, 0.2, 0.5, 0.9):
        tinted = [film(0).astype(np.float32) * (1, 1 - share, 1 - share)]
        clip = Clip("a", 12.0, frames_of(tinted[0].astype(np.uint8)), frames_of(film(0)), photo=film(0)[0])
        found.append(values({"a": lambda clip=clip: clip}, looking))
    for name in ("csim", "csim_all_frames", "style_clip"):
        series = [row[name]["value"] for row in found]
        assert series == sorted(series, reverse=True) and series[0] > series[-1] + 0.01, (name, series)


def test_stronger_jitter_of_a_dance_is_worse():
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, swaying().keypoints.shape).astype(np.float32) for _ in range(6)]
    found = []
    for strength in (0.0, 0.3, 1.5):
        opened = {}
        for number, jitter in enumerate(noise):
            real = swaying(reach=0.15 + 0.02 * number)
            own = dataclasses.replace(real, keypoints=real.keypoints + strength * jitter)
            opened[f"{number}"] = lambda own=own, real=real: Clip("a", motion=own, reference_motion=real, beats=BEATS)
        opened = {name: lambda name=name, opens=opens: dataclasses.replace(opens(), name=name) for name, opens in opened.items()}
        found.append(values(opened))
    for name in ("jerk", "high_frequency", "energy", "fid_k", "fid_g"):
        series = [row[name]["value"] for row in found]
        better = METRICS[name].better == HIGHER
        assert series == sorted(series, reverse=better) and series[0] != series[-1], (name, series)
    # Beats are found or lost: past the first jitter what is left is chance.
    first, *rest = (row["beat_corrected"]["value"] for row in found)
    assert first > max(rest)


def test_exact_flow_is_used_where_it_is_given():
    frames = film()
    forward = np.broadcast_to(np.array([-2, 0], np.float32), (len(frames) - 1, *frames.shape[1:3], 2))
    flow = Flow(forward, np.ones(forward.shape[:3], bool))
    clip = Clip("a", 12.0, frames_of(frames), frames_of(frames), flow=flow)
    found = values({"a": lambda: clip})
    assert found["warp_error"]["value"] == pytest.approx(0, abs=1e-12) and found["warp_error"]["through"] == "flow: exact"
    assert values(clips(1))["warp_error"]["through"] == "flow: dense inverse search"


def test_videos_of_different_length_and_size():
    frames = film(count=20)
    longer = Clip("a", 12.0, frames_of(frames[:18]), frames_of(frames))
    record = judge_clips({"a": lambda: longer}, Judge()).records[0]
    assert record["frames"] == 18 and "the reference goes on after frame 18" in record["notes"][0]
    smaller = Clip("b", 12.0, frames_of(frames[:, :32, :32]), frames_of(frames))
    with pytest.raises(UserError, match="clip b: generated frames are 32x32 and reference frames 64x64; give --size"):
        judge_clips({"b": lambda: smaller}, Judge())
    assert judge_clips({"b": lambda: smaller}, Judge("disco-compat")).records[0]["size"] == [64, 64]
    with pytest.raises(UserError, match="clip c: it has no frames"):
        judge_clips({"c": lambda: Clip("c", 12.0, frames_of(frames[:0]), frames_of(frames))}, Judge())
    with pytest.raises(UserError, match="expected strict or disco-compat"):
        Judge("disco")


def test_identical_frames_stay_out_of_the_mean_and_are_told():
    frames = film()
    some = np.concatenate([frames[:5], noisy(frames[5:], 10)])
    record = judge_clips({"a": lambda: Clip("a", 12.0, frames_of(some), frames_of(frames))}, Judge()).records[0]
    assert np.isfinite(record["values"]["psnr"]) and "5 frames are equal" in record["notes"][0]


def test_motion_and_music_alone():
    still = swaying(reach=0.001)
    locked = Clip("locked", motion=swaying(), reference_motion=swaying(), beats=BEATS)
    frozen = Clip("frozen", motion=still, reference_motion=swaying(), beats=BEATS)
    found = values({"locked": lambda: locked})
    assert found["beat_corrected"]["value"] > 0.6 and found["frozen"]["value"] == 0 and found["energy_ratio"]["value"] == pytest.approx(1)
    found = values({"frozen": lambda: frozen})
    assert found["frozen"]["value"] == 1 and found["energy_ratio"]["value"] < 0.01
    record = judge_clips({"locked": lambda: locked}, Judge()).records[0]
    assert record["curves"]["music_beats"] == BEATS.tolist() and len(record["curves"]["shift"]) == 81


def test_parts_of_hosts_are_the_whole(tmp_path):
    def with_motion(opens, number):
        def opened():
            clip = opens()
            return Clip(
                clip.name, clip.fps, clip.generated, clip.reference, motion=swaying(rate=1 + number / 10), reference_motion=swaying()
            )

        return opened

    opened = {name: with_motion(opens, number) for number, (name, opens) in enumerate(clips(5, 6.0).items())}
    judge = Judge()
    judge.networks.replace("inception", nets.quick("inception"))
    whole = summarise(judge_clips(opened, judge), judge)
    for shard in range(2):
        write_part(part_path(tmp_path, (shard, 2)), judge_clips(opened, judge, (shard, 2)), "key")
    parts = [read_part(part_path(tmp_path, (shard, 2)), "key") for shard in (1, 0)]
    merged = summarise(join_parts(parts, list(opened)), judge)
    assert [record["name"] for record in merged["records"]] == list(opened)
    for one, other in zip(whole["metrics"], merged["metrics"]):
        assert one["n"] == other["n"] and one["name"] == other["name"]
        np.testing.assert_allclose(one["value"], other["value"], rtol=1e-9, atol=1e-9, err_msg=one["name"])
    with pytest.raises(UserError, match="other clips or settings"):
        read_part(part_path(tmp_path, (0, 2)), "another")
    written = part_path(tmp_path, (0, 2)).read_bytes()
    half = len(written) // 2
    for damaged in (b"PK", written[:half], written[:half] + bytes(200) + written[half + 200 :]):
        part_path(tmp_path, (0, 2)).write_bytes(damaged)
        with pytest.raises(UserError, match="evaluate that shard again"):
            read_part(part_path(tmp_path, (0, 2)), "key")


def test_every_number_says_how_many_and_through_what(looking):
    results = summarise(judge_clips(clips(3, 5.0), looking), looking)
    rows = {row["name"]: row for row in results["metrics"]}
    assert results["protocol"] == "strict" and results["resolution"] == ["64x64"] and results["frames"] == 60
    assert rows["psnr"]["n"] == 3 and rows["psnr"]["low"] <= rows["psnr"]["value"] <= rows["psnr"]["high"]
    assert "says little" in rows["psnr"]["note"] and "2048" in rows["fid"]["note"] and rows["fid"]["n"] == 60
    assert "0" * 12 in rows["fid"]["through"] and "inception.pth" in results["weights"]
    bare = {row["name"]: row for row in summarise(judge_clips(clips(1), Judge()), Judge())["metrics"]}
    assert bare["fvd"]["n"] == 0 and "i3d_pretrained_400.pt" in bare["fvd"]["note"] and np.isnan(bare["fvd"]["value"])
    assert "identity_top1" not in rows and "--music" in rows["beat_corrected"]["note"]
