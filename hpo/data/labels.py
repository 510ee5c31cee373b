"""Texts with labels as examples."""

import hashlib
from functools import partial

from hpo.data.examples import Example, Examples


def labels(examples: Examples) -> tuple[str, ...]:
    """The names of all labels, sorted: the place of a label is its number."""
    return tuple(sorted({example.target for example in examples.train + examples.val}))


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
