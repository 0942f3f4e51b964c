"""Short-time spectra at arbitrary frame times, in JAX, numerically equal to librosa's.

Every function works on frames cut around given centre samples, so a frame can sit at exactly i/fps seconds for any fps.
Filter banks come from librosa as constants. Letters: S samples, F frames, N window, M mel bins.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

N_FFT = 2048
TOP_DB = 80.0  # what is more below the loudest bin is silence
CONTRAST_BANDS, CONTRAST_LOWEST_HZ, CONTRAST_QUANTILE = 6, 200.0, 0.02
TEMPO_SECONDS = 8.0  # of sound around a frame in which its tempo is looked for
_dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)  # the f32 of librosa, also on TPU and GPU


def cut_frames(audio: Array, centres: Array, size: int) -> Array:
    """Windows of `size` samples centred on `centres`, zero outside the signal: [S], i32 [F] -> [F, size]."""
    index = centres[:, None] + jnp.arange(size) - size // 2
    return jnp.where((index >= 0) & (index < len(audio)), audio[jnp.clip(index, 0, len(audio) - 1)], 0.0)


def power_spectra(frames: Array) -> Array:
    """Power spectrum under a periodic Hann window: [F, N] -> [F, N/2+1]."""
    n = frames.shape[-1]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    spectrum = jnp.fft.rfft(frames * hann)
    return spectrum.real**2 + spectrum.imag**2


def to_db(power: Array) -> Array:
    """10 log10 of [F, M], floored at 1e-10 and at TOP_DB below the loudest bin of the clip (librosa.power_to_db, ref=1)."""
    db = 10.0 * jnp.log10(jnp.maximum(power, 1e-10))
    return jnp.maximum(db, db.max() - TOP_DB)


@functools.lru_cache
def mel_filters(rate: int, bins: int, low: float = 0.0, high: float | None = None) -> np.ndarray:
    """Slaney mel filter bank f32 [N/2+1, bins] for power spectra of `N_FFT` samples at `rate` Hz."""
    import librosa

    return np.ascontiguousarray(librosa.filters.mel(sr=rate, n_fft=N_FFT, n_mels=bins, fmin=low, fmax=high).T)


@functools.lru_cache
def chroma_filters(rate: int) -> np.ndarray:
    """Pitch-class filter bank f32 [N/2+1, 12] with A = 440 Hz: tuning is fixed so that equal audio gives equal features."""
    import librosa

    return np.ascontiguousarray(librosa.filters.chroma(sr=rate, n_fft=N_FFT, tuning=0.0).T)


def mel_power(power: Array, rate: int, bins: int, low: float = 0.0, high: float | None = None) -> Array:
    """Power in each mel bin: power [F, N/2+1] -> [F, bins]."""
    return _dot(power, mel_filters(rate, bins, low, high))


def mfcc(db: Array, count: int) -> Array:
    """First `count` coefficients of the orthonormal DCT-II of a log-mel spectrogram [F, M] -> [F, count]."""
    bins = db.shape[-1]
    basis = np.cos(np.pi / bins * (np.arange(bins)[:, None] + 0.5) * np.arange(count)) * np.sqrt(2 / bins)
    basis[:, 0] /= np.sqrt(2)
    return _dot(db, basis.astype(np.float32))


def chroma(power: Array, rate: int) -> Array:
    """Pitch-class energies, each frame divided by its maximum: [F, N/2+1] -> [F, 12] in [0, 1]."""
    energy = _dot(power, chroma_filters(rate))
    peak = energy.max(-1, keepdims=True)
    return energy / jnp.where(peak > jnp.finfo(energy.dtype).tiny, peak, 1.0)


def tonnetz(pitch: Array) -> Array:
    """Tonal centroid (Harte 2006), fifths, minor and major thirds: chroma [F, 12] -> [F, 6]."""
    scale = np.array([7 / 6, 7 / 6, 3 / 2, 3 / 2, 2 / 3, 2 / 3])
    angle = np.multiply.outer(np.arange(12), scale)
    angle[:, ::2] -= 0.5  # even columns are sines: sin(pi x) = cos(pi (x - 1/2))
    basis = (np.array([1, 1, 1, 1, 0.5, 0.5]) * np.cos(np.pi * angle)).astype(np.float32)
    total = pitch.sum(-1, keepdims=True)
    return _dot(pitch / jnp.where(total > 0, total, 1.0), basis)


def onset_strength(db: Array, hop: float, channels: np.ndarray | None = None) -> Array:
    """Mean rise in dB from frame to frame (librosa.onset.onset_strength).

    A window hears a note before its centre reaches it; the envelope is shifted by that look-ahead, so a click at
    time t peaks at the frame of t.

    Args:
        db: log-mel [F, M].
        hop: samples between frames; may be fractional.
        channels: None for all mel bins, or a bool [M] selection.

    Returns:
        [F], >= 0.
    """
    rise = jnp.maximum(db[1:] - db[:-1], 0.0)
    rise = rise.mean(-1) if channels is None else rise[:, channels].mean(-1)
    return jnp.pad(rise, (1 + int(N_FFT // (2 * hop)), 0))[: len(db)]


def contrast_extremes(magnitude: Array, rate: int) -> tuple[Array, Array]:
    """Peaks and valleys, whose difference in dB is spectral contrast (Jiang 2002), below 200 Hz and in six octaves from there:
    [F, N/2+1] -> means of the loudest and of the quietest bins, [F, 7] each."""
    frequency = np.fft.rfftfreq(N_FFT, 1 / rate)
    edges = np.concatenate([[0.0], CONTRAST_LOWEST_HZ * 2.0 ** np.arange(CONTRAST_BANDS + 1)])
    valleys, peaks = [], []
    for k in range(CONTRAST_BANDS + 1):
        inside = np.flatnonzero((frequency >= edges[k]) & (frequency <= edges[k + 1]))
        first = inside[0] - (k > 0)
        stop = len(frequency) if k == CONTRAST_BANDS else inside[-1] + 1
        count = max(int(np.rint(CONTRAST_QUANTILE * (stop - first))), 1)
        band = magnitude[:, first : stop - (k < CONTRAST_BANDS)]
        valleys.append(-lax.top_k(-band, count)[0].mean(-1))  # faster than sorting the band
        peaks.append(lax.top_k(band, count)[0].mean(-1))
    return jnp.stack(peaks, -1), jnp.stack(valleys, -1)


def shape_statistics(frames: Array, magnitude: Array) -> Array:
    """Level and timbre in one row a frame: [F, N], [F, N/2+1] -> [F, 5], each about [0, 1].

    Columns: RMS in dB mapped from [-80, 0], centroid and 85 % roll-off over Nyquist, flatness, zero-crossing rate.
    """
    frequency = jnp.linspace(0.0, 1.0, magnitude.shape[-1])
    total = magnitude.sum(-1)
    centroid = _dot(magnitude, frequency) / jnp.where(total > 0, total, 1.0)
    rolloff = frequency[jnp.argmax(jnp.cumsum(magnitude, -1) >= 0.85 * total[:, None], -1)]
    power = jnp.maximum(magnitude**2, 1e-10)
    flatness = jnp.exp(jnp.log(power).mean(-1)) / power.mean(-1)
    negative = jnp.where(jnp.abs(frames) <= 1e-10, 0.0, frames) < 0
    crossings = (negative[:, 1:] != negative[:, :-1]).sum(-1) / frames.shape[-1]
    return jnp.stack([(rms_db(frames) + 80.0) / 80.0, centroid, rolloff, flatness, crossings], -1)


def rms_db(frames: Array) -> Array:
    """Level of each frame in dB of full scale, floored at -80: [F, N] -> [F]."""
    return jnp.maximum(10.0 * jnp.log10(jnp.maximum((frames**2).mean(-1), 1e-10)), -80.0)


def tempogram(envelope: Array, fps: float, tempi: np.ndarray) -> Array:
    """Local autocorrelation of an onset envelope at the lags of given tempi (Grosche 2010), in a Hann window of TEMPO_SECONDS.

    Args:
        envelope: [F] onset strength.
        fps: frames a second.
        tempi: [n] beats a minute.

    Returns:
        [F, n]; 1 at perfect periodicity, 0 in silence.
    """
    size = int(round(TEMPO_SECONDS * fps))
    window = np.hanning(size).astype(np.float32)
    frames = cut_frames(envelope, jnp.arange(len(envelope)), size) * window
    correlation = jnp.fft.irfft(jnp.abs(jnp.fft.rfft(frames, 2 * size)) ** 2)[:, :size]
    zero_lag = correlation[:, :1]
    lag = 60.0 * fps / np.asarray(tempi)
    whole = np.floor(lag).astype(int)
    fraction = (lag - whole).astype(np.float32)
    value = (1 - fraction) * correlation[:, whole] + fraction * correlation[:, whole + 1]
    return value / jnp.where(zero_lag > 1e-8, zero_lag, 1.0)


def slope(values: Array, n_frames: int | Array, half: int) -> Array:
    """Least-squares slope over +-`half` frames, edges held (librosa.feature.delta): [F, D] -> [F, D] a frame.

    Args:
        values: [F, D], of which the first `n_frames` (may be traced) are real.
        n_frames: number of real frames.
        half: frames on each side, >= 1.
    """
    steps = np.arange(-half, half + 1)
    index = jnp.clip(jnp.arange(len(values))[:, None] + steps, 0, n_frames - 1)
    weights = (steps / (steps**2).sum()).astype(np.float32)
    return jnp.einsum("fkd,k->fd", values[index], weights, precision=lax.Precision.HIGHEST)
