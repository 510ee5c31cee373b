"""Text files of a data folder: read whole, and decoded by their byte order mark or as UTF-8."""

import json
from pathlib import Path

from hpo.errors import DataError


def read_file(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        DataError: it cannot be read; names the reason.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read: {error.strerror}; check its permissions and its disk"
        ) from error


def decode(path: Path, content: bytes, *, what: str = "text") -> str:
    """The text without byte order mark: UTF-8, or UTF-16 and UTF-32 as Excel and Windows write it.

    Args:
        what: what the content must be, for messages.

    Raises:
        DataError: the bytes are of another encoding; names the line.
    """
    encoding = json.detect_encoding(content)  # by byte order mark or zero bytes, of any text
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise DataError(
            f"{path}, line {line}: not valid {what}: byte 0x{content[error.start]:02x} is not "
            f"{name}; save the file as UTF-8"
        ) from error


def refuse_zeros(path: Path, text: str) -> None:
    """Raises DataError for a NUL character, which no text has; names its line."""
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(
            f"{path}, line {line}: holds a NUL character (0x00), so the file is damaged or not a "
            "text; save it as UTF-8 text"
        )
