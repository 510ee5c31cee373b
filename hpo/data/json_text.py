"""JSON of a data folder: every fault as one sentence with file, line and column.

NaN, which pandas writes for a missing value, is read as null.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpo.data.text_file import decode
from hpo.errors import DataError
from hpo.units import show_text

DEPTH = 100  # levels that are surely read; the interpreter's stack allows for some more
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(?P<key>\s*:)?|-?\d+(?:[.eE][-+\d.eE]*)?|[{}\[\]]', re.DOTALL)
ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    r"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


class _RepeatedKey(Exception):
    """A key with two different values in one object."""


def read_json(path: Path, content: bytes, *, form: str) -> Any:
    """The value in a JSON file.

    Args:
        form: what it must look like, for messages.

    Raises:
        DataError: it is not JSON, or not readable as text and numbers; names line and column.
    """
    return parse_json(path, decode(path, content, what="JSON"), remedy=f"it must be {form}")


def parse_json(path: Path, text: str, *, remedy: str, line: int = 1) -> Any:
    """The value of a JSON text that begins on that line of the file.

    Raises:
        DataError: see `read_json`.
    """
    try:
        value = DECODER.decode(text)
        fault = _half_surrogate(text)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        fault = error.pos, reason[:1].lower() + reason[1:]
    except _RepeatedKey as error:
        fault = _repeated_key(text, str(error))
    except RecursionError:
        fault = _deepest(text), f"nested more than {DEPTH} levels deep"
    except ValueError:  # the interpreter's limit on digits, which has no position
        fault = _long_number(text)
    if fault is None:
        return value
    place, reason = fault
    row = line + text.count("\n", 0, place)
    column = place - text.rfind("\n", 0, place)
    raise DataError(f"{path}, line {row}: not valid JSON at column {column}: {reason}; {remedy}")


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise _RepeatedKey(key)
    return found


def _half_surrogate(text: str) -> tuple[int, str] | None:
    """The first half of a surrogate pair without its other half: no text has it."""
    for escape in ESCAPE.finditer(text):
        if escape["half"]:
            return escape.start(), f"{escape['half']} is half a surrogate pair, not a character"
    return None


def _levels(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """(depth, token) of brackets, texts and whole numbers."""
    depth = 0
    for token in TOKEN.finditer(text):
        depth += token.group() in "{["
        yield depth, token
        depth -= token.group() in "}]"


def _deepest(text: str) -> int:
    return next((token.start() for depth, token in _levels(text) if depth > DEPTH), 0)


def _long_number(text: str) -> tuple[int, str]:
    limit = sys.get_int_max_str_digits()
    for _, token in _levels(text):
        digits = len(token.group().lstrip("-"))
        if token.group().lstrip("-").isdecimal() and digits > limit:
            return token.start(), f"a number of {digits} digits, where at most {limit} are read"
    return 0, "a number that cannot be read"


def _repeated_key(text: str, key: str) -> tuple[int, str]:
    """Where a key stands in an object for the second time."""
    reason = f"the key {show_text(key)} has two different values in one object"
    keys: dict[int, set[str]] = {}
    for depth, token in _levels(text):
        if token.group() == "{":
            keys[depth] = set()
        elif token["key"] and json.loads(token.group().rstrip(": \t\r\n")) == key:
            if key in keys[depth]:
                return token.start(), reason
            keys[depth].add(key)
    return 0, reason


DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_constant)
