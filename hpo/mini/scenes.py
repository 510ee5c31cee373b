"""Drawn aerial scenes with captions: the data that the embedded study tunes on.

Scene `index` of `seed` is always the same picture and caption, on any machine.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from hpo.mini.drawing import (
    COUNTS,
    GROUND_COLORS,
    MARK_COLORS,
    SCALE,
    SIDES,
    SIZE,
    Color,
    Point,
    finish,
    ground,
    jitter,
    pencil,
    places,
    turned,
)

PROMPTS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
PLACES = {
    "airport": ("plane", "parked beside the runway"),
    "harbour": ("ship", "moored at the pier"),
    "oil depot": ("storage tank", "standing in the yard"),
    "farm": ("barn", "built among the fields"),
    "river valley": ("truck", "driving near the water"),
}
FULL = SIZE * SCALE
THING = 1.3  # size of planes, ships, ...
WATER: Color = (60, 105, 150)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a scene shows; the caption says all of it."""

    place: str
    count: int
    color: str
    side: str
    ground: str


def draw_facts(rng: np.random.Generator) -> Facts:
    """Facts of a random scene."""
    return Facts(
        place=str(rng.choice(list(PLACES))),
        count=int(rng.integers(1, len(COUNTS) + 1)),
        color=str(rng.choice(list(MARK_COLORS))),
        side=str(rng.choice(SIDES)),
        ground=str(rng.choice(list(GROUND_COLORS))),
    )


def caption(facts: Facts) -> str:
    """The facts as two sentences."""
    thing, doing = PLACES[facts.place]
    article = "an" if facts.place[0] in "aeiou" else "a"
    things = thing if facts.count == 1 else f"{thing}s"
    verb = "is" if facts.count == 1 else "are"
    return (
        f"This is an aerial image of {article} {facts.place} on {facts.ground} ground. "
        f"{COUNTS[facts.count - 1].capitalize()} {facts.color} {things} {verb} {doing} "
        f"on the {facts.side} side."
    )


def describe(seed: int, index: int) -> tuple[str, str]:
    """(instruction, caption) of scene `index` of the endless album `seed`."""
    _, facts, prompt = _begin(seed, index)
    return prompt, caption(facts)


def scene_facts(seed: int, index: int) -> Facts:
    """What that scene shows."""
    return _begin(seed, index)[1]


def picture(seed: int, index: int) -> Image.Image:
    """The picture of that scene (RGB, 64 x 64)."""
    rng, facts, _ = _begin(seed, index)
    return draw(rng, facts)


def _begin(seed: int, index: int) -> tuple[np.random.Generator, Facts, str]:
    rng = np.random.default_rng([seed, index])
    return rng, draw_facts(rng), str(rng.choice(PROMPTS))


def draw(rng: np.random.Generator, facts: Facts) -> Image.Image:
    """The picture of a scene."""
    canvas = ground(rng, GROUND_COLORS[facts.ground])
    pen = pencil(canvas)
    _SETTINGS[facts.place](rng, pen, facts.side)
    angle = float(rng.uniform(0, np.pi))
    for center in places(rng, facts.count, facts.side):
        color = jitter(rng, MARK_COLORS[facts.color])
        _THINGS[facts.place](pen, center, angle + float(rng.normal(0, 0.25)), color)
    return finish(canvas)


def _band(side: str, near: float, far: float) -> list[Point]:
    """A band across the half opposite to `side`, from `near` to `far` (shares of the canvas)."""
    a, b = near * FULL, far * FULL
    match side:
        case "left":
            a, b = FULL - b, FULL - a
            return [(a, 0), (b, 0), (b, FULL), (a, FULL)]
        case "right":
            return [(a, 0), (b, 0), (b, FULL), (a, FULL)]
        case "upper":
            a, b = FULL - b, FULL - a
    return [(0, a), (FULL, a), (FULL, b), (0, b)]


