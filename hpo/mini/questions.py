"""Questions about drawn pictures, with short answers: of aerial scenes and of plain shapes.

Three stages, each of which builds on the one before: the whole picture, one property of the
objects, and their number and combinations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpo.mini.clauses import pick
from hpo.mini.drawing import COUNTS, GROUND_COLORS, MARK_COLORS
from hpo.mini.scenes import PLACES, Facts

STAGES = {
    "easy": ("ground", "is_ground", "place", "is_place"),
    "medium": ("color", "side", "thing"),
    "hard": ("count", "count_thing", "summary", "more"),
}
"""Kinds of questions by stage, in the order of their difficulty."""
WHERE = {
    "left": "on the left",
    "right": "on the right",
    "upper": "at the top",
    "lower": "at the bottom",
}
WORDS = {
    "ground": "What color is the ground?|Which color does the ground have?",
    "is_ground": "Is the ground {ground}?|Does the ground look {ground}?",
    "place": "What place is this?|Which place does the image show?",
    "is_place": "Is this {place}?|Does the image show {place}?",
    "color": "What color are the objects?|Which color do the objects have?",
    "side": "Where are the objects?|On which side are the objects?",
    "thing": "What are the objects?|What kind of objects can be seen?",
    "count": "How many objects are there?|How many objects can be seen?",
    "count_thing": "How many objects are there, and what are they?|How many of what can be seen?",
    "summary": "What can be seen, and where?|Which objects are where?",
    "more": "Is the number of {color} objects above {number}?"
    "|Does the number of {color} objects exceed {number}?",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a picture shows: `count` equal things on one side of plain ground."""

    count: int
    color: str
    thing: str
    things: str
    side: str
    ground: str
    place: str = ""
    """Empty for plain shapes."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of a kind, and its answer."""

    kind: str
    text: str
    answer: str


def shown(facts: Facts) -> Shown:
    """What a scene shows."""
    thing, _ = PLACES[facts.place]
    return Shown(
        count=facts.count,
        color=facts.color,
        thing=thing,
        things=f"{thing}s",
        side=facts.side,
        ground=facts.ground,
        place=facts.place,
    )


def ask(rng: np.random.Generator, kind: str, seen: Shown) -> Question:
    """A question of that kind about a picture."""
    blanks, answer = ANSWERS[kind](rng, seen)
    text = pick(rng, WORDS[kind]).format(**blanks)
    return Question(kind=kind, text=text, answer=f"{answer[0].upper()}{answer[1:]}.")


Answer = tuple[dict[str, str], str]  # what goes into the question's blanks, and the answer


def _is_ground(rng: np.random.Generator, seen: Shown) -> Answer:
    yes = rng.random() < 0.5
    asked = seen.ground if yes else _other(rng, tuple(GROUND_COLORS), seen.ground)
    return {"ground": asked}, _yes(yes)


def _is_place(rng: np.random.Generator, seen: Shown) -> Answer:
    yes = rng.random() < 0.5
    asked = seen.place if yes else _other(rng, tuple(PLACES), seen.place)
    return {"place": _a(asked)}, _yes(yes)


def _more(rng: np.random.Generator, seen: Shown) -> Answer:
    """As often yes as no where there are several; no for another number or another color."""
    number, color = int(rng.integers(1, len(COUNTS))), seen.color
    if rng.random() < 0.5 and seen.count > 1:
        number = int(rng.integers(1, seen.count))
    elif rng.random() < 0.5 and seen.count < len(COUNTS):
        number = int(rng.integers(seen.count, len(COUNTS)))
    else:
        color = _other(rng, tuple(MARK_COLORS), seen.color)
    yes = seen.count > number and color == seen.color
    return {"number": COUNTS[number - 1], "color": color}, _yes(yes)


def _count_thing(_: np.random.Generator, seen: Shown) -> Answer:
    return {}, f"{COUNTS[seen.count - 1]} {_named(seen)}"


def _summary(_: np.random.Generator, seen: Shown) -> Answer:
    return {}, f"{COUNTS[seen.count - 1]} {seen.color} {_named(seen)} {WHERE[seen.side]}"


ANSWERS: dict[str, Callable[[np.random.Generator, Shown], Answer]] = {
    "ground": lambda _, seen: ({}, seen.ground),
    "is_ground": _is_ground,
    "place": lambda _, seen: ({}, _a(seen.place)),
    "is_place": _is_place,
    "color": lambda _, seen: ({}, seen.color),
    "side": lambda _, seen: ({}, WHERE[seen.side]),
    "thing": lambda _, seen: ({}, seen.things),
    "count": lambda _, seen: ({}, COUNTS[seen.count - 1]),
    "count_thing": _count_thing,
    "summary": _summary,
    "more": _more,
}


def _named(seen: Shown) -> str:
    return seen.thing if seen.count == 1 else seen.things


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _other(rng: np.random.Generator, names: tuple[str, ...], than: str) -> str:
    return str(rng.choice([name for name in names if name != than]))


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
