"""Notices that the file of a SQLite database is not the one that was opened.

On Linux a file that is removed lives on for whoever has it open: what is written into it succeeds,
and is lost when the process ends. A connection made afterwards would begin an empty file.
"""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from hpo.errors import StorageError
from hpo.search.database.redaction import shown_path


class FileLostError(StorageError):
    """The database's file was removed or replaced; what is open still has all that was written."""


class FileWatch:
    """Compares the file at a path with the one that was opened, whenever a connection is used."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._opened = _identity(self._path)
        self._log = self._path.with_name(f"{self._path.name}-wal")
        self._opened_log: tuple[int, int] | None = None
        self._noticed = False

    def attach(self, engine: Engine) -> None:
        """Has every use of the engine look first."""
        event.listen(engine, "engine_connect", self._look)
        event.listen(engine, "do_connect", self._look_before)
        event.listen(engine, "close", self._forget_log)

    def _look(self, _connection: object) -> None:
        """Raises once: afterwards trials can be handed back in the file that is still open."""
        if not self._noticed and (problem := self._problem()):
            self._noticed = True
            raise FileLostError(problem)

    def _look_before(self, *_: object) -> None:
        """A new connection would make a new file."""
        if problem := self._problem():
            self._noticed = True
            raise FileLostError(problem)

    def _forget_log(self, *_: Any) -> None:
        """SQLite removes the log itself with the last connection."""
        self._opened_log = None

    def _problem(self) -> str:
        now, log = _identity(self._path), _identity(self._log)
        if now != self._opened:
            how = "was removed" if now is None else "was replaced by another file"
            return f"database sqlite:///{shown_path(str(self._path))}: its file {how} while it ran"
        if self._opened_log is not None and log != self._opened_log:
            return (
                f"database sqlite:///{shown_path(str(self._path))}: its log {self._log.name} was "
                "removed or replaced while it ran"
            )
        self._opened_log = log
        return ""


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
