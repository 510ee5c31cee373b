"""What an example is, and how examples are split."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image, an instruction and the answer that is to be learnt."""

    name: str
    group: str
    """Examples of one group never stand on both sides of a split."""
    prompt: str
    target: str
    image: Callable[[], Image.Image]
    """Loads the image (RGB); raises DataError if it is missing or broken."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The two sides of a split, and what identifies the data."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    total: int
    """Rows that there are; more than train and val together where `data.samples` caps them."""
    digest: str
    """Changes when the data does."""
    source: str
    """Where they come from, for people."""


def rank(text: str) -> str:
    """A place in an order that is arbitrary, but the same everywhere and for ever."""
    return hashlib.sha256(text.encode()).hexdigest()


def capped(rows: Sequence[Example], samples: int | None) -> list[Example]:
    """At most `samples` rows, picked evenly, in their order."""
    if samples is None or samples >= len(rows):
        return list(rows)
    picked = sorted(range(len(rows)), key=lambda i: rank(f"{rows[i].name} {i}"))[:samples]
    return [rows[i] for i in sorted(picked)]


def split(
    rows: Sequence[Example], val_share: float
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(train, val): `val_share` of the groups, at least one, go to val."""
    groups = sorted({row.group for row in rows}, key=rank)
    count = min(max(1, math.ceil(val_share * len(groups))), len(groups) - 1)
    held_out = set(groups[:count])
    train = tuple(row for row in rows if row.group not in held_out)
    return train, tuple(row for row in rows if row.group in held_out)
