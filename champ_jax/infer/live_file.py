"""A video file written frame by frame, with its sound, while both are still being made."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from champ_jax.errors import UserError
from champ_jax.infer.video import AUDIO_RATE, MIN_SIDE, check_place, partial_path

FRAGMENT_SECONDS = 1.0  # a file whose writer was killed plays up to its last whole fragment


class LiveVideo:
    """H.264 and AAC in fragments. The file has its name once it is closed; leaving the `with` block, also by Ctrl-C, closes it.
    By another exception it leaves the old file, and what there is beside it as NAME.partial.mp4."""

    def __init__(self, path: str | os.PathLike, fps: float, size: tuple[int, int], rate: int, min_side: int = MIN_SIDE):
        """fps: frames a second of `size` (H, W). rate: of the mono sound, Hz. min_side: as of `Video.save`.

        Raises UserError where the file cannot be written."""
        self.path = Path(path)
        check_place(self.path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._rate, self._heard, self._frames = rate, 0, 0
        scale = max(1, -(-min_side // min(size)))
        # 4:2:0 halves the colour planes: sides are even.
        self._height, self._width = (side * scale + side * scale % 2 for side in size)
        try:
            # delay_moov: the header waits for the first sound, to say how much of it is the encoder's run-up.
            flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov"}
            self._file = av.open(str(self._partial), "w", format="mp4", options=flags)
            # No frame waits for later ones.
            options = {"crf": "17", "preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(FRAGMENT_SECONDS * fps)))}
            self._pictures = self._file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            self._pictures.width, self._pictures.height, self._pictures.pix_fmt = self._width, self._height, "yuv420p"
            self._pictures.color_range, self._pictures.colorspace = ColorRange.MPEG, Colorspace.ITU709
            self._sound = self._file.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
            self._resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE, frame_size=1024)
        except (OSError, av.FFmpegError) as error:
            raise UserError(f"{self.path}: cannot write the video: {error}") from error

    def sound(self, block: np.ndarray) -> None:
        """Adds f32 [S] of mono sound."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._heard, Fraction(1, self._rate)
        self._heard += len(block)
        self._add_sound(frame)

    def frame(self, image: np.ndarray) -> None:
        """Adds u8 [H,W,3]."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture = picture.reformat(self._width, self._height, "rgb24", interpolation="LANCZOS")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        self._file.mux(self._pictures.encode(picture))
        self._frames += 1

    def _add_sound(self, frame) -> None:
        for piece in self._resampler.resample(frame):
            self._file.mux(self._sound.encode(piece))

    def __enter__(self) -> "LiveVideo":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self._file.mux(self._pictures.encode(None))
            self._add_sound(None)
            self._file.mux(self._sound.encode(None))
            self._file.close()
            if self._frames:
                whole = kind is None or kind is KeyboardInterrupt
                os.replace(self._partial, self.path if whole else partial_path(self.path))
        except (OSError, av.FFmpegError) as error:
            raise UserError(f"{self.path}: cannot write the video: {error}") from error
        finally:
            self._partial.unlink(missing_ok=True)
