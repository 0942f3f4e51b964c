"""Instruments and effects for composed songs: numpy synthesis at 24 kHz, no samples. Every sound is mono f32 [S].

Sounds that a song repeats are cached by their arguments: treat what they return as read-only.
"""

import functools

import numpy as np
from scipy import signal

RATE = 24_000
_repeated = functools.lru_cache(maxsize=128)


def pitch_hz(midi: float) -> float:
    """Frequency of a MIDI note number (69 = 440 Hz)."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def tone(hertz: float, seconds: float, cutoff: float = 2000.0, darken: float = 0.0) -> np.ndarray:
    """A band-limited saw through a 12 dB low pass.

    Args:
        hertz: fundamental.
        seconds: length.
        cutoff: corner of the low pass in Hz.
        darken: decay of harmonic k in 1/s times k - 1: a plucked string loses its brightness.

    Returns:
        f32 [S], peak near 1.
    """
    count = max(1, min(int(0.45 * RATE / hertz), int(4 * cutoff / hertz) + 1, 48))
    k = np.arange(1, count + 1)[:, None].astype(np.float32)
    t = _time(seconds)
    level = 1 / k / np.sqrt(1 + (k * hertz / cutoff) ** 4)
    voices = np.sin((2 * np.pi * hertz * t) * k) * level
    if darken:
        voices *= np.exp(-darken * (k - 1) * t)
    return (voices.sum(0) / level.sum() * 1.6).astype(np.float32)


def envelope(seconds: float, attack: float = 0.005, decay: float | None = None, release: float = 0.03) -> np.ndarray:
    """Linear attack, exponential decay with time constant `decay` (None: held), linear release at the end; f32 [S]."""
    t = _time(seconds)
    shape = np.minimum(t / attack, 1.0)
    if decay:
        shape *= np.exp(-t / decay)
    return (shape * np.clip((seconds - t) / release, 0, 1)).astype(np.float32)


def kick() -> np.ndarray:
    """Bass drum: a sine falling from 160 to 48 Hz and a click."""
    t = _time(0.28)
    body = np.sin(2 * np.pi * (48 * t + 112 * 0.028 * (1 - np.exp(-t / 0.028)))) * np.exp(-t / 0.11)
    click = np.exp(-t / 0.002) * np.sin(2 * np.pi * 1800 * t)
    return (body * envelope(0.28, 0.001) + 0.35 * click).astype(np.float32)


def snare(rng: np.random.Generator, tight: float = 1.0) -> np.ndarray:
    """Snare drum: two shell modes under a burst of noise."""
    t = _time(0.22)
    shell = (np.sin(2 * np.pi * 185 * t) + 0.6 * np.sin(2 * np.pi * 331 * t)) * np.exp(-t / 0.045)
    rattle = _noise(rng, 0.22, 1200, 9500) * np.exp(-t / (0.07 / tight))
    return (0.5 * shell + 0.9 * rattle).astype(np.float32)


def clap(rng: np.random.Generator) -> np.ndarray:
    """Hand clap: four bursts, 10 ms apart, the last one ringing."""
    t = _time(0.25)
    shape = sum(np.where(t >= d, np.exp(-(t - d) / s), 0) for d, s in ((0, 0.004), (0.01, 0.004), (0.02, 0.004), (0.03, 0.06)))
    return (_noise(rng, 0.25, 700, 4500) * shape).astype(np.float32)


def hat(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Hi-hat: high noise, closed at 0.04 s, open at 0.25 s."""
    return (_noise(rng, 3 * seconds, 6500, 11800) * np.exp(-_time(3 * seconds) / seconds)).astype(np.float32)


def crash(rng: np.random.Generator) -> np.ndarray:
    """Cymbal that marks the start of a phrase."""
    return (_noise(rng, 1.6, 3000, 11800) * np.exp(-_time(1.6) / 0.45)).astype(np.float32)


def tom(hertz: float) -> np.ndarray:
    """Tom for fills, its pitch falling slightly."""
    t = _time(0.3)
    return (np.sin(2 * np.pi * hertz * (t + 0.03 * (1 - np.exp(-t / 0.05)))) * np.exp(-t / 0.1)).astype(np.float32)


@_repeated
def bass(midi: int, seconds: float, cutoff: float) -> np.ndarray:
    """Bass guitar or synth, from round (low cutoff) to plucky."""
    hertz = pitch_hz(midi)
    return (tone(hertz, seconds, cutoff, darken=1.5) + 0.4 * np.sin(2 * np.pi * hertz * _time(seconds))) * envelope(seconds, 0.004, 0.6)


