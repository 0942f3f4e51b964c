"""Music features, one row a video frame: frame i describes the sound around i / fps seconds.

`rich192` needs no weights and works at a fixed 24 kHz, so its bandwidth does not depend on the frame rate; windows are
cut at round(i / fps * 24000), exact to half a sample at any rate, 23.976 included. `stack4800` is rich192 with 12
frames of context on both sides. `fact35` is the feature of FACT (Li et al. 2021), as in EDGE and Lodge, for comparison
with papers. Spectra run in JAX; onset peaks and beats, one decision a song, on the host with librosa.

rich192 columns: 0-95 log-mel, 96-115 MFCC, 116-135 their slope, 136-147 chroma, 148-154 spectral contrast,
155-160 tonnetz, 161-164 onset flux (all, < 150 Hz, 150-2000, > 2000), 165-169 level and timbre, 170-185 tempogram
(40-240 bpm), 186-187 onset peak and beat one-hots, 188-189 sin and cos of the beat phase, 190 log2(bpm / 120),
191 one where there is sound.
"""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from champ_jax.audio import spectra
from champ_jax.audio.beats import beat_phase, resample, track_beats
from champ_jax.audio.cens import OCTAVES, cens
from champ_jax.audio.load import SILENCE_DB
from champ_jax.audio.one_at_a_time import one_at_a_time
from champ_jax.errors import UserError

FEATURE_RATE = 24_000
CONTEXT = 12
FEATURE_DIMS = {"rich192": 192, "stack4800": 192 * (2 * CONTEXT + 1), "fact35": 35}
FACT_HOP = 512
FACT_MIN_FPS = 18  # below, the top octave of its chroma lies above the Nyquist frequency of fps * 512
FRAME_BUCKET = 256  # songs are padded to 1, 2, 4, 8, ... of it, so that a new length rarely compiles anew
SLOPE_SECONDS = 1 / 12
TEMPI = np.geomspace(40.0, 240.0, 16)


def features(audio: np.ndarray, rate: int, fps: float | Fraction, spec: str = "rich192", beats: np.ndarray | None = None) -> np.ndarray:
    """Features of a song at a video's frame rate.

    Args:
        audio: f32 [S], mono.
        rate: its sample rate in Hz.
        fps: frames a second, any positive number (int, float or Fraction).
        spec: "rich192", "stack4800" or "fact35" (the latter from 18 fps up).
        beats: known beat times in seconds [n]; tracked when None.

    Returns:
        f32 [F, FEATURE_DIMS[spec]] on the host, F = round(S / rate * fps), at least 1.

    Raises:
        UserError: unknown spec, or fact35 at a rate it is not defined for.
    """
    if spec not in FEATURE_DIMS:
        raise UserError(f"unknown music feature '{spec}'; expected one of {', '.join(FEATURE_DIMS)}")
    n_frames = max(1, round(len(audio) * fps / rate))
    if spec == "fact35":
        return _fact35(audio, rate, float(fps), n_frames, beats)
    rich = _rich192(audio, rate, float(fps), n_frames, beats)
    return rich if spec == "rich192" else stack_context(rich)


