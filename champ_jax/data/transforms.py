"""One crop, scale and mirror for everything that belongs to a clip, and one change of colours for its photos.

CHAMP draws a new random crop for every guidance kind, so only the depth map fits its frame, and falls back to the
centre square on portrait frames, cutting heads and feet. Here a View is drawn once for a sample; frames, maps,
keypoints, boxes and flow all go through it, and it never cuts into the person.
"""

import dataclasses

import cv2
import numpy as np

from champ_jax.data.codecs import brightness
from champ_jax.pose.skeleton import mirror as mirror_pose

# Red, green and blue's share of luminance (Rec. 601).
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Augment:
    """How much a sample is varied; all zeros is none.

    crop: up to this share of the frame is cut away; mirror: probability; hue: up to this share of the colour circle
    to either side (0.5 is any hue); saturation, brightness: up to this relative change; permute: probability of
    exchanging colour channels. Strong colour changes make many people out of few, at the price of green skin.
    """

    crop: float = 0.1
    mirror: float = 0.5
    hue: float = 0.05
    saturation: float = 0.2
    brightness: float = 0.2
    permute: float = 0.0


AUGMENTATIONS = {"none": None, "mild": Augment(), "strong": Augment(permute=0.5)}
"""What a configuration can name."""


@dataclasses.dataclass(frozen=True)
class View:
    """A rectangle of a source frame, scaled to `size`, perhaps mirrored. The same View serves all maps of a sample.

    box: (x0, y0, x1, y1) in continuous source pixels, with the aspect of `size`; it may reach over the frame's edge.
    size: (H, W) of the result. mirrored: left and right exchanged after scaling.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    mirrored: bool = False

    @property
    def scale(self) -> float:
        """Result pixels for each source pixel."""
        return self.size[1] / (self.box[2] - self.box[0])

    def matrix(self) -> np.ndarray:
        """float64 [2,3] from continuous source coordinates to continuous result coordinates."""
        scale, (x0, y0, _, _) = self.scale, self.box
        if self.mirrored:
            return np.array([[-scale, 0.0, self.size[1] + scale * x0], [0.0, scale, -scale * y0]])
        return np.array([[scale, 0.0, -scale * x0], [0.0, scale, -scale * y0]])

    def points(self, keypoints: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [...,J,2] and confidence [...,J]; left and right joints exchanged if mirrored. float32."""
        scaled = ((keypoints - np.array(self.box[:2])) * self.scale).astype(np.float32)
        if self.mirrored:
            scaled, confidence = mirror_pose(scaled, confidence, self.size[1])
        return scaled, confidence

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [...,4] xyxy, cut at the result's edges; boxes without area become zeros. float32."""
        matrix, (height, width) = self.matrix(), self.size
        boxes = np.asarray(boxes, np.float64)
        empty = (boxes[..., 2] <= boxes[..., 0]) | (boxes[..., 3] <= boxes[..., 1])
        x = np.sort(np.clip(boxes[..., 0::2] * matrix[0, 0] + matrix[0, 2], 0, width), -1)
        y = np.clip(boxes[..., 1::2] * matrix[1, 1] + matrix[1, 2], 0, height)
        empty |= (x[..., 1] <= x[..., 0]) | (y[..., 1] <= y[..., 0])
        out = np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
        return np.where(empty[..., None], 0.0, out).astype(np.float32)

    def photo(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] of a frame; beyond its edge the edge's colours go on."""
        return self._warp(image, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)

    def map(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] of a map [h,w] or [h,w,3] whose values a mirror moves and does not change, such as depth."""
        moved = self._warp(image, cv2.INTER_LINEAR)
        return np.repeat(moved[..., None], 3, -1) if moved.ndim == 2 else moved

    def normal(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] of a normal map; a mirrored surface faces the other way in x, which is red."""
        if self.mirrored:
            # Before any blending with the background: there, 255 - red would not be the mirrored normal.
            image = image.copy()
            image[..., 0] = np.where(brightness(image) > 0, 255 - image[..., 0], 0)
        return self._warp(image, cv2.INTER_LINEAR)

    def semantic_map(self, image: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] of a semantic map, no new colours; `pairs` [P,2,3] change places if mirrored."""
        if self.mirrored:
            image = swap_colours(image, pairs)
        return self._warp(image, cv2.INTER_NEAREST)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """uint8 [H,W] of 0 and 1, from uint8 or bool [h,w]."""
        return self._warp(np.asarray(mask, np.uint8), cv2.INTER_NEAREST)

    def flow(self, flow: np.ndarray) -> np.ndarray:
        """float32 [H,W,2] of an optical flow in source pixels: moved, scaled and mirrored with the frame."""
        moved = self._warp(flow, cv2.INTER_LINEAR) * np.float32(self.scale)
        return moved * np.array([-1, 1], np.float32) if self.mirrored else moved

    def _warp(self, image: np.ndarray, interpolation: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        height, width = image.shape[:2]
        if self.size == (height, width) and self.box == (0.0, 0.0, float(width), float(height)):
            return np.ascontiguousarray(image[:, ::-1]) if self.mirrored else image
        matrix = self.matrix()
        if interpolation == cv2.INTER_LINEAR and self.scale < 0.75:
            # Bilinear sampling skips pixels when it shrinks; average them first.
            small = max(1, round(width * self.scale)), max(1, round(height * self.scale))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            matrix = matrix @ np.diag([width / small[0], height / small[1], 1.0])
        # OpenCV counts from the centres of pixels.
        matrix[:, 2] += 0.5 * matrix[:, :2].sum(1) - 0.5
        return cv2.warpAffine(image, matrix, self.size[::-1], flags=interpolation, borderMode=border)


def fit(source: tuple[int, int], size: tuple[int, int], person: np.ndarray) -> View:
    """The View without variation: the largest rectangle of `size`'s aspect in a `source` (H, W) frame, moved to the
    person; larger, over the frame's edge, where the person [4] xyxy would not fit into it.
    """
    height, width = source
    aspect = size[1] / size[0]
    box_width = min(width, height * aspect)
    need = max(person[2] - person[0], (person[3] - person[1]) * aspect)
    box_width = max(box_width, min(need, max(width, height * aspect)))
    box_height = box_width / aspect
    x = _place((person[0] + person[2]) / 2, box_width, width)
    y = _place((person[1] + person[3]) / 2, box_height, height)
    return View((float(x), float(y), float(x + box_width), float(y + box_height)), size)


def _place(centre: float, length: float, limit: float) -> float:
    """Start of an interval about `centre`, kept inside 0..limit; about its middle if it is longer."""
    return (limit - length) / 2 if length >= limit else float(np.clip(centre - length / 2, 0, limit - length))


def vary(view: View, person: np.ndarray, augment: Augment, may_mirror: bool, rng: np.random.Generator) -> View:
    """A random smaller View inside `view` that still holds the person, mirrored or not."""
    x0, y0, x1, y1 = view.box
    keep = 1.0 - augment.crop * rng.random()
    fits = max((person[2] - person[0]) / (x1 - x0), (person[3] - person[1]) / (y1 - y0))
    keep = max(keep, min(fits, 1.0))
    width, height = (x1 - x0) * keep, (y1 - y0) * keep
    x = _draw_start(rng, x0, x1 - width, person[2] - width, person[0])
    y = _draw_start(rng, y0, y1 - height, person[3] - height, person[1])
    mirrored = bool(rng.random() < augment.mirror) and may_mirror
    return View((x, y, x + width, y + height), view.size, mirrored)


def _draw_start(rng: np.random.Generator, low: float, high: float, person_low: float, person_high: float) -> float:
    """Uniform in low..high, and within person_low..person_high as far as the former allows."""
    start = np.clip(person_low, low, high)
    return float(start + (max(np.clip(person_high, low, high), start) - start) * rng.random())


def swap_colours(image: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3] with the two colours of each pair [P,2,3] exchanged; other colours stay."""
    pack = np.array([1 << 16, 1 << 8, 1], np.int32)
    source = pairs.reshape(-1, 3)
    target = pairs[:, ::-1].reshape(-1, 3)
    order = np.argsort(source @ pack)
    keys = (source @ pack)[order]
    out = image.copy()
    inside = brightness(image) > 0  # the background, most of the image, is in no pair
    codes = image[inside] @ pack
    found = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    hit = keys[found] == codes
    values = image[inside]
    values[hit] = target[order][found[hit]]
    out[inside] = values
    return out


def draw_colours(augment: Augment, rng: np.random.Generator) -> np.ndarray | None:
    """A random linear change of colours, float32 [3,3] from RGB to RGB, or None if `augment` asks for none.

    Hue is a rotation about the grey axis, saturation a mix with luminance, brightness a gain; then channels may change
    places. Grey stays grey, and one matrix serves all of a sample's photos.
    """
    if not (augment.hue or augment.saturation or augment.brightness or augment.permute):
        return None
    angle = 2 * np.pi * augment.hue * rng.uniform(-1, 1)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) / 3
    saturation = 1 + augment.saturation * rng.uniform(-1, 1)
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    matrix = (1 + augment.brightness * rng.uniform(-1, 1)) * matrix @ rotation
    order = rng.permutation(3)
    if rng.random() < augment.permute:
        matrix = matrix[order]
    return matrix.astype(np.float32)


def recolour(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """uint8 [H,W,3] with draw_colours' matrix applied."""
    return image if matrix is None else cv2.transform(image, matrix)
