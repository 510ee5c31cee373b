"""What an example is, and how examples are split."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image, an instruction and the answer to learn; or a text and its label."""

    name: str
    group: str
    """Examples of one group never stand on both sides of a split."""
    prompt: str
    """The instruction, or the text."""
    target: str
    """The answer, or the label."""
    content: Callable[[], str]
    """Changes when the image or the text does; reads no pixels."""
    image: Callable[[], Image.Image] | None = None
    """Loads the image (RGB); raises DataError if it is missing or broken. None for a text."""
    file: Path | None = None
    """Its image file, where there is one."""
    picture: str = ""
    """Name of its image, where several examples share one."""
    size: Callable[[], tuple[int, int]] | None = None
    """(width, height) of the image in pixels, of its header alone; raises what `image` raises."""
    stage: int = 0
    """Its place in `Examples.stages`, from 0."""

    @property
    def image_name(self) -> str:
        """What tells its image from others."""
        return self.picture or self.name


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
    stages: tuple[str, ...] = ()
    """Names of the stages of a curriculum, in their order; empty where there is but one."""
    notes: tuple[str, ...] = ()
    """What is doubtful about the data and does not stop a study; shown before it starts."""
    former_stages: tuple[str, ...] = ()
    """Their order by the rule of earlier versions, where that may differ: see `former_order`."""


def tidy(text: str) -> str:
    """The text with single spaces: published texts have double and trailing ones."""
    return " ".join(text.split())


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
    return _parted(rows, _held_out({row.group for row in rows}, val_share))


def stratified(
    rows: Sequence[Example], val_share: float
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(train, val): of each label `val_share` of its groups, at least one, go to val.

    The only group of a label is trained on.
    """
    held_out = [_held_out(groups, val_share) for groups in groups_by_label(rows).values()]
    return _parted(rows, set().union(*held_out))


def groups_by_label(rows: Iterable[Example]) -> dict[str, set[str]]:
    """The groups of every label; a group is of the label that its first row has."""
    found: dict[str, set[str]] = {}
    taken: set[str] = set()
    for row in rows:
        groups = found.setdefault(row.target, set())
        if row.group not in taken:
            groups.add(row.group)
            taken.add(row.group)
    return found


def _held_out(groups: set[str], val_share: float) -> set[str]:
    """Those that go to val: at least one, but never all."""
    count = min(max(1, math.ceil(val_share * len(groups))), len(groups) - 1)
    return set(sorted(groups, key=rank)[:count])


def _parted(
    rows: Sequence[Example], held_out: set[str]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    train = tuple(row for row in rows if row.group not in held_out)
    return train, tuple(row for row in rows if row.group in held_out)
