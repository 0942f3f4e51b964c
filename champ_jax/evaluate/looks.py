"""What a video shows, by embeddings: whether frames go together, keep the photo's style, and are still the person."""

from collections.abc import Callable

import cv2
import numpy as np

from champ_jax.data.estimate.faces import CHIP, EVERY, FaceModel, face_boxes
from champ_jax.evaluate.networks import Networks
from champ_jax.metrics import appearance, temporal


class Looks:
    """Collects blocks of one clip: CLIP's and DINO's embeddings of every frame, VGG's of one frame a block."""

    def __init__(self, networks: Networks, photo: np.ndarray | None):
        """photo: u8 [H,W,3] of the person, which the style is compared with."""
        self._networks = networks
        self._first: dict[tuple[str, int], np.ndarray] = {}
        self._last: dict[tuple[str, int], np.ndarray] = {}
        self._found: dict[str, tuple[list, list]] = {}
        self._photo_style = self._photo_clip = None
        if photo is not None and networks["style"]:
            self._photo_style = networks["style"].call(photo[None])
        if photo is not None and networks["clip"]:
            self._photo_clip = networks["clip"].call(photo[None])[0]

    def add(self, generated: np.ndarray, reference: np.ndarray | None) -> None:
        """The next frames of both, u8 [n,H,W,3]."""
        for side, video in enumerate((generated, reference)):
            if video is None:
                continue
            if clip := self._networks["clip"]:
                features = clip.call(video)
                self._consistency("clip", side, features)
                if self._photo_clip is not None:
                    self._add("style_clip", side, appearance.cosines(features, self._photo_clip))
            if dino := self._networks["dino"]:
                self._consistency("dino", side, dino.call(video))
            if self._photo_style is not None:
                layers = self._networks["style"].call(video[:1])
                pair = ([layer[0] for layer in layers], [layer[0] for layer in self._photo_style])
                self._add("style_gram", side, [appearance.gram_distance(*pair)])

    def _consistency(self, name: str, side: int, features: np.ndarray) -> None:
        key = (name, side)
        self._first.setdefault(key, features[0])
        joined = features if key not in self._last else np.concatenate([self._last[key][None], features])
        self._last[key] = features[-1]
        if len(joined) > 1:
            self._add(f"{name}_consistency", side, temporal.adjacent_consistency(joined))
            self._add(f"{name}_subject", side, temporal.subject_consistency(joined, self._first[key]))

    def _add(self, name: str, side: int, values) -> None:
        self._found.setdefault(name, ([], []))[side].extend(float(value) for value in values)

    def values(self) -> dict[str, tuple[float, float]]:
        """{metric: (of the generated video, of the reference)}."""
        return {name: tuple(float(np.mean(side)) if side else float("nan") for side in sides) for name, sides in self._found.items()}


class Faces:
    """Collects blocks of one clip: the face of every fifth frame, to be compared with the photo's.

    centre: mean embedding [E] of other people, or None.
    """

    def __init__(self, model: FaceModel, photo: np.ndarray, centre: np.ndarray | None):
        """photo: u8 [H,W,3] of the person."""
        self._model, self._centre = model, centre
        self.photo, self.photo_found = embed_anywhere(model.embed, photo)
        self._vectors, self._valid, self._frame = [], [], 0

    def add(self, generated: np.ndarray, track: tuple[np.ndarray, np.ndarray] | None) -> None:
        """The next frames, u8 [n,H,W,3], and at will (keypoints [n,J,2], confidence [n,J]) that tell where to look for the face."""
        boxes = face_boxes(*track, generated.shape[1:3]) if track is not None else [None] * len(generated)
        for frame, box in zip(generated, boxes):
            if self._frame % EVERY == 0:
                vector, found = embed_anywhere(self._model.embed, frame, box)
                self._vectors.append(vector)
                self._valid.append(found)
            self._frame += 1

    def values(self) -> dict[str, float]:
        """csim, csim_centred, csim_all_frames, face_detected; the detection rate alone where the photo shows no face."""
        if not self.photo_found:
            return {"face_detected": float(np.mean(self._valid))}
        found = appearance.identity(np.stack(self._vectors), np.array(self._valid), self.photo, self._centre)
        names = {"csim": found.csim, "csim_centred": found.centred, "csim_all_frames": found.all_frames, "face_detected": found.detected}
        return {name: value for name, value in names.items() if not np.isnan(value)}


def embed_anywhere(
    embed: Callable[[np.ndarray], tuple[np.ndarray, bool]], image: np.ndarray, box: np.ndarray | None = None
) -> tuple[np.ndarray, bool]:
    """(embedding [E], found) of the face inside a box xyxy of an image u8 [H,W,3], or of the largest in all of it."""
    if box is not None and (box[2:] - box[:2]).min() > 0:
        x0, y0, x1, y1 = box.round().astype(int)
        image = image[y0:y1, x0:x1]
    scale = CHIP / max(image.shape[:2])
    if scale > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return embed(image)
