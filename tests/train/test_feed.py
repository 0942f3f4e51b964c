"""The feed: batches for the device, and on the host where they came from."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from champ_jax.data import records as records_module
from champ_jax.data.codecs import encode_image
from champ_jax.data.loader import make_loader
from champ_jax.data.records import open_records, write_records
from champ_jax.errors import UserError
from champ_jax.parallel.mesh import make_mesh
from champ_jax.train.assemble import assemble, with_pipeline_settings
from champ_jax.train.compiled import loss_of
from champ_jax.train.evaluation import Evaluation
from champ_jax.train.feed import REMEMBERED, Feed, kinds_of, say_absent
from tests.data.conftest import example


@pytest.fixture
def feed(small, data, tmp_path):
    """feed(**changes): a new Feed of stage A."""

    def build(**changes) -> Feed:
        config = small("A", **changes)
        records = open_records(config.data.directory, config.data.split)
        return Feed(config, assemble(config, records), records, tmp_path)

    return build


def test_clips_of_a_step_are_remembered_and_not_shipped(feed):
    feed = feed()
    for step in range(REMEMBERED + 2):
        batch = feed.next(step)
        assert "record" not in batch
        clips = feed.clips(step)
        assert [f"train{number}" for number in batch["identity"]] == clips and len(clips) == 2
    assert feed.clips(1) == [] and len(feed.clips(2)) == 2
    assert feed.clips(REMEMBERED + 1) == clips, "asking changes nothing"


def test_a_resumed_feed_names_the_same_clips(feed):
    """Row 15: position 7 is amid the fourth of several shuffled passes over the data."""
    straight = feed()
    named = []
    for step in range(12):
        straight.next(step)
        named.append(straight.clips(step))
        if step == 6:
            state = json.loads(json.dumps(straight.get_state(7)))
    resumed = feed()
    resumed.set_state(7, state)
    for step in range(7, 12):
        resumed.next(step)
    assert [resumed.clips(step) for step in range(7, 12)] == named[7:]
    assert resumed.clips(6) == []


def test_phases_share_what_is_remembered(small, data, tmp_path):
    config = small("C", data__frames=4, data__first_frames=2)
    records = open_records(config.data.directory, config.data.split)
    feed = Feed(config, assemble(small("B"), records), records, tmp_path)  # of the model it reads what maps there are
    lengths = [feed.next(step)["video"].shape[1] for step in range(4)]
    assert lengths == [2, 2, 4, 4] and all(len(feed.clips(step)) == 2 for step in range(4))


@pytest.fixture
def damaged(tmp_path):
    """Four clips in each of two splits, the third with a photo that is none."""
    for split in ("train", "test"):
        clips = [example(f"{split}{number}", frames=20, stored=8, identity=number) for number in range(4)]
        clips[2]["frames"] = [encode_image("frames", np.zeros((16, 48, 3), np.uint8))] * 8
        write_records(tmp_path / "damaged", split, clips)
    return str(tmp_path / "damaged")


def test_skipped_records_are_counted_and_named(feed, small, damaged, tmp_path, monkeypatch):
    """Row 20, in training: one of four clips is more than 1 %; where that were allowed, training would go on."""
    config = small("B", data__directory=damaged)
    records = open_records(damaged, "train")
    assembled = assemble(config, records)
    with pytest.raises(UserError, match=r"1 of 4 records cannot be used, more than 1%: train2: field frames, image \d is 48x16"):
        feed = Feed(config, assembled, records, tmp_path)
        for step in range(6):
            feed.next(step)
    monkeypatch.setattr(records_module, "MAX_BAD", 0.25)
    feed = Feed(config, assembled, open_records(damaged, "train"), tmp_path)
    clips = []
    for step in range(6):  # a pass over the data
        feed.next(step)
        clips += feed.clips(step)
    assert list(feed.skipped) == ["train2"] and set(clips) == {"train0", "train1", "train3"}


@pytest.mark.parametrize("stage", ["A", "C"])
def test_settings_come_from_a_clip_that_can_be_read(small, damaged, monkeypatch, stage):
    """Row 20: the first record is as likely damaged as any."""
    config = small(stage, data__directory=damaged)
    records = open_records(damaged, "train")
    expected = with_pipeline_settings({}, config, records)
    monkeypatch.setattr(records_module, "MAX_BAD", 0.25)
    read = records._read

    def read_all_but_the_first(number):
        if number == 0:
            raise UserError("damaged")
        return read(number)

    monkeypatch.setattr(records, "_read", read_all_but_the_first)
    assert with_pipeline_settings({}, config, records) == expected and list(records.skipped) == ["train0"]


def test_validation_skips_too_and_ships_no_numbers(small, damaged, monkeypatch):
    """Row 20, in validation."""
    config = small("B", data__directory=damaged, data__batch_size=4, data__frames=1)
    assembled = assemble(config, open_records(damaged, "train"))
    with pytest.raises(UserError, match="split test: 1 of 4 records cannot be used"):
        Evaluation(config, assembled, make_mesh(config.mesh))
    monkeypatch.setattr(records_module, "MAX_BAD", 0.25)
    (batch,) = Evaluation(config, assembled, make_mesh(config.mesh)).batches
    assert list(batch["identity"]) == [0, 1, 3, 3] and "record" not in batch
    loader = make_loader(open_records(damaged, "test"), stage="B", batch_size=4, frames=1, size=32, kinds=(), train=False)
    assert list(next(loader)["record"]) == [0, 1, 3, 3]


def test_losses_with_and_without_the_encoder_cache_are_equal(small, tmp_path):
    """The cache holds mean and log-variance, so that training draws from it what it draws from pixels."""
    losses = []
    for cached in (False, True):
        config = small("B", data__latent_cache=cached, data__augment="none")
        records = open_records(config.data.directory, config.data.split)
        assembled = assemble(config, records)
        feed = Feed(config, assembled, records, tmp_path)
        loss = jax.jit(loss_of(config, assembled))
        batches = [feed.next(step) for step in range(3)]
        assert all(("video" in batch) != cached and ("reference" in batch) != cached for batch in batches)
        losses.append([float(loss(assembled.params, batch, jax.random.key(0), 0)[0]) for batch in batches])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)  # half precision on the disk


def test_maps_that_not_all_clips_have_are_left_out(capsys):
    clips = lambda *maps: SimpleNamespace(infos=[SimpleNamespace(maps=kinds, stored=1) for kinds in maps], where=lambda: "mine, train")  # noqa: E731
    assembled = SimpleNamespace(config=SimpleNamespace(kinds=("depth", "normal", "dwpose")))
    config = ConfigDict({"stage": "B", "model": {}})
    say_absent(config, assembled, clips(("depth", "normal")), "these encoders learn nothing")
    assert capsys.readouterr().out == ""
    some = clips(("depth", "normal"), ("normal",))
    assert kinds_of(config, assembled, some) == ("normal", "dwpose")
    say_absent(config, assembled, some, "these encoders learn nothing")
    assert "mine, train: not all clips have depth: these encoders learn nothing" in capsys.readouterr().out
    asked = ConfigDict({"stage": "B", "model": {"kinds": ("depth",)}})
    assert kinds_of(asked, assembled, some) == assembled.config.kinds  # the loader then names the clip that lacks one
