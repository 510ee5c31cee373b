"""Refuses options and folders that are not UTF-8: messages, TOML and databases hold nothing else.

A path on Linux is bytes. Python passes bytes that it cannot decode on as lone surrogates, which
work in `open` and fail in JSON, in a database and in the libraries of a runner.
"""

import os
from collections.abc import Iterable

from hpo.errors import FileProblems

SECRET = ("--storage", "$HPO_STORAGE", "$HPO_STORAGE_FILE")  # a URL may hold a password


def refuse_other_bytes(texts: Iterable[tuple[str, str]]) -> None:
    """Raises for every text that is not UTF-8.

    Args:
        texts: each with what gives it, such as an option or `the working directory`.

    Raises:
        FileProblems: some are not; each is named with its bytes and the remedy.
    """
    problems = [_sentence(name, text) for name, text in texts if not _is_utf8(text)]
    if problems:
        raise FileProblems(problems)


def printable(text: str) -> str:
    """The text with every byte that is not UTF-8 as `\\xff`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence(name: str, text: str) -> str:
    shown = name if name in SECRET else f"{name} {printable(text)}"
    try:
        os.fsencode(text).decode()
    except UnicodeDecodeError:
        return f"{shown}: is not UTF-8; rename it, or write it as UTF-8"
    return f"{shown}: the locale of this shell is not UTF-8; set LC_ALL=C.UTF-8"
