"""Keeps a process that was stopped or hung from touching a trial that is another's by now."""

import os
import signal
import time

from hpo.protocol import HUNG


class Fence:
    """Watches the time between two signs of life of a trial, from its order on.

    A process that was stopped runs the check as the first thing when it goes on, wherever it was;
    one that hung, at the next sign of life and before every file.
    """

    def __init__(self, hang_seconds: float) -> None:
        self._hang_seconds = hang_seconds
        self._last_sign: float | None = None
        signal.signal(signal.SIGCONT, lambda *_: self.check())

    def check(self) -> None:
        """Ends the process without another word or file if it was silent for too long."""
        if self._last_sign is not None and time.monotonic() - self._last_sign > self._hang_seconds:
            os._exit(HUNG)

    def sign(self) -> None:
        """A sign of life."""
        self.check()
        self._last_sign = time.monotonic()

    def rest(self) -> None:
        """There is no trial that could hang."""
        self._last_sign = None
