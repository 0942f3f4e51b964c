"""Records: what is written is read back, by tfds too, and damage is named in one line."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from champ_jax.data import codecs, schema
from champ_jax.data.records import open_records, write_records
from champ_jax.errors import UserError


def test_round_trip(tmp_path, make_example):
    given = make_example("a", identity=7)
    assert write_records(tmp_path, "train", [given, make_example("b", stored=0)]) == 2
    records = open_records(tmp_path, "train")
    clip = records[0]
    assert (clip.clip_id, clip["identity_id"], clip["license"], clip["style_id"]) == ("a", 7, "CC0", -1)
    assert clip.size == (48, 48) and clip.stored == 6 and clip.n_frames == 12
    np.testing.assert_array_equal(clip["kps"], given["kps"].astype(np.float16))
    np.testing.assert_array_equal(clip["frame_index"], given["frame_index"])
    np.testing.assert_allclose(clip["music"], given["music"], atol=1e-3)
    assert clip["frames"] == given["frames"]
    semantic = clip.image("semantic_map", 2)
    assert semantic.shape == (48, 48, 3) and (clip.mask(2) == semantic.any(-1)).all() and clip.mask(2).sum() == 240
    np.testing.assert_allclose(clip.flow(1)[12, 8], [2.0, 0.0], atol=0.01)
    assert records.infos[0].maps == ("depth", "normal", "semantic_map")
    assert records[1].stored == 0 and records.infos[1].maps == ()


def test_splits_join_and_are_not_overwritten_by_accident(tmp_path, make_example):
    write_records(tmp_path, "train", [make_example("a")])
    write_records(tmp_path, "motion", (make_example(f"m{i}", stored=0) for i in range(3)), shard_bytes=1)
    both = open_records(tmp_path, "train+motion")
    assert [both[i].clip_id for i in range(4)] == ["a", "m0", "m1", "m2"]
    assert "motion.array_record-00002-of-00003, record 0 (m2)" in both.where(3)
    with pytest.raises(UserError, match="exists already"):
        write_records(tmp_path, "train", [make_example("x")])
    write_records(tmp_path, "train", [make_example("x")], overwrite=True)
    assert [info.clip_id for info in open_records(tmp_path, "train+motion").infos] == ["x", "m0", "m1", "m2"]
    with pytest.raises(UserError, match=r"no split 'test'; it has \['motion', 'train'\]"):
        open_records(tmp_path, "test")


def test_an_interrupted_write_leaves_nothing(tmp_path, make_example):
    write_records(tmp_path, "train", [make_example("a")])
    before = sorted(os.listdir(tmp_path))

    def examples():
        yield make_example("b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path, "train2", examples())
    assert sorted(os.listdir(tmp_path)) == before
    assert open_records(tmp_path, "train")[0].clip_id == "a"


def test_tfds_reads_them_without_tensorflow(records):
    code = f"""
        import sys
        import tensorflow_datasets as tfds
        source = tfds.builder_from_directory({str(records.directory)!r}).as_data_source("train")
        example = source[2]
        assert example["clip_id"] == b"c2" and example["kps"].shape == (12, 134, 2)
        assert example["frames"][0].shape == (48, 48, 3) and example["depth"][0].shape == (48, 48, 1)
        from champ_jax.data.loader import make_loader
        from champ_jax.data.records import open_records
        next(make_loader(open_records({str(records.directory)!r}, "train"), stage="B", batch_size=2, frames=2, size=32))
        assert "tensorflow" not in sys.modules and "flax" not in sys.modules and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def shard(records):
    return next(records.directory.glob("*-train.array_record-*"))


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_truncated_file_is_named(records):
    path = shard(records)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="unreadable records: the file has") as caught:
        open_records(records.directory, "train")
    assert path.name in one_line(caught)
    path.unlink()
    with pytest.raises(UserError, match="the file is missing"):
        open_records(records.directory, "train")


@pytest.mark.parametrize("place", [100, 10_000, 20_000, 30_000])
def test_a_flipped_byte_is_found(records, place):
    path = shard(records)
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    damaged = open_records(records.directory, "train")
    with pytest.raises(UserError, match="unreadable record") as caught:
        [damaged[i] for i in range(4)]
    assert path.name in one_line(caught) and "(c" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"clips": []}', '{"clips": [], "files": 3}'])
def test_a_damaged_index_is_named(records, text):
    (records.directory / "index-train.json").write_text(text)
    with pytest.raises(UserError, match="index-train.json: unreadable index") as caught:
        open_records(records.directory, "train")
    one_line(caught)


