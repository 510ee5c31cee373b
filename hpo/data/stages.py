"""Stages of a curriculum: which rows belong to which, and whether each has enough of them."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hpo.data.examples import Example
from hpo.errors import DataError
from hpo.units import show_name

SHOWN = 30  # names of stages and types in a message


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An example with what a stage may call it by: its file, its type, its value of `stage`."""

    example: Example
    labels: tuple[str, ...]


def staged(rows: Sequence[Labelled], stages: Sequence[str], *, where: str) -> list[Example]:
    """The rows that belong to a stage, each with its place; all rows where there are no stages.

    Args:
        stages: labels, or several labels joined by +.
        where: the data, for messages.

    Raises:
        DataError: a name of a stage is no row's, or stands in two stages.
    """
    if not stages:
        return [row.example for row in rows]
    places = _places(stages, Counter(label for row in rows for label in set(row.labels)), where)
    found = []
    for row in rows:
        of = [places[label] for label in row.labels if label in places]
        if of:
            found.append(replace(row.example, stage=of[0]))
    return found


def _places(stages: Sequence[str], counts: Counter[str], where: str) -> dict[str, int]:
    """The place of the stage that each label belongs to."""
    places: dict[str, int] = {}
    for place, stage in enumerate(stages):
        names = [stage] if stage in counts else [name.strip() for name in stage.split("+")]
        for name in names:
            entry = f"{where}: data.stages[{place}] = {stage!r}"
            if name not in counts:
                raise DataError(f"{entry}: no row is of {name!r}; there are: {_listed(counts)}")
            if name in places:
                raise DataError(f"{entry}: {name!r} is in two stages; name each once")
            places[name] = place
    return places


def _listed(counts: Counter[str]) -> str:
    shown = [f"{show_name(label)} ({count})" for label, count in sorted(counts.items())[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(counts) > SHOWN else [])]) or "none"


def former_order(names: Collection[str]) -> tuple[str, ...]:
    """Stages in the order that rows without `data.stages` had in earlier versions.

    Numbers by size, then all words by the alphabet; empty for a single stage. Studies that were
    made then optimised the last stage of this order.
    """
    digits = {name for name in names if name.isdecimal()}
    numbers = sorted(digits, key=lambda name: (Decimal(name), name))  # int has a limit of digits
    words = sorted({name for name in names if not name.isdecimal()})
    return (*numbers, *words) if len(numbers) + len(words) > 1 else ()


def check_sides(
    train: Sequence[Example], val: Sequence[Example], stages: Sequence[str], *, where: str
) -> None:
    """Raises DataError for a stage without rows on one side of the split; names it."""
    for place, stage in enumerate(stages):
        counts = [sum(row.stage == place for row in side) for side in (train, val)]
        if 0 in counts:
            raise DataError(
                f"{where}: data.stages[{place}] = {stage!r} has {counts[0]} rows to train on and "
                f"{counts[1]} to validate on; give it more rows, or change data.samples, "
                "data.val_share or data.stages"
            )
