"""How one frame's images and flow become bytes in a record, and back.

Maps are stored without loss: at 96 pixels a rendered normal map is smaller as lossless WebP (2.6 kB) than as JPEG
(4.1 kB), a semantic map takes 0.4 kB, and labels and depths stay exact. Photos are JPEG with full colour resolution
(4:4:4), because stripes and logos on clothes are a pixel wide.
"""

import io

import cv2
import numpy as np
from PIL import Image, ImageFile

from champ_jax.data.schema import IMAGES
from champ_jax.errors import UserError

# For lossless WebP these are efforts: the highest would save 1 % and take 30 times as long.
_LOSSLESS = {"format": "WEBP", "lossless": True, "quality": 50, "method": 3}
_GREY = {"format": "PNG", "optimize": True}  # WebP knows no single channel
_PHOTO = {"format": "JPEG", "quality": 90, "subsampling": 0, "optimize": True}

# A unit normal (x, y, z) is drawn as 127.5 * (1 + xyz), whose sum is never below 161; what the lossy coding of a
# prepared map leaves around the person is far darker.
_NORMAL_FLOOR = 81


def brightness(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W]: the sum of the channels of uint8 [H,W,3], at most 255. Ten times as fast as NumPy's reductions."""
    return cv2.transform(image, np.ones((1, 3), np.float32))


def encode_image(field: str, image: np.ndarray) -> bytes:
    """The stored form of an image of record field `field`, one of schema.IMAGES.

    image: uint8 [H,W,3], or [H,W] / [H,W,1] of a single channel.
    """
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8:
        raise UserError(f"{field}: images are uint8, got {image.dtype}. Scale to 0..255 before encoding.")
    if IMAGES[field] == 1:
        return _save(image.reshape(image.shape[:2]), _GREY)
    return _save(image, _PHOTO if field == "frames" else _LOSSLESS)


def _save(image: np.ndarray, options: dict) -> bytes:
    buffer = io.BytesIO()
    # Pillow lends an optimised JPEG a byte a pixel, which fine noise does not fit in.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 2 * image.size)
    Image.fromarray(image).save(buffer, **options)
    # OpenCV takes no WebP below 32 bytes, which an empty map is; decoders ignore what follows the image.
    return buffer.getvalue().ljust(32, b"\0")


def decode_image(field: str, data: bytes) -> np.ndarray:
    """uint8 [H,W,3], or [H,W] for depth, from any encoding OpenCV reads (PNG, JPEG, WebP).

    Normal maps come back with an exactly black background. Raises ValueError on bytes that are no image, or no whole one.
    """
    mode = cv2.IMREAD_COLOR_RGB if IMAGES[field] == 3 else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data and not _cut_off(data) else None
    if image is None:
        raise ValueError(f"{len(data)} bytes that are not a PNG, JPEG or WebP image, or not all of it")
    if field == "normal":
        image[brightness(image) < _NORMAL_FLOOR] = 0
    return image


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end, which older OpenCV paints grey without a word. Its data hold no other end marker."""
    return data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0


def encode_flow(flow: np.ndarray) -> tuple[bytes, float]:
    """(bytes, scale) of an optical flow float [H,W,2] in pixels, rounded to 1/127 of its largest component.

    x and y become red and green of a lossless WebP image around 128: two thirds of what zlib makes of the numbers.
    """
    scale = float(np.abs(flow).max()) / 127 or 1.0
    image = np.full((*flow.shape[:2], 3), 128, np.uint8)
    image[..., :2] = np.rint(flow / scale) + 128
    return _save(image, _LOSSLESS), scale


def decode_flow(data: bytes, scale: float) -> np.ndarray:
    """float32 [H,W,2] in pixels, from encode_flow. Raises ValueError on bytes that are no image."""
    return (decode_image("frames", data)[..., :2].astype(np.float32) - 128) * np.float32(scale)
