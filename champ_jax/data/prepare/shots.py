"""Hard cuts in a video, found as its frames pass by: where both the picture and its colours change at once."""

import cv2
import numpy as np

SIDE = 32
PICTURE, COLOURS = 0.12, 0.35
"""A cut changes the mean of small pictures by so much of their range, and so much of their colours' histogram. A flash changes the
colours and returns; a pan changes the picture and keeps the colours."""


class Shots:
    """Takes the frames of a video one by one."""

    def __init__(self):
        self._small: list[np.ndarray | None] = []
        self._colours: list[np.ndarray | None] = []

    def add(self, image: np.ndarray) -> None:
        """The next frame, u8 [H,W,3]."""
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        colours = cv2.calcHist([small], [0, 1, 2], None, [6, 6, 6], [0, 256] * 3).ravel() / SIDE**2
        self._small.append(small.astype(np.float32) / 255)
        self._colours.append(colours)

    def add_gap(self) -> None:
        """A frame is missing here: what comes after it is another shot."""
        self._small.append(None)
        self._colours.append(None)

    def cuts(self) -> np.ndarray:
        """bool [T]: where a new shot begins; the first frame begins one."""
        count = len(self._small)
        cuts = np.zeros(count, bool)
        for now in range(count):
            before = now - 1
            if now == 0 or (self._small[now] is None) != (self._small[before] is None):
                cuts[now] = True
            elif self._small[now] is not None:
                # Their neighbours count too: where a flash begins or ends, the pictures on both sides of it are alike.
                later = now + 1 if now + 1 < count and self._small[now + 1] is not None else now
                earlier = before - 1 if before and self._small[before - 1] is not None else before
                cuts[now] = all(self._differ(*pair) for pair in ((before, now), (before, later), (earlier, now)))
        return cuts

    def _differ(self, one: int, other: int) -> bool:
        picture = float(np.abs(self._small[one] - self._small[other]).mean())
        colours = float(np.abs(self._colours[one] - self._colours[other]).sum()) / 2
        return picture > PICTURE and colours > COLOURS
