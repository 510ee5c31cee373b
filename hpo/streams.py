"""Standard output and error that never fail: a search is not lost because nobody reads it.

What ends a plain program (`| head`, a terminal that is gone, a full disk, `>&-`, a character that
the locale lacks) must not end trials that took hours. After its first failure a stream goes into
the log of the command, or nowhere if it has none; the exit code stays that of the work.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

NAMES = {1: "standard output", 2: "standard error"}
READER_LEFT = (errno.EPIPE, errno.EBADF)  # on purpose: whoever only prints need not say so


class _Outlet(io.FileIO):
    """The descriptor of a standard stream; `write` never raises."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._log: Path | None = None
        self.failure: OSError | None = None
        """Why the stream was given up; None while it works."""

    def write(self, data: Any, /) -> int:
        """Writes to the stream, else to the log, else nowhere."""
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                self._give_up(error)
                continue
            if written is not None:
                return written
            select.select((), (self,), ())  # a pipe that does not block, and is full

    def log_to(self, log: Path) -> None:
        """Sets where to write once the stream has failed; at once, if it has."""
        self._log = log
        if self.failure is not None:
            self._point_to(log)
            self._say(self.failure)

    def _give_up(self, error: OSError) -> None:
        again, self.failure = self.failure is not None, self.failure or error
        if again or self._log is None:  # again: the disk of the log is full, too
            self._point_to(Path(os.devnull))
        else:
            self._point_to(self._log)
        if not again and (self._log is not None or error.errno not in READER_LEFT):
            self._say(error)

    def _point_to(self, path: Path) -> None:
        """Has the descriptor write to another file."""
        try:
            target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError:
            target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, self.fileno())
        os.close(target)

    def _say(self, error: OSError) -> None:
        """Once, there and on standard error: by descriptor, as a stream may be locked just now."""
        rest = "the rest of it is lost"
        if self._log is not None:
            rest = f"the search continues, and writes to {self._log}"
        line = f"{NAMES[self.fileno()]} cannot be written any more ({error.strerror}): {rest}\n"
        for descriptor in {self.fileno(), 2}:
            with suppress(OSError):
                os.write(descriptor, line.encode(errors="backslashreplace"))


_OUTLETS: dict[int, _Outlet] = {}


def secure() -> None:
    """Makes both streams of this process ones that never fail, whatever the characters."""
    _open_missing()
    sys.stdout = _secured(1, sys.stdout)
    sys.stderr = _secured(2, sys.stderr)


def log_to(log: Path) -> None:
    """Sets the file that takes what the streams cannot; it is made only if one fails."""
    for outlet in _OUTLETS.values():
        outlet.log_to(log)


def output_is_lost() -> bool:
    """Whether standard output no longer goes where it went at the start."""
    return 1 in _OUTLETS and _OUTLETS[1].failure is not None


def _open_missing() -> None:
    """Fills closed descriptors (`>&-`): else the next file, a database, would get their number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest that is free; writing to it fails


def _secured(descriptor: int, before: TextIO | None) -> TextIO:
    encoding = "utf-8"
    if before is not None:
        encoding = before.encoding
        with suppress(OSError):
            before.flush()
    _OUTLETS[descriptor] = _Outlet(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(_OUTLETS[descriptor]),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
