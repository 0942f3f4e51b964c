"""What preparing videos takes: memory at its peak for a short and for a long video, and frames a second.

    python -m benchmarks.prepare [--minutes 1 30] [--fps 10] [--size 144]

Makes videos with sound of these lengths, prepares each in a process of its own, the shortest first, and
prints a line of JSON for each: the largest process's peak memory so far, seconds, frames a second.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.common import make_parser
from tests.data.estimate.test_onnx_models import cell, pose_folder

RATE = 48_000


def make_video(path: Path, minutes: float, size: int, fps: int = 30) -> None:
    """A video whose picture drifts, with a click every half second."""
    count = int(minutes * 60 * fps)
    rng = np.random.default_rng(0)
    background = rng.integers(40, 200, (size * 16 // 9, size, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "35"})
        stream.height, stream.width, stream.pix_fmt = *background.shape[:2], "yuv420p"
        sound = container.add_stream("aac", rate=RATE)
        sound.codec_context.layout = "mono"
        click = np.zeros(RATE // 2, np.float32)
        click[:400] = np.sin(np.arange(400) * 0.3) * np.linspace(1, 0, 400)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(background, number // 4, 1), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
            if number % (fps // 2) == 0:
                part = av.AudioFrame.from_ndarray(click[None], format="fltp", layout="mono")
                part.rate, part.time_base, part.pts = RATE, Fraction(1, RATE), number // (fps // 2) * len(click)
                container.mux(sound.encode(part))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))


def make_models(folder: Path) -> Path:
    """A detector and a pose model that always see the same person: what they cost is left out, how they are called is not."""
    places = np.random.default_rng(0).integers(40, 250, (133, 2)).astype(np.float32)
    return pose_folder(folder, [cell(180, 320, 120, 500, 0.9)], places, np.full(133, 0.9, np.float32))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 30.0], help="lengths of the videos")
    parser.add_argument("--fps", type=int, default=10, help="of the records")
    parser.add_argument("--size", type=int, default=144, help="width of the video")
    args = parser.parse_args()
    for minutes in sorted(args.minutes):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in"
            source.mkdir()
            make_video(source / "a.mp4", minutes, args.size)
            command = [sys.executable, "-m", "champ_jax", "prepare", str(source), "--out", f"{folder}/out", "--faces", "none", "--json",
                       "--estimator", str(make_models(Path(folder) / "models")), "--fps", str(args.fps)]  # fmt: skip
            began = time.monotonic()
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            seconds = time.monotonic() - began
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
            clips = json.loads(output)["splits"]["train"]["clips"]
            print(json.dumps({"minutes": minutes, "clips": clips, "peak_mb": round(peak), "seconds": round(seconds, 1),
                              "frames_a_second": round(minutes * 60 * args.fps / seconds, 1)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
