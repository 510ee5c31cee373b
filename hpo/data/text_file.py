"""Text files of a data folder: read whole, and decoded by their byte order mark or as UTF-8."""

import json
from pathlib import Path

from hpo.errors import DataError

NO_TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer", "fetch the file itself with git lfs pull"),
    (b"<!doctype html", "an HTML page", "download it again"),
    (b"<html", "an HTML page", "download it again"),
    (b"pk\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save it as text in UTF-8"),
    (b"\x1f\x8b", "a gzip file", "unpack it"),
    (b"par1", "a Parquet file", "save it as text in UTF-8"),
)
"""(first bytes in lower case, what the file is, what to do)"""


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
        DataError: it is a file of another kind, or of another encoding; names the line.
    """
    _refuse_other_kinds(path, content)
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


def _refuse_other_kinds(path: Path, content: bytes) -> None:
    """Raises DataError for what stands in the place of data after a download that went wrong."""
    head = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, kind, remedy in NO_TEXTS:
        if head.startswith(start):
            raise DataError(f"{path}: it is {kind}, not the data; {remedy}")


def refuse_zeros(path: Path, text: str) -> None:
    """Raises DataError for a NUL character, which no text has; names its line."""
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(
            f"{path}, line {line}: holds a NUL character (0x00), so the file is damaged or not a "
            "text; save it as UTF-8 text"
        )
