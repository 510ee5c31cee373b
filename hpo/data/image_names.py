"""Names of images: as rows of data give them, and as they stand on the disk."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import DataError
from hpo.units import show_data, show_text

LONGEST = 255  # bytes of a name on the file systems of Linux


def image_name(place: str, key: str, value: Any, *, allowed: str = "the name of an image") -> str:
    """The name of an image in a row.

    Args:
        place: file and index of the row, for messages.
        key: that the row has it under.
        allowed: what it must be, for messages.

    Raises:
        DataError: it is no text, a path, or cannot be the name of a file.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {key} is {show_data(value)}; it must be {allowed}")
    if Path(value).name != value or value == "..":
        raise DataError(
            f"{place}: {key} {show_text(value)} must be a name inside images/, not a path"
        )
    controls = any(unicodedata.category(letter) == "Cc" for letter in value)
    if controls or len(value.encode()) > LONGEST:
        raise DataError(
            f"{place}: {key} {show_text(value)} cannot be the name of a file: it must have at most "
            f"{LONGEST} bytes and no control characters"
        )
    return value


class ImageNames:
    """The files in folders of images, found by name.

    Letters with accents may be one character (NFC, as most systems write them) or two (NFD, as
    macOS does in its archives): they are the same name. Upper and lower case count.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        """Lists the folders; of files of one name the one in the last folder is found."""
        self._there = {path.name: path for folder in folders for path in folder.iterdir()}
        self._composed: dict[str, list[Path]] = {}
        self._folded: dict[str, Path] = {}
        for name, path in sorted(self._there.items()):
            composed = unicodedata.normalize("NFC", name)
            self._composed.setdefault(composed, []).append(path)
            self._folded.setdefault(composed.casefold(), path)

    def find(self, names: Sequence[str], *, place: str) -> Path | None:
        """The file of the first of these names that is there; None if none is.

        Raises:
            DataError: one is there in other case only, or twice in other composition.
        """
        for name in names:
            if path := self._there.get(name) or self._same(name, place):
                return path
        for name in names:
            other = self._folded.get(unicodedata.normalize("NFC", name).casefold())
            if other is not None:
                raise DataError(
                    f"{place}: the image {show_text(name)} is not there, but "
                    f"{show_text(other.name)} is: upper and lower case count; rename the file or "
                    "write its name as it is"
                )
        return None

    def _same(self, name: str, place: str) -> Path | None:
        """The file whose name has the same letters, however they are composed."""
        paths = self._composed.get(unicodedata.normalize("NFC", name), [])
        if len(paths) > 1:
            raise DataError(
                f"{place}: the image {name!a} may be {paths[0].name!a} or "
                f"{paths[1].name!a}, which look the same; rename one of them"
            )
        return paths[0] if paths else None
