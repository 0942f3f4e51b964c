"""Songs are read, and what is not a song is refused in one line."""

import numpy as np
import pytest
import soundfile

from champ_jax.audio.load import load_audio
from champ_jax.errors import UserError

RATE = 22_050


def _tone(seconds=0.5, gain=0.3):
    return (gain * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_reads_and_mixes_to_mono(tmp_path, suffix):
    path = tmp_path / f"song.{suffix}"
    stereo = np.stack([_tone(), np.zeros_like(_tone())], -1)
    soundfile.write(path, stereo, RATE)
    audio, rate = load_audio(path)
    assert rate == RATE and audio.dtype == np.float32 and audio.ndim == 1
    assert abs(np.sqrt((audio**2).mean()) - 0.15 / np.sqrt(2)) < 0.01
    assert abs(len(audio) - len(stereo)) < 0.1 * RATE


@pytest.mark.parametrize(
    "samples, says",
    [
        (np.zeros(0, np.float32), "empty"),
        (_tone(0.01), "empty"),
        (_tone(gain=5e-4), "silent"),
        (np.where(np.arange(RATE) == 9, np.nan, 0.1).astype(np.float32), "NaN"),
    ],
)
def test_refuses_what_no_dance_can_follow(tmp_path, samples, says):
    path = tmp_path / "song.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=says) as error:
        load_audio(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_refuses_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no song at"):
        load_audio(tmp_path / "absent.wav")
    with pytest.raises(UserError, match="no song at"):
        load_audio(tmp_path)
    text = tmp_path / "notes.mp3"
    text.write_text("these are lyrics, not sound\n" * 50)
    with pytest.raises(UserError, match="not audio"):
        load_audio(text)
