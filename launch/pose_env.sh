#!/usr/bin/env bash
# Makes the environment of MediaPipe, the pose estimator of `champ-jax prepare`, in .venv-pose and tries it on an image.
# MediaPipe 0.10.21 is the last release with its models inside; it wants NumPy 1 and old protobuf, which JAX cannot have.
# Settings: PYTHON=path/of/python3.11 (MediaPipe has none for later than 3.12); CHAMP_POSE_VENV=folder to put it elsewhere
# (then export CHAMP_POSE_PYTHON=folder/bin/python too).
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${CHAMP_POSE_VENV:-$repo/.venv-pose}"
python="${PYTHON:-python3.11}"

command -v "$python" > /dev/null || {
    echo "error: $python is not there: MediaPipe needs Python 3.9 to 3.12; name one with PYTHON=" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# Its declared dependencies include JAX and the full OpenCV, neither of which it needs for this.
"$venv/bin/python" -m pip install --quiet --no-deps mediapipe==0.10.21
"$venv/bin/python" -m pip install --quiet "numpy<2" "protobuf>=4.25.3,<5" "opencv-contrib-python-headless<4.12" \
    absl-py attrs flatbuffers matplotlib sounddevice
"$venv/bin/python" - << 'PYTHON'
import mediapipe
import numpy

with mediapipe.solutions.holistic.Holistic(static_image_mode=True) as model:
    model.process(numpy.zeros((64, 64, 3), numpy.uint8))
print(f"MediaPipe {mediapipe.__version__} works")
PYTHON
echo "pose estimator: $venv/bin/python"
