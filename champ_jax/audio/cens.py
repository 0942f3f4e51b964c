"""Chroma energy normalised statistics (Mueller 2005) on a constant-Q transform, in JAX, after librosa.

The transform goes down the octaves: the same short filters on a signal halved in rate each time. librosa estimates the
tuning of each clip; here A is 440 Hz, so that equal audio gives equal features.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from champ_jax.audio.spectra import cut_frames

LOWEST_HZ = 32.70319566257483  # C1
OCTAVES = 7
BINS = 36  # an octave
SMOOTHING = 41  # frames


@functools.lru_cache
def _octave_filters(rate, octave):
    """Frequency responses complex64 [N/2+1, BINS] of one octave's wavelets at `rate` Hz, scaled to unit energy."""
    import librosa

    frequencies = LOWEST_HZ * 2.0 ** (octave + np.arange(BINS) / BINS)
    basis, lengths = librosa.filters.wavelet(freqs=frequencies, sr=rate, filter_scale=1, norm=1, window="hann", gamma=0)
    size = basis.shape[1]
    response = np.fft.fft(basis * lengths[:, None] / size)[:, : size // 2 + 1]
    sparse = librosa.util.sparsify_rows(response, quantile=0.01).toarray()
    return np.ascontiguousarray((sparse / np.sqrt(lengths)[:, None]).T.astype(np.complex64))


@functools.lru_cache
def _half_band():
    """Linear-phase low pass f32 [n] for halving the rate: 120 dB down from the new Nyquist frequency."""
    import scipy.signal

    return scipy.signal.firwin(383, 0.478, window=("kaiser", 12.27)).astype(np.float32)


def constant_q(audio: Array, rate: int, octave_centres: tuple[Array, ...]) -> Array:
    """Magnitudes of the constant-Q transform at given frames.

    Args:
        audio: f32 [S] at `rate`.
        rate: Hz; at least about 8,700, so that the top octave fits.
        octave_centres: tuple of OCTAVES i32 [F]: the frames' centre samples at rate, rate/2, rate/4, ...

    Returns:
        f32 [F, OCTAVES * BINS], ascending in frequency.
    """
    octaves = []
    for step, centres in enumerate(octave_centres):
        filters = _octave_filters(rate / 2**step, OCTAVES - 1 - step)
        size = 2 * (len(filters) - 1)
        spectrum = jnp.fft.rfft(cut_frames(audio, centres, size))
        response = jnp.abs(jnp.matmul(spectrum, filters, precision=lax.Precision.HIGHEST))
        octaves.append(response * 2 ** (step / 2))  # halving the rate halved the energy
        audio = jax.scipy.signal.fftconvolve(audio, jnp.asarray(_half_band()), mode="same")[::2]
    return jnp.concatenate(octaves[::-1], -1)


def cens(audio: Array, rate: int, octave_centres: tuple[Array, ...], n_frames: int | Array) -> Array:
    """Smoothed, quantised pitch classes, unit L2 norm.

    Args:
        audio, rate, octave_centres: as in `constant_q`.
        n_frames: number of real frames (may be traced); later ones are padding that smoothing must not see.

    Returns:
        f32 [F, 12].
    """
    pitch = constant_q(audio, rate, octave_centres)
    third = BINS // 12
    # a semitone's three bins are centred on it: shift by one before adding them up
    folded = jnp.roll(pitch, third // 2, axis=-1)
    folded = folded.reshape(-1, OCTAVES, 12, third).sum((1, 3))
    total = folded.sum(-1, keepdims=True)
    share = folded / jnp.where(total > 0, total, 1.0)
    level = sum(0.25 * (share > step) for step in (0.4, 0.2, 0.1, 0.05))
    # librosa has one frame more than a video of the same length: the one centred on the song's end
    level = jnp.where(jnp.arange(len(level))[:, None] <= n_frames, level, 0.0)
    window = np.hanning(SMOOTHING + 2)
    smooth = jax.vmap(lambda x: jnp.convolve(x, (window / window.sum()).astype(np.float32), "same"), 1, 1)(level)
    norm = jnp.linalg.norm(smooth, axis=-1, keepdims=True)
    return smooth / jnp.where(norm > 0, norm, 1.0)
