"""Where a dancer is filmed: a static camera fitted to the whole motion, lights, and a background that stays the same in a clip."""

from dataclasses import dataclass

import cv2
import numpy as np

BACKGROUNDS = ("gradient", "room", "stage", "pattern", "blur")


@dataclass(frozen=True)
class Camera:
    """A static camera before it is fitted to a motion.

    azimuth in degrees, 0 in front of the person, positive towards the person's left; height of the lens and its distance in body
    heights; fill: standing height in frame heights (less if the motion needs the room); shift: where in the free room, -1..1.
    """

    azimuth: float = 0.0
    height: float = 0.6
    distance: float = 2.6
    fill: float = 0.84
    shift: tuple = (0.0, 0.0)


@dataclass(frozen=True)
class View:
    """A fitted pinhole camera: camera = rotation @ (world - eye), u = focal x / z + centre; focal and centre in frame heights."""

    rotation: np.ndarray
    eye: np.ndarray
    focal: float
    centre: tuple

    def transform(self, points: np.ndarray) -> np.ndarray:
        """World metres [...,3] to camera space, f32 [...,3]: x right, y down, z forward."""
        return ((points - self.eye) @ self.rotation.T).astype(np.float32)

    def project(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Camera space [...,3] to pixels [...,2] of a frame of `size` (H, W); the first pixel's centre is (0.5, 0.5)."""
        focal, cx, cy = self.intrinsics(size)
        return points[..., :2] * (focal / points[..., 2:]) + np.array([cx, cy], np.float32)

    def intrinsics(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """(focal, cx, cy) in pixels of a frame of `size` (H, W)."""
        height, width = size
        return self.focal * height, self.centre[0] * height + width / 2, self.centre[1] * height + height / 2

    def numbers(self) -> np.ndarray:
        """f32 [15]: rotation 9, eye 3, focal, centre 2; what a record stores."""
        return np.concatenate([self.rotation.ravel(), self.eye, [self.focal], self.centre]).astype(np.float32)


@dataclass(frozen=True)
class Light:
    """A key light from `direction` (camera space, towards the light) over ambient light. Colours are RGB, about 0..1."""

    direction: tuple = (-0.4, -0.6, -0.7)
    key: tuple = (0.62, 0.62, 0.60)
    ambient: tuple = (0.50, 0.50, 0.53)
    shine: float = 0.6
    below: float = 0.55
    rim: float = 0.12

    def numbers(self) -> np.ndarray:
        """The f32 [12] that raster.shade takes."""
        direction = np.array(self.direction) / np.linalg.norm(self.direction)
        return np.array([*direction, *self.key, *self.ambient, self.shine, self.below, self.rim], np.float32)


@dataclass(frozen=True)
class Background:
    """A kind of background and the seed of its colours and patterns."""

    kind: str = "room"
    seed: int = 0


def sample_camera(rng: np.random.Generator, azimuth: tuple[float, float] = (-180.0, 180.0)) -> Camera:
    """A camera somewhere in the azimuth range (degrees)."""
    return Camera(
        float(rng.uniform(*azimuth)),
        float(rng.uniform(0.4, 0.75)),
        float(rng.uniform(2.2, 3.4)),
        float(rng.uniform(0.82, 0.87)),
        tuple(rng.uniform(-0.35, 0.35, 2).tolist()),
    )


def sample_light(rng: np.random.Generator) -> Light:
    """A key light from the camera's half of the room, slightly tinted."""
    side, up = rng.uniform(-1.0, 1.0), rng.uniform(0.2, 1.0)
    tint = 1 + rng.uniform(-0.07, 0.07, 3)
    key, ambient = rng.uniform(0.5, 0.75), rng.uniform(0.42, 0.6)
    return Light(
        (side, -up, -0.8),
        tuple((key * tint).tolist()),
        tuple((ambient * (2 - tint)).tolist()),
        float(rng.uniform(0.2, 1)),
        float(rng.uniform(0.4, 0.7)),
        float(rng.uniform(0, 0.2)),
    )


def sample_background(rng: np.random.Generator) -> Background:
    """One of `BACKGROUNDS` with a seed of its own."""
    return Background(str(rng.choice(BACKGROUNDS, p=[0.22, 0.32, 0.16, 0.12, 0.18])), int(rng.integers(1 << 31)))


def fit(camera: Camera, points: np.ndarray, standing: float, size: tuple[int, int], margin: float = 0.03) -> View:
    """Points the camera so that all `points` (world, [...,3]) stay inside a frame of `size` (H, W), `margin` frame heights away
    from its edge, and a person `standing` metres tall fills `camera.fill` of it where that leaves room."""
    azimuth = np.deg2rad(camera.azimuth)
    middle = np.array([0.0, 0.5 * standing, 0.0])
    eye = standing * np.array([camera.distance * np.sin(azimuth), camera.height, camera.distance * np.cos(azimuth)])
    forward = (middle - eye) / np.linalg.norm(middle - eye)
    right = np.cross(forward, (0, 1, 0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    seen = (points.reshape(-1, 3) - eye) @ rotation.T
    plane = seen[:, :2] / seen[:, 2:]
    low, high = plane.min(0), plane.max(0)
    room = np.array([size[1] / size[0], 1.0]) - 2 * margin
    focal = float(min(camera.fill * np.linalg.norm(middle - eye) / standing, *(room / (high - low))))
    free = np.maximum(room - focal * (high - low), 0) / 2
    centre = -focal * (low + high) / 2 + free * np.array(camera.shift)
    return View(rotation, eye, focal, tuple(centre.tolist()))


def render_background(background: Background, view: View, size: tuple[int, int]) -> np.ndarray:
    """The empty scene, f32 [H,W,3] in [0,1]. Floors and walls are seen through the camera, so they agree with the person."""
    height, width = size
    rng = np.random.default_rng(background.seed)
    first, second = _wall_colour(rng), _wall_colour(rng)
    ramp = np.linspace(0, 1, height)[:, None, None]
    if background.kind == "gradient":
        slope = rng.uniform(-1, 1) * np.linspace(-0.5, 0.5, width)[None, :, None]
        return np.clip(first + np.clip(ramp + slope, 0, 1) * (second - first), 0, 1).astype(np.float32) * np.ones((1, width, 1), np.float32)
    if background.kind == "blur":
        shape = (int(rng.integers(3, 7)), int(rng.integers(3, 7)))
        coarse = np.clip(first + rng.normal(0, 0.16, (*shape, 1)) + rng.normal(0, 0.07, (*shape, 3)), 0, 1)
        return np.clip(cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    return _box(background.kind, view, size, rng, first, second)


def _box(kind: str, view: View, size: tuple[int, int], rng: np.random.Generator, wall: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """A floor at y = 0 and a wall behind it, by casting a ray through each pixel; twice the size, then halved."""
    height, width = 2 * size[0], 2 * size[1]
    focal, cx, cy = view.intrinsics((height, width))
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - cx) / focal, (v - cy) / focal, np.ones_like(u)], -1) @ view.rotation
    away = -view.eye * (1, 0, 1) / np.linalg.norm(view.eye * (1, 0, 1))
    sideways = np.cross(away, (0, 1, 0))
    to_wall = (rng.uniform(1.2, 3.0) - view.eye @ away) / np.maximum(rays @ away, 1e-6)
    to_floor = np.where(rays[..., 1] < -1e-6, -view.eye[1] / np.minimum(rays[..., 1], -1e-6), 1e9)
    hit = view.eye + np.minimum(to_wall, to_floor)[..., None] * rays
    across, deep, up = hit @ sideways, hit @ away, hit[..., 1]
    on_floor = to_floor < to_wall
    if kind == "stage":
        wall, floor = 0.25 * wall, 0.45 * floor
    pattern_colour = np.clip(wall + rng.uniform(-0.25, 0.25, 3), 0, 1)
    tile = np.clip(floor * rng.uniform(0.7, 1.25), 0, 1)
    scale = rng.uniform(0.5, 1.1)
    paint = rng.integers(4) if kind == "pattern" else rng.integers(2) * 4
    columns, rows = np.floor(across / scale), np.floor(up / scale)
    marked = [np.zeros_like(on_floor), columns % 2 == 0, rows % 2 == 0, (columns + rows) % 2 == 0, up < rng.uniform(0.5, 1.2)][paint]
    tiled = (np.floor(across / 0.6) + (np.floor(deep / 0.6) if rng.random() < 0.5 else 0)) % 2 == 0
    image = np.where(on_floor[..., None], np.where(tiled[..., None], tile, floor), np.where(marked[..., None], pattern_colour, wall))
    if kind == "stage":
        spot = np.clip(1.2 - np.hypot(across, deep) / 1.3, 0, 1)[..., None] * on_floor[..., None]
        glow = np.exp(-((np.hypot(across - rng.uniform(-1, 1), up - rng.uniform(0.8, 2)) / 0.9) ** 2))[..., None] * ~on_floor[..., None]
        image = image + 0.5 * spot + 0.45 * glow * np.clip(wall * 4, 0, 1)
    else:
        image = image * (1 - 0.12 * np.clip(np.hypot(across, deep) / 3, 0, 1))[..., None]
    image = image.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))
    return np.clip(image, 0, 1).astype(np.float32)


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    """Muted more often than clothes are, so that people stand out, but of any hue and lightness."""
    grey = rng.uniform(0.2, 0.95)
    return np.clip(grey + rng.normal(0, 1, 3) * rng.uniform(0.02, 0.16), 0, 1)