@_repeated
def pad(midi_notes: tuple[int, ...], seconds: float) -> np.ndarray:
    """Slow chord of three detuned saws a note."""
    voices = [tone(pitch_hz(m + cents / 100), seconds, 1400) for m in midi_notes for cents in (-7, 0, 8)]
    return sum(voices) / len(midi_notes) / 3 * envelope(seconds, 0.08, release=min(0.3, seconds / 2))


@_repeated
def stab(midi_notes: tuple[int, ...], seconds: float, cutoff: float = 3000.0) -> np.ndarray:
    """Short bright chord: guitar scratch or house organ."""
    voices = [tone(pitch_hz(m), seconds, cutoff, darken=4.0) for m in midi_notes]
    return sum(voices) / len(midi_notes) * envelope(seconds, 0.003, 0.15)


@_repeated
def electric_piano(midi_notes: tuple[int, ...], seconds: float) -> np.ndarray:
    """Two-operator FM: a sine whose bell-like modulation dies before the note."""
    t = _time(seconds)
    bell = 1.4 * np.exp(-t / 0.35)
    voices = [np.sin(2 * np.pi * pitch_hz(m) * t + bell * np.sin(2 * np.pi * pitch_hz(m) * t)) for m in midi_notes]
    return (sum(voices) / len(midi_notes) * envelope(seconds, 0.004, 0.9, 0.08)).astype(np.float32)


def lead(midi: int, seconds: float, odd: bool) -> np.ndarray:
    """Melody voice: saw or square, with vibrato on held notes."""
    t = _time(seconds)
    hertz = pitch_hz(midi)
    swing = 0.012 * np.clip((t - 0.15) / 0.2, 0, 1) * np.sin(2 * np.pi * 5.5 * t)
    phase = 2 * np.pi * np.cumsum(hertz * (1 + swing)) / RATE
    k = np.arange(1, max(2, min(int(9000 / hertz), 14)))[:: 2 if odd else 1, None]
    voice = (np.sin(k * phase) / k / np.sqrt(1 + (k * hertz / 2600) ** 4)).sum(0)
    return (voice * envelope(seconds, 0.012, 1.2, 0.05)).astype(np.float32)


def add(track: np.ndarray, sound: np.ndarray, seconds: float, gain: float = 1.0) -> None:
    """Mixes `sound` into `track` in place, starting at the sample nearest to `seconds`; what sticks out is cut."""
    start = round(seconds * RATE)
    stop = min(start + len(sound), len(track))
    track[start:stop] += gain * sound[: stop - start]


def level(track: np.ndarray, rms_db: float) -> np.ndarray:
    """The track scaled to a mean level in dB of full scale; a silent one stays silent."""
    return track * np.float32(10 ** (rms_db / 20) / max(np.sqrt((track**2).mean()), 1e-6))


def duck(size: int, times: np.ndarray, depth: float, recovery: float = 0.14) -> np.ndarray:
    """Gain curve that dips by `depth` at each of `times` (s) and recovers: the pumping of a side chain; f32 [size]."""
    gain = np.ones(size, np.float32)
    dip = (1 - depth * np.exp(-_time(5 * recovery) / recovery)).astype(np.float32)
    for at in times:
        start = round(at * RATE)
        stop = min(start + len(dip), size)
        gain[start:stop] = np.minimum(gain[start:stop], dip[: stop - start])
    return gain


def echo(track: np.ndarray, seconds: float, gain: float, times: int = 3) -> np.ndarray:
    """The track with decaying repeats every `seconds`."""
    out, lag = track.copy(), round(seconds * RATE)
    for n in range(1, times + 1):
        out[n * lag :] += gain**n * track[: max(0, len(track) - n * lag)]
    return out


def reverb(track: np.ndarray, rng: np.random.Generator, seconds: float = 0.9) -> np.ndarray:
    """A small room: convolution with decaying low-passed noise; f32 [S]."""
    room = _noise(rng, seconds, 200, 5000) * np.exp(-_time(seconds) / (seconds / 5))
    room[: round(0.012 * RATE)] = 0
    return signal.fftconvolve(track, room / np.sqrt((room**2).sum()))[: len(track)].astype(np.float32)


def master(mix: np.ndarray, drive: float = 1.6, peak_db: float = -1.0) -> np.ndarray:
    """Removes rumble, glues with soft saturation and sets the peak; f32 [S]."""
    mix = signal.sosfilt(signal.butter(2, 30, "highpass", fs=RATE, output="sos"), mix)
    mix = np.tanh(drive * mix / np.quantile(np.abs(mix), 0.995))
    return (mix * 10 ** (peak_db / 20) / np.abs(mix).max()).astype(np.float32)


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


def _noise(rng: np.random.Generator, seconds: float, low: float, high: float) -> np.ndarray:
    band = signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos")
    return signal.sosfilt(band, rng.standard_normal(round(seconds * RATE)))
