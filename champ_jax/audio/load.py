"""Read a song from disk, or say in one line why it is not one."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import soundfile

from champ_jax.errors import UserError

SILENCE_DB = -60.0  # a peak below this is a muted export, not a quiet song
MIN_SECONDS = 0.1


def load_audio(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Reads an audio file and mixes it to mono.

    Args:
        path: a wav, flac, ogg or mp3 file (anything libsndfile decodes).

    Returns:
        `(audio f32 [S] in about [-1, 1], rate int in Hz)`.

    Raises:
        UserError: the file is missing, is not audio, is empty, holds NaN or Inf, or stays below -60 dB throughout.
    """
    with _reading(path):
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = audio.mean(axis=1)
    _check(audio, rate, path)
    return audio, rate


def audio_blocks(path: str | os.PathLike, seconds: float) -> tuple[Iterator[np.ndarray], int]:
    """(blocks f32 [S] of a song mixed to mono, each of `seconds`, read as they are asked for; rate in Hz); UserError as `load_audio`
    for what cannot be opened."""
    with _reading(path):
        file = soundfile.SoundFile(path)

    def read() -> Iterator[np.ndarray]:
        with file, _reading(path):
            for block in file.blocks(max(1, round(seconds * file.samplerate)), dtype="float32", always_2d=True):
                yield block.mean(axis=1)

    return read(), file.samplerate


@contextlib.contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns what libsndfile says of a file that is no song into a UserError."""
    if not os.path.isfile(path):
        raise UserError(f"no song at '{path}': expected a wav, flac, ogg or mp3 file")
    try:
        yield
    except (soundfile.LibsndfileError, TypeError) as error:  # the latter for names that end in .raw
        raise UserError(f"'{path}' is not audio that can be read ({error}); expected wav, flac, ogg or mp3") from error


def _check(audio: np.ndarray, rate: int, path: str | os.PathLike) -> None:
    """Refuses audio f32 [S] that no dance can follow: empty, not finite or silent."""
    if len(audio) < MIN_SECONDS * rate:
        raise UserError(f"'{path}' is empty: {len(audio)} samples at {rate} Hz; at least {MIN_SECONDS} s of sound are needed")
    if not np.isfinite(audio).all():
        raise UserError(f"'{path}' holds NaN or infinite samples; export it again")
    peak = np.abs(audio).max()
    if peak < 10 ** (SILENCE_DB / 20):
        raise UserError(f"'{path}' is silent: it never rises above {SILENCE_DB:.0f} dB; check the export's volume")