def test_another_version_or_no_metadata_is_refused(records, tmp_path):
    with pytest.raises(UserError, match="no records here"):
        open_records(tmp_path / "nowhere", "train")
    path = records.directory / "dataset_info.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"version": "9.0.0"}))
    with pytest.raises(UserError, match="version 9.0.0, expected champ_clips version"):
        open_records(records.directory, "train")
    path.write_text("{")
    with pytest.raises(UserError, match="unreadable metadata") as caught:
        open_records(records.directory, "train")
    one_line(caught)


def test_a_record_without_a_field_is_named(tmp_path, make_example, monkeypatch):
    """As from a writer of another schema whose features.json claims more than the record holds."""
    from tensorflow_datasets.core import example_serializer

    make = example_serializer.ExampleSerializer.get_tf_example

    def without_kps(self, example):
        record = make(self, example)
        del record.features.feature["kps_conf"]
        return record

    monkeypatch.setattr(example_serializer.ExampleSerializer, "get_tf_example", without_kps)
    write_records(tmp_path, "train", [make_example("a")])
    with pytest.raises(UserError, match=r"record 0 \(a\): unreadable record.*'kps_conf'\] are missing"):
        open_records(tmp_path, "train")[0]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kps": np.zeros((0, 134, 2)), "kps_conf": np.zeros((0, 134))}, "zero frames"),
        ({"kps": np.zeros((12, 133, 2))}, r"field kps has shape \(12, 133, 2\), expected \(None, 134, 2\)"),
        ({"kps_conf": np.zeros((5, 134))}, "field kps_conf has 5 rows, but n_frames is 12"),
        ({"depth": [b""]}, "field depth has 1 entries, but frame_index names 6 frames"),
        ({"frame_index": np.array([0, 2, 4, 6, 8, 12])}, "frame_index must ascend within 0..11"),
        ({"fps_den": 0}, "fps_den is 0"),
        ({"fps": 24}, "unknown fields"),
        ({"reference_index": 6}, "reference_index 6 names none of the 6"),
    ],
)
def test_invalid_examples_are_refused(tmp_path, make_example, change, words):
    with pytest.raises(UserError, match=words) as caught:
        write_records(tmp_path, "train", [make_example("good"), make_example("bad") | change])
    assert "example 1 (bad)" in str(caught.value)
    assert not (tmp_path / "dataset_info.json").exists()


def test_no_examples_and_repeated_ids_are_refused(tmp_path, make_example):
    with pytest.raises(UserError, match="no examples"):
        write_records(tmp_path, "train", [])
    with pytest.raises(UserError, match="clip_id was written before"):
        write_records(tmp_path, "train", [make_example("a"), make_example("a")])


def test_a_broken_image_is_named(tmp_path, make_example):
    example = make_example("a")
    example["normal"][3] = b"not an image"
    write_records(tmp_path, "train", [example])
    with pytest.raises(UserError, match=r"record 0 \(a\): field normal, image 3: 12 bytes that are not"):
        open_records(tmp_path, "train")[0].image("normal", 3)


def test_labels_and_depth_are_stored_without_loss():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, (96, 96, 1), dtype=np.uint8) * np.array([30, 20, 10], np.uint8)
    np.testing.assert_array_equal(codecs.decode_image("semantic_map", codecs.encode_image("semantic_map", labels)), labels)
    empty = np.zeros((96, 96, 3), np.uint8)  # nobody in the frame
    np.testing.assert_array_equal(codecs.decode_image("semantic_map", codecs.encode_image("semantic_map", empty)), empty)
    depth = np.tile(np.arange(96, dtype=np.uint8), (96, 1))
    np.testing.assert_array_equal(codecs.decode_image("depth", codecs.encode_image("depth", depth)), depth)
    flow = rng.normal(size=(16, 16, 2)) * 5
    np.testing.assert_allclose(codecs.decode_flow(*codecs.encode_flow(flow)), flow, atol=abs(flow).max() / 254 + 1e-6)
    assert not codecs.decode_flow(*codecs.encode_flow(flow * 0)).any()
    with pytest.raises(UserError, match="uint8"):
        codecs.encode_image("frames", np.zeros((4, 4, 3)))


def test_the_schema_lists_every_field_once():
    assert len(set(schema.FIELDS)) == len(schema.FIELDS) == len(schema.features())


def test_a_photo_is_whole_or_refused():
    """Row 20: older OpenCV gives a picture for a JPEG that lacks its end; what follows the end does no harm."""
    rng = np.random.default_rng(0)
    data = codecs.encode_image("frames", rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).rstrip(b"\0")
    image = codecs.decode_image("frames", data)
    np.testing.assert_array_equal(codecs.decode_image("frames", data + b"\0\0 and more"), image)
    for length in (0, 2, 200, 1000, len(data) - 1):
        with pytest.raises(ValueError, match=f"^{length} bytes that are not"):
            codecs.decode_image("frames", data[:length])
