"""How fast frames are scored, beside scikit-image on the same frames and cores, and that memory does not grow with them.

python -m benchmarks.evaluate [--frames 1000] [--size 512]

Prints milliseconds a frame of PSNR and SSIM together, ours in blocks of 16 and scikit-image's in float32, which is its faster way, in
turns of 100 frames; the largest difference of the values; and the peak memory of scoring a tenth of the frames and all of them, each
in a process of its own that reads them as a stream.
"""

import argparse
import time
from collections.abc import Iterator

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.common import REPOSITORY, in_its_own_process, make_parser, peak_mb
from champ_jax.evaluate.clips import Blocks
from champ_jax.metrics import image

FRAMES = REPOSITORY / "tests" / "fixtures" / "torch" / "metrics.npz"
TURN = 100


def frames(count: int, size: int, strength: float) -> Iterator[np.ndarray]:
    """A real frame, shifted by a pixel each time, with noise."""
    with np.load(FRAMES) as held:
        picture = cv2.resize(held["frames"][0], (size, size), interpolation=cv2.INTER_CUBIC)
    noise = (strength * np.random.default_rng(0).standard_normal(picture.shape)).astype(np.float32)
    for number in range(count):
        yield np.clip(np.roll(picture, number, 1) + noise, 0, 255).astype(np.uint8)


def ours(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[2,F]: PSNR and SSIM."""
    parts = [slice(start, start + 16) for start in range(0, len(truth), 16)]
    return np.concatenate([[image.psnr(truth[p], other[p]), image.ssim(truth[p], other[p])] for p in parts], 1)


def theirs(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[2,F]: scikit-image's of the same frames, with the settings that SSIM was published with."""
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1)
    values = []
    for one, two in zip(truth, other):
        one, two = one / np.float32(255), two / np.float32(255)
        values.append((peak_signal_noise_ratio(one, two, data_range=1), structural_similarity(one, two, **settings)))
    return np.array(values).T


def stream(count: int, size: int) -> None:
    """Scores a stream and prints this process's peak memory in MB."""
    for truth, other in Blocks(lambda: frames(count, size, 0), lambda: frames(count, size, 8)):
        image.psnr(truth, other), image.ssim(truth, other)
    print(peak_mb())


def main() -> None:
    """Measures and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=int, default=1000, help="frames scored")
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        return stream(args.frames, args.size)
    truth, other = (list(frames(args.frames, args.size, strength)) for strength in (0, 8))
    ours(np.stack(truth[:16]), np.stack(other[:16]))  # warm
    seconds, apart = {"ours": [], "scikit-image": []}, np.zeros(2)
    for start in range(0, args.frames, TURN):
        part = slice(start, start + TURN)
        found = {}
        for name, function in (("ours", ours), ("scikit-image", theirs)):
            pair = np.stack(truth[part]), np.stack(other[part])
            began = time.perf_counter()
            found[name] = function(*pair)
            seconds[name].append((time.perf_counter() - began) / len(pair[0]))
        apart = np.maximum(apart, np.abs(found["ours"] - found["scikit-image"]).max(1))
    rates = {name: 1000 * np.array(values) for name, values in seconds.items()}
    for name, values in rates.items():
        print(f"{name:14}{np.median(values):7.1f} ms a frame (turns {values.min():.1f} to {values.max():.1f})")
    ratio = rates["scikit-image"] / rates["ours"]
    print(f"{np.median(ratio):.1f} times as fast (turns {ratio.min():.1f} to {ratio.max():.1f})")
    print(f"largest difference: PSNR {apart[0]:.1e} dB, SSIM {apart[1]:.1e}")
    for count in (args.frames // 10, args.frames):
        peak = float(in_its_own_process("evaluate", "--stream", "--size", args.size, "--frames", count))
        print(f"{count:5} frames as a stream: peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
