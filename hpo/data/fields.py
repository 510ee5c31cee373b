"""Texts in the fields of data: whether there is one, what of it can be seen, how long it may be."""

import unicodedata
from typing import Any

from hpo.errors import DataError
from hpo.units import show_data

LONGEST = 1_000_000  # characters; a tokenizer takes four seconds for as many
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # blank, though letters to Unicode
SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))  # variants of the sign before them


def filled_text(place: str, key: str, value: Any, *, allowed: str = "a text") -> str:
    """The value of a field that must be a text.

    Args:
        place: of the row, for messages.
        allowed: what it must be, for messages.

    Raises:
        DataError: it is of another type, blank or endless.
    """
    if not isinstance(value, str):
        raise DataError(f"{place}: {key} is {show_data(value)}; it must be {allowed}")
    if is_blank(value):
        raise DataError(
            f"{place}: {key} is empty; it must be {allowed}: fill it, or remove the row"
        )
    if len(value) > LONGEST:
        raise DataError(
            f"{place}: {key} has {len(value):,} characters, and at most {LONGEST:,} are read; cut "
            "it, as only data.max_length tokens are used"
        )
    return value


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen."""
    first = text[:1]  # enough for most texts, and much faster
    return not (first.isascii() and first.isalnum()) and all(
        letter.isspace() or _is_invisible(letter) for letter in text
    )


def visible(text: str) -> str:
    """The text without blanks and invisible characters."""
    return "".join(letter for letter in "".join(text.split()) if not _is_invisible(letter))


def _is_invisible(letter: str) -> bool:
    """Whether it is a format or control character, a filler, or a variation selector."""
    if letter.isascii():
        return not letter.isprintable()
    selects = any(ord(letter) in selectors for selectors in SELECTORS)
    return unicodedata.category(letter) in ("Cf", "Cc") or letter in FILLERS or selects
