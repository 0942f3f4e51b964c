"""Features against librosa itself, on a composed song and at every usual frame rate."""

from fractions import Fraction

import librosa
import numpy as np
import pytest

from champ_jax.audio import spectra
from champ_jax.audio.features import FEATURE_DIMS, FEATURE_RATE, features, stack_context
from champ_jax.data.dancers.songs import load_song
from champ_jax.errors import UserError


@pytest.fixture(scope="module")
def song():
    """Six seconds with drums, bass, chords and melody, in the middle of a phrase: f32 [S] at FEATURE_RATE."""
    audio = load_song("disco_2").audio
    return audio[3 * FEATURE_RATE : 9 * FEATURE_RATE]


@pytest.fixture(scope="module")
def rich(song):
    return features(song, FEATURE_RATE, 24)


def _worst(ours, theirs):
    return np.abs(ours - theirs.T[: len(ours)]).max()


def test_rich192_equals_librosa(song, rich):
    frames = {"sr": FEATURE_RATE, "hop_length": 1000, "n_fft": 2048}
    mel = librosa.feature.melspectrogram(y=song, n_mels=96, fmin=30, fmax=11_500, **frames)
    assert _worst(rich[:, :96] * 40 - 40, librosa.power_to_db(mel)) < 5e-4
    mfcc = librosa.feature.mfcc(y=song, n_mfcc=20, **frames)
    assert _worst(rich[:, 96:116] * 100, mfcc) < 5e-4
    slope = librosa.feature.delta(mfcc[:, : len(rich)], width=5, order=1, mode="nearest")
    assert _worst(rich[:, 116:136] * 100, slope * 2) < 5e-4  # 1/12 s is two frames
    chroma = librosa.feature.chroma_stft(y=song, tuning=0, **frames)
    assert _worst(rich[:, 136:148], chroma) < 1e-5
    # valleys between loud tones are as deep as float32 FFTs round, which differs between libraries
    assert _worst(rich[:, 148:155] * 40, librosa.feature.spectral_contrast(y=song, **frames)) < 0.1
    assert _worst(rich[:, 155:161], librosa.feature.tonnetz(chroma=chroma)) < 1e-5
    flux = librosa.onset.onset_strength(y=song, **frames)[: len(rich)]
    assert _worst(rich[:, 161], flux / np.percentile(flux, 95)) < 5e-5
    assert _worst(rich[:, 166], librosa.feature.spectral_centroid(y=song, **frames)[0] / 12_000) < 1e-5
    assert _worst(rich[:, 167], librosa.feature.spectral_rolloff(y=song, **frames)[0] / 12_000) < 1e-3  # one bin
    assert _worst(rich[:, 168], librosa.feature.spectral_flatness(y=song, n_fft=2048, hop_length=1000)[0]) < 1e-5


def test_rich192_is_finite_and_of_one_scale(rich):
    assert rich.shape == (6 * 24, 192) and rich.dtype == np.float32
    assert np.isfinite(rich).all() and np.abs(rich).max() < 10
    assert set(np.unique(rich[:, 186:188])) == {0, 1}
    np.testing.assert_allclose((rich[:, 188:190] ** 2).sum(-1), 1, atol=1e-5)
    assert (rich[:, 191] == 1).all()


def test_tempogram_peaks_at_the_tempo_given_beats(song, rich):
    tempi = np.geomspace(40.0, 240.0, 16)
    heard = tempi[rich[48:96, 170:186].mean(0).argmax()]
    assert min(abs(np.log2(heard / t)) for t in (59, 118, 236)) < 0.2
    known = features(song, FEATURE_RATE, 24, beats=np.arange(0.25, 6, 0.5))
    assert known[6, 187] == 1 and known[:, 187].sum() == 12
    np.testing.assert_allclose(known[:, 190], 0, atol=1e-6)  # 120 bpm
    np.testing.assert_allclose(known[6, 188:190], [0, 1], atol=1e-5)


