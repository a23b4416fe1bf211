"""Articulated figures: an individual with random proportions and clothes in a random scene, posed and drawn.

A `Figure` is a description without a resolution: at 64 and at 256 pixels it is the same picture. Every part
is a signed distance to a tapered capsule or a rounded polygon. Its clipped distance is its coverage, which is
antialiasing for free, and the position along and across the part is the coordinate of its texture, so that
clothes move with the limb.

J joints, S image size. Positions are (x, y) in [0, 1] of the image unless said otherwise; lengths are in
heights of the figure.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image

from autolink.data.skeleton import ARMS, HEAD, LEGS, NECK, Posed, forward_kinematics, random_body

_LIGHT = np.array([-0.45, -0.5, 0.74])  # towards the light: the upper left, in front of the figure
_REACH = 0.05  # how far a figure extends beyond its outermost joint


class Texture(NamedTuple):
    """Two colours in a pattern."""

    pattern: str  # "plain", "rings" across the part, "stripes" along it, "checks" or "dots"
    first: np.ndarray
    second: np.ndarray
    frequency: float  # radians a height
    phase: float

    def __call__(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Colours (..., 3) in [0, 1] at positions on the part."""
        if self.pattern == "plain":
            return np.broadcast_to(self.first, (*along.shape, 3))
        u, v = np.sin(along * self.frequency + self.phase), np.cos(across * self.frequency)
        wave = {"rings": u, "stripes": v, "checks": 2 * u * v, "dots": u + v - 0.7}[self.pattern]
        return self.first + (np.clip(2 * wave, -1, 1) * 0.5 + 0.5)[..., None] * (self.second - self.first)


class Part(NamedTuple):
    """A tapered capsule between two points, or a polygon rounded by its radius."""

    depth: float  # parts are drawn from the smallest to the largest
    points: np.ndarray  # (2, 2) or (4, 2)
    radii: tuple[float, float]  # at the first and the last point, in heights
    length: float  # in space, in heights; a foreshortened part is shorter in the image
    texture: Texture


