"""What the embedded base is pretrained on: plain shapes with captions, and text alone.

The base learns colours, counts and positions from shapes, and the words of aerial captions from
text. What an airport looks like it never sees: that is left for an adapter to learn.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from hpo.mini.drawing import (
    COUNTS,
    GROUND_COLORS,
    MARK_COLORS,
    SIDES,
    Color,
    Point,
    finish,
    ground,
    jitter,
    pencil,
    places,
    turned,
)
from hpo.mini.scenes import PLACES, PROMPTS, Facts, caption, draw_facts

SHAPES: dict[str, list[Point]] = {
    "square": [(-7, -7), (7, -7), (7, 7), (-7, 7)],
    "triangle": [(-8, 7), (8, 7), (0, -9)],
    "bar": [(-11, -3), (11, -3), (11, 3), (-11, 3)],
    "cross": [(-2, -9), (2, -9), (2, -2), (9, -2), (9, 2), (2, 2), (2, 9), (-2, 9), (-2, 2),
              (-9, 2), (-9, -2), (-2, -2)],
    "circle": [],
    "ring": [],
}  # fmt: skip
SUBJECTS = (
    "grassland|farmland|forest|desert|beach|lake|river|sea|bridge|road|highway|railway|runway"
    "|airport|harbour|port|parking lot|residential area|industrial area|storage tanks|tennis court"
    "|baseball field|football field|playground|school|stadium|roundabout|crossroads|factory"
    "|warehouse|solar panels|buildings|houses|villas|trees|bushes|bare land|swimming pool|cars"
    "|vehicles|planes|ships|boats|containers|fields|mountains|island|square|church|viaduct"
)
LAYOUTS = (
    "in the upper left corner|in the upper right corner|in the lower left corner"
    "|in the lower right corner|in the middle|on the left side|on the right side|at the top"
    "|at the bottom|along the road|next to the river|around the buildings|in rows|close together"
)
LOOKS = (
    "bright|dark|smooth|rough|uniform|detailed|sparse|dense|large|small|light gray|dark gray"
    "|dark green|light green|brown|white|blue|red|yellow|neatly arranged|scattered|clear"
)
SENTENCES = (
    "This is a satellite image of {a}.",
    "This is a remote sensing image showing {a} and {b}.",
    "This is an aerial photograph of {a} with {b} {layout}.",
    "The image shows {a} {layout}.",
    "There are many {a} {layout}, and some {b} can be seen nearby.",
    "{a} can be seen {layout}, next to {b}.",
    "The main object in the image is {a}, which is {look}.",
    "Most of the image is covered by {a}; only a small part is {look}.",
    "The {a} is {look} and the {b} is {look2}.",
    "The dominant color of the image is {look}, and the texture is {look2}.",
    "A part of the image is {look}, the brightest part is {layout}.",
    "In the picture, several {a} are surrounded by {b} {layout}.",
    "The quality of this image is high, with {a} {layout} and {number} {b} {layout2}.",
)


@dataclass(frozen=True, kw_only=True)
class ShapePicture:
    """A picture of equal shapes on plain ground, its caption, and what it shows as indices."""

    image: Image.Image
    caption: str
    facts: tuple[int, ...]
    """Index into each of `FACTS`."""


FACTS: tuple[tuple[str, ...], ...] = (
    COUNTS,
    tuple(MARK_COLORS),
    tuple(SHAPES),
    tuple(GROUND_COLORS),
    SIDES,
)


def shape_picture(rng: np.random.Generator) -> ShapePicture:
    """A random picture."""
    facts = tuple(int(rng.integers(len(names))) for names in FACTS)
    count, color, name, base, side = (names[fact] for names, fact in zip(FACTS, facts, strict=True))
    canvas = ground(rng, GROUND_COLORS[base])
    pen = pencil(canvas)
    size = float(rng.uniform(1.1, 1.5))
    for center in places(rng, facts[0] + 1, side):
        _mark(rng, pen, name, center, size, jitter(rng, MARK_COLORS[color]))
    if rng.random() < 0.5:
        _distraction(rng, pen)
    shapes = name if count == "one" else ("crosses" if name == "cross" else f"{name}s")
    text = f"A picture of {count} {color} {shapes} on {base} ground, on the {side} side."
    return ShapePicture(image=finish(canvas), caption=text, facts=facts)


def _mark(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    name: str,
    center: Point,
    size: float,
    color: Color,
) -> None:
    x, y, radius = *center, 8 * size
    box = [x - radius, y - radius, x + radius, y + radius]
    if name == "circle":
        pen.ellipse(box, fill=color)
    elif name == "ring":
        pen.ellipse(box, outline=color, width=5)
    else:
        pen.polygon(turned(center, SHAPES[name], float(rng.uniform(0, 6.3)), size), fill=color)


def _distraction(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """A thin gray line that no caption mentions: marks have to be told from background."""
    a, b = rng.uniform(0, 128, 2), rng.uniform(0, 128, 2)
    shade = int(rng.integers(70, 190))
    pen.line([tuple(a), tuple(b)], fill=(shade, shade, shade), width=int(rng.integers(2, 5)))


def text_pair(rng: np.random.Generator) -> tuple[str, str]:
    """(input, target) of text alone: shuffled key words in, the sentence out."""
    if rng.random() < 0.5:
        facts = draw_facts(rng)
        words, target = _key_words(facts), caption(facts)
    else:
        target = " ".join(general_sentence(rng) for _ in range(int(rng.integers(1, 4))))
        words = [w.strip(".,;") for w in target.split() if len(w) > 3]
    kept = [w for w in words if rng.random() > 0.15]
    rng.shuffle(kept)
    return f"{' '.join(kept)} {rng.choice(PROMPTS)}", target


def _key_words(facts: Facts) -> list[str]:
    thing, _ = PLACES[facts.place]
    return [facts.place, thing, COUNTS[facts.count - 1], facts.color, facts.side, facts.ground]


def general_sentence(rng: np.random.Generator) -> str:
    """A sentence of the kind that remote sensing captions are made of."""
    names = SUBJECTS.split("|")
    sentence = str(rng.choice(SENTENCES)).format(
        a=rng.choice(names),
        b=rng.choice(names),
        layout=rng.choice(LAYOUTS.split("|")),
        layout2=rng.choice(LAYOUTS.split("|")),
        look=rng.choice(LOOKS.split("|")),
        look2=rng.choice(LOOKS.split("|")),
        number=rng.choice(COUNTS),
    )
    return sentence[0].upper() + sentence[1:]