def stack_context(rows: np.ndarray) -> np.ndarray:
    """Rows i - CONTEXT to i + CONTEXT side by side, zeros outside the song: [F, D] -> [F, D * (2 * CONTEXT + 1)]."""
    padded = np.pad(rows, ((CONTEXT, CONTEXT), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, axis=0)
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(len(rows), -1)


def _rich192(audio, rate, fps, n_frames, beats):
    """The 192 columns of the module's docstring: f32 [S] -> f32 [n_frames, 192]."""
    padded, centres = _pad(resample(audio, rate, FEATURE_RATE), FEATURE_RATE, fps, n_frames)
    spectral, onset, sound = jax.device_get(_rich_spectra(padded, centres, n_frames, fps))
    spectral, onset, sound = spectral[:n_frames], onset[:n_frames], sound[:n_frames]
    beats = track_beats(audio, rate) if beats is None else beats
    peaks = _peak_frames(onset, FEATURE_RATE, round(FEATURE_RATE / fps))
    one_hots = np.stack([_one_hot(peaks, n_frames), _one_hot(_beat_frames(beats, fps), n_frames)], -1)
    return np.concatenate([spectral, one_hots, _beat_columns(beats, fps, n_frames), sound[:, None]], -1)


@functools.partial(jax.jit, static_argnames="fps")
def _rich_spectra(audio, centres, n_frames, fps):
    """Columns 0-185 of rich192, the raw onset envelope and the sound flag: [S], i32 [F] -> [F, 186], [F], [F].

    Frames from `n_frames` on are padding: they take no part in slopes and normalisation.
    """
    hop = FEATURE_RATE / fps

    def of_frames(centres):
        """What needs a frame's samples alone: power in 128 and 96 mel bins, chroma, contrast's peaks and valleys, shape, level."""
        frames = spectra.cut_frames(audio, centres, spectra.N_FFT)
        power = spectra.power_spectra(frames)
        magnitude = jnp.sqrt(power)
        mels = [spectra.mel_power(power, FEATURE_RATE, *bank) for bank in ((128,), (96, 30.0, 11_500.0))]
        extremes = spectra.contrast_extremes(magnitude, FEATURE_RATE)
        shape = spectra.shape_statistics(frames, magnitude)
        return *mels, spectra.chroma(power, FEATURE_RATE), *extremes, shape, spectra.rms_db(frames)

    # Block by block, because the samples and spectra of all frames of a song take hundreds of megabytes.
    found = lax.map(of_frames, centres.reshape(-1, min(FRAME_BUCKET, len(centres))))
    mel_128, mel_96, chroma, peaks, valleys, shape, level = (x.reshape(-1, *x.shape[2:]) for x in found)
    db = spectra.to_db(mel_128)
    coefficients = spectra.mfcc(db, 20)
    half = max(1, round(SLOPE_SECONDS * fps))
    change = spectra.slope(coefficients, n_frames, half) * (fps * SLOPE_SECONDS)
    flux = jnp.stack([spectra.onset_strength(db, hop, band) for band in _flux_bands()], -1)
    real = jnp.arange(len(centres))[:, None] < n_frames
    loud = jnp.nanpercentile(jnp.where(real, flux, jnp.nan), 95.0, axis=0)
    columns = [
        (spectra.to_db(mel_96) + 40.0) / 40.0,
        coefficients / 100.0,
        change / 100.0,
        chroma,
        (spectra.to_db(peaks) - spectra.to_db(valleys)) / 40.0,
        spectra.tonnetz(chroma),
        flux / jnp.maximum(loud, 0.1),
        shape,
        spectra.tempogram(flux[:, 0], fps, TEMPI),
    ]
    sound = (level > SILENCE_DB).astype(jnp.float32)
    return jnp.concatenate(columns, -1), flux[:, 0], sound


@functools.lru_cache
def _flux_bands():
    """Mel bins of the four onset-flux columns: bool [128] each."""
    import librosa

    centre = librosa.mel_frequencies(130, fmin=0.0, fmax=FEATURE_RATE / 2)[1:-1]
    return [centre >= 0, centre < 150, (centre >= 150) & (centre < 2000), centre >= 2000]


def _beat_columns(beats, fps, n_frames):
    """sin and cos of the beat phase and log2(bpm / 120): f32 [F, 3], zeros for a song without a pulse."""
    if len(beats) < 2:
        return np.zeros((n_frames, 3), np.float32)
    phase = 2 * np.pi * beat_phase(np.arange(n_frames) / fps, beats)
    tempo = np.full(n_frames, np.log2(0.5 / np.median(np.diff(beats))))  # 0.5 s is the beat of 120 bpm
    return np.stack([np.sin(phase), np.cos(phase), tempo], -1).astype(np.float32)


def _fact35(audio, rate, fps, n_frames, beats):
    """Onset envelope, 20 MFCC, 12 CENS chroma, onset one-hot, beat one-hot at fps * 512 Hz: -> f32 [n_frames, 35]."""
    import librosa

    if fps < FACT_MIN_FPS:
        raise UserError(f"fact35 is not defined at {fps:g} fps: use at least {FACT_MIN_FPS} fps, or rich192")
    fact_rate = round(fps * FACT_HOP)
    padded, centres = _pad(resample(audio, rate, fact_rate), fact_rate, fps, n_frames)
    octave_centres = tuple(_centres(fact_rate / 2**k, fps, len(centres)) for k in range(OCTAVES))
    columns = jax.device_get(_fact_spectra(padded, centres, octave_centres, n_frames, fact_rate))[:n_frames]
    envelope = columns[:, 0]
    if beats is None and envelope.any():
        times = {"onset_envelope": envelope, "sr": fact_rate, "hop_length": FACT_HOP}
        with one_at_a_time():
            tempo = librosa.feature.tempo(**times)[0]
            _, beat_frames = librosa.beat.beat_track(start_bpm=tempo, tightness=100, **times)
    else:
        beat_frames = _beat_frames(() if beats is None else beats, fps)
    peaks = _peak_frames(envelope, fact_rate, FACT_HOP)
    one_hots = [_one_hot(peaks, n_frames), _one_hot(beat_frames, n_frames)]
    return np.concatenate([columns, np.stack(one_hots, -1)], -1)


@functools.partial(jax.jit, static_argnames="rate")
def _fact_spectra(audio, centres, octave_centres, n_frames, rate):
    """The first 33 columns of fact35: [S], i32 [F], OCTAVES x i32 [F] -> [F, 33]."""
    power = spectra.power_spectra(spectra.cut_frames(audio, centres, spectra.N_FFT))
    db = spectra.to_db(spectra.mel_power(power, rate, 128))
    envelope = spectra.onset_strength(db, FACT_HOP)
    pitch = cens(audio, rate, octave_centres, n_frames)
    return jnp.concatenate([envelope[:, None], spectra.mfcc(db, 20), pitch], -1)


def _pad(audio, rate, fps, n_frames):
    """Zero-pads to frame buckets: audio f32 [S'], centre samples i32 [F']."""
    padded_frames = FRAME_BUCKET << max(0, (n_frames - 1) // FRAME_BUCKET).bit_length()
    size = int(np.ceil((padded_frames + 1) / fps * rate))
    return np.pad(audio[:size], (0, max(0, size - len(audio)))), _centres(rate, fps, padded_frames)


def _centres(rate, fps, count):
    """Sample nearest to each frame time, i32 [count]."""
    return np.rint(np.arange(count) * (rate / fps)).astype(np.int32)


def _peak_frames(envelope, rate, hop):
    """Frames of note onsets in an onset envelope [F], picked by librosa."""
    import librosa

    with one_at_a_time():
        return librosa.onset.onset_detect(onset_envelope=envelope, sr=rate, hop_length=hop)


def _beat_frames(beats, fps):
    """Frame nearest to each beat time."""
    return np.rint(np.asarray(beats, np.float64) * fps).astype(int)


def _one_hot(frames, count):
    """f32 [count] with ones at `frames`; frames outside are left out."""
    row = np.zeros(count, np.float32)
    row[[f for f in frames if 0 <= f < count]] = 1.0
    return row
