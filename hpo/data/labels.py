"""Texts with labels as examples: the order of labels, and labels that are nearly the same."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable
from decimal import Decimal, InvalidOperation
from functools import partial

from hpo.data.examples import Example, Examples
from hpo.data.fields import visible

SHOWN_GROUPS = 20
SHOWN_CHARACTERS = 120  # of a label in a message


def labels(examples: Examples) -> tuple[str, ...]:
    """The names of all labels in their order: the place of a label is its number.

    Labels that are all numbers are sorted by value, others as texts.
    """
    found = sorted({example.target for example in examples.train + examples.val})
    numbers = [number for label in found if (number := to_number(label)) is not None]
    if len(numbers) < len(found):
        return tuple(found)
    return tuple(label for _, label in sorted(zip(numbers, found, strict=True)))


def label_notes(targets: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each group of labels that differ only in what is hardly seen.

    That is case, blanks, invisible characters, composition of letters and spelling of numbers.

    Args:
        targets: the label of every row.
    """
    counts = Counter(targets)
    groups = near_equal_groups(counts)
    notes = []
    for group in groups[:SHOWN_GROUPS]:
        shown = [f"{exact(label)} ({_rows(counts[label])})" for label in group]
        notes.append(
            f"nearly the same, yet different labels: {', '.join(shown[:-1])} and {shown[-1]}; "
            "if they mean one label, write it the same way in all rows of the data"
        )
    if len(groups) > SHOWN_GROUPS:
        notes.append(f"{len(groups) - SHOWN_GROUPS} more groups of labels are nearly the same")
    return tuple(notes)


def near_equal_groups(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of two or more labels that read the same, each sorted."""
    groups: dict[Hashable, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_reading(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def exact(label: str) -> str:
    """The label in quotes, with escapes where its characters do not show what they are."""
    seen = unicodedata.normalize("NFKC", visible(label))
    start = label[:SHOWN_CHARACTERS]
    shown = repr(start) if seen == "".join(label.split()) else ascii(start)
    return shown if start == label else f"{shown}... ({len(label)} characters)"


def _reading(label: str) -> Hashable:
    """What people take a label for: equal for near-equal labels."""
    text = unicodedata.normalize("NFKC", visible(label)).casefold()
    text = visible(unicodedata.normalize("NFKC", text))
    number = to_number(text)
    return text if number is None else number


def to_number(text: str) -> Decimal | None:
    """The value of a text that is a finite number: exact, however many digits it has."""
    if "_" in text:  # a separator in Python alone
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def labelled(name: str, text: str, label: str) -> Example:
    """A text with its label; rows of the same words, in whatever case, are one group."""
    return Example(
        name=name,
        group=_digest(" ".join(text.casefold().split())),
        prompt=text,
        target=label,
        content=partial(_digest, text),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
