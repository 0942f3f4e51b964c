"""A pipeline that makes grey videos at a pace of its own, and files to give it."""

import time
from types import SimpleNamespace

import numpy as np
import soundfile
from PIL import Image

from champ_jax.infer.photo import load_photo
from champ_jax.infer.pipeline import PipelineSettings
from champ_jax.infer.rendering import Rendering
from champ_jax.pose.skeleton import J

ENDLESS = 10**6
PACE = 0.02  # seconds a window


class FakePipe:
    """Like a Pipeline to the page. `windows`: how long a dance takes; `dancing`: how many are made right now, `most` ever at once."""

    def __init__(self, m2p=True, kinds=("dwpose",)):
        self.config = SimpleNamespace(m2p=m2p or None)
        self.kinds = kinds
        self.settings = PipelineSettings(size=(32, 32), fps=12.0, steps=2, guidance_scale=2.0)
        self.windows, self.dancing, self.most, self.asked = 5, 0, 0, []

    def render_dance(self, image, song, *, seconds, pose, seed, steps, guidance_scale, on_progress):
        self.asked.append({"seconds": seconds, "seed": seed, "steps": steps, "guidance_scale": guidance_scale})
        photo = load_photo(image, self.settings.size, pose)
        frames = np.full((round(seconds * self.settings.fps), 32, 32, 3), 120, np.uint8)
        known = {"seed": seed, "steps": steps, "guidance_scale": guidance_scale, "pose_source": photo.pose_source}
        pose = {"keypoints": np.zeros((4, J, 2), np.float32), "confidence": np.zeros((4, J), np.float32), "motion_fps": 12.0}
        made = self._made(frames, on_progress)
        return Rendering(made, len(frames), self.settings.size, self.settings.fps, frames, known | pose, time.perf_counter())

    def _made(self, frames, on_progress):
        """All frames, after all windows."""
        self.dancing += 1
        self.most = max(self.most, self.dancing)
        try:
            done = 0
            while done < self.windows:  # which a test may change meanwhile
                time.sleep(PACE)
                done += 1
                on_progress(done, self.windows)
            yield frames
        finally:
            self.dancing -= 1


def save_files(folder):
    """(photo, song of two seconds) in `folder`, as paths in text."""
    Image.fromarray(np.full((40, 40, 3), 120, np.uint8)).save(folder / "photo.png")
    clicks = np.zeros(22050 * 2)
    clicks[::11025] = 0.9
    soundfile.write(folder / "song.wav", np.convolve(clicks, np.hanning(400), "same"), 22050)
    return str(folder / "photo.png"), str(folder / "song.wav")


def wait_until(condition, seconds=60.0):
    """Waits until condition() holds; fails when it does not for too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)
