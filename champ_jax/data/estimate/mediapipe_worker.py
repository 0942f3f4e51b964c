"""Runs in the environment of MediaPipe, by the path of this file: images from standard input, landmarks to standard output.

In: a line {"height", "width"} and the bytes of an RGB image, again and again, or {"reset"}. Out: a line {"found"} and, for each part
that was found of "pose" (33), "face" (468), "left_hand" and "right_hand" (21 each), float32 rows of x, y, z, visibility; x and y in
0..1 of the image.
"""

import json
import os
import sys

PARTS = ("pose", "face", "left_hand", "right_hand")


def main() -> None:
    """Answers until its standard input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # MediaPipe prints
    import mediapipe
    import numpy as np

    with mediapipe.solutions.holistic.Holistic(static_image_mode=False, model_complexity=1, refine_face_landmarks=False) as model:
        out.write(json.dumps({"ready": mediapipe.__version__}).encode() + b"\n")
        out.flush()
        while line := sys.stdin.buffer.readline():
            size = json.loads(line)
            if size.get("reset"):
                model.reset()
                continue
            data = sys.stdin.buffer.read(size["height"] * size["width"] * 3)
            result = model.process(np.frombuffer(data, np.uint8).reshape(size["height"], size["width"], 3))
            found = [getattr(result, f"{part}_landmarks") for part in PARTS]
            out.write(json.dumps({"found": [part for part, marks in zip(PARTS, found) if marks]}).encode() + b"\n")
            for marks in found:
                if marks:
                    out.write(np.array([(m.x, m.y, m.z, m.visibility) for m in marks.landmark], np.float32).tobytes())
            out.flush()


if __name__ == "__main__":
    main()
