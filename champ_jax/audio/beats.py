"""Beats of a song, in seconds, and the position between them. Host work: it runs once a song and has no gradient."""

import numpy as np

from champ_jax.audio.one_at_a_time import one_at_a_time

BEAT_RATE = 24_000
BEAT_HOP = 256  # 10.7 ms; librosa's default 512 at 22,050 Hz quantises beats to 23 ms
BEAT_WINDOW = 1024
BEAT_HIGHEST_HZ = 5_000.0  # hi-hats on the off-beat are left out: they draw the tracker half a beat away
BEAT_PRIOR_BPM = 108.0
MEL_BLOCK = 1024  # frames, 11 seconds
TEMPO_SECONDS = 8.0  # of sound in which a tempo is looked for, librosa's own
BAR = 4  # beats


def track_beats(audio: np.ndarray, rate: int) -> np.ndarray:
    """Estimates beat times with librosa's dynamic-programming tracker (Ellis 2007).

    The tracker may lock onto the half beat or another multiple of the tempo; pass known beats to
    `champ_jax.audio.features` where they exist.

    Args:
        audio: f32 [S], mono.
        rate: its sample rate in Hz.

    Returns:
        f32 [n] beat times in seconds, ascending; empty where no pulse is heard.
    """
    import librosa

    audio = resample(audio, rate, BEAT_RATE)
    frames = {"sr": BEAT_RATE, "hop_length": BEAT_HOP}
    mel = _mel(audio, n_mels=96, fmax=BEAT_HIGHEST_HZ)
    # center=False: no shift by half a window; on songs with exact beats that shift makes every beat 20 ms late
    envelope = librosa.onset.onset_strength(S=librosa.power_to_db(mel), n_fft=BEAT_WINDOW, aggregate=np.median, center=False, **frames)
    if not envelope.any():
        return np.zeros(0, np.float32)
    tempo = librosa.feature.tempo(tg=_mean_tempogram(envelope)[:, None], start_bpm=BEAT_PRIOR_BPM, **frames)
    with one_at_a_time():
        _, beats = librosa.beat.beat_track(onset_envelope=envelope, bpm=tempo, units="time", trim=False, **frames)
    return beats.astype(np.float32)


def beat_phase(times: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Position of each time on the beat grid: beat k is at k, half way to the next at k + 0.5.

    The result is unwrapped, so it interpolates and resamples without a seam; take `% 1` for the phase inside the
    beat. Outside the tracked beats the grid continues with the first and last period.

    Args:
        times: [n] seconds.
        beats: [m] beat times in seconds, strictly ascending, m >= 2.

    Returns:
        f64 [n].

    Raises:
        ValueError: fewer than two beats.
    """
    times, beats = np.asarray(times, np.float64), np.asarray(beats, np.float64)
    if len(beats) < 2:
        raise ValueError(f"a beat grid needs at least 2 beats, got {len(beats)}")
    position = np.interp(times, beats, np.arange(len(beats)))
    position += np.minimum(times - beats[0], 0) / (beats[1] - beats[0])
    return position + np.maximum(times - beats[-1], 0) / (beats[-1] - beats[-2])


def resample(audio: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resamples mono f32 [S] from `rate` to `target` Hz with soxr's high-quality filter; f32 [S']."""
    import librosa

    audio = np.asarray(audio, np.float32)
    return audio if rate == target else librosa.resample(audio, orig_sr=rate, target_sr=target, res_type="soxr_hq")


def _mel(audio: np.ndarray, n_mels: int, fmax: float) -> np.ndarray:
    """librosa's mel power spectrogram [n_mels, frames] of audio at BEAT_RATE, block by block: its spectra take 90 MB a minute."""
    import librosa

    padded = np.pad(audio, BEAT_WINDOW // 2)
    count = 1 + (len(padded) - BEAT_WINDOW) // BEAT_HOP
    settings = {"sr": BEAT_RATE, "hop_length": BEAT_HOP, "n_fft": BEAT_WINDOW, "n_mels": n_mels, "fmax": fmax, "center": False}
    blocks = [
        librosa.feature.melspectrogram(
            y=padded[first * BEAT_HOP : (min(first + MEL_BLOCK, count) - 1) * BEAT_HOP + BEAT_WINDOW], **settings
        )
        for first in range(0, count, MEL_BLOCK)
    ]
    return np.concatenate(blocks, axis=1)


def _mean_tempogram(envelope: np.ndarray) -> np.ndarray:
    """The mean over frames of librosa's tempogram of an onset envelope [F], f64 [lags], block by block: all of it takes 200 MB a minute."""
    import librosa

    size = librosa.time_to_frames(TEMPO_SECONDS, sr=BEAT_RATE, hop_length=BEAT_HOP).item()
    padded = np.pad(envelope, size // 2, mode="linear_ramp", end_values=0)
    total = np.zeros(size)
    for first in range(0, len(envelope), MEL_BLOCK):
        block = padded[first : min(first + MEL_BLOCK, len(envelope)) - 1 + size]
        total += librosa.feature.tempogram(onset_envelope=block, win_length=size, center=False).sum(axis=1)
    return total / len(envelope)


def onset_envelope(audio: np.ndarray, rate: int, seconds: np.ndarray) -> np.ndarray:
    """How suddenly mono audio f32 [S] gets louder around these times [n], ascending; f32 [n], not negative.

    Each value is a mean with weights that fall off to the times before and after it: an onset between two frames of a video is
    seen in both, more in the nearer one, and never in none.
    """
    import librosa

    audio = resample(audio, rate, BEAT_RATE)
    strength = librosa.onset.onset_strength(y=audio, sr=BEAT_RATE, hop_length=BEAT_HOP, n_fft=BEAT_WINDOW, center=False)
    hop = BEAT_HOP / BEAT_RATE
    reach = max(float(np.median(np.diff(seconds))) if len(seconds) > 1 else hop, hop)
    steps = np.arange(-int(reach / hop), int(reach / hop) + 1)
    weights = 1 - np.abs(steps) * hop / reach
    # mode "same" has the length of the longer one.
    smooth = np.convolve(np.pad(strength, len(steps)), weights / weights.sum(), "same")[len(steps) : -len(steps)]
    return np.interp(seconds, np.arange(len(smooth)) * hop, smooth).astype(np.float32)


def find_downbeats(audio: np.ndarray, rate: int, beats: np.ndarray) -> np.ndarray:
    """The first beat of each bar: of the four ways to count, the one whose first beats bring most bass (below 150 Hz).

    Args:
        audio: f32 [S], mono. rate: in Hz. beats: [n] seconds, ascending.

    Returns:
        f32 [m] seconds, every fourth of the beats; empty for fewer than two bars, which tell nothing.
    """
    beats = np.asarray(beats, np.float32)
    if len(beats) < 2 * BAR:
        return np.zeros(0, np.float32)
    audio = resample(audio, rate, BEAT_RATE)
    mel = _mel(audio, n_mels=4, fmax=150.0)
    rise = np.maximum(np.diff(np.sqrt(mel.sum(0)), prepend=0), 0)
    near = np.round(beats * BEAT_RATE / BEAT_HOP).astype(int)[:, None] + np.arange(-4, 5)  # 43 ms either way
    strength = rise[near.clip(0, len(rise) - 1)].max(1)
    phase = int(np.argmax([strength[offset::BAR].mean() for offset in range(BAR)]))
    return beats[phase::BAR]