def test_stack4800_is_rich192_in_context(song, rich):
    stacked = features(song, FEATURE_RATE, 24, "stack4800")
    assert stacked.shape == (len(rich), FEATURE_DIMS["stack4800"]) == (len(rich), 4800)
    rows = stacked.reshape(len(rich), 25, 192)
    np.testing.assert_array_equal(rows[:, 12], rich)
    np.testing.assert_array_equal(rows[20, 0], rich[8])
    assert (stack_context(rich)[0, : 12 * 192] == 0).all()


@pytest.mark.parametrize("fps", [24, 30])
def test_fact35_equals_librosa(song, fps):
    rate = fps * 512
    audio = librosa.resample(song, orig_sr=FEATURE_RATE, target_sr=rate, res_type="soxr_hq")
    ours = features(audio, rate, fps, "fact35")
    envelope = librosa.onset.onset_strength(y=audio, sr=rate)
    assert ours.shape == (6 * fps, 35)
    assert _worst(ours[:, 0], envelope) < 5e-5
    assert _worst(ours[:, 1:21], librosa.feature.mfcc(y=audio, sr=rate, n_mfcc=20)) < 5e-4
    cens = librosa.feature.chroma_cens(y=audio, sr=rate, hop_length=512, n_chroma=12, tuning=0)
    apart = np.abs(ours[:, 21:33] - cens.T[: len(ours)])
    assert apart.mean() < 1e-3  # quantised: a value on a step's edge may fall on the other side
    assert np.median(apart) < 1e-6
    peaks = librosa.onset.onset_detect(onset_envelope=ours[:, 0], sr=rate, hop_length=512)
    np.testing.assert_array_equal(np.flatnonzero(ours[:, 33]), peaks)


@pytest.mark.parametrize("fps", [12, 15, 24, 25, 30, 60, Fraction(24_000, 1001), Fraction(30_000, 1001)])
def test_a_click_is_heard_in_its_own_frame(fps):
    """Always as many frames as 5 s have at 60 fps, so that the spectra compile once."""
    click = 3.2
    audio = np.zeros(5 * FEATURE_RATE, np.float32)
    audio[round(click * FEATURE_RATE)] = 1.0
    centres = np.rint(np.arange(5 * 60) * FEATURE_RATE / float(fps)).astype(np.int32)
    power = spectra.power_spectra(spectra.cut_frames(audio, centres, spectra.N_FFT))
    envelope = np.asarray(spectra.onset_strength(spectra.to_db(spectra.mel_power(power, FEATURE_RATE, 128)), FEATURE_RATE / float(fps)))
    assert abs(envelope.argmax() - click * fps) <= 1


def test_other_rates_and_fractions_keep_the_clock(song):
    """The same sound at 44.1 kHz and at 29.97 fps: the row count is the video's, and levels agree."""
    fps = Fraction(30_000, 1001)
    audio = librosa.resample(song, orig_sr=FEATURE_RATE, target_sr=44_100)
    beats = np.arange(0.25, 6, 0.5)
    ours = features(audio, 44_100, fps, beats=beats)
    assert len(ours) == round(6 * fps)
    at_24k = features(song, FEATURE_RATE, fps, beats=beats)
    assert np.abs(ours[:, 165] - at_24k[:, 165]).max() < 0.02


def test_silence_and_one_frame_are_features_too():
    rows = features(np.zeros(3 * FEATURE_RATE, np.float32), FEATURE_RATE, 24)
    assert np.isfinite(rows).all() and (rows[:, 186:] == 0).all()
    assert features(np.zeros(100, np.float32), FEATURE_RATE, 24, beats=np.zeros(0)).shape == (1, 192)


def test_unknown_spec_and_low_rate_are_refused(song):
    with pytest.raises(UserError, match="rich192"):
        features(song, FEATURE_RATE, 24, "jukebox")
    with pytest.raises(UserError, match="fps"):
        features(song, FEATURE_RATE, 12, "fact35")
