"""What happens to a run when records are damaged and storage is slow or silent. Rows are those of the fault matrix."""

import re
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from champ_jax.data import loader as loaders
from champ_jax.data import records as records_module
from champ_jax.data import schema
from champ_jax.data.codecs import encode_image
from champ_jax.data.encoded import build_encoded
from champ_jax.data.loader import make_loader
from champ_jax.data.records import Records, open_records, write_records
from champ_jax.errors import UserError
from tests.data.conftest import example

CLIPS, BAD = 100, 57
SETTINGS = dict(stage="B", batch_size=20, frames=1, size=32, kinds=("depth",), seed=4)
OTHER_SIZE = encode_image("depth", np.zeros((40, 48), np.uint8))


def write(directory, monkeypatch, damage, bad=(BAD,)):
    """A split of `CLIPS` clips, of which those numbered in `bad` went through `damage`, unseen by the checks."""
    good = example(frames=6, stored=3)
    clips = [{**good, "clip_id": f"c{number}"} for number in range(CLIPS)]
    for number in bad:
        clips[number] = damage(example(f"c{number}", frames=6, stored=3))
    with monkeypatch.context() as unchecked:
        unchecked.setattr(schema, "check", lambda fields, where: None)
        write_records(directory, "train", clips)
    return open_records(directory, "train")


def images(field, change):
    """Damage to all images of a field."""
    return lambda clip: {**clip, field: [change(data) for data in clip[field]]}


def one_pass(records, **changes):
    """[steps,B] record numbers of one pass over the data."""
    loader = make_loader(records, **SETTINGS | changes)
    return np.stack([next(loader)["record"] for _ in range(len(loader))])


def check_skipped(records, words, capsys):
    """One pass goes through without the bad record, which is named once."""
    numbers = one_pass(records)
    assert numbers.shape == (10, 20) and set(range(CLIPS)) - set(numbers.flat) == {BAD}
    assert list(records.skipped) == [f"c{BAD}"] and re.search(words, records.skipped[f"c{BAD}"])
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and re.search(rf"array_record-\S+, record {BAD} \(c{BAD}\): .*{words}.* 1 of 100", warnings[0])
    assert str(records.directory) not in records.skipped[f"c{BAD}"]


@pytest.mark.parametrize("field", ["frames", "depth"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data.rstrip(b"\0")[:-30], id="truncated"),
        pytest.param(lambda data: data[: len(data) // 3], id="cut"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: bytes(len(data)), id="zeros"),
        pytest.param(lambda data: b"<html>404 Not Found</html>", id="text"),
    ],
)
def test_a_damaged_image_is_skipped(tmp_path, monkeypatch, capsys, field, change):
    """Row 20: image bytes that were damaged before they were written."""
    records = write(tmp_path, monkeypatch, images(field, change))
    check_skipped(records, rf"field {field}, image \d: \d+ bytes that are not", capsys)


def test_damaged_bytes_of_a_file_are_skipped(tmp_path, monkeypatch, capsys):
    """Row 20: a file that was damaged on the disk."""
    noise = np.random.default_rng(0).bytes(5000)  # which no compression changes, so that it can be found
    records = write(tmp_path, monkeypatch, lambda clip: {**clip, "audio_ogg": noise})
    path = next(tmp_path.glob("*.array_record-*"))
    data = bytearray(path.read_bytes())
    data[data.index(noise[2000:2500])] ^= 0x10
    path.write_bytes(data)
    check_skipped(records, "unreadable record", capsys)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda clip: {**clip, "frames": clip["frames"][:2]}, "frames has 2 entries, but frame_index names 3"),
        (lambda clip: {**clip, "depth": clip["depth"][:2]}, "depth has 2 entries, but frame_index names 3"),
        (lambda clip: {**clip, "depth_range": clip["depth_range"][:1]}, "depth_range has 1 entries"),
        (lambda clip: {**clip, "kps_conf": clip["kps_conf"][:5]}, "kps_conf has 5 rows, but n_frames is 6"),
        (lambda clip: {**clip, "face_emb": clip["face_emb"][:5]}, "face_emb has 5 rows, but n_frames is 6"),
        (lambda clip: {**clip, "n_frames": 7}, "kps has 6 rows, but n_frames is 7"),
        (lambda clip: {**clip, "frame_index": [0, 4, 2]}, "frame_index must ascend"),
        (images("depth", lambda data: OTHER_SIZE), r"depth, image \d is 48x40, but the clip is 48x48"),
    ],
)
def test_a_record_that_contradicts_itself_is_skipped(tmp_path, monkeypatch, capsys, damage, words):
    """Rows 21 and 22: numbers of frames, maps and rows that do not match, and maps of another size."""
    check_skipped(write(tmp_path, monkeypatch, damage), words, capsys)