def _runway(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: str) -> None:
    pen.polygon(_band(side, 0.2, 0.42), fill=jitter(rng, (85, 85, 90)))
    pen.polygon(_band(side, 0.3, 0.32), fill=(225, 225, 225))


def _pier(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: str) -> None:
    pen.polygon(_band(side, 0.38, 1.0), fill=jitter(rng, WATER))
    pen.polygon(_band(side, 0.34, 0.4), fill=jitter(rng, (170, 165, 160)))


def _yard(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: str) -> None:
    pen.polygon(_band(side, 0.46, 0.98), fill=jitter(rng, (165, 160, 155)))
    pen.polygon(_band(side, 0.05, 0.12), fill=jitter(rng, (90, 90, 90)))


def _fields(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: str) -> None:
    for left in range(0, FULL, 32):
        for top in range(0, FULL, 32):
            if rng.random() < 0.55:
                shade = jitter(rng, (120, 150, 70), 35)
                for row in range(top, top + 32, 6):
                    pen.line([(left, row), (left + 31, row)], fill=shade, width=3)


def _river(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: str) -> None:
    pen.polygon(_band(side, 0.12, 0.4), fill=jitter(rng, WATER))
    pen.polygon(_band(side, 0.42, 0.45), fill=jitter(rng, (95, 95, 95)))


def _plane(pen: ImageDraw.ImageDraw, center: Point, angle: float, color: Color) -> None:
    body: list[Point] = [(-10, -1.5), (10, -1.5), (10, 1.5), (-10, 1.5)]
    wings: list[Point] = [(2, -9), (-2, -9), (-3, 9), (3, 9)]
    tail: list[Point] = [(-10, -4), (-7, -4), (-7, 4), (-10, 4)]
    for part in (body, wings, tail):
        pen.polygon(turned(center, part, angle, THING), fill=color)


def _ship(pen: ImageDraw.ImageDraw, center: Point, angle: float, color: Color) -> None:
    hull: list[Point] = [(-9, -3.5), (5, -3.5), (11, 0), (5, 3.5), (-9, 3.5)]
    pen.polygon(turned(center, hull, angle, THING), fill=color)
    deck: list[Point] = [(-6, -1.5), (-1, -1.5), (-1, 1.5), (-6, 1.5)]
    pen.polygon(turned(center, deck, angle, THING), fill=(120, 110, 100))


def _tank(pen: ImageDraw.ImageDraw, center: Point, angle: float, color: Color) -> None:
    x, y = center
    pen.ellipse([x - 7, y - 6, x + 12, y + 13], fill=(70, 68, 66))
    pen.ellipse([x - 10, y - 10, x + 10, y + 10], fill=color)


def _barn(pen: ImageDraw.ImageDraw, center: Point, angle: float, color: Color) -> None:
    roof: list[Point] = [(-8, -6), (8, -6), (8, 6), (-8, 6)]
    pen.polygon(turned(center, roof, angle, THING), fill=color)
    pen.line(turned(center, [(-8, 0), (8, 0)], angle, THING), fill=(90, 80, 70), width=2)


def _truck(pen: ImageDraw.ImageDraw, center: Point, angle: float, color: Color) -> None:
    box: list[Point] = [(-8, -3.5), (4, -3.5), (4, 3.5), (-8, 3.5)]
    cab: list[Point] = [(5, -3.5), (9, -3.5), (9, 3.5), (5, 3.5)]
    pen.polygon(turned(center, box, angle, THING), fill=color)
    pen.polygon(turned(center, cab, angle, THING), fill=(60, 60, 65))


_SETTINGS = {
    "airport": _runway,
    "harbour": _pier,
    "oil depot": _yard,
    "farm": _fields,
    "river valley": _river,
}
_THINGS = {
    "airport": _plane,
    "harbour": _ship,
    "oil depot": _tank,
    "farm": _barn,
    "river valley": _truck,
}
