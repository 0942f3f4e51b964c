"""One clip as read from a record: arrays at once, images when they are asked for."""

import functools
from typing import Any

import numpy as np

from champ_jax.data import codecs
from champ_jax.errors import UserError
from champ_jax.pose.skeleton import THRESHOLD

# Kept free around the joints, as a share of their height.
_MARGIN = 0.08


class Clip:
    """A record's fields with the readings everybody needs.

    fields: the schema's fields, images still encoded. where: names file and record in errors. keep: hold decoded
    images in memory.
    """

    def __init__(self, fields: dict[str, Any], where: str, keep: bool = False):
        self.fields, self.where = fields, where
        self._images: dict[tuple[str, int], np.ndarray] | None = {} if keep else None

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def clip_id(self) -> str:
        return self.fields["clip_id"]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the stored frames, and of the plane the keypoints lie in."""
        return self.fields["height"], self.fields["width"]

    @property
    def n_frames(self) -> int:
        """Motion frames T."""
        return self.fields["n_frames"]

    @property
    def stored(self) -> int:
        """Frames n that have pixels."""
        return len(self.fields["frame_index"])

    @property
    def frame_seconds(self) -> float:
        """Seconds from one motion frame to the next."""
        return self.fields["fps_den"] / self.fields["fps_num"]

    def seconds(self, frames: np.ndarray) -> np.ndarray:
        """float64 times of motion frames; exact for rational rates such as 24000/1001."""
        return np.asarray(frames, np.float64) * self.fields["fps_den"] / self.fields["fps_num"]

    def keypoints(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [F,J,2] pixels, float32 [F,J] confidence in 0..1) of motion frames."""
        confidence = self.fields["kps_conf"][frames].astype(np.float32) / 255.0
        return self.fields["kps"][frames].astype(np.float32), confidence

    @functools.cached_property
    def person_box(self) -> np.ndarray:
        """float64 [4] xyxy: the person in the whole clip; the whole frame where nobody is seen.

        Joints lie inside the body, and the crown of the head above all of them, hence the margin.
        """
        height, width = self.size
        seen = self.fields["kps"][self.fields["kps_conf"] >= THRESHOLD * 255].astype(np.float64)
        if len(seen) == 0:
            return np.array([0.0, 0.0, width, height])
        low, high = seen.min(0), seen.max(0)
        margin = _MARGIN * (high[1] - low[1])
        return np.clip(np.concatenate([low - margin, high + margin]), 0.0, [width, height, width, height])

    def image(self, field: str, number: int) -> np.ndarray:
        """uint8 [H,W,3], or [H,W] of a single channel: stored frame `number` of one of schema.IMAGES.

        Raises UserError if the clip has no such map or the image is damaged. Do not write into the result.
        """
        if self._images is not None and (field, number) in self._images:
            return self._images[field, number]
        stored = self.fields[field]
        if not len(stored):
            raise UserError(f"{self.where}: no {field} is stored in this clip. Leave {field} out of the guidance kinds.")
        try:
            image = codecs.decode_image(field, stored[number])
        except ValueError as error:
            raise UserError(f"{self.where}: field {field}, image {number}: {error}.") from error
        if image.shape[:2] != self.size:
            raise UserError(f"{self.where}: field {field}, image {number} is {image.shape[1]}x{image.shape[0]}, but the "
                            f"clip is {self.size[1]}x{self.size[0]} (width x height).")  # fmt: skip
        if self._images is not None:
            self._images[field, number] = image
        return image

    def mask(self, number: int) -> np.ndarray:
        """uint8 [H,W], 1 on the person: where the semantic map, else the depth map, is not black; 1 without either."""
        if len(self.fields["semantic_map"]):
            return (codecs.brightness(self.image("semantic_map", number)) > 0).astype(np.uint8)
        if len(self.fields["depth"]):
            return (self.image("depth", number) > 0).astype(np.uint8)
        return np.ones(self.size, np.uint8)

    def flow(self, number: int) -> np.ndarray:
        """float32 [H,W,2] pixels: optical flow from stored frame `number` to the next."""
        if not len(self.fields["flow"]):
            raise UserError(f"{self.where}: no optical flow is stored in this clip.")
        return codecs.decode_flow(self.fields["flow"][number], self.fields["flow_scale"][number])