class Figure:
    """One individual in one scene; everything about it is drawn from `rng`."""

    def __init__(self, rng: np.random.Generator):
        self.body = random_body(rng)
        self.girth = rng.uniform(1.05, 1.4)
        self.height = rng.uniform(0.8, 0.9) / self.body.stature  # of the image
        self.floor = rng.uniform(0.94, 0.98)
        self.centre = rng.uniform(0.45, 0.55)
        self.skin = _plain(_skin(rng))
        self.hair = _plain(_colour(rng, (0.1, 0.75), (0.08, 0.6)))
        self.bald = rng.random() < 0.1
        self.top, self.bottom = _clothes(rng), _clothes(rng)
        self.shoes = _plain(_colour(rng, (0.0, 0.9), (0.1, 0.9)))
        self.long_sleeves, self.long_legs = rng.random() < 0.55, rng.random() < 0.65
        self.scene = Scene(rng)

    def place(self, pose: np.ndarray, shift: float) -> tuple[Posed, np.ndarray]:
        """Poses the body and stands it on the floor.

        Args:
            pose: (POSE_SIZE,) in [0, 1].
            shift: sideways position in [0, 1], from a little left to a little right of the figure's place.

        Returns:
            The pose in space, and the (2,) position of its pelvis in the image.
        """
        posed = forward_kinematics(self.body, pose)
        flat = posed.joints[:, :2] * self.height
        reach = _REACH * self.height + 0.01
        x = self.centre + 0.16 * (shift - 0.5)
        low, high = reach - flat[:, 0].min(), 1 - reach - flat[:, 0].max()
        x = min(max(x, low), high) if low < high else (low + high) / 2
        feet = flat[[leg[2] for leg in LEGS], 1]
        return posed, np.array([x, self.floor - reach - feet.max()])

    def joints(self, posed: Posed, origin: np.ndarray) -> np.ndarray:
        """(J, 2) float64 positions of the joints in the image."""
        return origin + posed.joints[:, :2] * self.height

    def draw(self, posed: Posed, origin: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the figure into its scene.

        Returns:
            (S, S, 3) uint8, and the (S, S) float32 coverage of the figure in [0, 1].
        """
        canvas = self.scene.draw(size, self.floor)
        mask = np.zeros((size, size), np.float32)
        self._shadow(canvas, posed, origin)
        for part in sorted(self._parts(posed, origin), key=lambda part: part.depth):
            _draw_part(canvas, mask, part, self.height)
        return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), mask

    def _parts(self, posed: Posed, origin: np.ndarray) -> list[Part]:
        """The parts of the body; the trunk is at depth 0 and each joint brings its own."""
        body, girth, space = self.body, self.girth, posed.joints
        flat = self.joints(posed, origin)
        toes = origin + posed.toes[:, :2] * self.height
        sleeve = self.top if self.long_sleeves else self.skin
        leg = self.bottom if self.long_legs else self.skin
        parts: list[Part] = []

        def bone(
            a: int, b: int, radii: tuple[float, float], length: float, texture: Texture, front: float = 0.0
        ) -> None:
            depth = (space[a, 2] + space[b, 2]) / 2 + front
            thick = (radii[0] * girth, radii[1] * girth)
            parts.append(Part(depth, flat[[a, b]], thick, length, texture))

        for shoulder, elbow, wrist in ARMS:
            bone(shoulder, elbow, (0.042, 0.034), body.upper_arm, self.top)
            bone(elbow, wrist, (0.033, 0.024), body.forearm, sleeve, 0.01)
            hand = flat[wrist] + (flat[wrist] - flat[elbow]) * 0.14
            depth = (space[elbow, 2] + space[wrist, 2]) / 2 + 0.02
            parts.append(Part(depth, np.stack([flat[wrist], hand]), (0.029, 0.027), 0.03, self.skin))
        for i, (hip, knee, ankle) in enumerate(LEGS):
            bone(hip, knee, (0.058, 0.043), body.thigh, self.bottom, -0.06)
            bone(knee, ankle, (0.041, 0.028), body.shin, leg, -0.07)
            depth = (space[knee, 2] + space[ankle, 2]) / 2 - 0.065
            parts.append(Part(depth, np.stack([flat[ankle], toes[i]]), (0.03, 0.027), 0.08, self.shoes))
        trunk = flat[[ARMS[0][0], ARMS[1][0], LEGS[1][0], LEGS[0][0]]]
        parts.append(Part(0.0, trunk, (0.032 * girth, 0.032 * girth), body.torso, self.top))
        bone(NECK, HEAD, (0.028, 0.028), body.neck, self.skin, 0.005 - space[[NECK, HEAD], 2].mean())
        self._add_head(parts, flat, posed.gaze)
        return parts

    def _add_head(self, parts: list[Part], flat: np.ndarray, gaze: float) -> None:
        """A head of hair, the face on the side that it looks to, and eyes that say which."""
        r = self.body.head
        up = (flat[HEAD] - flat[NECK]) / max(np.hypot(*(flat[HEAD] - flat[NECK])), 1e-6) * r * self.height
        right = np.array([-up[1], up[0]])
        ahead, narrow = np.sin(gaze), np.cos(gaze)

        def oval(depth: float, x: float, y: float, radius: float, texture: Texture, tall: float) -> None:
            at = flat[HEAD] + x * right + y * up
            ends = np.stack([at + tall * up, at - tall * up])
            parts.append(Part(depth, ends, (radius * r, 0.9 * radius * r), 2 * tall * r, texture))

        oval(0.05, 0, 0.08, 1.0, self.skin if self.bald else self.hair, tall=0.15)
        oval(0.051, 0.3 * ahead, -0.22, 0.8, self.skin, tall=0.12)
        for side in (-1, 1):
            oval(0.052, 0.62 * ahead + side * 0.34 * narrow, -0.1, 0.13, _plain(_rgb(0, 0, 0.08)), tall=0.03)

    def _shadow(self, canvas: np.ndarray, posed: Posed, origin: np.ndarray) -> None:
        """A soft ellipse on the floor below the feet."""
        size = len(canvas)
        ankles = self.joints(posed, origin)[[leg[2] for leg in LEGS]]
        x, spread = ankles[:, 0].mean(), np.ptp(ankles[:, 0]) / 2 + 0.1 * self.height
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size
        far = ((grid - x) / spread)[None, :] ** 2 + ((grid - self.floor) / (0.05 * self.height))[:, None] ** 2
        canvas *= (1 - 0.45 * np.exp(-far))[..., None]


class Scene:
    """A wall and a floor, each of a soft random texture."""

    def __init__(self, rng: np.random.Generator):
        self.horizon = rng.uniform(0.06, 0.2)  # of the image, above the line on which the figure stands
        self.wall, self.ground = (_Surface(rng) for _ in range(2))

    def draw(self, size: int, floor: float) -> np.ndarray:
        """(S, S, 3) float32 in [0, 1]."""
        y = (np.arange(size, dtype=np.float32) + 0.5) / size
        below = np.clip((y - (floor - self.horizon)) * size + 0.5, 0, 1)[:, None, None]
        wall, ground = self.wall.draw(size), self.ground.draw(size) * 0.8
        return wall + below * (ground - wall)


class _Surface:
    """Two related colours mixed by smooth noise, with or without a pattern over it."""

    def __init__(self, rng: np.random.Generator):
        hue, saturation, value = rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.3, 0.85)
        near, lighter = rng.uniform(-0.08, 0.08), rng.choice([-1, 1]) * rng.uniform(0.05, 0.12)
        self.colours = _rgb(hue, saturation, value), _rgb(hue + near, saturation, value + lighter)
        self.noise = [rng.random((cells, cells), dtype=np.float32) for cells in (3, 6, 12)]
        self.weights = np.array([0.55, 0.3, 0.15], np.float32)
        self.pattern = rng.choice(["none", "stripes", "checks", "rings"], p=[0.7, 0.1, 0.1, 0.1])
        self.frequency, self.angle = rng.uniform(20, 60), rng.choice([0, np.pi / 2, np.pi / 4])
        self.strength = rng.uniform(0.1, 0.25)

    def draw(self, size: int) -> np.ndarray:
        """(S, S, 3) float32 in [0, 1]."""
        mix = sum(
            weight * np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
            for weight, noise in zip(self.weights, self.noise, strict=True)
        )
        mix = (mix - 0.5) * 1.6 + 0.5
        if self.pattern != "none":
            grid = (np.arange(size, dtype=np.float32) + 0.5) / size
            c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
            u = np.sin((c * grid[None, :] + s * grid[:, None]) * self.frequency)
            v = np.sin((c * grid[:, None] - s * grid[None, :]) * self.frequency)
            wave = {"stripes": u, "checks": 2 * u * v, "rings": u + v}[self.pattern]
            mix = mix + self.strength * np.clip(1.5 * wave, -1, 1)
        first, second = self.colours
        mix = np.clip(mix, 0, 1)
        return first + mix[..., None] * (second - first)


def _draw_part(canvas: np.ndarray, mask: np.ndarray, part: Part, height: float) -> None:
    """Draws a part over the canvas (S, S, 3) and into the mask (S, S), both in place."""
    size = len(canvas)
    scale = height * size  # pixels a height
    points = part.points * size
    radii = part.radii[0] * scale, part.radii[1] * scale
    soft = 0.014 * scale + 0.3  # of the shadow that a part throws on what is behind it
    left, top = np.maximum(np.floor(points.min(0) - max(radii) - 2 * soft), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(0) + max(radii) + 2 * soft), size).astype(int)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)

    if len(points) == 2:
        start, end = points
    else:
        start, end = (points[0] + points[1]) / 2, (points[3] + points[2]) / 2
    axis = (end - start).astype(np.float32)
    length = max(float(np.hypot(*axis)), 1e-3)
    ux, uy = axis / np.float32(length)
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    along, across = px * ux + py * uy, py * ux - px * uy
    t = np.clip(along / np.float32(length), 0, 1)
    radius = radii[0] + t * (radii[1] - radii[0])
    if len(points) == 2:
        distance = np.sqrt((along - t * np.float32(length)) ** 2 + across**2) - radius
    else:
        distance = _polygon_distance(x, y, points) - radius
        widths = np.hypot(*(points[1] - points[0])) / 2, np.hypot(*(points[2] - points[3])) / 2
        radius = radius + widths[0] + t * (widths[1] - widths[0])

    window = canvas[top:bottom, left:right]
    window *= (1 - 0.33 * np.exp(-((np.maximum(distance, 0) / soft) ** 2)))[..., None]
    # Shaded as a cylinder: the normal turns from one side of the part over its front to the other side.
    side = np.clip(across / radius, -1, 1)
    light = side * (ux * _LIGHT[1] - uy * _LIGHT[0]) + np.sqrt(1 - side**2) * _LIGHT[2]
    rim = np.clip(1 + distance / soft, 0, 1)
    shade = (0.6 + 0.5 * np.maximum(light, 0)) * (1 - 0.3 * rim**2)
    colour = part.texture(along * np.float32(part.length / length), across / np.float32(scale))
    colour = colour * shade[..., None]
    coverage = np.clip(0.5 - distance, 0, 1)
    window += coverage[..., None] * (colour - window)
    region = mask[top:bottom, left:right]
    region += coverage * (1 - region)


def _polygon_distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance of pixels to a polygon, negative inside."""
    squared, inside = np.inf, np.zeros((y.size, x.size), bool)
    for (ax, ay), (bx, by) in zip(corners.tolist(), np.roll(corners, -1, 0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / max(ex * ex + ey * ey, 1e-6), 0, 1)
        squared = np.minimum(squared, (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (ex / ey))
    return np.where(inside, -1, 1) * np.sqrt(squared)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, min(max(value, 0.0), 1.0)), np.float32)


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    return _rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def _skin(rng: np.random.Generator) -> np.ndarray:
    value = rng.uniform(0.35, 1.0)
    return _rgb(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.5) + 0.15 * (1 - value), value)


def _plain(colour: np.ndarray) -> Texture:
    return Texture("plain", colour, colour, 1.0, 0.0)


def _clothes(rng: np.random.Generator) -> Texture:
    pattern = rng.choice(["plain", "rings", "stripes", "checks", "dots"], p=[0.6, 0.15, 0.1, 0.1, 0.05])
    first, second = (_colour(rng, (0.35, 0.95), (0.3, 1.0)) for _ in range(2))
    return Texture(str(pattern), first, second, rng.uniform(50, 95), rng.uniform(0, 2 * np.pi))
