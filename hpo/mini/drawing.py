"""Brushes for 64-pixel pictures: a textured ground and small coloured marks on it."""

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
SCALE = 2  # drawn at twice the size and reduced, so that edges are smooth

Color = tuple[int, int, int]
Point = tuple[float, float]

MARK_COLORS: dict[str, Color] = {
    "red": (205, 45, 40),
    "blue": (45, 80, 205),
    "white": (240, 240, 238),
    "yellow": (235, 205, 50),
    "black": (25, 25, 28),
    "orange": (235, 130, 35),
}
GROUND_COLORS: dict[str, Color] = {
    "green": (85, 135, 75),
    "brown": (135, 105, 75),
    "gray": (140, 140, 140),
    "sandy": (200, 180, 135),
}
COUNTS = ("one", "two", "three", "four", "five")
SIDES = ("left", "right", "upper", "lower")


def jitter(rng: np.random.Generator, color: Color, spread: int = 12) -> Color:
    """The colour with every channel moved by at most `spread`."""
    r, g, b = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in color)
    return r, g, b


def ground(rng: np.random.Generator, color: Color) -> Image.Image:
    """A canvas of one colour with soft patches and fine grain."""
    base = np.array(jitter(rng, color), dtype=np.float64)
    patches = rng.normal(0, 7, (8, 8, 1)).repeat(SIZE * SCALE // 8, 0).repeat(SIZE * SCALE // 8, 1)
    grain = rng.normal(0, 6, (SIZE * SCALE, SIZE * SCALE, 1))
    return Image.fromarray(np.clip(base + patches + grain, 0, 255).astype(np.uint8), "RGB")


def finish(canvas: Image.Image) -> Image.Image:
    """The canvas reduced to `SIZE` pixels."""
    return canvas.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def pencil(canvas: Image.Image) -> ImageDraw.ImageDraw:
    """A pencil for the canvas; points are in canvas pixels."""
    return ImageDraw.Draw(canvas)


def places(rng: np.random.Generator, count: int, side: str, gap: float = 24.0) -> list[Point]:
    """`count` points in the half of the canvas on `side`, at least `gap` apart where possible."""
    full = SIZE * SCALE
    low, high = np.array([14.0, 14.0]), np.array([full - 14.0, full - 14.0])
    axis = 0 if side in ("left", "right") else 1
    if side in ("left", "upper"):
        high[axis] = full * 0.46
    else:
        low[axis] = full * 0.54
    chosen: list[Point] = []
    for attempt in range(400):
        x, y = rng.uniform(low, high)
        room = gap * (1.0 - attempt / 500)
        if all((x - a) ** 2 + (y - b) ** 2 >= room**2 for a, b in chosen):
            chosen.append((float(x), float(y)))
        if len(chosen) == count:
            break
    return chosen


def turned(center: Point, outline: list[Point], angle: float, scale: float = 1.0) -> list[Point]:
    """The outline turned by `angle` radians, scaled, and moved to `center`."""
    cos, sin = float(np.cos(angle)) * scale, float(np.sin(angle)) * scale
    return [(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos) for x, y in outline]