def test_a_record_without_a_map_that_it_should_have_is_skipped(tmp_path, monkeypatch, capsys):
    """Row 22: what the index says is there, is not."""
    write(tmp_path, monkeypatch, lambda clip: clip)
    index = (tmp_path / "index-train.json").read_text()
    write(tmp_path / "again", monkeypatch, lambda clip: {**clip, "depth": [], "depth_range": np.zeros((0, 2))})
    sizes = re.compile(r'"files": \{[^}]*\}')
    path = tmp_path / "again" / "index-train.json"
    path.write_text(sizes.sub(sizes.search(path.read_text())[0], index))
    records = open_records(tmp_path / "again", "train")
    check_skipped(records, r"should have maps \('depth', .*, but holds \('normal', 'semantic_map'\)", capsys)


def test_too_much_damage_ends_the_run(tmp_path, monkeypatch):
    """Row 20: beyond 1 % the error names records and reasons; also with threads, and at every further call."""
    records = write(tmp_path, monkeypatch, images("frames", lambda data: b""), bad=(BAD, 80))
    loader = make_loader(records, **SETTINGS)
    for _ in range(2):
        with pytest.raises(UserError, match="2 of 100 records cannot be used, more than 1%: c") as caught:
            for _ in range(len(loader)):
                next(loader)
        assert all(words in str(caught.value) for words in ("c57: field frames", "c80: field frames", "0 bytes", "Copy the files"))
        assert "\n" not in str(caught.value)


def test_damage_does_not_change_the_order_of_samples(tmp_path, monkeypatch):
    """Rows 14, 15 and 20: one image of a record is damaged, so that it can be used until that image is asked for."""

    def damage(clip):
        return {**clip, "frames": [clip["frames"][0], b"", clip["frames"][2]]}

    records = write(tmp_path, monkeypatch, damage)
    numbers = np.concatenate([one_pass(records, frames=1, batch_size=20) for _ in range(2)])
    assert records.skipped and BAD in numbers, "its other frames are used"
    np.testing.assert_array_equal(numbers[:10], numbers[10:])  # at first nothing was known of it, then it was
    for count in (2, 4):
        for process in range(count):
            share = one_pass(open_records(tmp_path, "train"), process=(process, count))
            np.testing.assert_array_equal(share, np.split(numbers[:10], count, axis=1)[process])
    resumed = make_loader(open_records(tmp_path, "train"), **SETTINGS)
    position = make_loader(records, **SETTINGS)
    for _ in range(7):
        next(position)
    resumed.set_state(position.get_state())
    np.testing.assert_array_equal(np.stack([next(resumed)["record"] for _ in range(3)]), numbers[7:10])


def test_validation_skips_too(tmp_path, monkeypatch):
    """Row 20: in the ordered pass the next clip takes the place."""
    records = write(tmp_path, monkeypatch, images("frames", lambda data: b"\0"))
    numbers = one_pass(records, train=False).ravel()
    expected = np.tile(np.arange(CLIPS), 2)
    expected[[BAD, CLIPS + BAD]] = BAD + 1
    np.testing.assert_array_equal(numbers, expected)


def test_an_encoder_cache_goes_without_what_cannot_be_read(tmp_path, monkeypatch, capsys):
    """Row 20: neither one damaged photo nor a record that cannot be opened ends the encoding, and neither is trained on."""
    monkeypatch.setattr(records_module, "MAX_BAD", 0.02)

    def damage(clip):
        if clip["clip_id"] == "c80":
            return {**clip, "n_frames": 7}
        return {**clip, "frames": [clip["frames"][0], b"", clip["frames"][2]]}

    records = write(tmp_path, monkeypatch, damage, bad=(BAD, 80))
    encoded = build_encoded(records, tmp_path / "cache", lambda x: {"moments": x[:, ::8, ::8] / 255.0}, "vae", (32, 32), chunk=32)
    assert list(records.skipped) == ["c57", "c80"] and capsys.readouterr().out.count("warning") == 2
    rows = {clip: encoded[clip]["moments"] for clip in ("c56", "c57", "c80")}
    assert np.isnan(rows["c57"][:, 0, 0, 0]).tolist() == [False, True, False] and np.isnan(rows["c80"]).all()
    assert not np.isnan(rows["c56"]).any() and np.isnan(rows["c57"]).mean() == 1 / 3
    records = open_records(tmp_path, "train")
    loader = make_loader(records, **SETTINGS, augment="none", encoded=encoded)
    for _ in range(len(loader)):
        assert not np.isnan(next(loader)["moments"]).any()
    assert "when it was encoded" in records.skipped["c57"] and "kps has 6 rows" in records.skipped["c80"]


