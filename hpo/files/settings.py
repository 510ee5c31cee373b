"""Settings as a flat map, so that files, scales and options can be laid over each other.

Every value remembers where it came from, for the message if it is wrong.
"""

import tomllib
from collections.abc import Collection, Iterator
from typing import Any

from hpo.errors import FileProblems
from hpo.files.toml import DEEPEST, parse_toml

Key = tuple[str, ...]
LONGEST_SHOWN = 200  # characters of a value in a message


def leaves(table: dict[str, Any], prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    """(key, value) of everything in nested tables; a list is one value."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


class Settings:
    """Values by key, each with its origin; what is laid on later wins."""

    def __init__(self) -> None:
        self._values: dict[Key, Any] = {}
        self._origins: dict[Key, str] = {}

    def put(self, key: Key, value: Any, origin: str) -> None:
        """Sets one value, in place of whatever was at, above or below its key."""
        for other in list(self._values):
            shorter = min(len(other), len(key))
            if other[:shorter] == key[:shorter]:
                del self._values[other], self._origins[other]
        self._values[key] = value
        self._origins[key] = origin

    def put_all(
        self,
        table: dict[str, Any],
        origin: str,
        prefix: Key = (),
        *,
        besides: Collection[Key] = (),
    ) -> None:
        """Lays a nested table over what is there, besides some of its keys."""
        for key, value in leaves(table, prefix):
            if key not in besides:
                self.put(key, value, origin)

    def get(self, *key: str) -> Any:
        """The value at a key, or None."""
        return self._values.get(key)

    def has(self, table: str) -> bool:
        """Whether anything is set at or below a key of the top level."""
        return any(key[0] == table for key in self._values)

    def nested(self) -> dict[str, Any]:
        """All values as nested tables."""
        tables: dict[str, Any] = {}
        for key, value in self._values.items():
            table = tables
            for name in key[:-1]:
                table = table.setdefault(name, {})
            table[key[-1]] = value
        return tables

    def origin(self, key: Key) -> str:
        """Where the value at a key, or the nearest one to it, came from."""
        if key in self._origins:
            return self._origins[key]
        for length in range(len(key), 0, -1):
            for other, origin in self._origins.items():
                if other[:length] == key[:length]:
                    return origin
        return next(iter(self._origins.values()), "study")


def parse_assignment(text: str) -> tuple[Key, Any]:
    """`trial.epochs=3` -> key and TOML value; a value that is no TOML is a string.

    Raises:
        FileProblems: there is no `=` or no key, or the value is nothing that a setting can be.
    """
    name, equals, value = text.partition("=")
    key = tuple(part.strip() for part in name.split("."))
    if not equals or not all(key) or len(key) > DEEPEST:
        raise FileProblems(
            [f"--set {shortened(text)}: not an assignment; write key=value, such as trial.epochs=3"]
        )
    try:
        tables = parse_toml(f"value = {value.strip()}")
    except tomllib.TOMLDecodeError:
        return key, value.strip()
    except ValueError as error:
        raise FileProblems([f"--set {shortened(text)}: {error}"]) from error
    return key, tables["value"] if len(tables) == 1 else value.strip()  # further lines are no TOML


def shortened(text: str) -> str:
    """A value for a message: on one line, and no thousands of characters."""
    kept = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in kept)
