"""TOML as people's editors and programs write it; every trouble in it is one sentence."""

import codecs
import re
import tomllib
from pathlib import Path
from typing import Any

from hpo.errors import FileProblems

LARGEST_FILE = 1 << 20  # bytes; a study has about 3,000, and a file of weights is none
DEEPEST = 16  # tables in tables; a search space has 3
INT64 = range(-(1 << 63), 1 << 63)
DIGITS = re.compile(r"[0-9_]{4300}")  # so many Python does not read
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; a byte order mark is passed over.

    Raises:
        FileProblems: the file cannot be read or is not TOML.
    """
    try:
        return parse_toml(_text(path))
    except OSError as error:
        raise FileProblems(
            [f"{path}: cannot be read: {error.strerror}; correct that, or name another file"]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise FileProblems([f"{path}: not valid TOML: {error}; correct that line"]) from error
    except ValueError as error:
        raise FileProblems([f"{path}: {error}"]) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        TOMLDecodeError: it is not TOML.
        ValueError: it holds what no setting can be; its text says what to do.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError(_nested("it")) from None
    except ValueError as error:  # of `int`, which refuses thousands of digits
        line = next(n for n, one in enumerate(text.split("\n"), 1) if DIGITS.search(one))
        raise ValueError(_large(f"a number in line {line}")) from error
    _check(tables)
    return tables


def _text(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("cannot be read: it is not a regular file; name a .toml file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError("cannot be read: it is larger than 1 MiB; name a .toml file")
    content = path.read_bytes()
    if content.startswith(UTF16) or b"\0" in content:
        raise ValueError("cannot be read: it is UTF-16 or not text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"cannot be read: line {line} is not UTF-8 ({content[error.start : error.end]!r}); "
            "save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")  # an old editor ends lines with \r


def _check(tables: dict[str, Any]) -> None:
    """Refuses what JSON, in which settings travel and are stored, does not take."""
    left: list[tuple[tuple[str, ...], Any]] = [((), tables)]
    while left:
        key, value = left.pop()
        if len(key) > DEEPEST:
            raise ValueError(_nested(".".join(key[:3])))
        if isinstance(value, dict):
            left += [((*key, name), part) for name, part in value.items()]
        elif isinstance(value, list):
            left += [((*key, str(index)), part) for index, part in enumerate(value)]
        elif isinstance(value, int) and value not in INT64:
            raise ValueError(_large(".".join(key)))


def _nested(where: str) -> str:
    return f"not valid TOML here: {where} is nested more than {DEEPEST} deep; take that out"


def _large(what: str) -> str:
    return f"not valid TOML: {what} has more than 64 bits; write a smaller one"