def test_nothing_readable_is_an_error(tmp_path, monkeypatch):
    """Row 20: also where the records that fail are few, because the others hold motion alone."""
    motion = [example(f"m{number}", frames=4, stored=0) for number in range(CLIPS)]
    write_records(tmp_path, "train", [images("frames", lambda data: b"")(example("c")), *motion])
    with pytest.raises(UserError, match="not one of the 1 records that samples come from can be read"):
        next(make_loader(open_records(tmp_path, "train"), **SETTINGS | {"batch_size": 2}))


def test_a_bug_is_an_error_and_no_hang(records, monkeypatch):
    """Row 23: what a thread that reads raises, of whatever kind, the program learns."""

    class Dies(BaseException):
        pass

    def die(self, number):
        raise Dies

    monkeypatch.setattr(Records, "__getitem__", die)
    loader = make_loader(records, stage="A", frames=8, size=32, batch_size=2)
    with pytest.raises(Dies):
        next(loader)


def test_storage_that_does_not_answer_is_an_error(records, monkeypatch):
    """Row 23: within a time limit, and the position is still that of the last batch."""
    settings = dict(stage="A", frames=8, size=32, batch_size=4, seed=1)
    straight = make_loader(records, **settings)
    batches = [next(straight)["record"] for _ in range(8)]
    loader = make_loader(records, **settings)
    read, silent, answers = Records.__getitem__, threading.Event(), threading.Event()

    def read_or_hang(self, number):
        if silent.is_set():
            answers.wait(60)
        return read(self, number)

    monkeypatch.setattr(Records, "__getitem__", read_or_hang)
    np.testing.assert_array_equal(next(loader)["record"], batches[0])
    silent.set()
    monkeypatch.setattr(loaders, "TIMEOUT", 1.0)
    taken = 1
    start = time.monotonic()
    with pytest.raises(UserError, match="no batch within 1 seconds: the storage does not answer") as caught:
        while taken < 8:
            next(loader)
            taken += 1
    assert str(records.directory) in str(caught.value) and time.monotonic() - start < 30
    assert loader.get_state()["position"] == {"next_index": taken}
    answers.set()
    monkeypatch.setattr(loaders, "TIMEOUT", 60.0)
    np.testing.assert_array_equal(next(loader)["record"], batches[taken])


def test_a_program_ends_while_a_thread_hangs(records):
    """Row 23: an error that is never seen, because the process waits for its threads, would be none."""
    code = f"""
        import threading
        from champ_jax.data import loader
        from champ_jax.data.records import Records, open_records
        records = open_records({str(records.directory)!r}, "train")
        Records.__getitem__ = lambda self, number: threading.Event().wait()
        loader.TIMEOUT = 0.5
        next(loader.make_loader(records, stage="A", frames=8, size=32, batch_size=2))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("resume the run."), done.stderr


def test_slow_storage_is_read_while_steps_run(records, monkeypatch):
    """Row 24: storage that takes as long for a batch as a step does costs little when it is read ahead."""
    read, seconds, steps = Records.__getitem__, 0.1, 12

    def read_slowly(self, number):
        time.sleep(seconds)
        return read(self, number)

    monkeypatch.setattr(Records, "__getitem__", read_slowly)

    def run(threads):
        loader = make_loader(records, stage="A", frames=8, size=32, batch_size=1, threads=threads)
        start = time.monotonic()
        for _ in range(steps):
            next(loader)
            time.sleep(seconds)  # a step, on an accelerator
        return time.monotonic() - start

    apart = run(threads=0)
    assert apart > 2 * steps * seconds * 0.99
    assert run(threads=2) < 0.8 * apart
