"""Whose colours a person wears: mean colours of body regions, and who of several people they are nearest to."""

import numpy as np


def srgb_to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB [...,3] in [0,1] to CIE L*a*b* (D65) f32 [...,3]; equal distances there look about equally different."""
    image = np.asarray(image, np.float32)
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    ratio = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    cube_root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = np.moveaxis(cube_root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def region_colours(frames: np.ndarray, regions: np.ndarray, count: int, min_pixels: int = 8) -> np.ndarray:
    """Mean Lab colour of each body region: f32 [F,count,3], nan where a region has fewer than `min_pixels` pixels.

    frames: [F,H,W,3] in [0,1]. regions: int [F,H,W], the region's number 0..count-1, or -1 outside the person.
    """
    lab = srgb_to_lab(frames)
    colours = np.full((len(frames), count, 3), np.nan, np.float32)
    for index, (picture, label) in enumerate(zip(lab, regions, strict=True)):
        for region in range(count):
            pixels = picture[label == region]
            if len(pixels) >= min_pixels:
                colours[index, region] = pixels.mean(0)
    return colours


def identity_top1(colours: np.ndarray, gallery: np.ndarray, identity: int) -> np.ndarray:
    """Whether each frame's region colours are nearer to person `identity` than to anyone else in the gallery.

    colours: f32 [F,regions,3] of one person's frames (`region_colours`). gallery: f32 [P,regions,3], the colours of P
    people, of whom the right one is number `identity`. The distance of two people is the mean Lab distance over the
    regions that are visible in both; a frame without any visible region is wrong. Returns bool [F]; with frames that
    say nothing about the person the mean is about 1/P.
    """
    apart = np.linalg.norm(colours[:, None] - gallery[None], axis=-1)
    visible = np.isfinite(apart)
    distance = np.where(visible, apart, 0).sum(-1) / np.maximum(visible.sum(-1), 1)
    distance = np.where(visible.any(-1), distance, np.inf)
    return (distance.argmin(-1) == identity) & np.isfinite(distance[:, identity])
